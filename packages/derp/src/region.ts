import type { Instant, Outbox, RandomSource } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { PEER_GONE_DISCONNECTED } from './frame-types.ts'
import { encodeFrame } from './frames.ts'
import { KeyMap } from './key-map.ts'
import type { RegionPeer, ServerConnection } from './server-connection.ts'
import type { DerpServerOutput } from './server-io.ts'
import type { DerpCensus } from './server-stats.ts'
import type { ServerTallies } from './server-tallies.ts'
import type { ServerWriter } from './server-writer.ts'

/**
 * Who is in the region: connected here, once or more often, or known through a link to another relay. Tells watchers who comes and
 * goes, and tells clients when a key that they have heard from has left the whole region.
 */
export class Region {
  readonly #peers: KeyMap<RegionPeer>
  readonly #outbox: Outbox<DerpServerOutput>
  readonly #tallies: ServerTallies
  readonly #writer: ServerWriter
  readonly #watchers: Set<ServerConnection> = new Set()

  constructor(random: RandomSource, outbox: Outbox<DerpServerOutput>, tallies: ServerTallies, writer: ServerWriter) {
    this.#peers = new KeyMap(random)
    this.#outbox = outbox
    this.#tallies = tallies
    this.#writer = writer
  }

  /** What is known of a key. */
  peer(key: Uint8Array): RegionPeer | undefined {
    return this.#peers.get(key)
  }

  /** Keys with a connection here. */
  localKeys(): NodePublicKey[] {
    const keys: NodePublicKey[] = []
    for (const peer of this.#peers.values()) if (peer.connections.length > 0) keys.push(peer.key)
    return keys
  }

  /** Adds an admitted connection: the newest of its key is active. */
  join(now: Instant, conn: ServerConnection, key: NodePublicKey): void {
    const peer = this.#peerOf(key)
    peer.connections.push(conn)
    peer.active = conn
    conn.peer = peer
    if (peer.connections.length > 1) this.#tallies.duplicateConnections += 1
    else this.#outbox.push({ type: 'peerConnected', peer: key })
    // Every connection is told of, but only the last one's end: present and gone are not one to one.
    const frame = presentFrame(conn, key)
    for (const watcher of this.#watchers) this.#writer.control(now, watcher, frame)
  }

  /** Removes a connection, in any state. */
  leave(now: Instant, conn: ServerConnection): void {
    this.#watchers.delete(conn)
    for (const heard of conn.heardFrom) heard.listeners.delete(conn)
    conn.heardFrom.clear()
    const peer = conn.peer
    if (peer === undefined) return
    conn.peer = undefined
    peer.connections.splice(peer.connections.indexOf(conn), 1)
    if (peer.active === conn) peer.active = peer.connections.at(-1)
    if (peer.connections.length > 0) return
    this.#outbox.push({ type: 'peerDisconnected', peer: peer.key })
    const frame = encodeFrame({ type: 'peerGone', peer: peer.key, reason: PEER_GONE_DISCONNECTED })
    for (const watcher of this.#watchers) this.#writer.control(now, watcher, frame)
    this.#forgetIfGone(now, peer)
  }

  /** Makes a connection a watcher: it is told of everyone, itself included, then of changes. Asked again, it is told of everyone again. */
  watch(now: Instant, conn: ServerConnection): void {
    conn.watching = true
    this.#watchers.add(conn)
    for (const peer of this.#peers.values()) {
      for (const each of peer.connections) this.#writer.control(now, conn, presentFrame(each, peer.key))
    }
  }

  /** A link to another relay knows this key. */
  addForwarder(_now: Instant, link: number, key: NodePublicKey): void {
    const peer = this.#peerOf(key)
    if (!peer.forwarders.includes(link)) peer.forwarders.push(link)
  }

  /** A link knows this key no more. */
  removeForwarder(now: Instant, link: number, key: NodePublicKey): void {
    const peer = this.#peers.get(key.bytes)
    if (peer !== undefined) this.#dropForwarder(now, link, peer)
  }

  /** A link is gone, and all it knew. */
  removeLink(now: Instant, link: number): void {
    for (const peer of [...this.#peers.values()]) this.#dropForwarder(now, link, peer)
  }

  /** How many keys, duplicates and watchers there are. */
  census(): DerpCensus {
    let localClients = 0
    let remoteClients = 0
    let duplicateKeys = 0
    for (const peer of this.#peers.values()) {
      if (peer.connections.length === 0) remoteClients += 1
      else localClients += 1
      if (peer.connections.length > 1) duplicateKeys += 1
    }
    return { localClients, remoteClients, duplicateKeys, watchers: this.#watchers.size }
  }

  #peerOf(key: NodePublicKey): RegionPeer {
    const known = this.#peers.get(key.bytes)
    if (known !== undefined) return known
    const peer: RegionPeer = { key, connections: [], active: undefined, forwarders: [], listeners: new Set() }
    this.#peers.set(key.bytes, peer)
    return peer
  }

  #dropForwarder(now: Instant, link: number, peer: RegionPeer): void {
    const at = peer.forwarders.indexOf(link)
    if (at < 0) return
    peer.forwarders.splice(at, 1)
    this.#forgetIfGone(now, peer)
  }

  #forgetIfGone(now: Instant, peer: RegionPeer): void {
    if (peer.connections.length > 0 || peer.forwarders.length > 0) return
    this.#peers.delete(peer.key.bytes)
    const frame = encodeFrame({ type: 'peerGone', peer: peer.key, reason: PEER_GONE_DISCONNECTED })
    for (const listener of peer.listeners) {
      listener.forget(peer)
      if (this.#writer.control(now, listener, frame)) this.#tallies.peerGoneDisconnected += 1
    }
    peer.listeners.clear()
  }
}

function presentFrame(conn: ServerConnection, key: NodePublicKey): Uint8Array {
  return encodeFrame({ type: 'peerPresent', peer: key, ...(conn.from && { from: conn.from }), flags: conn.presentFlags })
}
