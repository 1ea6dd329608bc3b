import { magicDnsSuffix, type NetworkMap } from '@meshwright/control-client'
import { type Instant, isMeshwrightError, Outbox, type RandomSource, type WallClock } from '@meshwright/core'
import { encodeUdpPacket, type Endpoint, type Ip, isServiceAddress, type PacketView, PROTOCOL_UDP } from '@meshwright/ip'
import { type DnsConfig, type DnsTransport, Resolver } from '@meshwright/magicdns'

const DNS_PORT = 53
const MAX_WAITING = 512

/** What the names of a node owe. */
export type NodeNamesOutput =
  /** An inner packet for this node: the answer to its own query. */
  | { readonly type: 'reply'; readonly bytes: Uint8Array }
  /** Ask each of these servers; feed `answered` or `failed` with the token. */
  | { readonly type: 'dnsForward'; readonly token: number; readonly bytes: Uint8Array; readonly upstreams: readonly string[]; readonly transport: DnsTransport }
  | { readonly type: 'dnsCancel'; readonly token: number }

/** The names of the mesh as this node knows them, and the DNS service at 100.100.100.100 for programs behind a TUN device. */
export class NodeNames {
  readonly #outbox: Outbox<NodeNamesOutput> = new Outbox()
  readonly #resolver: Resolver
  readonly #waiting: Map<number, { readonly client: Endpoint; readonly service: Endpoint }> = new Map()
  #nextId = 1
  #problem: string | undefined

  constructor(options: { readonly random: RandomSource; readonly wallClock: WallClock }) {
    this.#resolver = new Resolver(options)
  }

  /** Why the names of the map could not be used; `undefined` when they can. */
  get problem(): string | undefined {
    return this.#problem
  }

  /** Takes the names of a network map; names that are none leave the former ones in force. */
  apply(map: NetworkMap): void {
    try {
      this.#resolver.configure(dnsConfig(map))
      this.#problem = undefined
    } catch (error) {
      if (!isMeshwrightError(error)) throw error
      this.#problem = error.message
    }
  }

  /** Forgets all names. */
  clear(): void {
    this.#resolver.configure({ hosts: new Map() })
    this.#waiting.clear()
  }

  /** Addresses of a full or short name; empty when the mesh has none such. */
  addresses(name: string): readonly Ip[] {
    for (const full of this.#resolver.searchNames(name)) {
      const found = this.#resolver.resolve(full)
      if (found.type === 'known') return found.addresses
    }
    return []
  }

  /** True when an inner packet is a query to the DNS service of the mesh. */
  takes(view: PacketView, packet: Uint8Array): boolean {
    if (!view.at(packet) || view.protocol !== PROTOCOL_UDP || view.dstPort !== DNS_PORT || view.isFragment) return false
    const to = view.dst()
    return to !== undefined && isServiceAddress(to)
  }

  /** Takes such a packet, which `view` shows. */
  query(now: Instant, view: PacketView): void {
    const client = view.srcEndpoint()
    const service = view.dstEndpoint()
    if (client === undefined || service === undefined) return
    // The oldest question has been given up by whoever asked it.
    for (const [id] of this.#waiting) {
      if (this.#waiting.size < MAX_WAITING) break
      this.#waiting.delete(id)
    }
    const id = this.#nextId
    this.#nextId += 1
    this.#waiting.set(id, { client, service })
    this.#resolver.handleInput(now, { type: 'query', id, bytes: Uint8Array.from(view.payload()) })
    this.#drain()
  }

  /** An upstream server has answered. */
  answered(now: Instant, token: number, upstream: string, bytes: Uint8Array, transport: DnsTransport): void {
    this.#resolver.handleInput(now, { type: 'reply', token, upstream, bytes, transport })
    this.#drain()
  }

  /** An upstream server cannot be asked. */
  failed(now: Instant, token: number, upstream: string, transport: DnsTransport): void {
    this.#resolver.handleInput(now, { type: 'failed', token, upstream, transport })
    this.#drain()
  }

  handleTimeout(now: Instant): void {
    this.#resolver.handleTimeout(now)
    this.#drain()
  }

  pollOutput(): NodeNamesOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.#resolver.pollTimeout()
  }

  #drain(): void {
    for (let output = this.#resolver.pollOutput(); output !== undefined; output = this.#resolver.pollOutput()) {
      if (output.type !== 'answer') {
        this.#outbox.push(output.type === 'cancel' ? { ...output, type: 'dnsCancel' } : { ...output, type: 'dnsForward' })
        continue
      }
      const asked = this.#waiting.get(output.id)
      this.#waiting.delete(output.id)
      if (asked !== undefined) this.#outbox.push({ type: 'reply', bytes: encodeUdpPacket({ src: asked.service, dst: asked.client, payload: output.bytes }) })
    }
  }
}

function dnsConfig(map: NetworkMap): DnsConfig {
  const { dns } = map
  const hosts = new Map<string, readonly Ip[]>()
  for (const node of [...map.peers.values(), map.self]) if (node.name !== '') hosts.set(node.name, node.addresses.map((own) => own.ip))
  const routes = new Map(Object.entries(dns.Routes ?? {}).map(([suffix, servers]) => [suffix, servers.map((server) => server.Addr)] as const))
  return {
    suffix: magicDnsSuffix(map),
    hosts,
    routes,
    extraRecords: (dns.ExtraRecords ?? []).map((record) => ({ name: record.Name, value: record.Value, ...(record.Type === undefined ? {} : { type: record.Type }) })),
    defaultUpstreams: (dns.Resolvers ?? []).map((server) => server.Addr),
    searchDomains: [magicDnsSuffix(map), ...(dns.Domains ?? [])],
  }
}
