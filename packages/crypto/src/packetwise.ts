import { DONE, DROPPED, type PacketBatch, PENDING } from '@meshwright/core'
import type { CryptoProvider, KeySlot } from './provider.ts'

const TAG_BYTES = 16
const NONCE_BYTES = 12

/** How one packet is sealed and opened: as `aeadSeal` and `aeadOpen` of a provider, without additional data. */
export type OnePacket = Pick<CryptoProvider, 'aeadSeal' | 'aeadOpen'>

/** The part of a provider that works on batches. */
export type Batches = Pick<CryptoProvider, 'keySlot' | 'sealBatch' | 'openBatch'>

/**
 * Batches packet by packet, for providers that have nothing better. A tag is checked before any plaintext reaches the batch's memory.
 * Key slots hold a copy of the key, and are good for these batches only.
 */
export function packetwise({ aeadSeal, aeadOpen }: OnePacket): Batches {
  const owner = {}
  const keyOf = (slot: KeySlot): Uint8Array | undefined => (slot instanceof CopiedKey && slot.owner === owner ? slot.bytes : undefined)
  return {
    keySlot: (key) => new CopiedKey(owner, key),

    sealBatch(slot: KeySlot, firstCounter: bigint, batch: PacketBatch, from: number = 0, to: number = batch.count): void {
      const key = keyOf(slot)
      const nonce = new Uint8Array(NONCE_BYTES)
      const nonceView = new DataView(nonce.buffer)
      let counter = firstCounter
      for (let i = from; i < to; i += 1) {
        if (batch.verdict[i] !== PENDING) continue
        const target = batch.target[i] ?? 0
        const sealedBytes = (batch.length[i] ?? 0) + TAG_BYTES
        if (key === undefined || target + sealedBytes > batch.memory.length) {
          batch.verdict[i] = DROPPED
          continue
        }
        nonceView.setBigUint64(4, counter, true)
        batch.counterLow[i] = nonceView.getUint32(4, true)
        batch.counterHigh[i] = nonceView.getUint32(8, true)
        counter += 1n
        batch.memory.set(aeadSeal(key, nonce, batch.source(i)), target)
        batch.targetLength[i] = sealedBytes
        batch.verdict[i] = DONE
      }
    },

    openBatch(slot: KeySlot, batch: PacketBatch, from: number = 0, to: number = batch.count): void {
      const key = keyOf(slot)
      const nonce = new Uint8Array(NONCE_BYTES)
      const nonceView = new DataView(nonce.buffer)
      for (let i = from; i < to; i += 1) {
        if (batch.verdict[i] !== PENDING) continue
        nonceView.setUint32(4, batch.counterLow[i] ?? 0, true)
        nonceView.setUint32(8, batch.counterHigh[i] ?? 0, true)
        const plaintext = key && aeadOpen(key, nonce, batch.source(i))
        const target = batch.target[i] ?? 0
        if (plaintext === undefined || target + plaintext.length > batch.memory.length) {
          batch.verdict[i] = DROPPED
          continue
        }
        batch.memory.set(plaintext, target)
        batch.targetLength[i] = plaintext.length
        batch.verdict[i] = DONE
      }
    },
  }
}

class CopiedKey implements KeySlot {
  readonly owner: object
  #bytes: Uint8Array | undefined

  constructor(owner: object, bytes: Uint8Array) {
    this.owner = owner
    this.#bytes = Uint8Array.from(bytes)
  }

  get bytes(): Uint8Array | undefined {
    return this.#bytes
  }

  destroy(): void {
    this.#bytes?.fill(0)
    this.#bytes = undefined
  }
}
