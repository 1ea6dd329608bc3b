export { anyBit, Body, type Code, type Expr, i32, isZero, lane64, load128, load32, type Local, ModuleBuilder, shuffleWords, type ValueType, vec, w32, words, wrap } from './assembler.ts'
export { type NativeCiphers, type PacketCipher, type PacketCiphers, WasmCryptoError, type WasmCryptoErrorCode, type WasmExports, type WasmInstance, type WasmKey } from './instance.ts'
export {
  KEY as WASM_KEY, MAX_STAGED_BYTES as WASM_MAX_STAGED_BYTES, NATIVE as WASM_NATIVE, NONCE as WASM_NONCE, OPENED as WASM_OPENED, RECEIVED_TAG as WASM_RECEIVED_TAG, STAGED as WASM_STAGED,
  TAG as WASM_TAG,
} from './layout.ts'
export { DEFAULT_MEMORY_BYTES, wasmModuleBytes } from './module.ts'
export { type KeyExchange, type WasmProvider, wasmProvider, wasmProviderWith } from './wasm-provider.ts'
