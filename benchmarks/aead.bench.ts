import { DONE, PENDING } from '@meshwright/core'
import type { Contender, Question } from './measure.ts'
import { type Candidate, candidates, plain, reference } from './providers.ts'

const SIZES = [64, 256, 1420, 16_384]
const SLOTS = 16
const TAG_BYTES = 16

/** How fast does each provider seal and open a batch of packets, against noble? */
export function questions(): readonly Question[] {
  return SIZES.flatMap((size) => [
    { name: `aead/seal-${size}`, unit: 'packets', setup: () => arms((candidate) => sealing(candidate, size)) },
    { name: `aead/open-${size}`, unit: 'packets', setup: () => arms((candidate) => opening(candidate, size)) },
  ])
}

function arms(contender: (candidate: Candidate) => Contender): ReturnType<Question['setup']> {
  const all = candidates()
  // Batches in memory of their own cost a copy in and out.
  const copied = all.filter(({ name }) => name === 'wasm').map(({ provider }) => plain(provider, 'wasm-copied'))
  return { baseline: contender(reference), contenders: [...all, ...copied].map(contender) }
}

/** Seals batches in the memory that suits the provider best. */
export function sealing({ name, provider, slab }: Candidate, size: number): Contender {
  const batch = slab(SLOTS, size + TAG_BYTES)
  for (let i = 0; i < SLOTS; i += 1) batch.addCopy(new Uint8Array(size).fill(i))
  const slot = provider.keySlot(new Uint8Array(32).fill(3))
  let counter = 0n
  return {
    name,
    count: SLOTS,
    run(): void {
      batch.verdict.fill(PENDING)
      provider.sealBatch(slot, counter, batch)
      counter += BigInt(SLOTS)
    },
  }
}

/** Opens batches, out of place, so that the sealed packets stay and nothing has to be copied between two runs. */
export function opening({ name, provider, slab }: Candidate, size: number): Contender {
  const batch = slab(2 * SLOTS, size + TAG_BYTES)
  const slot = provider.keySlot(new Uint8Array(32).fill(3))
  for (let i = 0; i < SLOTS; i += 1) batch.addCopy(new Uint8Array(size).fill(i))
  provider.sealBatch(slot, 0n, batch)
  const stride = batch.memory.length / batch.capacity
  for (let i = 0; i < SLOTS; i += 1) {
    batch.length[i] = size + TAG_BYTES
    batch.target[i] = (batch.offset[i] ?? 0) + SLOTS * stride
  }
  return {
    name,
    count: SLOTS,
    run(): void {
      batch.verdict.fill(PENDING)
      provider.openBatch(slot, batch)
      if (batch.verdict[SLOTS - 1] !== DONE) throw new Error(`${name} cannot open what it has sealed`)
    },
  }
}
