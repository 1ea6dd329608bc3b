import { DROPPED, type Instant, instant, type Machine, PacketBatch, PENDING } from '@meshwright/core'
import type { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { Admission } from './admission.ts'
import { MAX_TIMER_HANDSHAKES, REKEY_TIMEOUT_JITTER_MAX_MS, REKEY_TIMEOUT_MS } from './constants.ts'
import { DueHeap } from './due-heap.ts'
import { markCongestion, outerTrafficClass } from './ecn.ts'
import { Handshakes } from './handshakes.ts'
import { Identity } from './identity.ts'
import { HandshakeLoadMonitor } from './load-monitor.ts'
import { COOKIE_REPLY_TYPE, decodeMessage, INITIATION_TYPE, RESPONSE_TYPE, TRANSPORT_TYPE } from './messages.ts'
import type { Peer } from './peer.ts'
import { checkPeerConfig, PeerTable } from './peer-table.ts'
import { OpenPlan, SealPlan } from './plans.ts'
import { checkMtu, createShared, drop, isReachable, pushTransmit, type Shared } from './shared.ts'
import { deviceFigures, deviceStatus, peerStatus } from './status.ts'
import { Transport } from './transport.ts'
import { WorkBudget } from './work-budget.ts'
import type { DeviceFigures, DeviceStatus, PeerConfig, PeerStatus, WireGuardDeviceOptions, WireGuardInput, WireGuardOutput, WireGuardPath } from './types.ts'

const DEFAULT_MAX_PEERS = 65_536
const MAX_INNER_BYTES = 65_536
// Handshakes begun because of packets that nobody can authenticate: 10 a second in the long run.
const STRAYS_PER_MS = 0.01
const STRAYS_AT_ONCE = 20
const NO_PRESHARED_KEY: Uint8Array = new Uint8Array(32)
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
  readonly #admission: Admission<Path>
  readonly #peers: PeerTable<Path>
  readonly #due: DueHeap<Peer<Path>> = new DueHeap()
  readonly #touched: (peer: Peer<Path>) => void = (peer) => this.#due.update(peer)
  readonly #strays: WorkBudget = new WorkBudget(STRAYS_PER_MS, STRAYS_AT_ONCE)
  readonly #sealPlan: SealPlan<Path> = new SealPlan()
  #openPlan: OpenPlan<Path> = new OpenPlan(1)
  // One packet at a time goes through batches of one: two, since opening a packet can cause others to be sealed.
  readonly #sealingOne: PacketBatch = PacketBatch.slab(1, MAX_INNER_BYTES)
  readonly #openingOne: PacketBatch = PacketBatch.slab(1, MAX_INNER_BYTES)
  readonly #sealOnePlan: SealPlan<Path> = new SealPlan()
  readonly #openOnePlan: OpenPlan<Path> = new OpenPlan(1)

  constructor(options: WireGuardDeviceOptions<Path>) {
    const shared = createShared(options)
    this.#shared = shared
    this.#admission = new Admission(shared, options.loadMonitor ?? new HandshakeLoadMonitor(), options.stopwatch)
    this.#peers = new PeerTable(shared, {
      jitter: () => {
        const [high = 0, low = 0] = options.random(2)
        return Math.floor(((high * 256 + low) / 65_536) * (REKEY_TIMEOUT_JITTER_MAX_MS + 1))
      },
      sessionDropped: (session) => shared.index.delete(session.localIndex),
      lookup: options.peerLookup,
      maxPeers: options.maxPeers ?? DEFAULT_MAX_PEERS,
      touched: this.#touched,
    })
    this.#handshakes = new Handshakes(shared, this.#admission, (publicKey) => this.#peers.candidate(publicKey))
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
    const peer = this.#peers.ensure(config.publicKey)
    const hadPersistent = peer.timers.persistentMs > 0
    const oldPath = peer.path
    this.#peers.configure(now, peer, config)
    if (peer.initiation !== undefined && oldPath !== undefined && peer.path !== undefined && oldPath.id !== peer.path.id) {
      peer.handshakeSentAt = -Infinity // that was another place: the wait spares each, and the new one has not been asked yet
      this.#handshakes.initiate(now, peer, false)
    }
    if (peer.timers.persistentMs > 0 && !hadPersistent) this.#sendKeepalive(now, peer)
    if (peer.stagedCount > 0 && peer.initiation === undefined && config.path !== undefined) this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
    return true
  }

  /**
   * Makes `configs` the whole set of peers, in one call: whoever is not in it is removed, whoever is in it keeps sessions, counters and
   * (unless the config names one) its path. A preshared key or persistent keepalives that a config leaves out are off from now on.
   * Nothing changes when a config is refused.
   * @throws WIREGUARD_PRESHARED_KEY_LENGTH WIREGUARD_KEEPALIVE_RANGE WIREGUARD_TOO_MANY_PEERS
   */
  replacePeers(now: Instant, configs: readonly PeerConfig<Path>[]): void {
    for (const config of configs) checkPeerConfig(config)
    const wanted = new Set(configs.map((config) => config.publicKey.text))
    this.#peers.checkRoomFor(wanted.size)
    for (const peer of [...this.#peers.all()]) if (!wanted.has(peer.publicKey.text)) this.removePeer(now, peer.publicKey)
    for (const config of configs) this.setPeer(now, { presharedKey: NO_PRESHARED_KEY, persistentKeepaliveSeconds: 0, ...config })
  }

  /** Removes a peer with all its keys, timers and staged packets; `false` when there is none. Its datagrams are unknown from now on. */
  removePeer(_now: Instant, publicKey: NodePublicKey): boolean {
    const peer = this.#peers.get(publicKey)
    if (peer === undefined) return false
    this.#wipe(peer)
    peer.timers.stop()
    peer.presharedKey?.fill(0)
    this.#due.remove(peer)
    this.#peers.delete(publicKey)
    return true
  }

  /**
   * Forgets all sessions, handshakes and staged packets of a peer that is known to have started anew; `false` when there is none. Old
   * initiations stay replays.
   */
  resetPeer(_now: Instant, publicKey: NodePublicKey): boolean {
    const peer = this.#peers.get(publicKey)
    if (peer === undefined) return false
    this.#expire(peer)
    peer.handshakeSentAt = -Infinity
    return true
  }

  /** True when the peer is configured, or was created on demand. */
  hasPeer(publicKey: NodePublicKey): boolean {
    return this.#peers.get(publicKey) !== undefined
  }

  /** The keys of all peers, in the order in which they were added. */
  peerKeys(): NodePublicKey[] {
    return Array.from(this.#peers.all(), (peer) => peer.publicKey)
  }

  /** Where datagrams to the peer go now. */
  pathOf(publicKey: NodePublicKey): Path | undefined {
    return this.#peers.get(publicKey)?.path
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
    for (const peer of this.#peers.all()) {
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
    const peer = this.#peers.getOrAdmit(now, publicKey)
    if (peer === undefined || peer.sendingSession(now) !== undefined) return
    this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
  }

  /**
   * Begins a handshake although there is a session, which goes on until the new one takes over. Within 5 seconds of the last handshake
   * message it waits until they are over.
   */
  rekey(now: Instant, publicKey: NodePublicKey): void {
    const peer = this.#peers.getOrAdmit(now, publicKey)
    if (peer === undefined) return
    this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
  }

  /**
   * Asks once more at once, while an initiation of ours is unanswered: for an initiation that never left, since there was no way to the peer.
   * The 5 seconds between two of them (whitepaper 6.1) spare a peer that was asked.
   */
  askAgain(now: Instant, publicKey: NodePublicKey): void {
    const peer = this.#peers.get(publicKey)
    if (peer?.initiation === undefined) return
    peer.handshakeSentAt = -Infinity
    this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
  }

  /** Sends an empty packet, or begins a handshake when there is no session. */
  sendKeepalive(now: Instant, publicKey: NodePublicKey): void {
    const peer = this.#peers.getOrAdmit(now, publicKey)
    if (peer === undefined) return
    this.#sendKeepalive(now, peer)
    this.#due.update(peer)
  }

  /** Tells by how many milliseconds the caller's event loop is late: much of it makes the device ask for cookies. */
  noteLag(now: Instant, ms: number): void {
    this.#admission.noteLag(now, ms)
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
    const peer = this.#peers.getOrAdmit(now, publicKey)
    if (peer === undefined) {
      for (let i = 0; i < batch.count; i += 1) {
        if (batch.verdict[i] !== PENDING) continue
        batch.verdict[i] = DROPPED
        drop(this.#shared, 'unknown-peer')
      }
      return
    }
    this.#catchUp(now, peer)
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
    this.prepareOpen(now, batch, this.#openPlan)
    this.cryptOpen(batch, this.#openPlan)
    this.commitOpen(now, from, batch, this.#openPlan)
    return this.#openPlan
  }

  /** First step of {@link WireGuardDevice.open}. @throws WIREGUARD_PLAN_CAPACITY */
  prepareOpen(now: Instant, batch: PacketBatch, plan: OpenPlan<Path>): void {
    this.#transport.prepareOpen(now, batch, plan)
  }

  /** Second step: only AEAD, no decision. */
  cryptOpen(batch: PacketBatch, plan: OpenPlan<Path>): void {
    this.#transport.cryptOpen(batch, plan)
  }

  /** Third step; gives the number of inner packets. Handshakes of the batch are worked on behind all its packets. */
  commitOpen(now: Instant, from: Path | undefined, batch: PacketBatch, plan: OpenPlan<Path>): number {
    const opened = this.#transport.commitOpen(now, from, batch, plan, this.#touched)
    for (let i = 0; i < plan.otherCount; i += 1) this.#handleHandshake(now, batch.source(plan.others[i] ?? 0), from)
    if (plan.hasStrays) this.#answerStray(now, from?.peer)
    return opened
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
    return deviceStatus(now, this.#shared, this.#peers.all(), this.#admission)
  }

  /** What is known now of the device itself: costs the same however many peers there are. */
  figures(now: Instant): DeviceFigures {
    return deviceFigures(now, this.#shared, this.#admission)
  }

  /** What is known now of one peer. */
  peerStatus(now: Instant, publicKey: NodePublicKey): PeerStatus<Path> | undefined {
    const peer = this.#peers.get(publicKey)
    return peer && peerStatus(now, peer)
  }

  /** Removes all peers and overwrites all keys. The device is silent from then on. */
  destroy(now: Instant): void {
    for (const peer of [...this.#peers.all()]) this.removePeer(now, peer.publicKey)
    this.#shared.identity?.destroy()
    this.#shared.identity = undefined
    this.#admission.destroy()
  }

  #handleDatagram(now: Instant, bytes: Uint8Array, from: Path | undefined, congested: boolean): void {
    if (bytes[0] !== 4) return this.#handleHandshake(now, bytes, from)
    const batch = this.#openingOne
    batch.reset()
    if (batch.addCopy(bytes) < 0) return drop(this.#shared, 'malformed')
    this.prepareOpen(now, batch, this.#openOnePlan)
    this.cryptOpen(batch, this.#openOnePlan)
    this.commitOpen(now, from, batch, this.#openOnePlan)
    const peer = this.#openOnePlan.peerOf(0)
    if (peer === undefined) return
    const packet = Uint8Array.from(batch.result(0))
    if (congested) markCongestion(packet, 0, packet.length)
    this.#shared.outbox.push({ type: 'packet', peer, bytes: packet })
  }

  #handleHandshake(now: Instant, bytes: Uint8Array, from: Path | undefined): void {
    const message = decodeMessage(bytes)
    if (message === undefined || message.type === TRANSPORT_TYPE) return drop(this.#shared, 'malformed')
    this.#admission.spendTime(now, () => {
      if (message.type === COOKIE_REPLY_TYPE) return this.#handshakes.handleCookieReply(now, message)
      const peer = message.type === INITIATION_TYPE ? this.#handshakes.handleInitiation(now, bytes, message, from) : this.#handshakes.handleResponse(now, bytes, message, from)
      if (peer === undefined) return
      if (message.type === RESPONSE_TYPE) {
        // The first packet confirms the session to the responder, so there must be one.
        if (peer.stagedCount > 0) this.#flushStaged(now, peer)
        else this.#sendKeepalive(now, peer)
      }
      this.#due.update(peer)
    })
  }

  // A peer that sends on a session of which we know nothing believes to have one, and would go on so for 15 seconds. If we have none either
  // (we were started anew, or the peer was removed and is back), a handshake brings both together. Where the caller names a peer only.
  #answerStray(now: Instant, publicKey: NodePublicKey | undefined): void {
    const peer = publicKey && this.#peers.get(publicKey)
    if (peer === undefined || peer.state !== 'idle' || this.#admission.isUnderLoad(now) || !this.#strays.allows(now)) return
    this.#strays.spend(now, 1)
    this.#handshakes.initiate(now, peer, false)
    this.#due.update(peer)
  }

  #handlePacket(now: Instant, publicKey: NodePublicKey, bytes: Uint8Array): void {
    const peer = this.#peers.getOrAdmit(now, publicKey)
    if (peer === undefined) return drop(this.#shared, 'unknown-peer')
    this.#catchUp(now, peer)
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

  // After a long sleep a packet may come before the timers that are overdue: they would take it for one that waited in vain.
  #catchUp(now: Instant, peer: Peer<Path>): void {
    if (peer.sendingSession(now) !== undefined) return
    while (peer.due <= now) this.#fireTimer(now, peer)
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
}
