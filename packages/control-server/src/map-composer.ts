import type { UnixMillis } from '@meshwright/core'
import {
  CAPVER_CERT_PIN,
  CAPVER_DISPLAY_MESSAGES,
  type CapMap,
  type DERPMap,
  formatJson,
  formatTime,
  type Hostinfo,
  type Node,
  TAGGED_DEVICES_USER_ID,
  type UserProfile,
  ZERO_TIME,
} from '@meshwright/control-protocol'
import type { FilterRule } from '@meshwright/packet-filter'
import { DENIED, type NodeAccess, type VisiblePeer } from './access.ts'
import type { ControlServerConfig } from './config.ts'
import { dnsConfigOf } from './dns-config.ts'
import { FilterChunks } from './filter-chunks.ts'
import { FrameParts, SharedJson } from './frame-parts.ts'
import { servedRoutes } from './host-facts.ts'
import { nodeFqdn } from './names.ts'
import { ObjectNumbers } from './object-numbers.ts'
import { addressesOf, patchBetween, type PeerImage, PeerImages } from './peer-images.ts'
import type { NodeRecord, UserRecord } from './records.ts'
import { displayNameOf, isExpired, loginNameOf } from './registration.ts'
import type { State } from './state.ts'

/** What one receiver has been told so far: every delta is the difference to it. */
export class Delivered {
  /** Nothing has been sent: the next frame is a full one. */
  first = true
  readonly peers: Map<number, PeerImage> = new Map()
  /** The last frame was made for a node that sees nobody, whatever the policy says. */
  denied = false
  readonly profiles: Map<number, string> = new Map()
  /** The packet filter as it was last sent. */
  filter: readonly FilterRule[] | undefined
  /** What the receiver shows of the exit node that it has chosen, as of the last frame. */
  exitNode = ''
  /** Member of the frame to the JSON that it last had. */
  readonly members: Map<string, string> = new Map()
}

/** What may look different to a receiver since its last frame. */
export interface Difference {
  /** Anything. */
  readonly everything: boolean
  /** What it may do. */
  readonly access: boolean
  /** Any of its peers: otherwise only those among `nodes`. */
  readonly peers: boolean
  /** These nodes. */
  readonly nodes: ReadonlySet<number>
}

/** Everything that frames are made of. */
export interface World {
  readonly state: State
  /** Whether a policy is in force at all. */
  policyActive(): boolean
  accessOf(nodeId: number): NodeAccess
  /** All nodes that a node sees. */
  peersOf(nodeId: number): readonly (readonly [number, VisiblePeer])[]
  /** How a node sees another one; `undefined`: not at all. */
  peerOf(nodeId: number, peerId: number): VisiblePeer | undefined
  config(): ControlServerConfig
  wallNow(): UnixMillis
  isOnline(nodeId: number): boolean
}

/** Who a frame is for. */
export interface Receiver {
  readonly nodeId: number
  readonly capVersion: number
  readonly delivered: Delivered
  /** Without peers: for the one-shot request that asks so. */
  readonly omitPeers: boolean
}

/**
 * Seen with 1.100.0 (its capability versions are 139 to 141): peers that come, go or change by themselves are taken into its list of peers, but not
 * into what packets go by ("no matching peer"), until it builds its map anew. 1.102 does it right, and 1.98 always builds anew.
 */
const HALF_DELTAS = { first: 139, last: 141 }

/** The profile of the user that all tagged nodes belong to. */
const TAGGED_DEVICES = formatJson({ ID: TAGGED_DEVICES_USER_ID, LoginName: 'tagged-devices', DisplayName: 'Tagged Devices' } satisfies UserProfile)

const NO_POLICY = 'no policy is set on the control server: all traffic is denied until an administrator sets one'
const CAP = 'https://tailscale.com/cap/'

/**
 * Makes the frames that nodes get: a full one at first, then only what changed for that node. What has been delivered is remembered for
 * each receiver, so a receiver that could not be written to for a while gets one frame with the sum of what it missed.
 */
export class MapComposer {
  readonly #world: World
  readonly #images = new PeerImages()
  readonly #patches = new WeakMap<PeerImage, { readonly from: number; readonly json: SharedJson | undefined }>()
  readonly #imageNumbers = new ObjectNumbers()
  readonly #json = new WeakMap<object, SharedJson>()
  readonly #filters = new FilterChunks()
  readonly #profileJson = new WeakMap<UserRecord, string>()
  #derp: { readonly map: DERPMap; readonly json: SharedJson; readonly unpinned: SharedJson } | undefined
  #dns: { readonly config: ControlServerConfig; readonly json: SharedJson } | undefined
  #peersCompared = 0

  constructor(world: World) {
    this.#world = world
  }

  /** How often what a receiver was told of a peer has been compared with how that peer is now: the work of all frames but first ones. */
  get peersCompared(): number {
    return this.#peersCompared
  }

  /** How many peers have been written as JSON: each once for all receivers that see it alike. */
  get peersWritten(): number {
    return this.#images.written
  }

  /** How many sources of packet filters have been written as JSON. */
  get sourcesWritten(): number {
    return this.#filters.sourcesWritten
  }

  /** The node changed, in its record or in what stands beside it. */
  changed(nodeId: number): void {
    if (this.#world.state.node(nodeId) === undefined) this.#images.forget(nodeId)
    else this.#images.invalidate(nodeId)
  }

  /** Everything may have changed: the policy, the settings. */
  allChanged(): void {
    this.#images.invalidateAll()
  }

  /**
   * The JSON of the next frame for a receiver, to be finished, or `undefined` when there is nothing to tell.
   */
  compose(receiver: Receiver, difference: Difference): FrameParts | undefined {
    const { delivered } = receiver
    const self = this.#world.state.node(receiver.nodeId)
    if (self === undefined) return undefined
    const frame = new FrameParts()
    const member = (name: string, json: string | SharedJson): void => {
      const text = typeof json === 'string' ? json : json.text
      if (delivered.members.get(name) === text) return
      delivered.members.set(name, text)
      frame.member(name, json)
    }
    // Order matters little to clients, but taking away stands before giving.
    const everything = difference.everything || delivered.first
    const whole = everything || difference.access || difference.nodes.has(self.id)
    const access = this.#world.accessOf(self.id)
    // The clock alone takes a node's peers away, or gives them back.
    const allPeers = everything || difference.peers || (access === DENIED) !== delivered.denied
    delivered.denied = access === DENIED
    if (whole) {
      member('Node', formatJson(this.#selfNode(self)))
      const config = this.#world.config()
      this.#filter(delivered, access.filter, frame)
      member('SSHPolicy', this.#encode(access.ssh))
      member('DERPMap', this.#derpMap(config.derpMap, receiver.capVersion))
      member('DNSConfig', this.#dnsConfig(config))
      member('Domain', JSON.stringify(config.baseDomain))
      this.#health(this.#world.policyActive(), receiver, member)
    }
    const fresh = receiver.omitPeers ? [] : delivered.first ? this.#firstPeers(self, delivered, frame) : this.#peers(self, delivered, allPeers, difference.nodes, frame)
    // Those told before are looked at again only when anything may have changed: people change their names too.
    if (whole || fresh.length > 0) this.#profiles(self, delivered, allPeers, fresh, frame)
    const { capVersion } = receiver
    if (capVersion >= HALF_DELTAS.first && capVersion <= HALF_DELTAS.last && (frame.has('PeersChanged') || frame.has('PeersRemoved'))) this.#anew(frame)
    const exitNode = receiver.omitPeers ? '' : shownOfExitNode(self, delivered)
    if (exitNode !== delivered.exitNode && exitNode !== '' && !delivered.first) this.#anew(frame)
    delivered.exitNode = exitNode
    if (delivered.first) {
      frame.member('CollectServices', 'false')
      if (!this.#world.config().logtail) frame.member('Debug', '{"DisableLogTail":true}')
    }
    delivered.first = false
    if (frame.empty) return undefined
    frame.member('ControlTime', `"${formatTime(this.#world.wallNow())}"`)
    return frame
  }

  #filter(delivered: Delivered, rules: readonly FilterRule[], frame: FrameParts): void {
    const changes = this.#filters.changes(delivered.filter, rules).map(({ name, json }) => `"${name}":${json}`)
    delivered.filter = rules
    if (changes.length > 0) frame.member('PacketFilters', `{${changes.join(',')}}`)
  }

  /** Gives the peers, all of which are sent whole. */
  #firstPeers(self: NodeRecord, delivered: Delivered, frame: FrameParts): readonly PeerImage[] {
    const images: PeerImage[] = []
    for (const [id, how] of this.#world.peersOf(self.id)) {
      const image = this.#image(id, how)
      if (image !== undefined) images.push(image)
    }
    images.sort((a, b) => a.id - b.id) // mostly sorted already, which costs one pass
    for (const image of images) delivered.peers.set(image.id, image)
    frame.array('Peers', images.map((image) => image.json))
    return images
  }

  /** Gives the peers that were sent whole. */
  #peers(self: NodeRecord, delivered: Delivered, all: boolean, nodes: ReadonlySet<number>, frame: FrameParts): readonly PeerImage[] {
    const visible = all ? new Map(this.#world.peersOf(self.id)) : undefined
    const removed: number[] = []
    const changed: PeerImage[] = []
    const patches: SharedJson[] = []
    for (const id of visible === undefined ? nodes : new Set([...delivered.peers.keys(), ...visible.keys()])) {
      if (id === self.id) continue
      this.#peersCompared += 1
      const before = delivered.peers.get(id)
      const how = visible === undefined ? this.#world.peerOf(self.id, id) : visible.get(id)
      const after = how && this.#image(id, how)
      if (before === after) continue
      if (after === undefined) {
        delivered.peers.delete(id)
        removed.push(id)
        continue
      }
      delivered.peers.set(id, after)
      const patch = before === undefined ? undefined : this.#patch(before, after)
      if (patch === undefined) changed.push(after)
      else patches.push(patch)
    }
    if (removed.length > 0) frame.member('PeersRemoved', JSON.stringify(removed.sort((a, b) => a - b)))
    if (changed.length > 0) frame.array('PeersChanged', changed.sort((a, b) => a.id - b.id).map((image) => image.json))
    if (patches.length > 0) frame.array('PeersChangedPatch', patches)
    return changed
  }

  #image(id: number, how: VisiblePeer): PeerImage | undefined {
    const record = this.#world.state.node(id)
    return (
      record &&
      this.#images.image(record, how, () => ({
        online: this.#world.isOnline(id),
        expired: isExpired(record, this.#world.wallNow()),
        baseDomain: this.#world.config().baseDomain,
      }))
    )
  }

  #patch(before: PeerImage, after: PeerImage): SharedJson | undefined {
    const known = this.#patches.get(after)
    const from = this.#imageNumbers.of(before)
    if (known?.from === from) return known.json
    const text = patchBetween(before, after)
    const json = text === undefined ? undefined : new SharedJson(text)
    this.#patches.set(after, { from, json })
    return json
  }

  #profiles(self: NodeRecord, delivered: Delivered, again: boolean, images: readonly PeerImage[], frame: FrameParts): void {
    const wanted = new Set<number>(again ? delivered.profiles.keys() : [])
    wanted.add(self.userId ?? TAGGED_DEVICES_USER_ID)
    for (const image of images) wanted.add(image.userId)
    const profiles: string[] = []
    for (const id of [...wanted].sort((a, b) => a - b)) {
      const user = this.#world.state.user(id)
      if (user === undefined && id !== TAGGED_DEVICES_USER_ID) {
        delivered.profiles.delete(id) // gone: nobody's node names it any more, and polls may outlive many users
        continue
      }
      const json = user === undefined ? TAGGED_DEVICES : this.#profile(user)
      if (delivered.profiles.get(id) === json) continue
      delivered.profiles.set(id, json)
      profiles.push(json)
    }
    if (profiles.length === 0) return
    frame.member('UserProfiles', `[${profiles.join(',')}]`)
    // Seen with 1.102.5: a frame of peers and profiles alone is applied without the profiles, and people read "userid:7".
    this.#anew(frame)
  }

  /** Clients build their map anew for this frame, instead of only changing what it names: of the members that make them, this is the smallest. */
  #anew(frame: FrameParts): void {
    if (!frame.has('Node') && !frame.has('Domain')) frame.member('Domain', JSON.stringify(this.#world.config().baseDomain))
  }

  #profile(user: UserRecord): string {
    const known = this.#profileJson.get(user)
    if (known !== undefined) return known
    const json = formatJson(profileOf(user))
    this.#profileJson.set(user, json)
    return json
  }

  #selfNode(node: NodeRecord): Node {
    const config = this.#world.config()
    const { attrs, ipv6Only } = this.#world.accessOf(node.id)
    const addresses = addressesOf(node, ipv6Only)
    const hostinfo: Hostinfo = node.hostinfo
    const capMap: CapMap = {
      [`${CAP}is-admin`]: [],
      [`${CAP}ssh`]: [],
      ...(config.taildrop && { [`${CAP}file-sharing`]: [] }),
      'default-auto-update': [config.autoUpdate],
      ...attrs,
    }
    return {
      ID: node.id,
      StableID: String(node.id),
      Name: nodeFqdn(node.givenName, config.baseDomain),
      User: node.userId ?? TAGGED_DEVICES_USER_ID,
      Key: node.nodeKey,
      KeyExpiry: node.expiry === undefined ? ZERO_TIME : formatTime(node.expiry),
      Machine: node.machineKey,
      ...(node.discoKey !== undefined && { DiscoKey: node.discoKey }),
      Addresses: addresses,
      AllowedIPs: [...addresses, ...servedRoutes(node)],
      HomeDERP: node.homeRelay,
      Hostinfo: { ...(hostinfo.OS !== undefined && { OS: hostinfo.OS }), Hostname: node.hostname, ...(hostinfo.RoutableIPs !== undefined && { RoutableIPs: hostinfo.RoutableIPs }) },
      Created: formatTime(node.createdAt),
      Cap: node.capVersion,
      ...(node.tags.length > 0 && { Tags: node.tags }),
      Online: true,
      MachineAuthorized: true,
      CapMap: capMap,
    }
  }

  #health(active: boolean, receiver: Receiver, member: (name: string, json: string) => void): void {
    if (receiver.capVersion >= CAPVER_DISPLAY_MESSAGES) {
      const message = active ? null : { Title: 'No policy', Text: NO_POLICY, Severity: 'high', ImpactsConnectivity: true }
      if (active && !receiver.delivered.members.has('DisplayMessages')) return
      member('DisplayMessages', JSON.stringify({ 'meshwright-no-policy': message }))
    } else {
      if (active && !receiver.delivered.members.has('Health')) return
      member('Health', JSON.stringify(active ? [] : [NO_POLICY]))
    }
  }

  #derpMap(map: DERPMap, capVersion: number): SharedJson {
    if (this.#derp?.map !== map) this.#derp = { map, json: new SharedJson(formatJson(map)), unpinned: new SharedJson(formatJson(withoutPins(map))) }
    return capVersion >= CAPVER_CERT_PIN ? this.#derp.json : this.#derp.unpinned
  }

  #dnsConfig(config: ControlServerConfig): SharedJson {
    if (this.#dns?.config !== config) this.#dns = { config, json: new SharedJson(formatJson(dnsConfigOf(config))) }
    return this.#dns.json
  }

  #encode(value: object): SharedJson {
    let json = this.#json.get(value)
    if (json === undefined) {
      json = new SharedJson(formatJson(value))
      this.#json.set(value, json)
    }
    return json
  }
}

/**
 * What clients show of the exit node that a node has chosen (`ExitNodeStatus`): they look for it in their last whole map alone, where they miss
 * one that came, went or fell silent later. Only who has chosen one, and said so (1.88 and newer do), is made to look again.
 */
function shownOfExitNode(self: NodeRecord, delivered: Delivered): string {
  const chosen = self.hostinfo.ExitNodeID ?? ''
  if (chosen === '') return ''
  const peer = delivered.peers.get(Number(chosen))
  return `${chosen} ${peer === undefined ? 'unknown' : `${peer.patchable.Online === true} ${peer.node.Addresses.join()}`}`
}

function profileOf(user: UserRecord): UserProfile {
  return { ID: user.id, LoginName: loginNameOf(user), DisplayName: displayNameOf(user), ...(user.profilePicUrl !== '' && { ProfilePicURL: user.profilePicUrl }) }
}

/** Clients before 1.82 take a certificate pin for a host name and never connect: for them the check is off. */
function withoutPins(map: DERPMap): DERPMap {
  if (map.Regions === undefined) return map
  const regions = Object.entries(map.Regions).map(([id, region]) => [
    id,
    {
      ...region,
      Nodes: (region.Nodes ?? []).map((node) => {
        const { CertName, ...rest } = node
        return CertName?.startsWith('sha256-raw:') === true ? { ...rest, InsecureForTests: true } : node
      }),
    },
  ])
  return { ...map, Regions: Object.fromEntries(regions) }
}
