import { DONE, DROPPED, equalBytes, PacketBatch, parseHex, PENDING } from '@meshwright/core'
import { nobleProvider } from '../noble-provider.ts'
import type { CryptoProvider } from '../provider.ts'

const KEY = '808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f'
const NONCE = '070000004041424344454647'
const ADDITIONAL = '50515253c0c1c2c3c4c5c6c7'
const SUNSCREEN =
  '4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966204920636f756c64206f6666657220796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73637265656e20776f756c642062652069742e'
const SEALED =
  'd31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691'
const ABC_BLAKE2S = '508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982'
// RFC 7748 section 6.1
const ALICE_PRIVATE = '77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a'
const ALICE_PUBLIC = '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a'
const BOB_PUBLIC = 'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f'
const SHARED = '4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742'

/**
 * Known answers at start: RFC 7748 section 6.1 and a point of low order, RFC 8439 section 2.8.2, RFC 7693 appendix B, and a batch of every kind of length forth and back, compared with
 * noble, a forged packet in it. Gives the name of what is wrong.
 */
export function selfTest(provider: CryptoProvider): string | undefined {
  const [key, nonce, additional, plaintext, sealed, abc] = [KEY, NONCE, ADDITIONAL, SUNSCREEN, SEALED, ABC_BLAKE2S].map((text) => parseHex(text) ?? new Uint8Array(0))
  if (key === undefined || nonce === undefined || additional === undefined || plaintext === undefined || sealed === undefined || abc === undefined) return 'the test data'
  if (!equalBytes(provider.aeadSeal(key, nonce, plaintext, additional), sealed)) return 'RFC 8439 section 2.8.2'
  const opened = provider.aeadOpen(key, nonce, sealed, additional)
  if (opened === undefined || !equalBytes(opened, plaintext)) return 'opening RFC 8439 section 2.8.2'
  if (provider.aeadOpen(key, nonce, sealed.with(3, 0), additional) !== undefined) return 'a forged packet opens'
  if (!equalBytes(provider.hash(Uint8Array.of(0x61, 0x62, 0x63)), abc)) return 'RFC 7693 appendix B'
  return exchangeTest(provider) ?? batchTest(provider, key)
}

function exchangeTest(provider: CryptoProvider): string | undefined {
  const [secret, own, peer, shared] = [ALICE_PRIVATE, ALICE_PUBLIC, BOB_PUBLIC, SHARED].map((text) => parseHex(text))
  if (secret === undefined || own === undefined || peer === undefined || shared === undefined) return 'the test data'
  if (!equalBytes(provider.publicKey(secret), own)) return 'a public key of RFC 7748 section 6.1'
  const agreed = provider.sharedSecret(secret, peer)
  if (agreed === undefined || !equalBytes(agreed, shared)) return 'RFC 7748 section 6.1'
  return provider.sharedSecret(secret, new Uint8Array(32)) === undefined ? undefined : 'a point of low order gives a secret'
}

function batchTest(provider: CryptoProvider, key: Uint8Array): string | undefined {
  const lengths = [0, 1, 16, 63, 128, 129, 320, 383, 447, 1420, 1500]
  const packets = lengths.map((length) => Uint8Array.from({ length }, (_, i) => (i * 7 + length) & 255))
  const batch = PacketBatch.slab(lengths.length, 1600)
  const slot = provider.keySlot(key)
  packets.forEach((packet) => batch.addCopy(packet))
  const first = 0xffff_fffen // the counter's lower half runs over
  provider.sealBatch(slot, first, batch)
  for (const [i, packet] of packets.entries()) {
    const nonce = new Uint8Array(12)
    new DataView(nonce.buffer).setBigUint64(4, first + BigInt(i), true)
    if (!equalBytes(batch.result(i), nobleProvider.aeadSeal(key, nonce, packet))) return `a batch differs from noble at ${packet.length} bytes`
  }
  for (const [i, packet] of packets.entries()) {
    batch.length[i] = packet.length + 16
    batch.verdict[i] = PENDING
  }
  const forged = 5
  const at = (batch.offset[forged] ?? 0) + 20
  batch.memory[at] = (batch.memory[at] ?? 0) ^ 1
  provider.openBatch(slot, batch)
  slot.destroy()
  for (const [i, packet] of packets.entries()) {
    if (i === forged ? batch.verdict[i] !== DROPPED : batch.verdict[i] !== DONE || !equalBytes(batch.result(i), packet)) return `a batch does not open at ${packet.length} bytes`
  }
  return undefined
}
