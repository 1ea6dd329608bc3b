import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import tls from 'node:tls'
import { Failure, reasonOf } from './failure.ts'
import type { TlsSecrets } from './http/web.ts'
import type { Log } from './log.ts'

const LOOK_EVERY_MS = 60_000
const MAX_FILE_BYTES = 1_048_576

/** Where a certificate and its key stand. */
export interface CertificatePaths {
  readonly certPath: string
  readonly keyPath: string
}

/**
 * The certificate of files that others renew: looked at every minute, and read again when one of them has changed. A pair that cannot be
 * used changes nothing: what was in use stays, and the log says what is wrong.
 */
export class CertificateFiles {
  readonly #paths: CertificatePaths
  readonly #use: (secrets: TlsSecrets) => void
  readonly #log: Log
  readonly #timer: NodeJS.Timeout
  #stamp: string

  /** @param secrets what {@link readCertificate} gave; @param use takes each pair that comes after it */
  constructor(paths: CertificatePaths, use: (secrets: TlsSecrets) => void, log: Log) {
    this.#paths = paths
    this.#use = use
    this.#log = log
    this.#stamp = stampOf(paths)
    this.#timer = setInterval(() => this.look(), LOOK_EVERY_MS).unref()
  }

  /** Reads the files if they are others than those that were read last. */
  look(): void {
    if (stampOf(this.#paths) === this.#stamp) return
    try {
      this.reload()
    } catch (error) {
      this.#log.error('the certificate in use stays', { reason: reasonOf(error) })
    }
  }

  /** Reads the files now. @throws Failure when they cannot be used; then the certificate in use stays */
  reload(): void {
    this.#stamp = stampOf(this.#paths) // before they are read: what is written meanwhile is found the next time
    const secrets = readCertificate(this.#paths)
    if (hasExpired(secrets)) throw new Failure(`the certificate ${this.#paths.certPath} has expired (${untilOf(secrets)})`, { remedy: 'renew it; the one that was read before stays in use' })
    this.#use(secrets)
    this.#log.info('new connections get the certificate as it is now', { file: this.#paths.certPath, until: untilOf(secrets) })
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}

/** Reads and checks a certificate and its key. @throws Failure that says which file is wrong, and how */
export function readCertificate({ certPath, keyPath }: CertificatePaths): TlsSecrets {
  const read = (file: string): Buffer => {
    try {
      if (statSync(file).size > MAX_FILE_BYTES) throw new Error(`it is larger than ${MAX_FILE_BYTES / 1_048_576} MiB`)
      return readFileSync(file)
    } catch (error) {
      throw new Failure(`cannot read the certificate: ${file}: ${reasonOf(error)}`, { remedy: 'check tls_cert_path and tls_key_path', status: 2, cause: error })
    }
  }
  const check = (what: string, secrets: { readonly cert?: Buffer; readonly key?: Buffer }): void => {
    try {
      tls.createSecureContext(secrets)
    } catch (error) {
      throw new Failure(`${what} cannot be used: ${reasonOf(error)}`, { remedy: 'check tls_cert_path and tls_key_path: PEM files, the certificate first and those of its issuers behind it', status: 2, cause: error })
    }
  }
  const [cert, key] = [read(certPath), read(keyPath)]
  check(`the certificate ${certPath}`, { cert })
  check(`the key ${keyPath}`, { key })
  check(`the key ${keyPath} of the certificate ${certPath}`, { cert, key })
  return { cert, key }
}

/** Until when a certificate is good, as it says. */
export function untilOf({ cert }: Pick<TlsSecrets, 'cert'>): string {
  return new X509Certificate(cert).validTo
}

/** Whether it is no longer good. */
export function hasExpired(secrets: Pick<TlsSecrets, 'cert'>): boolean {
  return Date.parse(untilOf(secrets)) < Date.now()
}

/** Changes when one of the files does, or whether it can be looked at. */
function stampOf({ certPath, keyPath }: CertificatePaths): string {
  return [certPath, keyPath]
    .map((file) => {
      try {
        const { ino, size, mtimeMs } = statSync(file)
        return [ino, size, mtimeMs].join()
      } catch (error) {
        return reasonOf(error) // a folder may be closed while the server runs
      }
    })
    .join(' ')
}
