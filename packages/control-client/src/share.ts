import type { NetworkMap } from './network-map.ts'
import { sameJson } from './same-json.ts'

/**
 * The new map, with every part that equals the old one's taken from it; the old map itself when all do. A new poll begins from nothing
 * and repeats what is known: this keeps identity telling what really changed.
 */
export function shareUnchanged(old: NetworkMap | undefined, next: NetworkMap): NetworkMap {
  if (old === undefined) return next
  const peers = sharePeers(old.peers, next.peers)
  const shared: NetworkMap = {
    self: sameJson(old.self.wire, next.self.wire) ? old.self : next.self,
    peers,
    peersByKey: peers === old.peers ? old.peersByKey : new Map([...peers.values()].map((peer) => [peer.nodeKey.text, peer])),
    packetFilter: share(old.packetFilter, next.packetFilter),
    filterChunks: shareMap(old.filterChunks, next.filterChunks),
    dns: share(old.dns, next.dns),
    relays: sameJson([...old.relays.regions], [...next.relays.regions]) ? old.relays : next.relays,
    regionScores: shareMap(old.regionScores, next.regionScores),
    users: shareMap(old.users, next.users),
    domain: next.domain,
    ssh: share(old.ssh, next.ssh),
    collectServices: next.collectServices,
    health: share(old.health, next.health),
    displayMessages: shareMap(old.displayMessages, next.displayMessages),
  }
  return sameParts(old, shared) ? old : shared
}

/** True when two maps consist of the same objects. */
export function sameParts(a: NetworkMap, b: NetworkMap): boolean {
  return (
    a.self === b.self &&
    a.peers === b.peers &&
    a.packetFilter === b.packetFilter &&
    a.filterChunks === b.filterChunks &&
    a.dns === b.dns &&
    a.relays === b.relays &&
    a.regionScores === b.regionScores &&
    a.users === b.users &&
    a.domain === b.domain &&
    a.ssh === b.ssh &&
    a.collectServices === b.collectServices &&
    a.health === b.health &&
    a.displayMessages === b.displayMessages
  )
}

function sharePeers(old: NetworkMap['peers'], next: NetworkMap['peers']): NetworkMap['peers'] {
  const peers = new Map(
    [...next].map(([id, peer]) => {
      const known = old.get(id)
      return [id, known !== undefined && sameJson(known.wire, peer.wire) ? known : peer]
    }),
  )
  return peers.size === old.size && [...peers].every(([id, peer]) => old.get(id) === peer) ? old : peers
}

function share<T>(old: T, next: T): T {
  return sameJson(old, next) ? old : next
}

function shareMap<K, V>(old: ReadonlyMap<K, V>, next: ReadonlyMap<K, V>): ReadonlyMap<K, V> {
  return sameJson([...old], [...next]) ? old : next
}
