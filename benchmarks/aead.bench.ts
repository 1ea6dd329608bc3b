import { PacketBatch } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { nodeCryptoProvider } from '../packages/runtime-node/src/node-crypto.ts'
import type { Contender, Question } from './measure.ts'

const SIZES = [64, 256, 1420, 16_384]
const SLOTS = 16

/** How fast does each provider seal a batch of packets, against noble? */
export function questions(): readonly Question[] {
  return SIZES.map((size) => ({
    name: `aead/seal-${size}`,
    unit: 'packets',
    baseline: sealing(nobleProvider, size),
    contenders: [sealing(nodeCryptoProvider, size)],
  }))
}

function sealing(provider: CryptoProvider, size: number): Contender {
  const batch = PacketBatch.slab(SLOTS, size + 64)
  const packet = new Uint8Array(size).fill(7)
  const slot = provider.keySlot(new Uint8Array(32).fill(3))
  let counter = 0n
  return {
    name: provider.name,
    count: SLOTS,
    run(): void {
      batch.reset()
      for (let i = 0; i < SLOTS; i += 1) batch.addCopy(packet)
      provider.sealBatch(slot, counter, batch)
      counter += BigInt(SLOTS)
    },
  }
}
