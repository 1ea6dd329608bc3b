import { nobleProvider } from '../noble-provider.ts'
import { expect, test } from 'vitest'
import { signed, unsigned } from './assembler.ts'
import { wasmModuleBytes, wasmProvider } from './index.ts'
import { selfTest } from './self-test.ts'

test('numbers are written as LEB128', () => {
  expect([unsigned(0), unsigned(127), unsigned(128), unsigned(624_485)]).toEqual([[0], [127], [0x80, 1], [0xe5, 0x8e, 0x26]])
  expect([signed(0), signed(63), signed(64), signed(-1), signed(-64), signed(-65), signed(-123_456)]).toEqual([[0], [63], [0xc0, 0], [0x7f], [0x40], [0xbf, 0x7f], [0xc0, 0xbb, 0x78]])
  expect(signed(0xffff_ffff)).toEqual(signed(-1))
})

test('the module is a WebAssembly module whose memory is as large as was asked for', () => {
  const bytes = wasmModuleBytes()
  expect([...bytes.subarray(0, 8)]).toEqual([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0])
  expect(bytes.length).toBeLessThan(40_000)
  expect(wasmModuleBytes(64 * 1024 * 1024).length).toBe(bytes.length + 2) // one more byte for each of min and max
})

test('exports of anything else are refused', () => {
  expect(() => wasmProvider({})).toThrow('wasmModuleBytes')
})

test('the self-test passes for noble and names what is wrong in others', () => {
  expect(selfTest(nobleProvider)).toBeUndefined()
  expect(selfTest({ ...nobleProvider, hash: () => new Uint8Array(32) })).toBe('RFC 7693 appendix B')
  expect(selfTest({ ...nobleProvider, publicKey: () => new Uint8Array(32) })).toContain('a public key')
  expect(selfTest({ ...nobleProvider, sharedSecret: () => new Uint8Array(32) })).toBe('RFC 7748 section 6.1')
  expect(selfTest({ ...nobleProvider, sharedSecret: (a, b) => nobleProvider.sharedSecret(a, b) ?? new Uint8Array(32) })).toContain('low order')
  expect(selfTest({ ...nobleProvider, aeadOpen: (_key, _nonce, sealed) => sealed.slice(0, -16) })).toContain('opening')
  expect(selfTest({ ...nobleProvider, sealBatch: (slot, first, batch) => nobleProvider.sealBatch(slot, first + 1n, batch) })).toContain('a batch differs')
})
