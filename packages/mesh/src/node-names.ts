import { hasCapability, magicDnsSuffix, type MapNode, type NetworkMap } from '@meshwright/control-client'
import { after, earlier, type Instant, isMeshwrightError, Outbox, type RandomSource, type WallClock } from '@meshwright/core'
import { type Endpoint, type Ip, isServiceAddress, type PacketView, PROTOCOL_UDP, SERVICE_IPV4, SERVICE_IPV6 } from '@meshwright/ip'
import { type DnsConfig, type DnsTransport, Resolver } from '@meshwright/magicdns'
import { type FlowId, Netstack, type NetstackOutput, type UdpId } from '@meshwright/netstack'

const DNS_PORT = 53
/** The attribute of nodes that are told the IPv6 addresses of names too. */
const ATTRIBUTE_AAAA = 'magicdns-aaaa'
const MAX_WAITING = 512
/** Connections at a time, the longest query by TCP, and how long one may be idle (tailscale/tailscale:net/dns/manager_tcp.go). */
const MAX_FLOWS = 256
const MAX_QUERY_BYTES = 4096
const IDLE_MS = 45_000
const LENGTH_BYTES = 2
const MAX_ZONES_TOLD = 3

/** Who waits for an answer: a socket, or a connection. */
type Asker = { readonly client: Endpoint; readonly service: Ip } | { readonly flow: FlowId }

/** A connection: what has come of the next query, and when it was last used. */
interface Stream {
  received: Uint8Array
  idleAt: Instant
}

/** What the names of a node owe. */
export type NodeNamesOutput =
  /** An inner packet for this node: the answer to its own query. */
  | { readonly type: 'reply'; readonly bytes: Uint8Array }
  /** Ask each of these servers; feed `answered` or `failed` with the token. */
  | { readonly type: 'dnsForward'; readonly token: number; readonly bytes: Uint8Array; readonly upstreams: readonly string[]; readonly transport: DnsTransport }
  | { readonly type: 'dnsCancel'; readonly token: number }

/**
 * The names of the mesh as this node knows them, and the DNS service at 100.100.100.100 and fd7a:115c:a1e0::53, by UDP and TCP (RFC 7766).
 * The service addresses are this node's own: whatever is sent there ends here, and what is not DNS gets a reset or nothing.
 */
export class NodeNames {
  readonly #outbox: Outbox<NodeNamesOutput> = new Outbox()
  readonly #resolver: Resolver
  readonly #stack: Netstack
  readonly #socket: UdpId
  readonly #streams: Map<FlowId, Stream> = new Map()
  readonly #waiting: Map<number, Asker> = new Map()
  #nextId = 1
  #problem: string | undefined

  constructor(options: { readonly random: RandomSource; readonly wallClock: WallClock }) {
    this.#resolver = new Resolver(options)
    this.#stack = new Netstack(options.random, { addresses: [SERVICE_IPV4, SERVICE_IPV6], maxFlows: MAX_FLOWS })
    this.#socket = this.#stack.bindUdp(DNS_PORT)
    this.#stack.listenTcp(DNS_PORT)
  }

  /** Why the names of the map could not be used; `undefined` when they can. */
  get problem(): string | undefined {
    return this.#problem
  }

  /** What a person should know of names that fail. */
  get warnings(): readonly string[] {
    const zones = this.#resolver.loopingZones
    if (zones.length === 0) return []
    const some = zones.slice(0, MAX_ZONES_TOLD).map((zone) => (zone === '.' ? 'everything else' : `"${zone.slice(0, -1)}"`)).join(', ')
    const more = zones.length > MAX_ZONES_TOLD ? ` and ${zones.length - MAX_ZONES_TOLD} more` : ''
    return [`The control server names 100.100.100.100 as the server for ${some}${more}: that is this node itself, so it is not asked, and such names fail unless another server is named. The nameservers in its DNS settings are to be changed`]
  }

  /** Entries that others can add to: questions at upstreams, and connections. */
  get held(): Readonly<Record<string, number>> {
    return { 'dns-questions': this.#resolver.pendingCount, 'dns-waiting': this.#waiting.size, 'dns-connections': this.#streams.size }
  }

  /** Questions that were refused or went round, and answers that nobody asked for; reasons that did not occur are left out. */
  get drops(): Readonly<Record<string, number>> {
    const { loops, strayReplies, refusedFull, malformed } = this.#resolver.counters()
    return Object.fromEntries(Object.entries({ 'dns-loop': loops, 'dns-stray-reply': strayReplies, 'dns-full': refusedFull, 'dns-malformed': malformed }).filter(([, count]) => count > 0))
  }

  /**
   * Takes the names of a network map; names that are none leave the former ones in force. Where the map's DNS settings are not accepted, nodes
   * have their names all the same, and nothing else is answered. Where MagicDNS is off, so too, but what is not known in the domain of the mesh
   * is asked of whoever the settings name (tailscale/tailscale:ipn/ipnlocal/node_backend.go).
   */
  apply(map: NetworkMap, acceptDns: boolean): void {
    try {
      this.#resolver.configure(dnsConfig(map, acceptDns))
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

  /** True when an inner packet of this computer goes to the service addresses; it is then in `view`. */
  takes(view: PacketView, packet: Uint8Array): boolean {
    if (!view.at(packet)) return false
    const to = view.dst()
    return to !== undefined && isServiceAddress(to)
  }

  /** Takes such a packet, which `view` shows. */
  packet(now: Instant, view: PacketView, packet: Uint8Array): void {
    // As the real service does it: other UDP is not even refused.
    if (view.protocol === PROTOCOL_UDP && !view.isFragment && view.dstPort !== DNS_PORT) return
    this.#stack.handleInput(now, { type: 'packet', bytes: packet })
    this.#drain(now)
  }

  /** An upstream server has answered. */
  answered(now: Instant, token: number, upstream: string, bytes: Uint8Array, transport: DnsTransport): void {
    this.#resolver.handleInput(now, { type: 'reply', token, upstream, bytes, transport })
    this.#drain(now)
  }

  /** An upstream server cannot be asked. */
  failed(now: Instant, token: number, upstream: string, transport: DnsTransport): void {
    this.#resolver.handleInput(now, { type: 'failed', token, upstream, transport })
    this.#drain(now)
  }

  handleTimeout(now: Instant): void {
    this.#resolver.handleTimeout(now)
    this.#stack.handleTimeout(now)
    for (const [flow, { idleAt }] of this.#streams) if (now >= idleAt) this.#stack.abort(now, flow)
    this.#drain(now)
  }

  pollOutput(): NodeNamesOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    let due = earlier(this.#resolver.pollTimeout(), this.#stack.pollTimeout())
    for (const { idleAt } of this.#streams.values()) due = earlier(due, idleAt)
    return due
  }

  // Queries come out of the stack, answers go into it; until both are quiet.
  #drain(now: Instant): void {
    for (let busy = true; busy; ) {
      busy = false
      for (let output = this.#stack.pollOutput(); output !== undefined; output = this.#stack.pollOutput()) {
        busy = true
        this.#fromStack(now, output)
      }
      for (let output = this.#resolver.pollOutput(); output !== undefined; output = this.#resolver.pollOutput()) {
        busy = true
        if (output.type === 'answer') this.#answer(now, output.id, output.bytes)
        else this.#outbox.push(output.type === 'cancel' ? { ...output, type: 'dnsCancel' } : { ...output, type: 'dnsForward' })
      }
    }
  }

  #fromStack(now: Instant, output: NetstackOutput): void {
    switch (output.type) {
      case 'packet':
        this.#outbox.push({ type: 'reply', bytes: output.bytes })
        return
      case 'udp':
        this.#ask(now, { client: output.from, service: output.local.ip }, Uint8Array.from(output.bytes), 'udp')
        return
      case 'opened':
        this.#streams.set(output.flow, { received: new Uint8Array(0), idleAt: after(now, IDLE_MS) })
        return
      case 'data':
        this.#received(now, output.flow, output.bytes)
        return
      case 'ended':
        // Queries that are still open get no answer: whoever has said all may have gone.
        this.#stack.close(now, output.flow)
        return
      case 'closed':
        this.#streams.delete(output.flow)
        return
      default:
        return
    }
  }

  #received(now: Instant, flow: FlowId, bytes: Uint8Array): void {
    const stream = this.#streams.get(flow)
    this.#stack.consumed(now, flow, bytes.length)
    if (stream === undefined) return
    stream.idleAt = after(now, IDLE_MS)
    let received = new Uint8Array(stream.received.length + bytes.length)
    received.set(stream.received)
    received.set(bytes, stream.received.length)
    while (received.length >= LENGTH_BYTES) {
      const length = ((received[0] ?? 0) << 8) | (received[1] ?? 0)
      if (length > MAX_QUERY_BYTES) return this.#stack.abort(now, flow)
      if (received.length < LENGTH_BYTES + length) break
      this.#ask(now, { flow }, received.slice(LENGTH_BYTES, LENGTH_BYTES + length), 'tcp')
      received = received.slice(LENGTH_BYTES + length)
    }
    stream.received = received
  }

  #ask(now: Instant, asker: Asker, bytes: Uint8Array, transport: DnsTransport): void {
    // The oldest question has been given up by whoever asked it.
    for (const [id] of this.#waiting) {
      if (this.#waiting.size < MAX_WAITING) break
      this.#waiting.delete(id)
    }
    const id = this.#nextId
    this.#nextId += 1
    this.#waiting.set(id, asker)
    this.#resolver.handleInput(now, { type: 'query', id, bytes, transport })
  }

  #answer(now: Instant, id: number, bytes: Uint8Array): void {
    const asker = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (asker === undefined) return
    if (!('flow' in asker)) return this.#stack.sendUdp(now, this.#socket, asker.client, bytes, asker.service)
    const framed = new Uint8Array(LENGTH_BYTES + bytes.length)
    framed[0] = bytes.length >> 8
    framed[1] = bytes.length
    framed.set(bytes, LENGTH_BYTES)
    // A reader that takes nothing is not waited for: half an answer is none.
    if (this.#streams.has(asker.flow) && this.#stack.write(now, asker.flow, framed) < framed.length) this.#stack.abort(now, asker.flow)
  }
}

// As tailscaled does it (tailscale/tailscale:ipn/ipnlocal/node_backend.go, tailscale/tailscale#1152): a program that is told both would take IPv6 first,
// which a peer that does not speak it inside the mesh never answers.
function namedAddresses(map: NetworkMap, node: MapNode): readonly Ip[] {
  const all = node.addresses.map((own) => own.ip)
  if (hasCapability(map.self, ATTRIBUTE_AAAA)) return all
  const family = map.self.addresses.some((own) => own.ip.family === 4) && all.some((ip) => ip.family === 4) ? 4 : 6
  return all.filter((ip) => ip.family === family)
}

function dnsConfig(map: NetworkMap, acceptDns: boolean): DnsConfig {
  const { dns } = map
  const hosts = new Map<string, readonly Ip[]>()
  for (const node of [...map.peers.values(), map.self]) if (node.name !== '') hosts.set(node.name, namedAddresses(map, node))
  const searchDomains = [magicDnsSuffix(map), ...(dns.Domains ?? [])]
  const extraRecords = (dns.ExtraRecords ?? []).map((record) => ({ name: record.Name, value: record.Value, ...(record.Type === undefined ? {} : { type: record.Type }) }))
  if (!acceptDns) return { hosts, extraRecords, searchDomains }
  const routes = new Map(Object.entries(dns.Routes ?? {}).map(([suffix, servers]) => [suffix, servers.map((server) => server.Addr)] as const))
  return {
    ...(dns.Proxied === true && { suffix: magicDnsSuffix(map) }),
    hosts,
    routes,
    extraRecords,
    defaultUpstreams: (dns.Resolvers ?? []).map((server) => server.Addr),
    searchDomains,
  }
}
