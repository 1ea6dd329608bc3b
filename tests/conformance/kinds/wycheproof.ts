import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { DROPPED, formatHex, PacketBatch, parseHex } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import { hkdf } from '@noble/hashes/hkdf.js'
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'
import { cryptoProviders } from '../providers.ts'

interface TestCase {
  readonly tcId: number
  readonly result: 'valid' | 'invalid' | 'acceptable'
  readonly flags: readonly string[]
  readonly [field: string]: unknown
}

interface TestGroup {
  readonly tests: readonly TestCase[]
  readonly publicKey?: { readonly pk?: string }
}

/** The Wycheproof files for the primitives in use (C2SP/wycheproof, testvectors_v1), run on every provider that has the primitive. */
export const kind: Kind = {
  name: 'wycheproof',
  defaultPath: 'vectors/wycheproof',
  copied: false,
  async run(location: string): Promise<readonly CaseResult[]> {
    const files = (await stat(location)).isDirectory() ? (await readdir(location)).filter((name) => name.endsWith('.json')).map((name) => path.join(location, name)) : [location]
    const results: CaseResult[] = []
    for (const file of files.sort()) {
      const data = JSON.parse(await readFile(file, 'utf8')) as { readonly algorithm?: string; readonly testGroups?: readonly TestGroup[] }
      if (typeof data.algorithm !== 'string' || !Array.isArray(data.testGroups)) throw new UnknownForm(file, 'an object with "algorithm" and "testGroups"')
      for (const [engine, judge] of judges(data.algorithm, file)) {
        for (const group of data.testGroups as readonly TestGroup[]) {
          for (const test of group.tests) {
            const works = judge(test, group)
            const mustFail = test.result === 'invalid' || (data.algorithm === 'XDH' && test.flags.includes('ZeroSharedSecret'))
            const passed = mustFail ? !works : test.result === 'acceptable' || works
            results.push({ group: `${path.basename(file, '.json')}/${engine}`, id: `${path.basename(file, '.json')}#${test.tcId}/${engine}`, passed, ...(passed ? {} : { detail: `${test.result}, we say ${works}` }) })
          }
        }
      }
    }
    return results
  },
}

type Judge = (test: TestCase, group: TestGroup) => boolean

function judges(algorithm: string, file: string): readonly (readonly [string, Judge])[] {
  if (algorithm === 'XDH') {
    return cryptoProviders().map((provider) => [provider.name, (test) => same(provider.sharedSecret(hex(test.private), hex(test.public)), test.shared)])
  }
  if (algorithm === 'CHACHA20-POLY1305' || algorithm === 'XCHACHA20-POLY1305') {
    const x = algorithm.startsWith('X')
    return cryptoProviders().map((provider) => [provider.name, (test) => aead(provider, test, x)])
  }
  // Floors 0 to 5 use these three of noble directly (tailnet lock signatures, cookies and tokens).
  if (algorithm === 'EDDSA') return [['noble', (test, group) => verifies(hex(test.sig), hex(test.msg), hex(group.publicKey?.pk))]]
  if (algorithm === 'HMACSHA256') return [['noble', (test) => same(hmac(sha256, hex(test.key), hex(test.msg)).slice(0, hex(test.tag).length), test.tag)]]
  if (algorithm === 'HKDF-SHA-256') {
    return [['noble', (test) => typeof test.size === 'number' && test.size <= 255 * 32 && same(hkdf(sha256, hex(test.ikm), hex(test.salt), hex(test.info), test.size), test.okm)]]
  }
  throw new UnknownForm(file, 'one of XDH, CHACHA20-POLY1305, XCHACHA20-POLY1305, EDDSA, HMACSHA256, HKDF-SHA-256')
}

function aead(provider: CryptoProvider, test: TestCase, x: boolean): boolean {
  const [key, nonce, plaintext, additional] = [hex(test.key), hex(test.iv), hex(test.msg), hex(test.aad)]
  const sealed = Uint8Array.from([...hex(test.ct), ...hex(test.tag)])
  if (nonce.length !== (x ? 24 : 12)) return false
  const opened = x ? provider.xaeadOpen(key, nonce, sealed, additional) : provider.aeadOpen(key, nonce, sealed, additional)
  if (!same(opened, test.msg)) return false
  const again = x ? provider.xaeadSeal(key, nonce, plaintext, additional) : provider.aeadSeal(key, nonce, plaintext, additional)
  if (formatHex(again) !== formatHex(sealed)) return false
  return x || additional.length > 0 || nonce.subarray(0, 4).some((byte) => byte !== 0) || batchAgrees(provider, key, nonce, plaintext, sealed)
}

// Cases in WireGuard's form (no additional data, 4 zero bytes of nonce) must hold in batches too.
function batchAgrees(provider: CryptoProvider, key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, sealed: Uint8Array): boolean {
  const counter = new DataView(nonce.buffer, nonce.byteOffset).getBigUint64(4, true)
  const batch = PacketBatch.slab(1, plaintext.length + 64)
  const slot = provider.keySlot(key)
  batch.addCopy(plaintext)
  provider.sealBatch(slot, counter, batch)
  if (batch.verdict[0] === DROPPED || formatHex(batch.result(0)) !== formatHex(sealed)) return false
  const back = PacketBatch.slab(1, sealed.length + 64)
  back.addCopy(sealed)
  back.counterLow[0] = Number(counter & 0xffffffffn)
  back.counterHigh[0] = Number(counter >> 32n)
  provider.openBatch(slot, back)
  return back.verdict[0] !== DROPPED && formatHex(back.result(0)) === formatHex(plaintext)
}

function verifies(signature: Uint8Array, message: Uint8Array, publicKey: Uint8Array): boolean {
  try {
    return ed25519.verify(signature, message, publicKey, { zip215: false })
  } catch {
    return false // noble throws on malformed signatures
  }
}

function same(bytes: Uint8Array | undefined, expected: unknown): boolean {
  return bytes !== undefined && formatHex(bytes) === expected
}

function hex(value: unknown): Uint8Array {
  const bytes = typeof value === 'string' ? parseHex(value) : undefined
  if (bytes === undefined) throw new Error(`not hexadecimal: ${String(value)}`)
  return bytes
}
