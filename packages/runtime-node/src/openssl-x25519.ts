import { type KeyExchange, WASM_NATIVE, type WasmProvider } from '@meshwright/crypto/wasm'
import { addressOf, declare } from './koffi-functions.ts'

const KEY_BYTES = 32
/** Private key, public key and result, one behind the other: behind the context of Poly1305. */
const PRIVATE: number = WASM_NATIVE + 512
const PUBLIC: number = PRIVATE + KEY_BYTES
const RESULT: number = PUBLIC + KEY_BYTES
const END: number = RESULT + KEY_BYTES

/**
 * X25519 by the functions behind OpenSSL's public ones, which the official builds of Node export: `ossl_x25519(out, private, public)`,
 * 0 for a low-order point, and `ossl_x25519_public_from_private(out, private)`. Nothing to import, no key object: the keys stand in the
 * WASM memory for the time of one call.
 * @throws where this Node has no such functions
 */
export function opensslX25519(koffi: unknown, wasm: WasmProvider): KeyExchange {
  const exchange = declare(koffi, 'ossl_x25519', 3, 'int')
  const derive = declare(koffi, 'ossl_x25519_public_from_private', 2, 'void')
  const { memory } = wasm.instance
  const base = addressOf(koffi, memory)
  const [privateAt, publicAt, resultAt] = [base + PRIVATE, base + PUBLIC, base + RESULT]
  const takeResult = (isGood: boolean): Uint8Array | undefined => {
    const result = isGood ? memory.slice(RESULT, END) : undefined
    memory.fill(0, PRIVATE, END)
    return result
  }
  return {
    publicKey(privateKey: Uint8Array): Uint8Array {
      if (privateKey.length !== KEY_BYTES) return wasm.publicKey(privateKey)
      memory.set(privateKey, PRIVATE)
      derive(resultAt, privateAt)
      return takeResult(true) ?? wasm.publicKey(privateKey)
    },
    sharedSecret(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined {
      if (privateKey.length !== KEY_BYTES || publicKey.length !== KEY_BYTES) return undefined
      memory.set(privateKey, PRIVATE)
      memory.set(publicKey, PUBLIC)
      return takeResult(exchange(resultAt, privateAt, publicAt) === 1)
    },
  }
}
