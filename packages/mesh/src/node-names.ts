import { magicDnsSuffix, type MapNode, type NetworkMap } from '@meshwright/control-client'
import { type Instant, Outbox } from '@meshwright/core'
import { encodeUdpPacket, type Endpoint, type Ip, isServiceAddress, type PacketView, parseIp, PROTOCOL_UDP } from '@meshwright/ip'

const DNS_PORT = 53

/** What the names of a node owe. */
export type NodeNamesOutput =
  /** An inner packet for this node: the answer to its own query. */
  | { readonly type: 'reply'; readonly bytes: Uint8Array }
  | { readonly type: 'forward'; readonly id: number; readonly bytes: Uint8Array; readonly upstreams: readonly string[] }

/** The names of the mesh as this node knows them, and the DNS service at 100.100.100.100. */
export class NodeNames {
  readonly #outbox: Outbox<NodeNamesOutput> = new Outbox()
  #hosts: ReadonlyMap<string, readonly Ip[]> = new Map()
  #suffix = ''

  /** Takes the names of a network map. */
  apply(map: NetworkMap): void {
    const hosts = new Map<string, readonly Ip[]>()
    const add = (node: MapNode): void => {
      if (node.name !== '') hosts.set(node.name.toLowerCase(), node.addresses.map((own) => own.ip))
    }
    for (const peer of map.peers.values()) add(peer)
    add(map.self)
    for (const record of map.dns.ExtraRecords ?? []) {
      const ip = parseIp(record.Value)
      const name = record.Name.replace(/\.$/, '').toLowerCase()
      if (ip !== undefined) hosts.set(name, [...(hosts.get(name) ?? []), ip])
    }
    this.#hosts = hosts
    this.#suffix = magicDnsSuffix(map).toLowerCase()
  }

  clear(): void {
    this.#hosts = new Map()
    this.#suffix = ''
  }

  /** Addresses of a full or short name; empty when the mesh has none such. */
  addresses(name: string): readonly Ip[] {
    const wanted = name.replace(/\.$/, '').toLowerCase()
    return this.#hosts.get(wanted) ?? this.#hosts.get(`${wanted}.${this.#suffix}`) ?? []
  }

  /** True when an inner packet is a query to the DNS service of the mesh. */
  takes(view: PacketView, packet: Uint8Array): boolean {
    if (!view.at(packet) || view.protocol !== PROTOCOL_UDP || view.dstPort !== DNS_PORT) return false
    const to = view.dst()
    return to !== undefined && isServiceAddress(to)
  }

  query(_now: Instant, _packet: Uint8Array): void {}

  answered(_now: Instant, _id: number, _bytes: Uint8Array | undefined): void {}

  handleTimeout(_now: Instant): void {}

  pollOutput(): NodeNamesOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return undefined
  }

  /** Wraps a DNS message into the packet that carries it back. */
  static packet(from: Endpoint, to: Endpoint, message: Uint8Array): Uint8Array {
    return encodeUdpPacket({ src: from, dst: to, payload: message })
  }
}
