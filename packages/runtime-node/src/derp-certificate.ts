import { createHash, generateKeyPairSync, randomInt, sign } from 'node:crypto'
import net from 'node:net'
import type { NodePublicKey } from '@meshwright/crypto'
import { encodeMetacert, encodeSelfSignedCertificate } from '@meshwright/derp'
import { parseIp } from '@meshwright/ip'

const DAY_MS = 86_400_000
const HOUR_MS = 3_600_000

/** A certificate and its key, as `node:tls` takes them. */
export interface SelfSigned {
  /** PEM. */
  readonly cert: string
  /** PEM, secret: a file with mode 0600 and nothing else. */
  readonly key: string
  /** `sha256-raw:` and the hash of the certificate: what a relay map names it by (`certName`). */
  readonly pin: string
}

/**
 * The PEM that tells a relay's key inside TLS; append it to `cert` of the server. Valid for 30 days: make a new one, and call
 * `setSecureContext`, well before. A server that sends it must serve fast start, which {@link attachDerpServer} does.
 */
export function metacertPem(serverKey: NodePublicKey, now: number = Date.now()): string {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const info = publicKey.export({ type: 'spki', format: 'der' })
  return pem('CERTIFICATE', encodeMetacert(serverKey, now, info, (bytes) => sign(null, bytes, privateKey)))
}

/** A fresh self-signed certificate (ECDSA P-256) for names or addresses; pin it by its hash. */
export function selfSignedCertificate(hosts: readonly [string, ...string[]], options: { days?: number; now?: number } = {}): SelfSigned {
  const now = options.now ?? Date.now()
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const der = encodeSelfSignedCertificate({
    commonName: hosts[0],
    serial: randomInt(1, 2 ** 31),
    notBefore: now - HOUR_MS,
    notAfter: now + (options.days ?? 365) * DAY_MS,
    publicKeyInfo: publicKey.export({ type: 'spki', format: 'der' }),
    algorithm: 'ecdsa-sha256',
    sign: (bytes) => sign('sha256', bytes, privateKey),
    dnsNames: hosts.filter((host) => net.isIP(host) === 0),
    addresses: hosts.flatMap((host) => parseIp(host)?.bytes ?? []),
  })
  return {
    cert: pem('CERTIFICATE', der),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    pin: `sha256-raw:${createHash('sha256').update(der).digest('hex')}`,
  }
}

function pem(label: string, der: Uint8Array): string {
  const lines = Buffer.from(der).toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}
