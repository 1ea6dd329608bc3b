import type { CryptoProvider } from '@meshwright/crypto'

const ONE: Uint8Array = Uint8Array.of(1)
const TWO: Uint8Array = Uint8Array.of(2)
const THREE: Uint8Array = Uint8Array.of(3)

/** KDF1 of the WireGuard paper, section 5.4: HKDF (RFC 5869) over HMAC-BLAKE2s, one output of 32 bytes. */
export function kdf1(provider: CryptoProvider, key: Uint8Array, input: Uint8Array): Uint8Array {
  const prk = provider.hmac(key, input)
  const t1 = provider.hmac(prk, ONE)
  prk.fill(0)
  return t1
}

/** KDF2: two outputs. */
export function kdf2(provider: CryptoProvider, key: Uint8Array, input: Uint8Array): [Uint8Array, Uint8Array] {
  const prk = provider.hmac(key, input)
  const t1 = provider.hmac(prk, ONE)
  const t2 = provider.hmac(prk, t1, TWO)
  prk.fill(0)
  return [t1, t2]
}

/** KDF3: three outputs. */
export function kdf3(provider: CryptoProvider, key: Uint8Array, input: Uint8Array): [Uint8Array, Uint8Array, Uint8Array] {
  const prk = provider.hmac(key, input)
  const t1 = provider.hmac(prk, ONE)
  const t2 = provider.hmac(prk, t1, TWO)
  const t3 = provider.hmac(prk, t2, THREE)
  prk.fill(0)
  return [t1, t2, t3]
}
