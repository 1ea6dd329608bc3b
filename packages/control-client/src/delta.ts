import {
  type DERPMap,
  type DisplayMessage,
  formatTime,
  type MapResponse,
  type Node,
  type NodeId,
  type PeerChange,
  relayMapFromDERPMap,
  type UserId,
  type UserProfile,
  ZERO_TIME,
} from '@meshwright/control-protocol'
import type { RelayMap, UnixMillis } from '@meshwright/core'
import type { FilterRule } from '@meshwright/packet-filter'
import { type MapNode, mapNode } from './map-node.ts'
import type { NetworkMap, RegionScores } from './network-map.ts'
import { sameJson } from './same-json.ts'
import { sameParts } from './share.ts'
import { withoutUnsignedSources } from './unsigned-peers.ts'

/**
 * The map after one frame of the stream. Pure: the given map is never changed, and comes back itself when the frame changes nothing.
 *
 * - `map` undefined: the frame begins a stream; absent members mean "none", and without `Node` there is no map (`undefined`: drop the poll).
 * - Later frames: absent members mean "unchanged"; `Peers` replaces all peers when it is not empty.
 * - Order within a frame: PeersRemoved, PeersChanged, PeerSeenChange, OnlineChange, PeersChangedPatch, then all else.
 * - `PacketFilter` is the chunk `base`; null in `PacketFilters` deletes a chunk, and `*` with null all of them, with anything else
 *   none (tailscale/tailscale:control/controlclient/map.go).
 *
 * @param wallNow stands for "now" where a peer was just seen
 */
export function applyMapResponse(map: NetworkMap | undefined, response: MapResponse, wallNow: UnixMillis): NetworkMap | undefined {
  if (response.KeepAlive === true) return map
  const self = nextSelf(map, response)
  if (self === undefined) return undefined
  const peers = nextPeers(map?.peers, response, wallNow)
  const filterChunks = nextFilterChunks(map?.filterChunks ?? EMPTY_CHUNKS, response)
  const next: NetworkMap = {
    self,
    peers,
    peersByKey: map !== undefined && peers === map.peers ? map.peersByKey : new Map([...peers.values()].map((peer) => [peer.nodeKey.text, peer])),
    filterChunks,
    packetFilter: kept(map?.packetFilter, withoutUnsignedSources(joinChunks(filterChunks), peers.values()), []),
    dns: kept(map?.dns, response.DNSConfig, {}),
    relays: nextRelays(map?.relays ?? NO_RELAYS, response.DERPMap),
    regionScores: nextScores(map?.regionScores ?? NO_SCORES, response.DERPMap),
    users: nextUsers(map?.users ?? NO_USERS, response.UserProfiles),
    domain: response.Domain ?? map?.domain ?? '',
    ssh: kept(map?.ssh, response.SSHPolicy, NO_SSH),
    collectServices: response.CollectServices ?? map?.collectServices ?? false,
    health: kept(map?.health, response.Health, []),
    displayMessages: nextMessages(map?.displayMessages ?? NO_MESSAGES, response.DisplayMessages),
  }
  return map !== undefined && sameParts(map, next) ? map : next
}

/** Stands for all names, where a null deletes. */
const ALL = '*'
const EMPTY_CHUNKS: ReadonlyMap<string, readonly FilterRule[]> = new Map()
const NO_RELAYS: RelayMap = { regions: new Map() }
const NO_SCORES: RegionScores = new Map()
const NO_USERS: ReadonlyMap<UserId, UserProfile> = new Map()
const NO_MESSAGES: ReadonlyMap<string, DisplayMessage> = new Map()
const NO_SSH = { rules: [] } as const

function nextSelf(map: NetworkMap | undefined, response: MapResponse): MapNode | undefined {
  if (response.Node === undefined) return map?.self
  return map !== undefined && sameJson(map.self.wire, response.Node) ? map.self : (mapNode(response.Node) ?? map?.self)
}

function nextPeers(old: ReadonlyMap<NodeId, MapNode> | undefined, response: MapResponse, wallNow: UnixMillis): ReadonlyMap<NodeId, MapNode> {
  const edit = new PeerEdit(old ?? new Map())
  if (response.Peers !== undefined && response.Peers.length > 0) {
    edit.clear()
    for (const peer of response.Peers) edit.put(peer)
    return edit.result()
  }
  for (const id of response.PeersRemoved ?? []) edit.remove(id)
  for (const peer of response.PeersChanged ?? []) edit.put(peer)
  for (const [id, seen] of Object.entries(response.PeerSeenChange ?? {})) edit.patch(edit.idOf(id), { LastSeen: seen ? formatTime(wallNow) : ZERO_TIME })
  for (const [id, online] of Object.entries(response.OnlineChange ?? {})) edit.patch(edit.idOf(id), { Online: online })
  for (const change of response.PeersChangedPatch ?? []) edit.patch(change.NodeID, patchOf(change))
  return edit.result()
}

/** Peers being changed: the old map stays as it is, and is the result when nothing changed. */
class PeerEdit {
  readonly #old: ReadonlyMap<NodeId, MapNode>
  #next: Map<NodeId, MapNode> | undefined

  constructor(old: ReadonlyMap<NodeId, MapNode>) {
    this.#old = old
  }

  clear(): void {
    this.#next = new Map()
  }

  put(peer: Node): void {
    const known = this.#old.get(peer.ID)
    const node = known !== undefined && sameJson(known.wire, peer) ? known : mapNode(peer)
    if (node === undefined) return this.remove(peer.ID)
    if (this.#current().get(peer.ID) !== node) this.#copy().set(peer.ID, node)
  }

  remove(id: NodeId): void {
    if (this.#current().has(id)) this.#copy().delete(id)
  }

  patch(id: NodeId | undefined, change: Partial<Node>): void {
    const known = id === undefined ? undefined : this.#current().get(id)
    if (known !== undefined) this.put({ ...known.wire, ...change })
  }

  /** The number that a decimal text stands for; `undefined` when it is none. */
  idOf(text: string): NodeId | undefined {
    if (!/^-?[0-9]{1,19}$/.test(text)) return undefined
    const id = Number(text)
    return Number.isSafeInteger(id) ? id : BigInt(text)
  }

  // Peers keep the order of their numbers, so equal contents give equal maps however they came.
  result(): ReadonlyMap<NodeId, MapNode> {
    const next = this.#next
    if (next === undefined || (next.size === this.#old.size && [...next].every(([id, node]) => this.#old.get(id) === node))) return this.#old
    return new Map([...next].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
  }

  #current(): ReadonlyMap<NodeId, MapNode> {
    return this.#next ?? this.#old
  }

  #copy(): Map<NodeId, MapNode> {
    this.#next ??= new Map(this.#old)
    return this.#next
  }
}

function patchOf(change: PeerChange): Partial<Node> {
  return {
    ...(change.DERPRegion !== undefined && { HomeDERP: change.DERPRegion }),
    ...(change.Cap !== undefined && { Cap: change.Cap }),
    ...(change.CapMap !== undefined && { CapMap: change.CapMap }),
    ...(change.Endpoints !== undefined && { Endpoints: change.Endpoints }),
    ...(change.Key !== undefined && { Key: change.Key }),
    ...(change.KeySignature !== undefined && { KeySignature: change.KeySignature }),
    ...(change.DiscoKey !== undefined && { DiscoKey: change.DiscoKey }),
    ...(change.Online !== undefined && { Online: change.Online }),
    ...(change.LastSeen !== undefined && { LastSeen: change.LastSeen }),
    ...(change.KeyExpiry !== undefined && { KeyExpiry: change.KeyExpiry }),
  }
}

function nextFilterChunks(old: ReadonlyMap<string, readonly FilterRule[]>, response: MapResponse): ReadonlyMap<string, readonly FilterRule[]> {
  const { PacketFilter: base, PacketFilters: chunks } = response
  if (base === undefined && chunks === undefined) return old
  const next = new Map(old)
  if (base !== undefined) next.set('base', base)
  if (chunks !== undefined && Object.hasOwn(chunks, ALL) && chunks[ALL] === null) next.clear()
  for (const [name, rules] of Object.entries(chunks ?? {})) {
    if (name === ALL) continue // rules under that name are nobody's: real clients do not take them either
    if (rules !== null) next.set(name, rules)
    else next.delete(name)
  }
  return sameJson([...old], [...next]) ? old : next
}

function joinChunks(chunks: ReadonlyMap<string, readonly FilterRule[]>): readonly FilterRule[] {
  return [...chunks].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, rules]) => rules)
}

function nextRelays(old: RelayMap, map: DERPMap | undefined): RelayMap {
  if (map?.Regions === undefined) return old
  const next = relayMapFromDERPMap(map)
  return sameJson([...old.regions], [...next.regions]) ? old : next
}

function nextScores(old: RegionScores, map: DERPMap | undefined): RegionScores {
  if (map?.HomeParams === undefined) return old
  const next = new Map<number, number>()
  for (const [id, score] of Object.entries(map.HomeParams.RegionScore ?? {})) if (score > 0) next.set(Number(id), score)
  return sameJson([...old], [...next]) ? old : next
}

function nextUsers(old: ReadonlyMap<UserId, UserProfile>, profiles: readonly UserProfile[] | undefined): ReadonlyMap<UserId, UserProfile> {
  const news = (profiles ?? []).filter((profile) => !sameJson(old.get(profile.ID), profile))
  return news.length === 0 ? old : new Map([...old, ...news.map((profile): [UserId, UserProfile] => [profile.ID, profile])])
}

function nextMessages(
  old: ReadonlyMap<string, DisplayMessage>,
  changes: Readonly<Record<string, DisplayMessage | null>> | undefined,
): ReadonlyMap<string, DisplayMessage> {
  if (changes === undefined) return old
  const next = new Map(Object.hasOwn(changes, ALL) && changes[ALL] === null ? [] : old)
  for (const [id, message] of Object.entries(changes)) {
    if (id === ALL) continue
    if (message === null) next.delete(id)
    else next.set(id, message)
  }
  return sameJson([...old], [...next]) ? old : next
}

function kept<T>(old: T | undefined, given: T | undefined, none: T): T {
  if (given === undefined) return old ?? none
  return old !== undefined && sameJson(old, given) ? old : given
}
