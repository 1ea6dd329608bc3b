import { formatJson, formatTime, type Hostinfo, type Node, type PeerChange, TAGGED_DEVICES_USER_ID, ZERO_TIME } from '@meshwright/control-protocol'
import { PLAIN_PEER, type VisiblePeer } from './access.ts'
import { SharedJson } from './frame-parts.ts'
import { nodeFqdn } from './names.ts'
import type { NodeRecord } from './records.ts'

/** What of a peer does not stand in its record. */
export interface PeerFacts {
  readonly online: boolean
  readonly expired: boolean
  readonly baseDomain: string
}

/** A peer as one kind of viewer sees it, encoded once for all of them. Never changed; compare by identity. */
export interface PeerImage {
  readonly id: number
  /** Number of the user profile that goes with it. */
  readonly userId: number
  readonly node: Node
  /** JSON of the whole node, shared by all frames that hold it. */
  readonly json: SharedJson
  /** JSON of what a patch cannot change. */
  readonly fixed: string
  /** What a patch can change. */
  readonly patchable: Omit<PeerChange, 'NodeID'>
}

const PLAIN = ''

/** Encodes each peer once for each kind of viewer, again only after `invalidate`. */
export class PeerImages {
  readonly #images = new Map<number, Map<string, PeerImage>>()
  readonly #stale = new Map<number, Map<string, PeerImage>>()
  #written = 0

  /** How many peers have been written as JSON. */
  get written(): number {
    return this.#written
  }

  /** The node changed: its images are made anew when next asked for. What comes out equal keeps its identity. */
  invalidate(nodeId: number): void {
    const images = this.#images.get(nodeId)
    if (images === undefined) return
    this.#images.delete(nodeId)
    this.#stale.set(nodeId, images)
  }

  /** The node is gone. */
  forget(nodeId: number): void {
    this.#images.delete(nodeId)
    this.#stale.delete(nodeId)
  }

  /** All images must be made anew. */
  invalidateAll(): void {
    for (const id of [...this.#images.keys()]) this.invalidate(id)
  }

  image(record: NodeRecord, variant: VisiblePeer, facts: () => PeerFacts): PeerImage {
    const key = variant === PLAIN_PEER ? PLAIN : `${variant.ipv6Only ? 6 : 0} ${variant.routes.join(' ')} ${Object.keys(variant.capMap).join(' ')}`
    const known = this.#images.get(record.id)?.get(key)
    if (known !== undefined) return known
    const fresh = encodePeer(record, variant, facts())
    this.#written += 1
    const before = this.#stale.get(record.id)?.get(key)
    const image = before?.json.text === fresh.json.text ? before : fresh
    const images = this.#images.get(record.id)
    if (images === undefined) this.#images.set(record.id, new Map([[key, image]]))
    else images.set(key, image)
    return image
  }
}

/** JSON of the patch that makes `after` of `before`, or `undefined` when a patch cannot. */
export function patchBetween(before: PeerImage, after: PeerImage): string | undefined {
  if (before.fixed !== after.fixed) return undefined
  const changed: Record<string, unknown> = { NodeID: after.id }
  const old: Readonly<Record<string, unknown>> = { ...before.patchable }
  for (const [name, value] of Object.entries(after.patchable)) if (formatJson(old[name]) !== formatJson(value)) changed[name] = value
  // Clients refuse a patch with a new disco key that also says "offline": then the whole node is sent.
  if (changed['DiscoKey'] !== undefined && after.patchable.Online !== true) return undefined
  for (const name of Object.keys(old)) if (!(name in after.patchable) && name !== 'LastSeen') return undefined
  return formatJson(changed)
}

/** Addresses of a node as single-address prefixes. */
export function addressesOf(record: NodeRecord, ipv6Only: boolean): string[] {
  const addresses: string[] = []
  if (record.ipv4 !== undefined && !(ipv6Only && record.ipv6 !== undefined)) addresses.push(`${record.ipv4}/32`)
  if (record.ipv6 !== undefined) addresses.push(`${record.ipv6}/128`)
  return addresses
}

function encodePeer(record: NodeRecord, variant: VisiblePeer, facts: PeerFacts): PeerImage {
  const addresses = addressesOf(record, variant.ipv6Only)
  const userId = record.userId ?? TAGGED_DEVICES_USER_ID
  const subnets = variant.routes.filter((route) => route !== '0.0.0.0/0' && route !== '::/0')
  const fixed: Omit<Node, 'Key'> = {
    ID: record.id,
    StableID: String(record.id),
    Name: nodeFqdn(record.givenName, facts.baseDomain),
    User: userId,
    Machine: record.machineKey,
    Addresses: addresses,
    AllowedIPs: [...addresses, ...variant.routes],
    Hostinfo: sharedHostinfo(record.hostinfo),
    Created: formatTime(record.createdAt),
    ...(record.tags.length > 0 && { Tags: record.tags }),
    ...(subnets.length > 0 && { PrimaryRoutes: subnets }),
    MachineAuthorized: true,
    ...(facts.expired && { Expired: true }),
  }
  const patchable = {
    Key: record.nodeKey,
    KeyExpiry: record.expiry === undefined ? ZERO_TIME : formatTime(record.expiry),
    ...(record.discoKey !== undefined && { DiscoKey: record.discoKey }),
    Endpoints: record.endpoints,
    DERPRegion: record.homeRelay,
    Cap: record.capVersion,
    CapMap: variant.capMap,
    Online: facts.online,
    ...(!facts.online && record.lastSeen !== undefined && { LastSeen: formatTime(record.lastSeen) }),
  }
  const { DERPRegion, ...same } = patchable
  const node: Node = { ...fixed, ...same, HomeDERP: DERPRegion }
  return { id: record.id, userId, node, json: new SharedJson(formatJson(node)), fixed: formatJson(fixed), patchable }
}

/** What peers need of a host: how to reach its peer API, what it runs, its SSH keys. The rest is nobody's business. */
function sharedHostinfo(hostinfo: Hostinfo): Hostinfo {
  const { OS, Hostname, Services, sshHostKeys, Location, AppConnector, PeerRelay, ShieldsUp, WireIngress, ShareeNode } = hostinfo
  const peerServices = Services?.filter((service) => service.Proto.startsWith('peerapi'))
  return {
    ...(OS !== undefined && { OS }),
    ...(Hostname !== undefined && { Hostname }),
    ...(ShieldsUp !== undefined && { ShieldsUp }),
    ...(ShareeNode !== undefined && { ShareeNode }),
    ...(WireIngress !== undefined && { WireIngress }),
    ...(peerServices !== undefined && peerServices.length > 0 && { Services: peerServices }),
    ...(sshHostKeys !== undefined && { sshHostKeys }),
    ...(AppConnector !== undefined && { AppConnector }),
    ...(PeerRelay !== undefined && { PeerRelay }),
    ...(Location !== undefined && { Location }),
  }
}
