import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { loadSettings, type ServerSettings } from './config/load.ts'
import { EmbeddedRelay } from './embedded-relay.ts'
import { keepCertificate } from './own-certificate.ts'
import { makeLog } from './log.ts'

const DAY_MS = 86_400_000
const NOW = Date.UTC(2026, 0, 1)
let folder = ''
let file = ''

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-own-'))
  file = path.join(folder, 'data', 'relay-certificate.pem')
})

afterEach(() => {
  vi.useRealTimers()
  rmSync(folder, { recursive: true, force: true })
})

describe('the certificate of the relay', () => {
  test('is made once, for its owner alone, and is what is read from then on; nothing else is left in the folder', () => {
    const made = keepCertificate(file, ['192.0.2.1', 'relay.example.com'], NOW)
    expect(statSync(file).mode & 0o777).toBe(0o600)
    expect(readdirSync(path.dirname(file))).toEqual(['relay-certificate.pem'])
    expect(keepCertificate(file, ['192.0.2.1', 'relay.example.com'], NOW + DAY_MS)).toEqual(made)
    const parsed = new X509Certificate(made.cert)
    expect(made.pin).toBe(`sha256-raw:${parsed.fingerprint256.replaceAll(':', '').toLowerCase()}`)
    expect([parsed.checkIP('192.0.2.1'), parsed.checkHost('relay.example.com')]).toEqual(['192.0.2.1', 'relay.example.com'])
  })

  test.each<readonly [string, readonly [string, ...string[]], number]>([
    ['it will expire within 30 days', ['192.0.2.1'], NOW + 340 * DAY_MS],
    ['it has expired', ['192.0.2.1'], NOW + 400 * DAY_MS],
    ['the server is reached at another address', ['192.0.2.2'], NOW + DAY_MS],
    ['it was dated by a clock that was ahead', ['192.0.2.1'], NOW - 10 * DAY_MS],
  ])('is made anew when %s', (_why, hosts, now) => {
    const made = keepCertificate(file, ['192.0.2.1'], NOW)
    const next = keepCertificate(file, hosts, now)
    expect(next.pin).not.toBe(made.pin)
    expect([next.from < now, next.until > now + 300 * DAY_MS, statSync(file).mode & 0o777]).toEqual([true, true, 0o600])
    expect(keepCertificate(file, hosts, now)).toEqual(next)
  })

  test('a file that holds anything else is refused, and left as it is', () => {
    const [one, two] = [keepCertificate(file, ['192.0.2.1'], NOW), keepCertificate(`${file}2`, ['192.0.2.1'], NOW)]
    for (const text of ['', 'a file of somebody else', one.cert, `${one.cert}${one.key}`, `${one.key}${two.cert}`, `${one.key}${one.cert}`.slice(0, -40), `${one.key}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`]) {
      writeFileSync(file, text)
      expect(() => keepCertificate(file, ['192.0.2.1'], NOW)).toThrow(/relay-certificate\.pem does not hold a certificate/)
      expect(readFileSync(file, 'utf8')).toBe(text)
    }
  })
})

describe('the relay in the server', () => {
  const settingsWith = (serverUrl: string): ServerSettings => {
    const config = path.join(folder, 'config.yaml')
    writeFileSync(config, `server_url: ${serverUrl}\nnoise: {private_key_path: ${folder}/noise.key}\ndatabase: {type: sqlite, sqlite: {path: ${folder}/data/db.sqlite}}\ndns: {base_domain: lab.test}\nderp: {server: {enabled: true, private_key_path: ${folder}/derp.key}}\n`)
    return loadSettings(config)
  }
  const relayOf = (serverUrl: string): EmbeddedRelay => {
    const settings = settingsWith(serverUrl)
    if (settings.relay === undefined) throw new Error('the relay is off')
    return new EmbeddedRelay(settings, settings.relay)
  }

  test('has a certificate of its own where the server is reached by plain HTTP, and none behind a URL with https', () => {
    expect(relayOf('http://192.0.2.1:8080').pin).toMatch(/^sha256-raw:[0-9a-f]{64}$/)
    expect([relayOf('https://control.example.com').pin, relayOf('https://control.example.com').secrets]).toEqual([undefined, undefined])
  })

  test('renews it while it runs, tells when the pin is another, and never writes its key into the log', () => {
    vi.useFakeTimers({ now: NOW })
    const lines: string[] = []
    const log = makeLog('trace', 'text', (line) => lines.push(line))
    const relay = relayOf('http://192.0.2.1:8080')
    const first = relay.pin
    let [looks, changes] = [0, 0]
    relay.keepCertificate((_secrets, newPin) => {
      looks += 1
      changes += newPin ? 1 : 0
    }, log)
    vi.advanceTimersByTime(DAY_MS)
    expect([looks, changes, relay.pin]).toEqual([24, 0, first])
    vi.setSystemTime(NOW + 334 * DAY_MS)
    vi.advanceTimersByTime(2 * DAY_MS)
    expect([changes, relay.pin === first]).toEqual([1, false])
    writeFileSync(file, 'broken by somebody')
    const second = relay.pin
    vi.advanceTimersByTime(DAY_MS / 12)
    relay.stop()
    expect(relay.pin).toBe(second)
    const said = lines.join('')
    expect([said.includes(first ?? 'none'), said.includes(second ?? 'none'), said.includes('could not be renewed')]).toEqual([true, true, true])
    for (const secret of readFileSync(path.join(folder, 'derp.key'), 'utf8').match(/[0-9a-f]{64}/g) ?? []) expect(said).not.toContain(secret)
    expect(said).not.toMatch(/PRIVATE|BEGIN/)
    vi.advanceTimersByTime(DAY_MS)
    expect(looks).toBe(3 * 24 + 2)
  })
})
