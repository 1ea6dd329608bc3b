import { PacketBatch } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { nodeCryptoProvider } from '../packages/runtime-node/src/node-crypto.ts'
import { opensslFfiProvider } from '../packages/runtime-node/src/openssl-ffi.ts'
import { wasmCryptoProvider } from '../packages/runtime-node/src/wasm-crypto.ts'

/** A provider, and batches in the memory that suits it best. */
export interface Candidate {
  readonly name: string
  readonly provider: CryptoProvider
  slab(capacity: number, slotBytes: number): PacketBatch
}

/** The reference that every ratio of cryptography is taken against. */
export const reference: Candidate = plain(nobleProvider)

const MEMORY_BYTES = 16_777_216

/** Every provider that works on this machine, save the reference. Made anew, with memory of its own, at each call. */
export function candidates(): readonly Candidate[] {
  const wasm = wasmCryptoProvider(nodeCryptoProvider, MEMORY_BYTES)
  const openssl = wasm && opensslFfiProvider(wasm)
  const inWasm = [wasm, openssl].flatMap((provider): Candidate[] =>
    provider === undefined ? [] : [{ name: provider.name, provider, slab: (capacity, slotBytes) => provider.slab(capacity, slotBytes) }],
  )
  return [plain(nodeCryptoProvider), ...inWasm]
}

/** A provider with batches in memory that it does not know. */
export function plain(provider: CryptoProvider, name: string = provider.name): Candidate {
  return { name, provider, slab: (capacity, slotBytes) => PacketBatch.slab(capacity, slotBytes) }
}
