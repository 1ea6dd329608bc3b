import { assertNever, DONE, DROPPED, earlier, type Instant, Outbox, type PacketBatch, type RandomSource, type RelayMap, type UnixMillis, type WallClock } from '@meshwright/core'
import type { CryptoProvider, DiscoPrivateKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint, Ip } from '@meshwright/ip'
import { classifyDatagram, type PathExplanation, PathFinder, type PathFinderOutput } from '@meshwright/nat-traversal'
import type { PacketFilter } from '@meshwright/packet-filter'
import { type AppliedMap, usableEndpoints } from './apply-network-map.ts'
import type { DeniedPacket } from './denied-packets.ts'
import { DataPlane, type DataPlaneOutput, type DataPath, directPath } from './dataplane.ts'
import { drain } from './drain.ts'
import { EarlyHandshakes } from './early-handshakes.ts'
import { watchEngine } from './engine-watch.ts'
import type { EngineInput, EngineOutput, EnginePeer, EngineTraffic, EngineWatch, NodeEngine } from './node-engine.ts'
import { RelayLinks, type RelayLinksOutput } from './relay-links.ts'
import { type RelayedRow, RelayedRows } from './relayed-rows.ts'
import { UnsentInitiations } from './unsent-initiations.ts'
import { WaitingRows } from './waiting-rows.ts'

/** A peer counts as active this long after a packet was sent to it (tailscale/tailscale:wgengine/magicsock). */
const ACTIVE_MS = 45_000

/** What an engine is made of. */
export interface EngineOptions {
  readonly random: RandomSource
  readonly wallClock: WallClock
  readonly provider?: CryptoProvider
  /** As `MeshNodeConfig.stopwatch`. */
  readonly stopwatch?: () => number
  readonly privateKey: NodePrivateKey
  readonly discoKey: DiscoPrivateKey
  readonly mtu: number
  readonly allowLoopback: boolean
  readonly blockUdp: boolean
  /** Numbers for connections with relays, never the same twice: what comes late from an old engine's connection is not taken for ours. */
  readonly nextLink: () => number
  /** WireGuard's datagrams that relays bring wait for {@link Engine.takeRelayed}, to be opened in rows by whoever carries the engine (default false). */
  readonly relayedRows?: boolean
}

/**
 * Everything of a node that moves packets under one node key: both packet paths, the path finder and the connections with relays. A new
 * node key means a new engine.
 */
export class Engine implements NodeEngine {
  readonly plane: DataPlane
  readonly paths: PathFinder
  readonly relays: RelayLinks
  readonly privateKey: NodePrivateKey
  readonly #outbox: Outbox<EngineOutput> = new Outbox()
  readonly #allowLoopback: boolean
  readonly #wallClock: WallClock
  #blockUdp: boolean
  #peers: Set<string> = new Set()
  #keys: Map<string, NodePublicKey> = new Map()
  readonly #unsent: UnsentInitiations = new UnsentInitiations()
  readonly #early: EarlyHandshakes = new EarlyHandshakes()
  readonly #waiting: WaitingRows
  readonly #relayedRows: RelayedRows | undefined
  #lastFrom: { readonly endpoint: Endpoint; readonly path: DataPath } | undefined
  #blockedDatagrams = 0

  constructor(options: EngineOptions) {
    this.privateKey = options.privateKey
    this.#allowLoopback = options.allowLoopback
    this.#wallClock = options.wallClock
    this.#blockUdp = options.blockUdp
    this.#waiting = new WaitingRows(options.mtu)
    this.#relayedRows = options.relayedRows === true ? new RelayedRows() : undefined
    const provider = options.provider === undefined ? {} : { provider: options.provider }
    this.paths = new PathFinder({
      nodeKey: options.privateKey.publicKey(),
      discoKey: options.discoKey,
      random: options.random,
      allowLoopback: options.allowLoopback,
      udp: !options.blockUdp,
      ...provider,
    })
    const stopwatch = options.stopwatch && { stopwatch: options.stopwatch }
    this.plane = new DataPlane({ random: options.random, wallClock: options.wallClock, privateKey: options.privateKey, paths: this.paths, mtu: options.mtu, ...provider, ...stopwatch })
    this.relays = new RelayLinks({ privateKey: options.privateKey, random: options.random, nextLink: options.nextLink })
  }

  /** True while UDP is not used at all. */
  get udpBlocked(): boolean {
    return this.#blockUdp
  }

  /** Datagrams that were not sent or not read because UDP is blocked. */
  get blockedDatagrams(): number {
    return this.#blockedDatagrams
  }

  /** Datagrams that a lane did not open because UDP is blocked. */
  noteBlocked(datagrams: number): void {
    this.#blockedDatagrams += datagrams
  }

  /** When this node last sent to a peer, and whether that was within the last 45 s. */
  lastSend(now: Instant, peer: NodePublicKey): { readonly at: UnixMillis; readonly active: boolean } | undefined {
    const sentAt = this.plane.lastSend(peer)
    return sentAt && { at: this.#wallClock() - (now - sentAt), active: now - sentAt < ACTIVE_MS }
  }

  traffic(): EngineTraffic {
    const { bytesIn: relayIn, bytesOut: relayOut } = this.relays.traffic
    return { ...this.plane.traffic, relayIn, relayOut }
  }

  drops(now: Instant): Readonly<Record<string, number>> {
    const all: Record<string, number> = {}
    for (const [reason, count] of this.plane.drops) if (count > 0) all[reason] = count
    for (const [reason, count] of this.plane.device.figures(now).drops) if (count > 0) all[`wireguard-${reason}`] = count
    for (const [reason, count] of this.paths.drops) all[`disco-${reason}`] = count
    for (const [reason, count] of this.relays.drops) all[`relay-${reason}`] = count
    if (this.#blockedDatagrams > 0) all['udp-blocked'] = this.#blockedDatagrams
    return all
  }

  watch(now: Instant): EngineWatch {
    return watchEngine(now, this.plane, this.paths, this.#early.size)
  }

  denied(): readonly DeniedPacket[] {
    return this.plane.denied.list()
  }

  peer(now: Instant, key: NodePublicKey): EnginePeer | undefined {
    const session = this.plane.device.peerStatus(now, key)
    if (session === undefined) return undefined
    const { receivedBytes, sentBytes, latestHandshake } = session
    return { path: this.paths.pathFor(now, key), receivedBytes, sentBytes, latestHandshake, lastSend: this.lastSend(now, key) }
  }

  explain(now: Instant, peer: NodePublicKey): PathExplanation | undefined {
    return this.paths.explain(now, peer)
  }

  capsFor(source: Ip, destination: Ip): ReturnType<PacketFilter['capsFor']> {
    return this.plane.filter.capsFor(source, destination)
  }

  /** The peers of the last network map. */
  peerKeys(): readonly NodePublicKey[] {
    return [...this.#keys.values()]
  }

  get homeRelay(): number {
    return this.relays.home
  }

  isRelayConnected(region: number): boolean {
    return this.relays.isConnected(region)
  }

  relayProblem(region: number): string | undefined {
    return this.relays.problem(region)
  }

  isActive(now: Instant): boolean {
    const last = this.plane.lastSendToAny
    return last !== undefined && now - last < ACTIVE_MS
  }

  apply(now: Instant, applied: AppliedMap): void {
    this.plane.apply(now, applied.plane)
    const peers = usableEndpoints(applied.paths, this.#allowLoopback)
    const wanted = new Set(peers.map((peer) => peer.nodeKey.text))
    for (const text of this.#peers) {
      const key = this.#keys.get(text)
      if (wanted.has(text) || key === undefined) continue
      this.paths.removePeer(now, key)
      this.#keys.delete(text)
      this.#unsent.forget(key)
    }
    for (const peer of peers) {
      this.paths.setPeer(now, peer)
      this.#keys.set(peer.nodeKey.text, peer.nodeKey)
    }
    this.#peers = wanted
    for (const peer of peers) {
      const early = this.#early.take(now, peer.nodeKey)
      if (early !== undefined) this.#relayed(now, early.bytes, early.region, early.peer)
    }
    this.#settle(now)
  }

  setShieldsUp(up: boolean): void {
    this.plane.filter.setShieldsUp(up)
  }

  setRelayMap(now: Instant, map: RelayMap): void {
    this.paths.setRelayMap(now, map)
    this.relays.setMap(now, map)
    this.#settle(now)
  }

  setHome(now: Instant, region: number): void {
    this.paths.setHome(now, region)
    this.relays.setHome(now, region)
    this.#settle(now)
  }

  setSelfEndpoints(now: Instant, endpoints: readonly Endpoint[]): void {
    this.paths.setSelfEndpoints(now, endpoints)
    this.#settle(now)
  }

  setUdpBlocked(now: Instant, blocked: boolean): void {
    this.#blockUdp = blocked
    this.paths.setUdpAvailable(now, !blocked)
    this.#settle(now)
  }

  rebind(now: Instant): void {
    this.paths.rebind(now)
    this.relays.rebind(now)
    this.#settle(now)
  }

  ping(now: Instant, peer: NodePublicKey, id: number, sizeBytes?: number): void {
    this.paths.ping(now, peer, id, sizeBytes)
    this.#settle(now)
  }

  sendTo(now: Instant, peer: NodePublicKey, packet: Uint8Array): void {
    this.plane.sendTo(now, peer, packet)
    this.#settle(now)
  }

  setPeerDiscoKey(now: Instant, peer: NodePublicKey, key: Parameters<PathFinder['setPeerDiscoKey']>[2]): void {
    this.paths.setPeerDiscoKey(now, peer, key)
    this.#settle(now)
  }

  close(now: Instant): void {
    this.plane.device.destroy(now)
    this.relays.closeAll()
    this.#settle(now)
  }

  handleInput(now: Instant, input: EngineInput): void {
    switch (input.type) {
      case 'datagram':
        this.#datagram(now, input.bytes, input.from)
        break
      case 'relay':
        this.relays.handleInput(now, input.input)
        break
      case 'packet':
        this.plane.outbound(now, input.bytes)
        break
      default:
        assertNever(input)
    }
    this.#settle(now)
  }

  /** As the input `packet`, for {@link Engine.sealRow}: the bytes must stay as they are until it has taken them. */
  offer(now: Instant, bytes: Uint8Array): void {
    const peer = this.plane.ownerOf(now, bytes, 0, bytes.length)
    if (peer !== undefined) this.#waiting.push(peer, bytes)
  }

  /** Whether packets that were offered wait to be sealed. */
  get hasWaiting(): boolean {
    return !this.#waiting.isEmpty
  }

  /**
   * Seals the next of the packets that were offered and go to one peer into `batch`, side by side; gives where to send its `DONE` slots.
   * `undefined` when none waits any more: what went by relays, or waits for a session, has been taken care of.
   */
  sealRow(now: Instant, batch: PacketBatch): Endpoint | undefined {
    const alone = (peer: NodePublicKey, packet: Uint8Array): void => this.plane.sendTo(now, peer, packet)
    let to: Endpoint | undefined
    while (to === undefined) {
      const peer = this.#waiting.layOut(batch, alone)
      if (peer === undefined) break
      to = this.plane.sealRow(now, peer, batch)
      if (to === undefined || !this.#blockUdp) continue
      this.#blockedDatagrams += batch.count
      to = undefined
    }
    this.#settle(now)
    return to
  }

  /**
   * Opens datagrams from one endpoint, in place. Slots that are `DONE` afterwards hold inner packets for this node; all else is done with,
   * or owed as usual.
   */
  open(now: Instant, from: Endpoint, batch: PacketBatch): void {
    const { count, verdict } = batch
    if (this.#blockUdp) {
      this.#blockedDatagrams += count
      verdict.fill(DROPPED, 0, count)
      return
    }
    for (let slot = 0; slot < count; slot += 1) {
      const first = (batch.length[slot] ?? 0) < 4 ? 0 : batch.view.getUint32(batch.offset[slot] ?? 0, true)
      if (first >= 1 && first <= 4) continue // WireGuard's types, with their three zero bytes
      verdict[slot] = DROPPED
      this.#datagram(now, batch.source(slot).slice(), from)
    }
    if (this.#lastFrom?.endpoint !== from) this.#lastFrom = { endpoint: from, path: directPath(from) }
    const plan = this.plane.open(now, this.#lastFrom.path, batch)
    for (let slot = 0; slot < count; slot += 1) {
      const peer = verdict[slot] === DONE ? plan.peerOf(slot) : undefined
      const what = peer && this.plane.admits(now, peer, batch.memory, batch.target[slot] ?? 0, batch.targetLength[slot] ?? 0)
      if (what === 'deliver') continue
      if (peer !== undefined && what === 'tsmp') this.#outbox.push({ type: 'tsmp', bytes: batch.result(slot).slice(), peer })
      verdict[slot] = DROPPED
    }
    this.#settle(now)
  }

  /**
   * Takes what relays have brought: open each row by {@link DataPlane.open}, ask {@link DataPlane.admits} about the packets in it, and `settle`. To be
   * called after every input, while the bytes that came with it stand.
   */
  takeRelayed(): readonly RelayedRow[] {
    return this.#relayedRows?.take() ?? []
  }

  handleTimeout(now: Instant): void {
    this.paths.handleTimeout(now)
    this.plane.handleTimeout(now)
    this.relays.handleTimeout(now)
    this.#settle(now)
  }

  /** Performs what its parts owe after a lane has used them directly: sealed, opened, asked for owners and verdicts. */
  settle(now: Instant): void {
    this.plane.settle(now)
    this.#settle(now)
  }

  pollOutput(): EngineOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return earlier(earlier(this.paths.pollTimeout(), this.plane.pollTimeout()), this.relays.pollTimeout())
  }

  #datagram(now: Instant, bytes: Uint8Array, from: Endpoint): void {
    if (this.#blockUdp) {
      this.#blockedDatagrams += 1
      return
    }
    switch (classifyDatagram(bytes)) {
      case 'stun':
        this.#outbox.push({ type: 'stun', bytes, from })
        return
      case 'disco':
        this.paths.handleInput(now, { type: 'datagram', bytes, from })
        return
      default:
        // Also what is nobody's: the device counts it, as it does on a lane.
        this.plane.inboundDirect(now, bytes, from)
    }
  }

  #relayed(now: Instant, bytes: Uint8Array, region: number, peer: NodePublicKey): void {
    if (!this.#peers.has(peer.text)) return this.#early.keep(now, bytes, region, peer)
    const kind = classifyDatagram(bytes)
    if (kind === 'disco') this.paths.handleInput(now, { type: 'relayed', bytes, region, peer })
    else if (kind === 'wireguard') {
      this.paths.noteReceived(now, peer, { type: 'relay', region })
      if (this.#relayedRows === undefined) this.plane.inboundRelayed(now, bytes, region, peer)
      else this.#relayedRows.push(bytes, region, peer)
    }
  }

  // Children may owe something to one another: a path that opens lets a handshake out, a relayed packet opens a session. Until all are quiet.
  #settle(now: Instant): void {
    for (let busy = true; busy; ) {
      busy = drain(this.paths, (output) => this.#fromPaths(now, output))
      if (drain(this.plane, (output) => this.#fromPlane(now, output))) busy = true
      if (drain(this.relays, (output) => this.#fromRelays(now, output))) busy = true
    }
  }

  #fromPaths(now: Instant, output: PathFinderOutput): void {
    switch (output.type) {
      case 'transmit':
        return this.#transmit(output.bytes, output.to)
      case 'relay':
        this.relays.send(now, output.region, output.peer, output.bytes)
        return
      case 'pathChanged':
        if (output.path.type !== 'none') this.#askAgain(now, output.peer)
        this.#outbox.push({ type: 'changed' })
        return
      case 'endpointsWanted':
        this.#outbox.push({ type: 'endpointsWanted' })
        return
      case 'refused':
        return this.plane.lies.note(now, output.peer, 'disco', output.times)
      case 'pinged':
      case 'pingFailed':
        this.#outbox.push(output)
        return
      default:
        assertNever(output)
    }
  }

  #fromPlane(now: Instant, output: DataPlaneOutput): void {
    switch (output.type) {
      case 'datagram':
        return this.#transmit(output.bytes, output.to)
      case 'relayed': {
        const sent = this.relays.send(now, output.region, output.peer, output.bytes)
        if (!sent || !this.relays.isConnected(output.region)) this.#unsent.note(output.peer, output.bytes, sent ? output.region : undefined)
        else if (this.paths.pathFor(now, output.peer).type === 'relay') this.#unsent.noteTaken(now, output.peer, output.bytes, output.region)
        return
      }
      case 'unsent':
        return this.#unsent.note(output.peer, output.bytes, undefined)
      case 'deliver':
      case 'tsmp':
        this.#outbox.push(output)
        return
      case 'established':
      case 'unanswered':
        this.#outbox.push({ type: 'changed' })
        return
      default:
        assertNever(output)
    }
  }

  #fromRelays(now: Instant, output: RelayLinksOutput): void {
    switch (output.type) {
      case 'dial':
        this.#outbox.push({ type: 'relayDial', link: output.link, region: output.region, node: output.node })
        return
      case 'write':
        this.#outbox.push({ type: 'relayWrite', link: output.link, bytes: output.bytes })
        return
      case 'close':
        this.#outbox.push({ type: 'relayClose', link: output.link })
        return
      case 'packet':
        return this.#relayed(now, output.packet, output.region, output.source)
      case 'connected':
        for (const peer of this.#unsent.connected(output.region)) this.#askAgain(now, peer)
        this.#outbox.push({ type: 'relayConnected', region: output.region })
        return
      case 'disconnected':
        this.#unsent.lost(now, output.region)
        this.#outbox.push({ type: 'relayDisconnected', region: output.region, reason: output.reason })
        return
      case 'peerGone':
        // Another way may have been found before the relay said so; else the next one that is found is taken.
        if (output.isNotHere && this.#unsent.notThere(now, output.peer, output.region) && this.paths.pathFor(now, output.peer).type === 'direct') this.#askAgain(now, output.peer)
        this.#outbox.push({ type: 'changed' })
        return
      default:
        assertNever(output)
    }
  }

  // There may be a way now for an initiation that never reached its peer.
  #askAgain(now: Instant, peer: NodePublicKey): void {
    if (!this.#unsent.take(peer)) return
    this.plane.device.askAgain(now, peer)
    this.plane.settle(now)
  }

  #transmit(bytes: Uint8Array, to: Endpoint): void {
    if (this.#blockUdp) {
      this.#blockedDatagrams += 1
      return
    }
    this.#outbox.push({ type: 'datagram', bytes, to })
  }
}
