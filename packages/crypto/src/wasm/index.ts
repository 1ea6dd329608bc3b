export { type PacketCipher, type PacketCiphers, WasmCryptoError, type WasmCryptoErrorCode, type WasmExports, type WasmInstance, type WasmKey } from './instance.ts'
export { KEY as WASM_KEY, NATIVE as WASM_NATIVE, NONCE as WASM_NONCE, STREAM as WASM_STREAM, TAG as WASM_TAG, ZEROS as WASM_ZEROS } from './layout.ts'
export { DEFAULT_MEMORY_BYTES, wasmModuleBytes } from './module.ts'
export { type WasmProvider, wasmProvider, wasmProviderWith } from './wasm-provider.ts'
