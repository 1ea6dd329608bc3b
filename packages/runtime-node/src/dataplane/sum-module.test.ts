import { nobleProvider } from '@meshwright/crypto'
import { addToChecksum, finishChecksum } from '@meshwright/ip'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { sumsFor } from './sum-module.ts'

const provider = wasmCryptoProvider(nobleProvider)
if (provider === undefined) throw new Error('no WebAssembly SIMD')
const sums = sumsFor(provider)
const memory = provider.instance.memory
const from = provider.instance.allocate(70_000).byteOffset
const to = provider.instance.allocate(70_000).byteOffset

/** What the sum would be as the readable function of the package `ip` has it. */
function slowSum(bytes: Uint8Array): number {
  const big = ~finishChecksum(addToChecksum(bytes, 0, bytes.length)) & 0xffff
  return ((big & 255) << 8) | (big >> 8)
}

/** Two forms of zero. */
const same = (sum: number): number => (sum === 0xffff ? 0 : sum)

test('sums and copies of every length and place are those of the readable function', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(70), fc.nat(70), (bytes, a, b) => {
      memory.fill(0xaa, from, from + 600)
      memory.set(bytes, from + a)
      memory.fill(0x55, to, to + 600)
      expect(same(sums.sum(from + a, bytes.length))).toBe(same(slowSum(bytes)))
      expect(same(sums.copySum(to + b, from + a, bytes.length))).toBe(same(slowSum(bytes)))
      expect(memory.slice(to + b, to + b + bytes.length)).toEqual(bytes)
      expect(memory.slice(to, to + b).every((byte) => byte === 0x55)).toBe(true)
      expect(memory.slice(to + b + bytes.length + 15, to + 600).every((byte) => byte === 0x55)).toBe(true)
    }),
  )
})

test.each([0, 255])('64 KiB of %i do not overflow', (byte) => {
  memory.fill(byte, from, from + 65_536)
  expect(same(sums.sum(from, 65_536))).toBe(same(slowSum(new Uint8Array(65_536).fill(byte))))
  expect(same(sums.sum(from, 65_535))).toBe(same(slowSum(new Uint8Array(65_535).fill(byte))))
})
