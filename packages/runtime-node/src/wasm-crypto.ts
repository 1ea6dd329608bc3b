import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { type WasmExports, wasmModuleBytes, type WasmProvider, wasmProvider } from '@meshwright/crypto/wasm'

/** What is used of the language's WebAssembly object: the types of Node declare none of its values. */
declare const WebAssembly:
  | {
      readonly Module: new (bytes: Uint8Array) => object
      readonly Instance: new (module: object) => { readonly exports: WasmExports }
      validate(bytes: Uint8Array): boolean
    }
  | undefined

/**
 * The WASM provider over a fresh instance of its module; `undefined` where this Node has no WebAssembly SIMD. Every call makes an
 * instance with memory of its own: keep it.
 * @param fallback who does what the module does not (X25519, XChaCha20-Poly1305)
 * @param memoryBytes memory for batches inside the instance
 * @throws CRYPTO_WASM_SELF_TEST when the instance gives wrong answers
 */
export function wasmCryptoProvider(fallback: CryptoProvider = nobleProvider, memoryBytes?: number): WasmProvider | undefined {
  if (typeof WebAssembly === 'undefined') return undefined
  const bytes = wasmModuleBytes(memoryBytes)
  if (!WebAssembly.validate(bytes)) return undefined // no SIMD
  return wasmProvider(new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports, fallback)
}
