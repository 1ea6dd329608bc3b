// One place that names the parts of the runtime that this server uses: entries that load no mesh engine.
import type { CryptoProvider } from '@meshwright/crypto'
import { fastCryptoProvider } from '@meshwright/runtime-node/control'

export { acceptControl, drive, systemRandom } from '@meshwright/runtime-node/control'
export type { AcceptedControl, Driver, ReadPace } from '@meshwright/runtime-node/control'
export { attachDerpServer, FirstBytes, Gate, HANDSHAKE_LIMITS, metacertPem, Newcomers, selfSignedCertificate, startAdvice, startStunService } from '@meshwright/runtime-node/relay'
export type { DerpService, StunService, Turns } from '@meshwright/runtime-node/relay'

/**
 * The fastest that works here. Without the optional package `koffi`, a handshake takes five times as long: `node:crypto` imports every
 * ephemeral key anew.
 */
export const serverCrypto: CryptoProvider = fastCryptoProvider()
