import { createHash, createPrivateKey, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { Failure, reasonOf } from './failure.ts'
import type { TlsSecrets } from './http/web.ts'
import { selfSignedCertificate } from './runtime.ts'
import { writeSecretFile } from './whole-file.ts'

const DAY_MS = 86_400_000
/** How long a new one is good, and with how much time left the next is made. */
const DAYS = 365
const RENEW_DAYS = 30
const REMEDY = 'move it away to get a new one: clients learn of it by the relay map'

/** A certificate that this server made for its relay, and that the relay map names by its hash. */
export interface OwnCertificate extends TlsSecrets {
  readonly cert: string
  readonly key: string
  /** `sha256-raw:` and the hash: `CertName` of the relay map. */
  readonly pin: string
  /** When it is good, in milliseconds since 1970. */
  readonly from: number
  readonly until: number
}

/**
 * The certificate of a file, which holds it and its key (mode 0600). It is made when the file is missing, and anew when it will expire soon or is
 * for other hosts. A file that holds anything else is refused and left alone.
 * @param hosts names and addresses by which clients know the relay @param now milliseconds since 1970
 * @throws Failure
 */
export function keepCertificate(file: string, hosts: readonly [string, ...string[]], now: number): OwnCertificate {
  const kept = read(file)
  if (kept !== undefined && kept.from <= now && kept.until - now > RENEW_DAYS * DAY_MS && isFor(kept.cert, hosts)) return kept
  const { cert, key, pin } = selfSignedCertificate(hosts, { days: DAYS, now })
  write(file, `${key}${cert}`)
  return { cert, key, pin, ...validityOf(new X509Certificate(cert)) }
}

function read(file: string): OwnCertificate | undefined {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new Failure(`cannot read the certificate of the relay ${file}: ${reasonOf(error)}`, { remedy: 'check the permissions of the file', cause: error })
  }
  const match = /^(-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END PRIVATE KEY-----\n)(-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n)$/.exec(text)
  const [, key, cert] = match ?? []
  if (key === undefined || cert === undefined) throw new Failure(`${file} does not hold a certificate of this server's making`, { remedy: REMEDY, status: 2 })
  try {
    const parsed = new X509Certificate(cert)
    if (!parsed.checkPrivateKey(createPrivateKey(key))) throw new Error('the key is that of another certificate')
    return { cert, key, pin: `sha256-raw:${createHash('sha256').update(parsed.raw).digest('hex')}`, ...validityOf(parsed) }
  } catch (error) {
    throw new Failure(`${file} does not hold a certificate and its key: ${reasonOf(error)}`, { remedy: REMEDY, status: 2 })
  }
}

function validityOf(certificate: X509Certificate): { readonly from: number; readonly until: number } {
  return { from: Date.parse(certificate.validFrom), until: Date.parse(certificate.validTo) }
}

function isFor(cert: string, hosts: readonly string[]): boolean {
  const parsed = new X509Certificate(cert)
  return hosts.every((host) => (isIP(host) === 0 ? parsed.checkHost(host) : parsed.checkIP(host)) !== undefined)
}

function write(file: string, text: string): void {
  try {
    writeSecretFile(file, text, 'replace')
  } catch (error) {
    throw new Failure(`cannot write the certificate of the relay ${file}: ${reasonOf(error)}`, { remedy: 'check the permissions of its folder', cause: error })
  }
}
