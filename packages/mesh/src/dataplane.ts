import { DONE, type Instant, Outbox, type PacketBatch, PENDING, type RandomSource, type WallClock } from '@meshwright/core'
import { type CryptoProvider, nobleProvider, type NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { CryptokeyRouter, type RouteEntry } from '@meshwright/cryptokey-router'
import { type Endpoint, formatEndpoint, type IpSet, PacketView, PROTOCOL_TSMP } from '@meshwright/ip'
import { type PathFinder } from '@meshwright/nat-traversal'
import { type FilterRule, PacketFilter, type Verdict } from '@meshwright/packet-filter'
import { type OpenPlan, WireGuardDevice, type WireGuardOutput, type WireGuardPath } from '@meshwright/wireguard'
import { type AskedCapabilities, capsOf } from './asked-capabilities.ts'
import { DeniedPackets, type DeniedReason } from './denied-packets.ts'
import { PeerLies } from './peer-lies.ts'
import { type Way, WayCounter, type WayCounts, wayTo } from './way-counts.ts'

/** First byte of WireGuard's second message (whitepaper 5.4.3). */
const HANDSHAKE_RESPONSE = 2

/** Where a WireGuard datagram came from: a UDP endpoint, or a peer behind a relay. */
export interface DataPath extends WireGuardPath {
  readonly via: { readonly type: 'direct'; readonly endpoint: Endpoint } | { readonly type: 'relay'; readonly region: number; readonly peer: NodePublicKey }
}

/** What both packet paths owe. */
export type DataPlaneOutput =
  /** Send a datagram by UDP. */
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly to: Endpoint }
  /** A datagram for which there is no way now: dropped. */
  | { readonly type: 'unsent'; readonly bytes: Uint8Array; readonly peer: NodePublicKey }
  /** Send a datagram through a relay. */
  | { readonly type: 'relayed'; readonly bytes: Uint8Array; readonly region: number; readonly peer: NodePublicKey }
  /** An inner packet for this node: routed, checked and accepted. */
  | { readonly type: 'deliver'; readonly bytes: Uint8Array; readonly peer: NodePublicKey }
  /** A TSMP message from a peer: node to node, beside the packet filter. */
  | { readonly type: 'tsmp'; readonly bytes: Uint8Array; readonly peer: NodePublicKey }
  /** A session with a peer has come to be. */
  | { readonly type: 'established'; readonly peer: NodePublicKey }
  /** Twenty initiations stayed without answer. */
  | { readonly type: 'unanswered'; readonly peer: NodePublicKey }

/** Why an inner or outer packet went nowhere, besides the drops that the WireGuard device and the packet filter count themselves. */
export type DataPlaneDrop = DeniedReason | 'no-path'

/** The one swap: everything that decides where packets may go. */
export interface DataPlaneConfig {
  readonly peers: readonly NodePublicKey[]
  readonly routes: readonly RouteEntry<string>[]
  readonly rules: readonly FilterRule[]
  /** Addresses that this node answers for. */
  readonly local: IpSet
  /** For rules with `cap:` sources; without it those let nobody in. */
  readonly capabilities?: AskedCapabilities | undefined
}

/**
 * Both packet paths of a node, outbound and inbound. It joins four siblings that do not know each other: packet filter, cryptokey router,
 * WireGuard device and path finder. Any doubt is a drop, counted by reason.
 */
export class DataPlane {
  readonly device: WireGuardDevice<DataPath>
  readonly filter: PacketFilter
  readonly router: CryptokeyRouter<string> = new CryptokeyRouter()
  /** What peers were refused lately. */
  readonly lies: PeerLies = new PeerLies()
  /** The last inner packets that did not pass, in either direction. */
  readonly denied: DeniedPackets = new DeniedPackets()
  readonly #wallClock: WallClock
  readonly #paths: PathFinder
  readonly #outbox: Outbox<DataPlaneOutput> = new Outbox()
  readonly #view: PacketView = new PacketView()
  readonly #peers: Map<string, NodePublicKey> = new Map()
  readonly #lastSends: Map<string, Instant> = new Map()
  readonly #drops: Map<DataPlaneDrop, number> = new Map()
  #packetsIn = 0
  #packetsOut = 0
  readonly #received: WayCounter = new WayCounter()
  readonly #sent: WayCounter = new WayCounter()
  #lastSend: Instant | undefined
  /** Where the datagram came from that is being taken in. */
  #source: Endpoint | undefined

  constructor(options: {
    readonly random: RandomSource
    readonly wallClock: WallClock
    readonly privateKey: NodePrivateKey
    readonly paths: PathFinder
    readonly provider?: CryptoProvider
    readonly stopwatch?: () => number
    readonly mtu: number
  }) {
    this.#paths = options.paths
    this.#wallClock = options.wallClock
    this.filter = new PacketFilter()
    this.device = new WireGuardDevice<DataPath>({
      random: options.random,
      wallClock: options.wallClock,
      privateKey: options.privateKey,
      provider: options.provider ?? nobleProvider,
      mtu: options.mtu,
      roaming: false,
      ...(options.stopwatch && { stopwatch: options.stopwatch }),
    })
  }

  /** Inner packets delivered and sent, and WireGuard's datagrams that came and went, by their way. */
  get traffic(): { readonly packetsIn: number; readonly packetsOut: number; readonly received: WayCounts; readonly sent: WayCounts } {
    return { packetsIn: this.#packetsIn, packetsOut: this.#packetsOut, received: this.#received.counts, sent: this.#sent.counts }
  }

  /** Drops of this class, by reason. */
  get drops(): ReadonlyMap<DataPlaneDrop, number> {
    return this.#drops
  }

  /** When an inner packet last went to anybody. */
  get lastSendToAny(): Instant | undefined {
    return this.#lastSend
  }

  /** When an inner packet last went to a peer. */
  lastSend(peer: NodePublicKey): Instant | undefined {
    return this.#lastSends.get(peer.text)
  }

  /** An inner packet of this node: filter, router, WireGuard. The bytes are not kept. */
  outbound(now: Instant, packet: Uint8Array): void {
    const peer = this.ownerOf(now, packet, 0, packet.length)
    if (peer !== undefined) this.sendTo(now, peer, packet)
  }

  /**
   * Filter and router alone: the peer that an inner packet of this node goes to; `undefined`, and counted, when it goes to nobody.
   * @param packets how many it stands for, where the system hands a row over in one piece
   */
  ownerOf(now: Instant, memory: Uint8Array, at: number, length: number, packets: number = 1): NodePublicKey | undefined {
    const view = this.#view
    if (!view.at(memory, at, length)) return this.#deny('malformed', undefined, undefined, memory, at, length, packets)
    const verdict = this.filter.checkOut(now, view)
    if (!verdict.accept) return this.#deny('filter-out', verdict, undefined, memory, at, length, packets)
    return this.#peers.get(this.router.peerFor(view) ?? '') ?? this.#deny('no-peer', undefined, undefined, memory, at, length, packets)
  }

  /** An inner packet to a known peer, past router and filter: for messages of the node itself. */
  sendTo(now: Instant, peer: NodePublicKey, packet: Uint8Array): void {
    this.noteSent(now, peer, 1)
    this.device.handleInput(now, { type: 'packet', peer, bytes: packet })
    this.#drain(now)
  }

  /**
   * Seals a batch of inner packets for one peer in place; gives where its `DONE` slots are to be sent. `undefined` when they need not be: what
   * goes by a relay is owed as usual, what cannot be sealed yet waits in the device.
   */
  sealRow(now: Instant, peer: NodePublicKey, batch: PacketBatch): Endpoint | undefined {
    this.noteSent(now, peer, batch.count)
    const sealed = this.device.seal(now, peer, batch)
    this.#drain(now)
    if (sealed === 0) return undefined
    const path = this.#paths.pathFor(now, peer)
    if (path.type === 'none') this.noteWithoutPath(sealed)
    let bytes = 0
    for (let slot = 0; slot < batch.count; slot += 1) {
      if (batch.verdict[slot] !== DONE) continue
      bytes += batch.targetLength[slot] ?? 0
      if (path.type === 'relay' || path.type === 'both') this.#relay(batch.result(slot).slice(), path.region, peer)
    }
    if (path.type !== 'direct' && path.type !== 'both') return undefined
    this.#sent.add(wayTo(path.endpoint), bytes, sealed)
    return path.endpoint
  }

  /** Inner packets are on their way to a peer, also those that its caller seals: counted, and its path is looked after. */
  noteSent(now: Instant, peer: NodePublicKey, packets: number): void {
    this.#packetsOut += packets
    this.#lastSends.set(peer.text, now)
    this.#lastSend = now
    this.#paths.noteTraffic(now, peer)
  }

  /** A WireGuard datagram that came by UDP. */
  inboundDirect(now: Instant, bytes: Uint8Array, from: Endpoint): void {
    this.#received.add(wayTo(from), bytes.length)
    this.#source = from
    this.device.handleInput(now, { type: 'datagram', bytes, from: directPath(from) })
    this.#drain(now)
    this.#source = undefined
  }

  /** As {@link DataPlane.inboundDirect} for a batch from one endpoint, in place: ask {@link DataPlane.admits} about the packets in it. */
  open(now: Instant, from: DataPath, batch: PacketBatch): OpenPlan<DataPath> {
    const way = from.via.type === 'direct' ? wayTo(from.via.endpoint) : 'relay'
    let [datagrams, bytes] = [0, 0]
    for (let slot = 0; slot < batch.count; slot += 1) {
      if (batch.verdict[slot] !== PENDING) continue
      datagrams += 1
      bytes += batch.length[slot] ?? 0
    }
    this.#received.add(way, bytes, datagrams)
    this.#source = from.via.type === 'direct' ? from.via.endpoint : undefined
    const plan = this.device.open(now, from, batch)
    this.#drain(now)
    this.#source = undefined
    return plan
  }

  /** Datagrams that its caller has sealed and has no way for. */
  noteWithoutPath(datagrams: number): void {
    this.#drop('no-path', datagrams)
  }

  /** Datagrams that its caller has sent by itself. */
  noteCarried(way: Way, bytes: number, datagrams: number): void {
    this.#sent.add(way, bytes, datagrams)
  }

  /** A WireGuard datagram that a relay brought from `peer`. */
  inboundRelayed(now: Instant, bytes: Uint8Array, region: number, peer: NodePublicKey): void {
    this.#received.add('relay', bytes.length)
    this.device.handleInput(now, { type: 'datagram', bytes, from: relayPath(region, peer) })
    this.#drain(now)
  }

  /** Replaces what may go where, in one call, taking rights away before giving any. Sessions of peers that stay live on. */
  apply(now: Instant, config: DataPlaneConfig): void {
    this.filter.replace(config.rules, config.local, capsOf(config.capabilities))
    this.router.replace(config.routes)
    const wanted = new Set(config.peers.map((key) => key.text))
    for (const [text, key] of this.#peers) {
      if (wanted.has(text)) continue
      this.device.removePeer(now, key)
      this.#peers.delete(text)
      this.#lastSends.delete(text)
    }
    for (const key of config.peers) {
      if (this.#peers.has(key.text)) continue
      this.device.setPeer(now, { publicKey: key })
      this.#peers.set(key.text, key)
    }
    this.#drain(now)
  }

  handleTimeout(now: Instant): void {
    this.device.handleTimeout(now)
    this.#drain(now)
  }

  pollOutput(): DataPlaneOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.device.pollTimeout()
  }

  /** Performs what the device owes after a command was given to it directly. */
  settle(now: Instant): void {
    this.#drain(now)
  }

  #drain(now: Instant): void {
    for (let output = this.device.pollOutput(); output !== undefined; output = this.device.pollOutput()) this.#translate(now, output)
  }

  #translate(now: Instant, output: WireGuardOutput<DataPath>): void {
    switch (output.type) {
      case 'transmit':
        if (output.peer === undefined) return this.#reply(now, output.bytes, output.to)
        return this.#transmit(now, output.peer, output.bytes)
      case 'packet':
        return this.#inner(now, output.peer, output.bytes)
      case 'established':
        this.#outbox.push({ type: 'established', peer: output.peer })
        return
      case 'handshakeFailed':
        this.#outbox.push({ type: 'unanswered', peer: output.peer })
        return
      case 'peerAdded':
      case 'expired':
      case 'roamed':
      case 'noEndpoint':
      case 'handshakeRetry':
        return
    }
  }

  #transmit(now: Instant, peer: NodePublicKey, bytes: Uint8Array): void {
    const path = this.#paths.pathFor(now, peer)
    switch (path.type) {
      case 'direct':
        return this.#sendDirect(bytes, path.endpoint)
      case 'relay':
        this.#relay(bytes, path.region, peer)
        return
      case 'both':
        this.#sendDirect(bytes, path.endpoint)
        this.#relay(bytes, path.region, peer)
        return
      case 'none':
        return this.#withoutPath(now, peer, bytes)
    }
  }

  // A peer that has just come (again) may know our endpoint before we know one of its own or its relay. The answer to its handshake, which
  // has proven its key, goes back to where it came from, so that it need not wait five seconds for its next try; and we look for a path.
  #withoutPath(now: Instant, peer: NodePublicKey, bytes: Uint8Array): void {
    if (this.#source === undefined || bytes[0] !== HANDSHAKE_RESPONSE) {
      this.#outbox.push({ type: 'unsent', bytes, peer })
      return this.#drop('no-path')
    }
    this.#paths.noteTraffic(now, peer)
    this.#sendDirect(bytes, this.#source)
  }

  // Cookie replies go back the way the datagram came, since nobody is known to stand behind it.
  #reply(now: Instant, bytes: Uint8Array, to: DataPath | undefined): void {
    this.lies.noteCookie(now)
    if (to === undefined) return
    if (to.via.type === 'direct') this.#sendDirect(bytes, to.via.endpoint)
    else this.#relay(bytes, to.via.region, to.via.peer)
  }

  #relay(bytes: Uint8Array, region: number, peer: NodePublicKey): void {
    this.#sent.add('relay', bytes.length)
    this.#outbox.push({ type: 'relayed', bytes, region, peer })
  }

  #sendDirect(bytes: Uint8Array, to: Endpoint): void {
    this.#sent.add(wayTo(to), bytes.length)
    this.#outbox.push({ type: 'datagram', bytes, to })
  }

  #inner(now: Instant, peer: NodePublicKey, bytes: Uint8Array): void {
    const verdict = this.admits(now, peer, bytes, 0, bytes.length)
    if (verdict !== undefined) this.#outbox.push({ type: verdict, bytes, peer })
  }

  /**
   * Router and filter alone: what to do with an inner packet that a peer has sealed. Deliver it, or take it as a TSMP message; `undefined`,
   * and counted, when it comes from an address that is not the peer's or is not wanted.
   */
  admits(now: Instant, peer: NodePublicKey, memory: Uint8Array, at: number, length: number): 'deliver' | 'tsmp' | undefined {
    const view = this.#view
    if (!view.at(memory, at, length)) {
      this.lies.note(now, peer, 'packet')
      return this.#deny('malformed', undefined, peer, memory, at, length)
    }
    if (!this.router.allows(peer.text, view)) {
      this.lies.note(now, peer, 'source')
      return this.#deny('wrong-source', undefined, peer, memory, at, length)
    }
    if (view.protocol === PROTOCOL_TSMP) return 'tsmp'
    const verdict = this.filter.checkIn(now, view)
    if (!verdict.accept) return this.#deny('filter-in', verdict, peer, memory, at, length)
    this.#packetsIn += 1
    return 'deliver'
  }

  /** Drops an inner packet, of `peer` or of this node's own, and remembers it. */
  #deny(reason: DeniedReason, verdict: Verdict | undefined, peer: NodePublicKey | undefined, memory: Uint8Array, at: number, length: number, packets: number = 1): undefined {
    this.denied.note(this.#wallClock(), peer === undefined ? 'out' : 'in', reason, verdict?.reason, peer, memory, at, length)
    return this.#drop(reason, packets)
  }

  #drop(reason: DataPlaneDrop, packets: number = 1): undefined {
    this.#drops.set(reason, (this.#drops.get(reason) ?? 0) + packets)
  }
}

/**
 * The path of a datagram that a relay brought. Named, a peer that still sends on a session that we have forgotten is called at once, and need
 * not notice by itself after 15 seconds.
 */
export function relayPath(region: number, peer: NodePublicKey): DataPath {
  return { id: `relay:${region}:${peer.text}`, cookieBytes: peer.bytes, peer, via: { type: 'relay', region, peer } }
}

/** The path of a datagram that came by UDP. */
export function directPath(from: Endpoint): DataPath {
  const cookieBytes = new Uint8Array(from.ip.bytes.length + 2)
  cookieBytes.set(from.ip.bytes)
  cookieBytes[cookieBytes.length - 2] = from.port >> 8
  cookieBytes[cookieBytes.length - 1] = from.port & 255
  return { id: formatEndpoint(from), cookieBytes, via: { type: 'direct', endpoint: from } }
}
