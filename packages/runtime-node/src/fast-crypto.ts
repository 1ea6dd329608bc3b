import { isMeshwrightError, MeshwrightError, PacketBatch } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import type { WasmProvider } from '@meshwright/crypto/wasm'
import { nodeCryptoProvider } from './node-crypto.ts'
import { opensslFfiProvider } from './openssl-ffi.ts'
import { wasmCryptoProvider } from './wasm-crypto.ts'

/** Names of the providers, as `MESHWRIGHT_CRYPTO` takes them. */
export type CryptoProviderName = 'noble' | 'node' | 'wasm' | 'openssl-ffi'

/** Codes of what choosing a provider throws. */
export type FastCryptoErrorCode = 'RUNTIME_CRYPTO_UNKNOWN' | 'RUNTIME_CRYPTO_UNAVAILABLE'

/** The provider that was asked for does not exist, or not here. */
export class FastCryptoError extends MeshwrightError<FastCryptoErrorCode> {}

const NAMES: readonly CryptoProviderName[] = ['noble', 'node', 'wasm', 'openssl-ffi']
const VARIABLE = 'MESHWRIGHT_CRYPTO'

let chosen: CryptoProvider | undefined

/**
 * The fastest provider that works here, made once per process: X25519 by OpenSSL through `node:crypto`; AEAD, BLAKE2s and HMAC by WASM
 * with SIMD; long packets by OpenSSL through the optional package `koffi` where that is faster. Without WASM: `node:crypto` alone.
 * Every one has passed its self-test.
 *
 * The environment variable `MESHWRIGHT_CRYPTO` (`noble`, `node`, `wasm`, `openssl-ffi`) forces one.
 * @throws RUNTIME_CRYPTO_UNKNOWN for another value of it, RUNTIME_CRYPTO_UNAVAILABLE when that one does not work here
 */
export function fastCryptoProvider(): CryptoProvider {
  chosen ??= chooseCryptoProvider(process.env[VARIABLE])
  return chosen
}

/**
 * As {@link fastCryptoProvider}, made anew.
 * @param forced a provider's name; `undefined` or empty: the fastest
 */
export function chooseCryptoProvider(forced?: string): CryptoProvider {
  const name = forced === undefined || forced === '' ? undefined : NAMES.find((each) => each === forced)
  if (name === undefined && forced !== undefined && forced !== '') {
    throw new FastCryptoError('RUNTIME_CRYPTO_UNKNOWN', `${VARIABLE} is ${JSON.stringify(forced)}, which is none of ${NAMES.join(', ')}`)
  }
  if (name === 'noble') return nobleProvider
  if (name === 'node') return nodeCryptoProvider
  const wasm = workingWasm()
  if (name === 'wasm') return wasm ?? unavailable(name, 'this Node has no WebAssembly SIMD')
  const openssl = wasm && opensslFfiProvider(wasm, name === 'openssl-ffi' ? { breakEvenBytes: 0 } : {})
  if (name === 'openssl-ffi') return openssl ?? unavailable(name, 'it needs the package koffi and the functions of OpenSSL in the node executable')
  return openssl ?? wasm ?? nodeCryptoProvider
}

/**
 * A batch in the memory that suits a provider best: packets in it reach WASM and OpenSSL without a copy. For other providers, and when
 * the provider's memory is used up, it is `PacketBatch.slab`. Keep and reuse it: the provider's memory is not given back.
 */
export function packetSlab(provider: CryptoProvider, capacity: number, slotBytes: number): PacketBatch {
  if (!isWasm(provider)) return PacketBatch.slab(capacity, slotBytes)
  try {
    return provider.slab(capacity, slotBytes)
  } catch (error) {
    if (isMeshwrightError(error, 'CRYPTO_WASM_MEMORY')) return PacketBatch.slab(capacity, slotBytes)
    throw error
  }
}

function workingWasm(): WasmProvider | undefined {
  try {
    return wasmCryptoProvider(nodeCryptoProvider)
  } catch (error) {
    if (isMeshwrightError(error, 'CRYPTO_WASM_SELF_TEST')) return undefined
    throw error
  }
}

function isWasm(provider: CryptoProvider): provider is WasmProvider {
  return 'slab' in provider && typeof provider.slab === 'function'
}

function unavailable(name: CryptoProviderName, reason: string): never {
  throw new FastCryptoError('RUNTIME_CRYPTO_UNAVAILABLE', `${VARIABLE}=${name} does not work here: ${reason}`)
}
