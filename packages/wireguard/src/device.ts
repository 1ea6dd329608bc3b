import { DROPPED, type Instant, instant, type Machine, PacketBatch, PENDING } from '@meshwright/core'
import type { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { MAX_TIMER_HANDSHAKES, REKEY_TIMEOUT_JITTER_MAX_MS, REKEY_TIMEOUT_MS } from './constants.ts'
import { DueHeap } from './due-heap.ts'
import { markCongestion, outerTrafficClass } from './ecn.ts'
import { WireGuardError } from './errors.ts'
import { Handshakes, type PeerCandidate } from './handshakes.ts'
import { Identity } from './identity.ts'
import { HandshakeLoadMonitor, type LoadMonitor } from './load-monitor.ts'
import { COOKIE_REPLY_TYPE, decodeMessage, INITIATION_TYPE, RESPONSE_TYPE } from './messages.ts'
import { Peer } from './peer.ts'
import { OpenPlan, SealPlan } from './plans.ts'
import type { Session } from './session.ts'
import { checkMtu, createShared, drop, isReachable, pushTransmit, type Shared } from './shared.ts'
import { deviceStatus, peerStatus } from './status.ts'
import { Transport } from './transport.ts'
import type { DeviceStatus, PeerConfig, PeerStatus, WireGuardDeviceOptions, WireGuardInput, WireGuardOutput, WireGuardPath } from './types.ts'

const DEFAULT_MAX_PEERS = 65_536
const MAX_INNER_BYTES = 65_536
const EMPTY: Uint8Array = new Uint8Array(0)

/**
 * WireGuard for one interface and many peers, as a pure state machine: datagrams, inner packets and time go in; datagrams, inner
 * packets and events come out. It opens no socket, and leaves allowed IPs to a router beside it: check the source address of every
 * packet that it delivers.
 *
 * States of a peer (see `PeerState`):
 *
 * | state | on | becomes |
 * |---|---|---|
 * | idle | packet to send, persistent keepalive | handshaking |
 * | idle, handshaking | valid initiation | answered |
 * | handshaking | valid response | established |
 * | handshaking | 20 initiations without answer | handshaking, silent until new traffic |
 * | answered | first valid packet of the peer | established |
 * | any | 540 s without a new session, `resetPeer` | idle |
 *
 * Two lanes lead through the same code: `handleInput` for one datagram or packet, and `seal`/`open` for a whole `PacketBatch` in place.
 * Memory grows by configured peers and their sessions only; nothing unauthenticated adds to it, but for a bounded table of sources
 * while under load.
 *
 * Sources: WireGuard paper (Donenfeld, NDSS 2017); timers and queues as WireGuard/wireguard-go:device.
 */
export class WireGuardDevice<Path extends WireGuardPath = WireGuardPath> implements Machine<WireGuardInput<Path>, WireGuardOutput<Path>> {
  readonly #shared: Shared<Path>
  readonly #handshakes: Handshakes<Path>
  readonly #transport: Transport<Path>
  readonly #loadMonitor: LoadMonitor
  readonly #stopwatch: (() => number) | undefined
  readonly #peerLookup: ((publicKey: NodePublicKey) => PeerConfig<Path> | undefined) | undefined
  readonly #maxPeers: number
  readonly #peers: Map<string, Peer<Path>> = new Map()
  readonly #due: DueHeap<Peer<Path>> = new DueHeap()
  readonly #jitter: () => number
  readonly #sessionDropped: (session: Session<Peer<Path>>) => void = (session) => this.#shared.index.delete(session.localIndex)
  readonly #touched: (peer: Peer<Path>) => void = (peer) => this.#due.update(peer)
  readonly #sealPlan: SealPlan<Path> = new SealPlan()
  #openPlan: OpenPlan<Path> = new OpenPlan(1)
  // One packet at a time goes through batches of one: two, since opening a packet can cause others to be sealed.
  readonly #sealingOne: PacketBatch = PacketBatch.slab(1, MAX_INNER_BYTES)
  readonly #openingOne: PacketBatch = PacketBatch.slab(1, MAX_INNER_BYTES)
  readonly #sealOnePlan: SealPlan<Path> = new SealPlan()
  readonly #openOnePlan: OpenPlan<Path> = new OpenPlan(1)

  constructor(options: WireGuardDeviceOptions<Path>) {
    this.#shared = createShared(options)
    this.#jitter = () => {
      const [high = 0, low = 0] = options.random(2)
      return Math.floor(((high * 256 + low) / 65_536) * (REKEY_TIMEOUT_JITTER_MAX_MS + 1))
    }
    this.#loadMonitor = options.loadMonitor ?? new HandshakeLoadMonitor()
    this.#stopwatch = options.stopwatch
    this.#peerLookup = options.peerLookup
    this.#maxPeers = options.maxPeers ?? DEFAULT_MAX_PEERS
    this.#handshakes = new Handshakes(this.#shared, this.#loadMonitor, (publicKey) => this.#candidate(publicKey))
    this.#transport = new Transport(this.#shared, this.#handshakes, (now, peer) => this.#flushStaged(now, peer))
  }

  /** Our own static key's public half, if there is a key. */
  get publicKey(): NodePublicKey | undefined {
    return this.#shared.identity?.publicKey
  }

  handleInput(now: Instant, input: WireGuardInput<Path>): void {
    if (input.type === 'datagram') this.#handleDatagram(now, input.bytes, input.from, input.congested ?? false)
    else this.#handlePacket(now, input.peer, input.bytes)
  }

  handleTimeout(now: Instant): void {
    for (let peer = this.#due.first(); peer !== undefined && peer.due <= now; peer = this.#due.first()) {
      this.#fireTimer(now, peer)
      this.#due.update(peer)
    }
  }

  pollOutput(): WireGuardOutput<Path> | undefined {
    return this.#shared.outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    const due = this.#due.first()?.due
    return due === undefined ? undefined : instant(due)
  }

  /**
   * Adds a peer or changes what is known of it; sessions go on. Switching persistent keepalives on sends one at once, and a first path
   * sends what was waiting for it. `false` (and nothing happens) for our own key.
   * @throws WIREGUARD_PRESHARED_KEY_LENGTH WIREGUARD_KEEPALIVE_RANGE WIREGUARD_TOO_MANY_PEERS
   */
  setPeer(now: Instant, config: PeerConfig<Path>): boolean {
    checkPeerConfig(config)
    if (this.publicKey?.equals(config.publicKey)) return false
    let peer = this.#peers.get(config.publicKey.text)
    if (peer === undefined) {
      if (this.#peers.size >= this.#maxPeers) throw new WireGuardError('WIREGUARD_TOO_MANY_PEERS', `this device holds ${this.#maxPeers} peers`)
      peer = this.#newPeer(config.publicKey)
      this.#peers.set(config.publicKey.text, peer)
    }
    const hadPersistent = peer.timers.persistentMs > 0
    this.#configure(now, peer, config)
    if (peer.timers.persistentMs > 0 && !hadPersistent) this.#sendKeepalive(now, peer)
    if (peer.stagedCount > 0 && peer.initiation === undefined && config.path !== undefined) this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
    return true
  }

  /** Removes a peer with all its keys, timers and staged packets; `false` when there is none. Its datagrams are unknown from now on. */
  removePeer(_now: Instant, publicKey: NodePublicKey): boolean {
    const peer = this.#peers.get(publicKey.text)
    if (peer === undefined) return false
    this.#wipe(peer)
    peer.timers.stop()
    peer.presharedKey?.fill(0)
    this.#due.remove(peer)
    this.#peers.delete(publicKey.text)
    return true
  }

  /**
   * Forgets all sessions, handshakes and staged packets of a peer that is known to have started anew; `false` when there is none. Old
   * initiations stay replays.
   */
  resetPeer(_now: Instant, publicKey: NodePublicKey): boolean {
    const peer = this.#peers.get(publicKey.text)
    if (peer === undefined) return false
    this.#expire(peer)
    peer.handshakeSentAt = -Infinity
    return true
  }

  /** True when the peer is configured, or was created on demand. */
  hasPeer(publicKey: NodePublicKey): boolean {
    return this.#peers.has(publicKey.text)
  }

  /** The keys of all peers, in the order in which they were added. */
  peerKeys(): NodePublicKey[] {
    return Array.from(this.#peers.values(), (peer) => peer.publicKey)
  }

  /** Where datagrams to the peer go now. */
  pathOf(publicKey: NodePublicKey): Path | undefined {
    return this.#peers.get(publicKey.text)?.path
  }

  /**
   * Changes our own static key; `undefined` removes it. The same key again changes nothing. Sessions go on receiving, and the next
   * packet to each peer begins a handshake under the new key. A peer with the new key is removed: it is us.
   */
  setPrivateKey(now: Instant, key: NodePrivateKey | undefined): void {
    const shared = this.#shared
    const old = shared.identity
    if (old === undefined ? key === undefined : key !== undefined && old.holds(key)) return
    old?.destroy()
    shared.identity = key === undefined ? undefined : new Identity(shared.provider, key)
    if (this.publicKey !== undefined) this.removePeer(now, this.publicKey)
    for (const peer of this.#peers.values()) {
      this.#handshakes.forget(peer)
      peer.wipeSecrets()
      if (peer.sessions.current !== undefined) peer.sessions.current.sendAllowed = false
      if (peer.sessions.next !== undefined) peer.sessions.next.sendAllowed = false
      peer.handshakeSentAt = -Infinity
    }
  }

  /** Changes the MTU of the tunnel, 0 for unknown. @throws WIREGUARD_MTU_RANGE */
  setMtu(mtu: number): void {
    this.#shared.mtu = checkMtu(mtu)
  }

  /** Begins a handshake if there is no session to send on: so that one is ready when packets come. */
  connect(now: Instant, publicKey: NodePublicKey): void {
    const peer = this.#peerOrLookup(now, publicKey)
    if (peer === undefined || peer.sendingSession(now) !== undefined) return
    this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
  }

  /** Sends an empty packet, or begins a handshake when there is no session. */
  sendKeepalive(now: Instant, publicKey: NodePublicKey): void {
    const peer = this.#peerOrLookup(now, publicKey)
    if (peer === undefined) return
    this.#sendKeepalive(now, peer)
    this.#due.update(peer)
  }

  /** Tells by how many milliseconds the caller's event loop is late: much of it makes the device ask for cookies. */
  noteLag(now: Instant, ms: number): void {
    this.#loadMonitor.worked(now, ms)
  }

  /**
   * Seals all pending slots for one peer, in place: each becomes a datagram to send (`DONE`; `batch.result(slot)`), to `pathOf(peer)`
   * where the device follows paths. Without a session the packets are staged (`DROPPED` here) and come out as `transmit` later. See
   * `Transport` for the room that a slot needs. Gives the number of datagrams.
   */
  seal(now: Instant, publicKey: NodePublicKey, batch: PacketBatch): number {
    this.prepareSeal(now, publicKey, batch, this.#sealPlan)
    this.cryptSeal(batch, this.#sealPlan)
    return this.commitSeal(now, batch, this.#sealPlan)
  }

  /** First step of {@link WireGuardDevice.seal}. */
  prepareSeal(now: Instant, publicKey: NodePublicKey, batch: PacketBatch, plan: SealPlan<Path>): void {
    plan.session = undefined
    const peer = this.#peerOrLookup(now, publicKey)
    if (peer === undefined) {
      for (let i = 0; i < batch.count; i += 1) {
        if (batch.verdict[i] !== PENDING) continue
        batch.verdict[i] = DROPPED
        drop(this.#shared, 'unknown-peer')
      }
      return
    }
    this.#transport.prepareSeal(now, peer, batch, plan)
    this.#due.update(peer)
  }

  /** Second step: only AEAD, no decision. */
  cryptSeal(batch: PacketBatch, plan: SealPlan<Path>): void {
    this.#transport.cryptSeal(batch, plan)
  }

  /** Third step; gives the number of datagrams. */
  commitSeal(now: Instant, batch: PacketBatch, plan: SealPlan<Path>): number {
    const sealed = this.#transport.commitSeal(now, batch, plan)
    if (plan.peer !== undefined) this.#due.update(plan.peer)
    return sealed
  }

  /**
   * Opens all pending slots, in place, as datagrams that came by one path. Slots with an inner packet become `DONE`; the plan that is
   * given back (valid until the next call) names the peer of each: check its source address. Handshakes, keepalives and all that is
   * dropped become `DROPPED`.
   */
  open(now: Instant, from: Path | undefined, batch: PacketBatch): OpenPlan<Path> {
    if (this.#openPlan.capacity < batch.capacity) this.#openPlan = new OpenPlan(batch.capacity)
    this.prepareOpen(now, from, batch, this.#openPlan)
    this.cryptOpen(batch, this.#openPlan)
    this.commitOpen(now, from, batch, this.#openPlan)
    return this.#openPlan
  }

  /** First step of {@link WireGuardDevice.open}. @throws WIREGUARD_PLAN_CAPACITY */
  prepareOpen(now: Instant, from: Path | undefined, batch: PacketBatch, plan: OpenPlan<Path>): void {
    this.#transport.prepareOpen(now, batch, plan, (slot) => this.#handleHandshake(now, Uint8Array.from(batch.source(slot)), from))
  }

  /** Second step: only AEAD, no decision. */
  cryptOpen(batch: PacketBatch, plan: OpenPlan<Path>): void {
    this.#transport.cryptOpen(batch, plan)
  }

  /** Third step; gives the number of inner packets. */
  commitOpen(now: Instant, from: Path | undefined, batch: PacketBatch, plan: OpenPlan<Path>): number {
    return this.#transport.commitOpen(now, from, batch, plan, this.#touched)
  }

  /** A plan for {@link WireGuardDevice.prepareSeal}, when batches overlap. */
  sealPlan(): SealPlan<Path> {
    return new SealPlan()
  }

  /** A plan for {@link WireGuardDevice.prepareOpen}, for batches of up to `capacity` slots. */
  openPlan(capacity: number): OpenPlan<Path> {
    return new OpenPlan(capacity)
  }

  /** What is known now, of all peers. */
  status(now: Instant): DeviceStatus<Path> {
    return deviceStatus(now, this.#shared, this.#peers.values(), this.#loadMonitor.isUnderLoad(now))
  }

  /** What is known now of one peer. */
  peerStatus(now: Instant, publicKey: NodePublicKey): PeerStatus<Path> | undefined {
    const peer = this.#peers.get(publicKey.text)
    return peer && peerStatus(now, peer)
  }

  /** Removes all peers and overwrites all keys. The device is silent from then on. */
  destroy(now: Instant): void {
    for (const peer of [...this.#peers.values()]) this.removePeer(now, peer.publicKey)
    this.#shared.identity?.destroy()
    this.#shared.identity = undefined
    this.#handshakes.destroy()
  }

  #handleDatagram(now: Instant, bytes: Uint8Array, from: Path | undefined, congested: boolean): void {
    if (bytes[0] !== 4) return this.#handleHandshake(now, bytes, from)
    const batch = this.#openingOne
    batch.reset()
    if (batch.addCopy(bytes) < 0) return drop(this.#shared, 'malformed')
    this.prepareOpen(now, from, batch, this.#openOnePlan)
    this.cryptOpen(batch, this.#openOnePlan)
    this.commitOpen(now, from, batch, this.#openOnePlan)
    const peer = this.#openOnePlan.peerOf(0)
    if (peer === undefined) return
    const packet = Uint8Array.from(batch.result(0))
    if (congested) markCongestion(packet, 0, packet.length)
    this.#shared.outbox.push({ type: 'packet', peer, bytes: packet })
  }

  #handleHandshake(now: Instant, bytes: Uint8Array, from: Path | undefined): void {
    const started = this.#stopwatch?.()
    const message = decodeMessage(bytes)
    if (message?.type === INITIATION_TYPE) {
      const peer = this.#handshakes.handleInitiation(now, bytes, message, from)
      if (peer !== undefined) this.#due.update(peer)
    } else if (message?.type === RESPONSE_TYPE) {
      const peer = this.#handshakes.handleResponse(now, bytes, message, from)
      if (peer !== undefined) {
        // The first packet confirms the session to the responder, so there must be one.
        if (peer.stagedCount > 0) this.#flushStaged(now, peer)
        else this.#sendKeepalive(now, peer)
        this.#due.update(peer)
      }
    } else if (message?.type === COOKIE_REPLY_TYPE) {
      this.#handshakes.handleCookieReply(now, message)
    } else {
      drop(this.#shared, 'malformed')
    }
    if (this.#stopwatch !== undefined && started !== undefined) this.#loadMonitor.worked(now, this.#stopwatch() - started)
  }

  #handlePacket(now: Instant, publicKey: NodePublicKey, bytes: Uint8Array): void {
    const peer = this.#peerOrLookup(now, publicKey)
    if (peer === undefined) return drop(this.#shared, 'unknown-peer')
    this.#sealOne(now, peer, bytes)
    this.#due.update(peer)
  }

  #sealOne(now: Instant, peer: Peer<Path>, bytes: Uint8Array): void {
    const batch = this.#sealingOne
    batch.reset()
    if (batch.addCopy(bytes) < 0) return drop(this.#shared, 'too-large', peer)
    this.#transport.prepareSeal(now, peer, batch, this.#sealOnePlan)
    this.#transport.cryptSeal(batch, this.#sealOnePlan)
    if (this.#transport.commitSeal(now, batch, this.#sealOnePlan) === 0) return
    pushTransmit(this.#shared, peer, 'transport', outerTrafficClass(bytes, 0, bytes.length), Uint8Array.from(batch.result(0)))
  }

  #sendKeepalive(now: Instant, peer: Peer<Path>): void {
    if (peer.sendingSession(now) === undefined) {
      if (isReachable(this.#shared, peer)) this.#handshakes.initiate(now, peer, false)
    } else {
      this.#sealOne(now, peer, EMPTY)
    }
  }

  #flushStaged(now: Instant, peer: Peer<Path>): void {
    for (let left = peer.stagedCount; left > 0; left -= 1) {
      const packet = peer.unstage()
      if (packet !== undefined) this.#sealOne(now, peer, packet)
    }
  }

  #fireTimer(now: Instant, peer: Peer<Path>): void {
    const timers = peer.timers
    switch (timers.takeOverdue(now)) {
      case 'retransmit':
        if (peer.handshakeSentAt + REKEY_TIMEOUT_MS <= now && timers.attempts > MAX_TIMER_HANDSHAKES) this.#giveUp(now, peer)
        else this.#handshakes.initiate(now, peer, true)
        return
      case 'passiveKeepalive':
        this.#sendKeepalive(now, peer)
        timers.passiveKeepaliveDone(now)
        return
      case 'newHandshake':
        this.#handshakes.initiate(now, peer, false)
        return
      case 'zeroKeys':
        this.#expire(peer)
        return
      case 'persistentKeepalive':
        timers.restartPersistent(now)
        this.#sendKeepalive(now, peer)
        return
      case undefined:
    }
  }

  #giveUp(now: Instant, peer: Peer<Path>): void {
    peer.timers.gaveUp(now)
    const staged = peer.dropStaged()
    if (staged > 0) drop(this.#shared, 'staging-given-up', peer, staged)
    this.#shared.outbox.push({ type: 'handshakeFailed', peer: peer.publicKey })
  }

  #expire(peer: Peer<Path>): void {
    const hadSession = !peer.sessions.isEmpty
    this.#wipe(peer)
    if (hadSession) this.#shared.outbox.push({ type: 'expired', peer: peer.publicKey })
  }

  #wipe(peer: Peer<Path>): void {
    this.#handshakes.forget(peer)
    peer.sessions.clear()
    peer.wipeSecrets()
    const staged = peer.dropStaged()
    if (staged > 0) drop(this.#shared, 'staging-given-up', peer, staged)
    peer.timers.reset()
  }

  #configure(now: Instant, peer: Peer<Path>, config: PeerConfig<Path>): void {
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
    this.#due.update(peer)
  }

  #newPeer(publicKey: NodePublicKey): Peer<Path> {
    return new Peer(publicKey, this.#jitter, this.#sessionDropped)
  }

  #peerOrLookup(now: Instant, publicKey: NodePublicKey): Peer<Path> | undefined {
    const known = this.#peers.get(publicKey.text)
    if (known !== undefined) return known
    const candidate = this.#candidate(publicKey)
    return candidate?.admit(now) === true ? candidate.peer : undefined
  }

  #candidate(publicKey: NodePublicKey): PeerCandidate<Path> | undefined {
    const known = this.#peers.get(publicKey.text)
    if (known !== undefined) return { peer: known, admit: () => true }
    if (this.publicKey?.equals(publicKey)) return undefined
    const config = this.#peerLookup?.(publicKey)
    if (config === undefined || !config.publicKey.equals(publicKey)) return undefined
    checkPeerConfig(config)
    const peer = this.#newPeer(publicKey)
    peer.presharedKey = config.presharedKey && Uint8Array.from(config.presharedKey)
    return { peer, admit: (now) => this.#admit(now, peer, config) }
  }

  #admit(now: Instant, peer: Peer<Path>, config: PeerConfig<Path>): boolean {
    if (this.#peers.size >= this.#maxPeers) return false
    this.#peers.set(peer.publicKey.text, peer)
    this.#shared.outbox.push({ type: 'peerAdded', peer: peer.publicKey })
    this.#configure(now, peer, config)
    return true
  }
}

function checkPeerConfig<Path extends WireGuardPath>(config: PeerConfig<Path>): void {
  if (config.presharedKey !== undefined && config.presharedKey.length !== 32) {
    throw new WireGuardError('WIREGUARD_PRESHARED_KEY_LENGTH', `a preshared key has 32 bytes, not ${config.presharedKey.length}`)
  }
  const seconds = config.persistentKeepaliveSeconds
  if (seconds !== undefined && (!Number.isInteger(seconds) || seconds < 0 || seconds > 65_535)) {
    throw new WireGuardError('WIREGUARD_KEEPALIVE_RANGE', `a keepalive interval is 0 to 65535 seconds, not ${seconds}`)
  }
}
