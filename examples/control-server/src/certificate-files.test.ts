import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type SelfSigned, selfSignedCertificate } from '@meshwright/runtime-node/relay'
import { CertificateFiles, type CertificatePaths, readCertificate } from './certificate-files.ts'
import { makeLog } from './log.ts'

const MINUTE_MS = 60_000
let folder = ''
let paths: CertificatePaths
let used: string[]
let lines: string[]
let files: CertificateFiles

/** Puts files in the place of others, as those who renew certificates do. */
function place(given: { readonly cert?: string; readonly key?: string }): void {
  for (const [file, text] of [[paths.certPath, given.cert], [paths.keyPath, given.key]] as const) {
    if (text === undefined) continue
    writeFileSync(`${file}.new`, text)
    renameSync(`${file}.new`, file)
  }
}

const fresh = (days = 90, now = Date.now()): SelfSigned => selfSignedCertificate(['control.example.com'], { days, now })

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-files-'))
  paths = { certPath: path.join(folder, 'fullchain.pem'), keyPath: path.join(folder, 'privkey.pem') }
  used = []
  lines = []
  place(fresh())
  files = new CertificateFiles(paths, (secrets) => used.push(String(secrets.cert)), makeLog('info', 'text', (line) => lines.push(line)))
})

afterEach(() => {
  files.stop()
  vi.useRealTimers()
  rmSync(folder, { recursive: true, force: true })
})

test('files that others renew are found within a minute, once', () => {
  vi.advanceTimersByTime(5 * MINUTE_MS)
  expect(used).toEqual([])
  const next = fresh()
  place(next)
  vi.advanceTimersByTime(5 * MINUTE_MS)
  expect(used).toEqual([next.cert])
})

test('a pair that cannot be used changes nothing, is told of once, and is taken when the other half has come', () => {
  const next = fresh()
  place({ cert: next.cert })
  vi.advanceTimersByTime(3 * MINUTE_MS)
  expect(used).toEqual([])
  expect(lines.filter((line) => line.includes('the certificate in use stays'))).toHaveLength(1)
  expect(lines.join('')).toMatch(/privkey\.pem of the certificate .*fullchain\.pem cannot be used/)
  place({ key: next.key })
  vi.advanceTimersByTime(MINUTE_MS)
  expect(used).toEqual([next.cert])
})

test('a file that cannot even be looked at ends nobody, and is read when it can be', () => {
  rmSync(paths.certPath)
  symlinkSync(paths.certPath, paths.certPath)
  vi.advanceTimersByTime(3 * MINUTE_MS)
  expect(used).toEqual([])
  expect(lines.filter((line) => line.includes('the certificate in use stays'))).toHaveLength(1)
  const next = fresh()
  place(next)
  vi.advanceTimersByTime(MINUTE_MS)
  expect(used).toEqual([next.cert])
})

test.each<readonly [string, () => void, RegExp]>([
  ['no PEM', () => place({ cert: 'nothing' }), /the certificate .*fullchain\.pem cannot be used/],
  ['a broken key', () => place({ key: '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n' }), /the key .*privkey\.pem cannot be used/],
  ['a certificate that is missing', () => rmSync(paths.certPath), /cannot read the certificate: .*fullchain\.pem/],
  ['one that has expired', () => place(fresh(1, Date.now() - 90 * 86_400_000)), /fullchain\.pem has expired/],
  ['50 MB', () => place({ cert: 'x'.repeat(50_000_000) }), /fullchain\.pem: it is larger than 1 MiB/],
])('asked to read %s it says what is wrong, and the certificate in use stays', (_what, change, expected) => {
  change()
  expect(() => files.reload()).toThrow(expected)
  expect(used).toEqual([])
})

test('the texts of errors hold nothing of a key', () => {
  const { key } = fresh()
  place({ cert: key, key: key.replace('MI', 'XX') })
  let said = ''
  try {
    readCertificate(paths)
  } catch (error) {
    said = String(error)
  }
  expect(said).toContain('cannot be used')
  for (const line of key.split('\n').slice(1, -2)) expect(said).not.toContain(line)
})
