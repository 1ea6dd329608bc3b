// One place that names the parts of the runtime that this server uses: entries that load no mesh engine.
import { nodeCryptoProvider, wasmCryptoProvider } from '@meshwright/runtime-node/control'

export { acceptControl, drive, systemRandom } from '@meshwright/runtime-node/control'
export type { AcceptedControl, Driver } from '@meshwright/runtime-node/control'
export { attachDerpServer, startStunService } from '@meshwright/runtime-node/relay'
export type { DerpService, StunService } from '@meshwright/runtime-node/relay'

/** X25519 by OpenSSL, the rest by WebAssembly where there is SIMD: records of the control channel in half the time. */
export const serverCrypto: typeof nodeCryptoProvider = wasmCryptoProvider(nodeCryptoProvider) ?? nodeCryptoProvider
