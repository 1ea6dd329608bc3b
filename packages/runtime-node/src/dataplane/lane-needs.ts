import type { WasmProvider } from '@meshwright/crypto/wasm'
import { chooseCryptoProvider } from '../fast-crypto.ts'
import { findKoffi } from '../koffi-functions.ts'
import { isWasmProvider } from './lane-context.ts'

/** What the thread of a lane needs, or why it cannot be had here. */
export function laneNeeds(): { readonly koffi: unknown; readonly provider: WasmProvider } | { readonly reason: string } {
  const koffi = findKoffi()
  if (koffi === undefined) return { reason: 'the optional package koffi is not installed' }
  const provider = chooseCryptoProvider(process.env['MESHWRIGHT_CRYPTO'])
  return isWasmProvider(provider) ? { koffi, provider } : { reason: `the cryptography ${provider.name} has no memory to share` }
}
