import type { Question } from './measure.ts'
import { opening, sealing } from './aead.bench.ts'
import { candidates } from './providers.ts'

const SIZES = [64, 1420]

/** How much faster is the OpenSSL inside Node, called through koffi, than our WebAssembly on the same CPU? */
export function questions(): readonly Question[] {
  const all = candidates()
  const wasm = all.find(({ name }) => name === 'wasm')
  const openssl = all.find(({ name }) => name === 'openssl-ffi')
  if (wasm === undefined || openssl === undefined) return []
  return SIZES.flatMap((size) => [
    { name: `native/seal-${size}`, unit: 'packets', setup: () => ({ baseline: sealing(wasm, size), contenders: [sealing(openssl, size)] }) },
    { name: `native/open-${size}`, unit: 'packets', setup: () => ({ baseline: opening(wasm, size), contenders: [opening(openssl, size)] }) },
  ])
}
