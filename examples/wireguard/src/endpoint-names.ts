import { lookup } from 'node:dns/promises'
import { readFileSync, statSync } from 'node:fs'
import type { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, parseIp } from '@meshwright/ip'
import { parseConfig } from '@meshwright/wireguard/text'
import type { Log } from './log.ts'

const MIN_BETWEEN_MS = 4_000

/** What is done with a peer's new address. */
export type MovePeer = (peer: NodePublicKey, endpoint: Endpoint) => void

/**
 * `wg` resolves the names of endpoints once, when it reads a file, and tells addresses: a peer behind a name that changes would be lost.
 * This looks the names up again, in the file, each time a handshake with such a peer stays without answer. Of several addresses the one
 * behind the one that was tried is next.
 */
export class EndpointNames {
  readonly #file: string
  readonly #move: MovePeer
  readonly #log: Log
  readonly #resolve: (host: string) => Promise<readonly string[]>
  readonly #askedAt: Map<string, number> = new Map()
  #read: { readonly version: string; readonly names: ReadonlyMap<string, NamedEndpoint> } = { version: '', names: new Map() }

  /** @param file of wg or wg-quick; read anew each time, and it may be missing */
  constructor(file: string, move: MovePeer, log: Log, resolve: (host: string) => Promise<readonly string[]> = resolveBySystem) {
    this.#file = file
    this.#move = move
    this.#log = log
    this.#resolve = resolve
  }

  /** A handshake with a peer, tried at an address, stayed without answer. Resolves when that is dealt with. */
  async unanswered(peer: NodePublicKey, tried: Endpoint | undefined): Promise<void> {
    const last = this.#askedAt.get(peer.text)
    if (last !== undefined && performance.now() - last < MIN_BETWEEN_MS) return
    const named = this.#names().get(peer.text)
    if (named === undefined) return
    this.#askedAt.set(peer.text, performance.now())
    let addresses: readonly string[]
    try {
      addresses = await this.#resolve(named.host)
    } catch (error) {
      return this.#log('verbose', `${named.host} cannot be resolved: ${error instanceof Error ? error.message : String(error)}`)
    }
    const ips = addresses.flatMap((text) => parseIp(text) ?? [])
    const index = ips.findIndex((ip) => tried !== undefined && ip.equals(tried.ip))
    const ip = ips[(index + 1) % ips.length]
    if (ip === undefined || (tried !== undefined && tried.port === named.port && ip.equals(tried.ip))) return
    this.#log('verbose', `${named.host} is looked for at another address now`)
    this.#move(peer, { ip, port: named.port })
  }

  // By the text of the public key. Read again only when the file has changed: a thousand peers may be silent at once.
  #names(): ReadonlyMap<string, NamedEndpoint> {
    try {
      const { mtimeMs, size } = statSync(this.#file)
      const version = `${mtimeMs} ${size}`
      if (version === this.#read.version) return this.#read.names
      const names = new Map<string, NamedEndpoint>()
      for (const { publicKey, endpoint } of parseConfig(readFileSync(this.#file, 'utf8')).config.peers) {
        if (publicKey !== undefined && endpoint !== undefined && parseIp(endpoint.host) === undefined) names.set(publicKey.text, endpoint)
      }
      this.#read = { version, names }
      return names
    } catch {
      return new Map() // no file, no names
    }
  }
}

interface NamedEndpoint {
  readonly host: string
  readonly port: number
}

/** All addresses of a name, in the order of the system. */
export async function resolveBySystem(host: string): Promise<readonly string[]> {
  return (await lookup(host, { all: true, verbatim: true })).map(({ address }) => address)
}
