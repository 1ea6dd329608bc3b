import type { Instant } from '@meshwright/core'
import { type NodePrivateKey, nobleProvider, type CryptoProvider } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOutput, type DerpServerOutput, PRESENT_MESH_PEER } from '@meshwright/derp'
import { type DerpConnection, type DerpService, dialDerp, drive, type Driver, systemRandom } from '@meshwright/runtime-node/relay'

/** As real relays do: a link that broke is tried again after this time. */
const RECONNECT_MS = 5_000

/** Another relay of the region. */
export interface MeshTarget {
  readonly host: string
  readonly port: number
  readonly plainHttp: boolean
}

/** What links need of the relay that they belong to. */
export interface MeshLinksOptions {
  readonly targets: readonly MeshTarget[]
  /** The relay's own key: its name among the others. */
  readonly privateKey: NodePrivateKey
  readonly meshKey: Uint8Array
  readonly provider?: CryptoProvider
  readonly clock: () => Instant
  /** Trusted roots, PEM, instead of those of Node. */
  readonly ca?: string
  readonly log: (line: string) => void
  /** How long to wait before a link is tried again; 5 seconds unless given. */
  readonly reconnectMs?: number
}

/**
 * The links of a relay to the others of its region: each tells who is connected there, and takes packets for them. A link carries packets
 * one way, from who dials; the other relay dials its own for the way back (tailscale/tailscale:derp/derphttp/mesh_client.go).
 */
export class MeshLinks {
  readonly #options: MeshLinksOptions
  readonly #service: () => DerpService
  readonly #links: Map<number, Link> = new Map()
  readonly #abort = new AbortController()

  /** @param service the relay, asked for when something is to be told to it */
  constructor(options: MeshLinksOptions, service: () => DerpService) {
    this.#options = options
    this.#service = service
  }

  /** Dials all of them, again and again. */
  start(): void {
    this.#options.targets.forEach((target, i) => void this.#keep(i + 1, target))
  }

  /** Hands a packet to the relay that knows its destination; lost when the link is down. */
  forward({ link, source, destination, packet }: Extract<DerpServerOutput, { type: 'forward' }>): void {
    this.#links.get(link)?.forward(source, destination, packet)
  }

  close(): void {
    this.#abort.abort()
    for (const link of this.#links.values()) link.close()
  }

  async #keep(number: number, target: MeshTarget): Promise<void> {
    const { signal } = this.#abort
    const name = `${target.host}:${target.port}`
    while (!signal.aborted) {
      try {
        const connection = await this.#dial(target, signal)
        if (signal.aborted) return connection.close()
        const link = new Link(number, connection, this.#options, this.#service)
        this.#links.set(number, link)
        const reason = await link.ended
        this.#links.delete(number)
        if (signal.aborted) return
        this.#service().act((now, server) => server.removeLink(now, number))
        if (reason === 'self') return this.#options.log(`mesh: ${name} is this relay itself`)
        this.#options.log(`mesh: the link to ${name} ended: ${reason}`)
      } catch (error) {
        if (signal.aborted) return
        this.#options.log(`mesh: ${error instanceof Error ? error.message : String(error)}`)
      }
      await pause(this.#options.reconnectMs ?? RECONNECT_MS, signal)
    }
  }

  #dial({ host, port, plainHttp }: MeshTarget, signal: AbortSignal): Promise<DerpConnection> {
    const { ca } = this.#options
    return dialDerp({ node: { name: host, regionId: 0, hostName: host, derpPort: port }, plainHttp, signal, fastStart: false, ...(ca !== undefined && { ca }) })
  }
}

/** Ends after this time, or when the signal says so; and listens to it no longer then. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
    if (signal.aborted) done()
  })
}

class Link {
  /** Why it is over; `self`: the relay had dialled itself. */
  readonly ended: Promise<string>
  readonly #connection: DerpConnection
  readonly #client: DerpClient
  readonly #driver: Driver<DerpClientInput>

  constructor(number: number, connection: DerpConnection, options: MeshLinksOptions, service: () => DerpService) {
    const own = options.privateKey.publicKey()
    let end = (_reason: string): void => undefined
    this.ended = new Promise((resolve) => (end = resolve))
    this.#connection = connection
    this.#client = new DerpClient({ privateKey: options.privateKey, random: systemRandom, provider: options.provider ?? nobleProvider, meshKey: options.meshKey, watchConnections: true, canAckPings: false })
    this.#driver = drive<DerpClientInput, DerpClientOutput>(this.#client, options.clock, (output) => {
      switch (output.type) {
        case 'write':
          return connection.write(output.bytes)
        case 'close':
          return connection.close()
        case 'connected':
          if (output.serverKey.equals(own)) {
            end('self')
            connection.close()
          }
          return
        case 'peerPresent':
          // Other relays are no destinations, this one least of all.
          if (((output.flags ?? 0) & PRESENT_MESH_PEER) !== 0 || output.peer.equals(own)) return
          return service().act((now, server) => server.addForwarder(now, number, output.peer))
        case 'peerGone':
          return service().act((now, server) => server.removeForwarder(now, number, output.peer))
        case 'failed':
          return end(output.code)
        case 'packet': // links carry packets one way
        case 'health':
        case 'restarting':
        case 'pong':
          return
      }
    })
    this.#driver.feed({ type: 'opened' })
    connection.start({
      bytes: (bytes) => this.#driver.feed({ type: 'bytes', bytes }),
      writable: () => this.#driver.feed({ type: 'writable' }),
      closed: (reason) => {
        this.#driver.feed({ type: 'closed' })
        this.#driver.stop()
        end(reason)
      },
    })
  }

  forward(source: Parameters<DerpClient['forward']>[1], destination: Parameters<DerpClient['forward']>[2], packet: Uint8Array): void {
    this.#driver.act((now) => this.#client.forward(now, source, destination, packet))
  }

  close(): void {
    this.#connection.close()
    this.#driver.stop()
  }
}
