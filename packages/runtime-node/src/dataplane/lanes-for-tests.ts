import type { CryptoProvider } from '@meshwright/crypto'
import { type Ip, parseIp } from '@meshwright/ip'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { arenaIn } from './lane-context.ts'
import type { LaneArena } from './memory-lane.ts'

/** The value, which a test knows to be there. @throws Error where the test has a mistake */
export function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the test has a mistake')
  return value
}

/** An address that a test wrote down. */
export function ip(text: string): Ip {
  return must(parseIp(text))
}

/** Room for two lanes of a test, in the memory of one provider. */
export function roomForTwo(): { readonly provider: CryptoProvider; readonly arenas: readonly LaneArena[] } {
  const provider = must(wasmCryptoProvider(nodeCryptoProvider, 32 * 1024 * 1024))
  return { provider, arenas: [arenaIn(provider), arenaIn(provider)] }
}
