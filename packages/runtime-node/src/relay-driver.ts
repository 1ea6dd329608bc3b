import { lookup } from 'node:dns/promises'
import { isMeshwrightError, type RelayNode, type RelayRegion } from '@meshwright/core'
import { type Ip, parseIp } from '@meshwright/ip'
import type { MeshOutput, RelayLinksInput } from '@meshwright/mesh'
import { type DerpConnection, type DerpDialOptions, dialDerp } from './derp-dial.ts'
import type { Outside } from './outside.ts'

/** How often it is looked whether whoever takes what relays bring has come after it. */
const LOOK_AGAIN_MS = 5
/** That so much has been taken is told: a message for each small write would cost more than the write. Far less than what may be on its way. */
const TOLD_BYTES = 64 * 1024

/** Carries a node's connections with relays over real sockets. */
export class RelayDriver {
  readonly #feed: (input: RelayLinksInput) => void
  readonly #plainHttp: boolean
  readonly #outside: Outside
  readonly #dials: Map<number, AbortController> = new Map()
  readonly #connections: Map<number, DerpConnection> = new Map()
  readonly #isBehind: () => boolean
  /** Connections that are not read for now. */
  readonly #held: Set<DerpConnection> = new Set()
  #again: NodeJS.Timeout | undefined
  /** Bytes that were written to each since it was last told that all are taken. */
  readonly #written: Map<number, number> = new Map()
  #closed = false

  /**
   * @param feed takes what happens to the connections; @param plainHttp relays speak HTTP without TLS, for development; @param outside opens connections
   * @param isBehind whether what was fed waits in a queue that should not grow: then relays keep what they have
   */
  constructor(feed: (input: RelayLinksInput) => void, plainHttp: boolean, outside: Outside, isBehind: () => boolean = () => false) {
    this.#feed = feed
    this.#isBehind = isBehind
    this.#plainHttp = plainHttp
    this.#outside = outside
  }

  perform(output: Extract<MeshOutput, { readonly type: 'relayDial' | 'relayWrite' | 'relayClose' }>): void {
    switch (output.type) {
      case 'relayDial':
        return this.#dial(output.link, output.node)
      case 'relayWrite':
        return this.#write(output.link, output.bytes)
      case 'relayClose':
        this.#dials.get(output.link)?.abort()
        this.#close(output.link)
        return
    }
  }

  /** The addresses of this computer that open connections were made from. */
  get localAddresses(): readonly string[] {
    return [...this.#connections.values()].map((connection) => connection.localAddress)
  }

  /** Closes all connections; nothing is fed any more. */
  close(): void {
    this.#closed = true
    this.#readOn()
    for (const dial of this.#dials.values()) dial.abort()
    for (const connection of this.#connections.values()) connection.close()
    this.#connections.clear()
  }

  #write(link: number, bytes: Uint8Array): void {
    const connection = this.#connections.get(link)
    if (connection === undefined) return
    this.#written.set(link, (this.#written.get(link) ?? 0) + bytes.length)
    connection.write(bytes)
  }

  #dial(link: number, node: RelayNode): void {
    const abort = new AbortController()
    this.#dials.set(link, abort)
    dial({ node, signal: abort.signal, outside: this.#outside, plainHttp: this.#plainHttp || isLoopbackPlain(node) }).then(
      (connection) => {
        this.#dials.delete(link)
        if (this.#closed || abort.signal.aborted) {
          connection.close()
          return
        }
        this.#connections.set(link, connection)
        this.#feed({ type: 'opened', link, ...(connection.serverKey === undefined ? {} : { serverKey: connection.serverKey }) })
        connection.start({
          bytes: (bytes) => {
            this.#tell({ type: 'bytes', link, bytes })
            if (this.#isBehind() && this.#connections.get(link) === connection) this.#hold(connection)
          },
          writable: () => {
            if ((this.#written.get(link) ?? 0) < TOLD_BYTES) return
            this.#written.delete(link)
            this.#tell({ type: 'writable', link })
          },
          closed: (reason) => {
            this.#connections.delete(link)
            this.#held.delete(connection)
            this.#written.delete(link)
            this.#tell({ type: 'closed', link, reason })
          },
        })
      },
      (error: unknown) => {
        this.#dials.delete(link)
        this.#tell({ type: 'closed', link, reason: error instanceof Error ? error.message : String(error) })
      },
    )
  }

  #close(link: number): void {
    const connection = this.#connections.get(link)
    if (connection === undefined) return
    this.#connections.delete(link)
    this.#held.delete(connection)
    this.#written.delete(link)
    connection.close()
  }

  #hold(connection: DerpConnection): void {
    connection.pause()
    this.#held.add(connection)
    this.#again ??= setInterval(() => {
      if (!this.#isBehind()) this.#readOn()
    }, LOOK_AGAIN_MS)
  }

  #readOn(): void {
    clearInterval(this.#again)
    this.#again = undefined
    for (const connection of this.#held) connection.resume()
    this.#held.clear()
  }

  #tell(input: RelayLinksInput): void {
    if (!this.#closed) this.#feed(input)
  }
}

// Who answers, but not to a relay's own upgrade, may be a proxy that passes WebSocket alone.
async function dial(options: DerpDialOptions): Promise<DerpConnection> {
  try {
    return await dialDerp(options)
  } catch (error) {
    if (!isMeshwrightError(error, 'DERP_DIAL_REFUSED')) throw error
    return dialDerp({ ...options, webSocket: true }).catch(() => {
      throw error // what the relay itself was asked says more
    })
  }
}

// A relay that is to be trusted without any check, on this very computer, may speak plain HTTP: the demo and tests do.
function isLoopbackPlain(node: RelayNode): boolean {
  return node.insecureForTests === true && node.certName === 'plain-http'
}

const MEASURE_TIMEOUT_MS = 3_000

/** How long a TCP connection with a relay of the region takes, in milliseconds; `undefined` when none answers, or `signal` aborts. */
export async function measureRelay(region: RelayRegion, outside: Outside, signal: AbortSignal): Promise<number | undefined> {
  const node = region.nodes.find((each) => each.stunOnly !== true)
  if (node === undefined) return undefined
  const host = node.ipv4 !== undefined && node.ipv4 !== '' && node.ipv4 !== 'none' ? node.ipv4 : node.hostName
  const started = performance.now()
  const socket = await outside.connect(host, node.derpPort ?? 443).catch(() => undefined) // a name without an address: no measure
  if (socket === undefined) return undefined
  return new Promise((resolve) => {
    const onAbort = (): void => finish(undefined)
    const finish = (latencyMs: number | undefined): void => {
      signal.removeEventListener('abort', onAbort)
      socket.destroy()
      resolve(latencyMs)
    }
    socket.setTimeout(MEASURE_TIMEOUT_MS, () => finish(undefined))
    socket.once('connect', () => finish(performance.now() - started))
    socket.once('error', () => finish(undefined))
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}

/** The addresses of a relay's name; none, and why, when they cannot be looked up. */
export async function relayAddresses(hostName: string): Promise<{ readonly ips: readonly Ip[]; readonly problem?: string }> {
  try {
    return { ips: (await lookup(hostName, { all: true })).flatMap(({ address }) => parseIp(address) ?? []) }
  } catch (error) {
    return { ips: [], problem: error instanceof Error ? error.message : String(error) }
  }
}
