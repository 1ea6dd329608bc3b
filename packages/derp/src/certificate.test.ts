import { generateKeyPairSync, sign, X509Certificate } from 'node:crypto'
import { NodePublicKey } from '@meshwright/crypto'
import { parseIp } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { decodeMetacert, encodeMetacert, encodeSelfSignedCertificate } from './index.ts'

const key = NodePublicKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => i * 7)) ?? NodePublicKey.zero()
const ed25519 = generateKeyPairSync('ed25519')
const info = ed25519.publicKey.export({ type: 'spki', format: 'der' })
const signWith = (bytes: Uint8Array): Uint8Array => sign(null, bytes, ed25519.privateKey)

test('a metacert is a valid certificate that tells key and version and is good for 30 days both ways', () => {
  const now = Date.UTC(2026, 10, 21, 12, 0, 0)
  const der = encodeMetacert(key, now, info, signWith)
  const certificate = new X509Certificate(der)
  expect(certificate.verify(ed25519.publicKey)).toBe(true)
  expect([Date.parse(certificate.validFrom), Date.parse(certificate.validTo)]).toEqual([now - 30 * 86_400_000, now + 30 * 86_400_000])
  const found = decodeMetacert(der)
  expect([found?.serverKey.equals(key), found?.version]).toEqual([true, 2])
})

test.each([
  [Date.UTC(1999, 11, 31, 23, 59, 59), Date.UTC(2000, 1, 29)],
  [Date.UTC(2024, 1, 29, 1, 2, 3), Date.UTC(2049, 11, 31, 23, 59, 59)],
  [Date.UTC(2026, 0, 1), Date.UTC(2050, 0, 1)],
  [Date.UTC(2100, 1, 28), Date.UTC(2100, 2, 1, 12)],
])('dates %d and %d are written as the platform reads them', (notBefore, notAfter) => {
  const der = encodeSelfSignedCertificate({ commonName: 'x', serial: 1, notBefore, notAfter, publicKeyInfo: info, algorithm: 'ed25519', sign: signWith })
  const certificate = new X509Certificate(der)
  expect([Date.parse(certificate.validFrom), Date.parse(certificate.validTo)]).toEqual([notBefore, notAfter])
})

test('a certificate for names and addresses names them all, and is no metacert', () => {
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const der = encodeSelfSignedCertificate({
    commonName: 'relay.example',
    serial: 0x80ff,
    notBefore: 0,
    notAfter: Date.UTC(2030, 0, 1),
    publicKeyInfo: ec.publicKey.export({ type: 'spki', format: 'der' }),
    algorithm: 'ecdsa-sha256',
    sign: (bytes) => sign('sha256', bytes, ec.privateKey),
    dnsNames: ['relay.example'],
    addresses: ['192.0.2.1', '2001:db8::1'].flatMap((text) => parseIp(text)?.bytes ?? []),
  })
  const certificate = new X509Certificate(der)
  expect(certificate.verify(ec.publicKey)).toBe(true)
  expect(certificate.serialNumber).toBe('80FF')
  expect(certificate.subjectAltName).toBe('DNS:relay.example, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1')
  expect(decodeMetacert(der)).toBeUndefined()
})

test.each(['derpkey', `derpkey${'0'.repeat(63)}`, `derpke${'0'.repeat(64)}`, `derpkey${'g'.repeat(64)}`])('the name %s makes no metacert', (commonName) => {
  const der = encodeSelfSignedCertificate({ commonName, serial: 2, notBefore: 0, notAfter: 1, publicKeyInfo: info, algorithm: 'ed25519', sign: signWith })
  expect(decodeMetacert(der)).toBeUndefined()
})
