import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { WireGuardError } from './errors.ts'
import type { PeerCandidate } from './handshakes.ts'
import { Peer } from './peer.ts'
import type { Session } from './session.ts'
import type { Shared } from './shared.ts'
import type { PeerConfig, WireGuardPath } from './types.ts'

/** What the peers of one device are made with. */
export interface PeerTableOptions<Path extends WireGuardPath> {
  readonly jitter: () => number
  readonly sessionDropped: (session: Session<Peer<Path>>) => void
  readonly lookup: ((publicKey: NodePublicKey) => PeerConfig<Path> | undefined) | undefined
  readonly maxPeers: number
  /** A peer's deadline may have moved. */
  readonly touched: (peer: Peer<Path>) => void
}

/** All peers of a device by public key: the configured ones, and those that were looked up when they were first heard from or sent to. */
export class PeerTable<Path extends WireGuardPath> {
  readonly #shared: Shared<Path>
  readonly #options: PeerTableOptions<Path>
  readonly #peers: Map<string, Peer<Path>> = new Map()

  constructor(shared: Shared<Path>, options: PeerTableOptions<Path>) {
    this.#shared = shared
    this.#options = options
  }

  get size(): number {
    return this.#peers.size
  }

  /** All peers, in the order in which they were added. */
  all(): IterableIterator<Peer<Path>> {
    return this.#peers.values()
  }

  get(publicKey: NodePublicKey): Peer<Path> | undefined {
    return this.#peers.get(publicKey.text)
  }

  /** The peer, made if it was not there. @throws WIREGUARD_TOO_MANY_PEERS */
  ensure(publicKey: NodePublicKey): Peer<Path> {
    const known = this.#peers.get(publicKey.text)
    if (known !== undefined) return known
    this.checkRoomFor(this.#peers.size + 1)
    const peer = this.#new(publicKey)
    this.#peers.set(publicKey.text, peer)
    return peer
  }

  /** @throws WIREGUARD_TOO_MANY_PEERS when the table cannot hold `count` peers */
  checkRoomFor(count: number): void {
    if (count > this.#options.maxPeers) throw new WireGuardError('WIREGUARD_TOO_MANY_PEERS', `this device holds ${this.#options.maxPeers} peers`)
  }

  delete(publicKey: NodePublicKey): void {
    this.#peers.delete(publicKey.text)
  }

  /** The peer, entered into the table on the spot if the caller of the device knows it. */
  getOrAdmit(now: Instant, publicKey: NodePublicKey): Peer<Path> | undefined {
    const known = this.#peers.get(publicKey.text)
    if (known !== undefined) return known
    const candidate = this.candidate(publicKey)
    return candidate?.admit(now) === true ? candidate.peer : undefined
  }

  /** The peer, or one that could be entered into the table. Nobody is without having proved to own the key. */
  candidate(publicKey: NodePublicKey): PeerCandidate<Path> | undefined {
    const known = this.#peers.get(publicKey.text)
    if (known !== undefined) return { peer: known, admit: () => true }
    if (this.#shared.identity?.publicKey.equals(publicKey)) return undefined
    const config = this.#options.lookup?.(publicKey)
    if (config === undefined || !config.publicKey.equals(publicKey)) return undefined
    checkPeerConfig(config)
    const peer = this.#new(publicKey)
    peer.presharedKey = config.presharedKey && Uint8Array.from(config.presharedKey)
    return { peer, admit: (now) => this.#admit(now, peer, config) }
  }

  /** Takes over what a config says; fields left out keep their value. Sessions go on. */
  configure(now: Instant, peer: Peer<Path>, config: PeerConfig<Path>): void {
    if (config.presharedKey !== undefined) {
      peer.presharedKey?.fill(0)
      peer.presharedKey = config.presharedKey.every((byte) => byte === 0) ? undefined : Uint8Array.from(config.presharedKey)
    }
    if (config.path !== undefined) {
      peer.path = config.path
      peer.noEndpointSaid = false
    }
    const seconds = config.persistentKeepaliveSeconds
    if (seconds !== undefined && seconds * 1000 !== peer.timers.persistentMs) peer.timers.setPersistent(now, seconds * 1000)
    this.#options.touched(peer)
  }

  #new(publicKey: NodePublicKey): Peer<Path> {
    return new Peer(publicKey, this.#options.jitter, this.#options.sessionDropped)
  }

  #admit(now: Instant, peer: Peer<Path>, config: PeerConfig<Path>): boolean {
    if (this.#peers.size >= this.#options.maxPeers) return false
    this.#peers.set(peer.publicKey.text, peer)
    this.#shared.outbox.push({ type: 'peerAdded', peer: peer.publicKey })
    this.configure(now, peer, config)
    return true
  }
}

/** @throws WIREGUARD_PRESHARED_KEY_LENGTH WIREGUARD_KEEPALIVE_RANGE */
export function checkPeerConfig<Path extends WireGuardPath>(config: PeerConfig<Path>): void {
  if (config.presharedKey !== undefined && config.presharedKey.length !== 32) {
    throw new WireGuardError('WIREGUARD_PRESHARED_KEY_LENGTH', `a preshared key has 32 bytes, not ${config.presharedKey.length}`)
  }
  const seconds = config.persistentKeepaliveSeconds
  if (seconds !== undefined && (!Number.isInteger(seconds) || seconds < 0 || seconds > 65_535)) {
    throw new WireGuardError('WIREGUARD_KEEPALIVE_RANGE', `a keepalive interval is 0 to 65535 seconds, not ${seconds}`)
  }
}
