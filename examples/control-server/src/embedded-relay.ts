import path from 'node:path'
import { NodePrivateKey } from '@meshwright/crypto'
import type { Instant } from '@meshwright/core'
import { DerpServer } from '@meshwright/derp'
import type { RelaySettings, ServerSettings } from './config/load.ts'
import { Failure, reasonOf } from './failure.ts'
import type { TlsSecrets } from './http/web.ts'
import { readOrMakeKeyFile } from './key-file.ts'
import type { Log } from './log.ts'
import { keepCertificate, type OwnCertificate } from './own-certificate.ts'
import { hostOf } from './relay-map.ts'
import { attachDerpServer, type DerpService, metacertPem, serverCrypto, systemRandom } from './runtime.ts'

/** The file, beside the database, of the certificate that this server makes for its relay. */
const CERTIFICATE_FILE = 'relay-certificate.pem'
/** How often that certificate is looked at; the one behind it, which tells the relay's key inside TLS, is good for 30 days. */
const LOOK_EVERY_MS = 3_600_000

/**
 * The relay in the server. Clients speak to relays over TLS alone, so where the server itself is reached by plain HTTP the relay has a
 * certificate of its own, which the relay map names by its hash. Where the server's URL is an https one, its certificate, or that of the
 * proxy before it, is the relay's too.
 */
export class EmbeddedRelay {
  readonly machine: DerpServer
  readonly #certificateFile: string
  readonly #hosts: readonly [string, ...string[]]
  #certificate: OwnCertificate | undefined
  #timer: NodeJS.Timeout | undefined
  #look: () => void = () => undefined

  /** Reads the relay's key and certificate, or makes them. @throws Failure */
  constructor(settings: ServerSettings, relay: RelaySettings) {
    const privateKey = NodePrivateKey.parse(readOrMakeKeyFile(relay.keyPath, 'derp.server.private_key_path', () => NodePrivateKey.generate(systemRandom).formatSecret()))
    if (privateKey === undefined) throw new Failure(`${relay.keyPath} does not hold a key`, { status: 2 })
    this.machine = new DerpServer({ privateKey, random: systemRandom, provider: serverCrypto, admission: relay.verifyClients })
    this.#certificateFile = path.join(path.dirname(settings.databasePath), CERTIFICATE_FILE)
    this.#hosts = [hostOf(settings.serverUrl), ...[relay.ipv4, relay.ipv6].filter((address) => address !== '' && address !== 'none')]
    if (settings.tls === undefined && new URL(settings.serverUrl).protocol === 'http:') this.#certificate = keepCertificate(this.#certificateFile, this.#hosts, Date.now())
  }

  /** What the relay map names its own certificate by. */
  get pin(): string | undefined {
    return this.#certificate?.pin
  }

  /** Its own certificate, and behind it the one that tells the relay's key, which spares clients a round trip. */
  get secrets(): TlsSecrets | undefined {
    const own = this.#certificate
    return own && { cert: own.cert + metacertPem(this.machine.publicKey), key: own.key }
  }

  /** Renews its own certificate in time. @param renewed is called with what connections get from now on, and whether the pin is another */
  keepCertificate(renewed: (secrets: TlsSecrets, newPin: boolean) => void, log: Log): void {
    if (this.#certificate === undefined) return
    this.#tell(log)
    this.#look = () => {
      const before = this.pin
      try {
        this.#certificate = keepCertificate(this.#certificateFile, this.#hosts, Date.now())
      } catch (error) {
        log.error('the certificate of the relay could not be renewed: the one in use stays', { reason: reasonOf(error) })
      }
      const { pin, secrets } = this
      if (secrets !== undefined) renewed(secrets, pin !== before)
      if (pin !== before) this.#tell(log)
    }
    this.#timer = setInterval(this.#look, LOOK_EVERY_MS).unref()
  }

  /** Looks at its own certificate now: one that was removed is made anew, one that was put there is taken. */
  look(): void {
    this.#look()
  }

  /** Connects it with its surroundings; connections come by `handleUpgrade`. */
  attach(clock: () => Instant, knows: (nodeKey: string) => boolean, log: Log): DerpService {
    return attachDerpServer(undefined, this.machine, {
      clock,
      verify: ({ nodeKey }) => Promise.resolve(knows(nodeKey.text)),
      log: (line) => log.debug(`relay: ${line}`),
    })
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  #tell(log: Log): void {
    const own = this.#certificate
    if (own !== undefined) log.info('the relay speaks TLS with a certificate of its own, which the relay map pins', { file: this.#certificateFile, pin: own.pin, until: new Date(own.until).toISOString() })
  }
}
