import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { nodeCryptoProvider } from '../../packages/runtime-node/src/node-crypto.ts'
import { opensslFfiProvider } from '../../packages/runtime-node/src/openssl-ffi.ts'
import { wasmCryptoProvider } from '../../packages/runtime-node/src/wasm-crypto.ts'

let all: readonly CryptoProvider[] | undefined

/** Every provider that works on this machine; golden data of primitives is judged by each. `openssl-ffi` does all packets here, short ones too. */
export function cryptoProviders(): readonly CryptoProvider[] {
  if (all === undefined) {
    const wasm = wasmCryptoProvider(nodeCryptoProvider)
    const openssl = wasm && opensslFfiProvider(wasm, { breakEvenBytes: 0 })
    all = [nobleProvider, nodeCryptoProvider, wasm, openssl].filter((provider) => provider !== undefined)
  }
  return all
}
