export { WasmCryptoError, type WasmCryptoErrorCode, type WasmExports } from './instance.ts'
export { DEFAULT_MEMORY_BYTES, wasmModuleBytes } from './module.ts'
export { type WasmProvider, wasmProvider } from './wasm-provider.ts'
