import sodium from 'libsodium-wrappers'
import { opening, sealing } from './aead.bench.ts'
import type { Contender, Question } from './measure.ts'
import { candidates } from './providers.ts'

const SIZES = [64, 1420]
const PACKETS = 16
const NONCE_BYTES = 12

/** How much faster are our batches than the WebAssembly of libsodium by its usual package, packet by packet? */
export async function questions(): Promise<readonly Question[]> {
  await sodium.ready
  return SIZES.flatMap((size) => [
    { name: `libsodium/seal-${size}`, unit: 'packets', setup: () => ({ baseline: sodiumSealing(size), contenders: ours().map((candidate) => sealing(candidate, size)) }) },
    { name: `libsodium/open-${size}`, unit: 'packets', setup: () => ({ baseline: sodiumOpening(size), contenders: ours().map((candidate) => opening(candidate, size)) }) },
  ])
}

function ours(): ReturnType<typeof candidates> {
  return candidates().filter(({ name }) => name !== 'node')
}

function sodiumSealing(size: number): Contender {
  const packets = packetsOf(size)
  const key = new Uint8Array(32).fill(3)
  const nonce = new Uint8Array(NONCE_BYTES)
  const view = new DataView(nonce.buffer)
  let counter = 0n
  return {
    name: 'libsodium-wrappers',
    count: PACKETS,
    run(): void {
      for (const packet of packets) {
        view.setBigUint64(4, counter, true)
        counter += 1n
        sodium.crypto_aead_chacha20poly1305_ietf_encrypt(packet, null, null, nonce, key)
      }
    },
  }
}

function sodiumOpening(size: number): Contender {
  const key = new Uint8Array(32).fill(3)
  const nonce = new Uint8Array(NONCE_BYTES)
  const sealed = packetsOf(size).map((packet) => sodium.crypto_aead_chacha20poly1305_ietf_encrypt(packet, null, null, nonce, key))
  return {
    name: 'libsodium-wrappers',
    count: PACKETS,
    run(): void {
      for (const packet of sealed) sodium.crypto_aead_chacha20poly1305_ietf_decrypt(null, packet, null, nonce, key)
    },
  }
}

function packetsOf(size: number): readonly Uint8Array[] {
  return Array.from({ length: PACKETS }, (_, i) => new Uint8Array(size).fill(i))
}
