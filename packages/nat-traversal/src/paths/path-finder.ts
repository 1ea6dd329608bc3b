import { after, assertNever, earlier, type Instant, type Machine, Outbox, type RandomSource, type RelayMap } from '@meshwright/core'
import type { CryptoProvider, DiscoPrivateKey, DiscoPublicKey, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, Ip } from '@meshwright/ip'
import { decodeDiscoMessage, DiscoBox, type DiscoMessage, type DiscoPing, discoSender, encodeDiscoMessage, TX_ID_BYTES } from '../disco/index.ts'
import { EndpointRules, type EndpointRulesConfig } from './endpoint-refusal.ts'
import { explainPath, type PathExplanation } from './explain.ts'
import type { Path, PathChangeReason, PathPeer, PathVia } from './path.ts'
import { type PathContext, PathState } from './path-state.ts'
import { betterPath, type PathPreference } from './scoring.ts'
import { ENDPOINTS_FRESH_MS, ENDPOINTS_WAIT_MS } from './timing.ts'

/** What a {@link PathFinder} is made of. */
export interface PathFinderConfig extends EndpointRulesConfig {
  /** Our node key, told in pings. */
  readonly nodeKey: NodePublicKey
  /** Our disco key pair; it stays the caller's and must not be destroyed while the finder is in use. */
  readonly discoKey: DiscoPrivateKey
  readonly random: RandomSource
  /** Who computes X25519; default: noble. */
  readonly provider?: CryptoProvider
  /** Which of two working direct paths is taken; default {@link betterPath}. */
  readonly preference?: PathPreference
  /** Whether UDP can be sent at the start (default true). */
  readonly udp?: boolean
}

/** What comes in from the network: disco packets alone (see `classifyDatagram`). */
export type PathFinderInput =
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly from: Endpoint }
  /** By the relay of a region, from the node that the relay names. */
  | { readonly type: 'relayed'; readonly bytes: Uint8Array; readonly region: number; readonly peer: NodePublicKey }

/** What a {@link PathFinder} owes. */
export type PathFinderOutput =
  | { readonly type: 'transmit'; readonly bytes: Uint8Array; readonly to: Endpoint }
  | { readonly type: 'relay'; readonly bytes: Uint8Array; readonly region: number; readonly peer: NodePublicKey }
  | { readonly type: 'pathChanged'; readonly peer: NodePublicKey; readonly path: Path; readonly reason: PathChangeReason }
  /** The first answer to `ping(now, peer, id)`. `seenAs`: our endpoint as the peer saw it (127.3.3.40 and the region for a relay). */
  | { readonly type: 'pinged'; readonly peer: NodePublicKey; readonly id: number; readonly via: PathVia; readonly latencyMs: number; readonly seenAs: Endpoint }
  | { readonly type: 'pingFailed'; readonly peer: NodePublicKey; readonly id: number; readonly code: PingFailure }
  /**
   * The peer has said what no honest one says: messages that cannot be read, pongs that nobody asked for, call-me-maybes that are empty, too
   * many or over UDP, endpoints (`times` of them) at loopback, multicast or a relay. Only what its own key has sealed counts.
   */
  | { readonly type: 'refused'; readonly peer: NodePublicKey; readonly times: number }
  /** Please ask STUN and call `setSelfEndpoints` soon, changed or not: a call-me-maybe waits a second for it. */
  | { readonly type: 'endpointsWanted' }

/** Why a user's ping failed. */
export type PingFailure = 'PATH_PING_TIMEOUT' | 'PATH_PING_NO_PATH' | 'PATH_PEER_UNKNOWN'

/** Why a packet was dropped. */
export type PathDrop =
  | 'not-disco'
  /** Its disco key belongs to no peer. */
  | 'unknown-sender'
  | 'box'
  /** Unknown type, or cut. */
  | 'message'
  | 'duplicate-ping'
  | 'unexpected-pong'
  /** A call-me-maybe that is empty, over UDP, or from another node than the relay names. */
  | 'call-me-maybe'
  /** One that comes too soon after others. No lie: tailscaled before 1.102 sends one with every packet when it may not use UDP (TS_DEBUG_NEVER_DIRECT_UDP). */
  | 'early-call-me-maybe'
  /** A message that this finder has no use for (UDP peer relays). */
  | 'unhandled'

/** Figures of a {@link PathFinder}. */
export interface PathFinderStatus {
  readonly peers: number
  readonly direct: number
  readonly udp: boolean
  readonly drops: Readonly<Partial<Record<PathDrop, number>>>
  /** Endpoints remembered for all peers, and pings that wait for an answer. */
  readonly candidates: number
  readonly pings: number
}

/** The length of a ping without padding: magic, key, nonce, box, header, transaction, node key. */
export const DISCO_PING_BYTES: number = 6 + 32 + 24 + 16 + 2 + 12 + 32
/** The longest ping that real clients send (tailscale/tailscale:wgengine/magicsock/endpoint.go, MaxDiscoPingSize). */
export const MAX_DISCO_PING_BYTES = 65_467

/** 127.3.3.40: the source that pongs over relays name, with the region as port. */
const RELAY_PSEUDO_ADDRESS = Uint8Array.of(127, 3, 3, 40)
const NO_PATH: Path = { type: 'none' }
/** What honest peers do not say. */
const LIES: ReadonlySet<PathDrop> = new Set(['message', 'unexpected-pong', 'call-me-maybe'])

/**
 * Finds the best path to every peer: probes endpoints with disco pings, asks peers over relays to probe ours, prefers direct paths that
 * answered lately, and falls back to the relay when they stop. See {@link PathState} for the states of one peer.
 *
 * It answers every valid ping of a known disco key and drops everything else without a word. Memory: about 100 candidates and 512 pings
 * in flight for each peer, and 4096 shared keys of 32 bytes.
 */
export class PathFinder implements Machine<PathFinderInput, PathFinderOutput> {
  readonly #outbox: Outbox<PathFinderOutput> = new Outbox()
  readonly #peers: Map<string, PathState> = new Map()
  readonly #byDiscoKey: Map<string, Set<PathState>> = new Map()
  readonly #rules: EndpointRules
  readonly #config: PathFinderConfig
  readonly #context: PathContext
  readonly #drops: Map<PathDrop, number> = new Map()
  #box: DiscoBox
  #udp: boolean
  /** Regions with a relay; `undefined` while no map is known. */
  #carriers: ReadonlySet<number> | undefined
  #home: number | undefined
  #selfEndpoints: readonly Endpoint[] = []
  #endpointsAt: Instant | undefined
  #endpointsWantedAt: Instant | undefined
  #due: Instant | undefined
  #dueKnown = true

  constructor(config: PathFinderConfig) {
    this.#config = config
    this.#rules = new EndpointRules(config)
    this.#box = new DiscoBox({ privateKey: config.discoKey, random: config.random, ...(config.provider !== undefined && { provider: config.provider }) })
    this.#udp = config.udp !== false
    this.#context = this.#makeContext()
  }

  /** Our disco key, for the control server. */
  get discoKey(): DiscoPublicKey {
    return this.#box.publicKey
  }

  /** Adds a peer, or replaces what the map says of it; what was learnt otherwise stays. */
  setPeer(now: Instant, peer: PathPeer): void {
    const state = this.#peers.get(peer.nodeKey.text)
    if (state === undefined) {
      const added = new PathState(now, this.#context, peer)
      this.#peers.set(peer.nodeKey.text, added)
      this.#index(added)
    } else {
      const changed = state.peer.discoKey?.text !== peer.discoKey?.text
      if (changed) this.#unindex(state)
      state.update(now, peer)
      if (changed) this.#index(state)
    }
    this.#dueKnown = false
  }

  /** A peer's disco key became known in another way than the map: inside the tunnel (TSMP). Unknown peers are ignored. */
  setPeerDiscoKey(now: Instant, peer: NodePublicKey, discoKey: DiscoPublicKey): void {
    const state = this.#peers.get(peer.text)
    if (state !== undefined) this.setPeer(now, { ...state.peer, discoKey })
  }

  /** Forgets a peer, its candidates and the key shared with it. */
  removePeer(_now: Instant, nodeKey: NodePublicKey): void {
    const state = this.#peers.get(nodeKey.text)
    if (state === undefined) return
    state.close()
    this.#unindex(state)
    this.#peers.delete(nodeKey.text)
    this.#dueKnown = false
  }

  /** Our endpoints as they are now, best first: call it after each look, changed or not. They are told to peers and never pinged. */
  setSelfEndpoints(now: Instant, endpoints: readonly Endpoint[]): void {
    this.#selfEndpoints = endpoints
    this.#endpointsAt = now
    this.#endpointsWantedAt = undefined
    this.#rules.setOwn(endpoints)
    for (const state of this.#peers.values()) state.endpointsKnown(now)
    this.#dueKnown = false
  }

  /** The relay map: which regions can carry packets, and the relays' own ports, which no peer may name as its endpoint. */
  setRelayMap(now: Instant, map: RelayMap): void {
    this.#rules.setRelayMap(map)
    this.#carriers = new Set([...map.regions.values()].flatMap(({ id, nodes }) => (nodes.some((node) => node.stunOnly !== true) ? [id] : [])))
    this.#relaysChanged(now)
  }

  /** Our own home relay; 0 for none. */
  setHome(now: Instant, region: number): void {
    this.#home = region === 0 ? undefined : region
    this.#relaysChanged(now)
  }

  /** Whether the host can send UDP. While it cannot, all paths stay on the relay. */
  setUdpAvailable(now: Instant, udp: boolean): void {
    if (udp === this.#udp) return
    this.#udp = udp
    this.#resetAll(now, udp ? 'udp-available' : 'udp-unavailable')
  }

  /** The network changed or the sockets were bound anew: all that was measured is void, active peers are probed again at once. */
  rebind(now: Instant): void {
    this.#endpointsAt = undefined
    this.#resetAll(now, 'rebind')
  }

  /** Our disco key was replaced; peers learn the new one from the map. */
  setDiscoKey(now: Instant, discoKey: DiscoPrivateKey): void {
    this.#box.clear()
    this.#box = new DiscoBox({ privateKey: discoKey, random: this.#config.random, ...(this.#config.provider !== undefined && { provider: this.#config.provider }) })
    this.#resetAll(now, 'rebind')
  }

  /** A packet is being sent to the peer: this is what drives pinging. Cheap: call it for every packet or batch. */
  noteTraffic(now: Instant, peer: NodePublicKey): void {
    const state = this.#peers.get(peer.text)
    if (state?.noteTraffic(now) === true) this.#dueKnown = false
  }

  /** A packet that WireGuard accepted came from the peer. It does not extend trust: only pongs prove our own direction. */
  noteReceived(now: Instant, peer: NodePublicKey, from: PathVia): void {
    this.#peers.get(peer.text)?.noteReceived(now, from)
  }

  /** The system refused to send to this endpoint (EHOSTUNREACH and the like): no path uses it until somebody names it again. */
  noteUnreachable(now: Instant, endpoint: Endpoint): void {
    const key = formatEndpoint(endpoint)
    for (const state of this.#peers.values()) if (state.candidates.get(key) !== undefined) state.unreachable(now, key)
    this.#dueKnown = false
  }

  /** Where a packet to the peer goes now. Changes nothing and allocates nothing. */
  pathFor(now: Instant, peer: NodePublicKey): Path {
    return this.#peers.get(peer.text)?.pathAt(now) ?? NO_PATH
  }

  /**
   * Disco-pings a peer for a user; `pinged` or `pingFailed` with this `id` follows. `sizeBytes`: the length of the datagram, at least
   * {@link DISCO_PING_BYTES} and at most {@link MAX_DISCO_PING_BYTES}; what is beyond either is taken for that.
   */
  ping(now: Instant, peer: NodePublicKey, id: number, sizeBytes: number = 0): void {
    const state = this.#peers.get(peer.text)
    if (state === undefined) this.#outbox.push({ type: 'pingFailed', peer, id, code: 'PATH_PEER_UNKNOWN' })
    else state.ping(now, id, Math.max(0, Math.min(sizeBytes, MAX_DISCO_PING_BYTES) - DISCO_PING_BYTES))
    this.#dueKnown = false
  }

  /** The whole story of a pair; `undefined` for an unknown peer. Changes nothing. */
  explain(now: Instant, peer: NodePublicKey): PathExplanation | undefined {
    const state = this.#peers.get(peer.text)
    return state && explainPath(state.facts(now), state.candidates.values(), (candidate) => this.#rules.refusal(candidate.endpoint, candidate.key))
  }

  /** Drops by reason. */
  get drops(): ReadonlyMap<PathDrop, number> {
    return this.#drops
  }

  status(now: Instant): PathFinderStatus {
    let [direct, candidates, pings] = [0, 0, 0]
    for (const state of this.#peers.values()) {
      if (state.state(now) === 'direct') direct += 1
      candidates += state.candidates.size
      pings += state.pingsInFlight
    }
    return { peers: this.#peers.size, direct, udp: this.#udp, drops: Object.fromEntries(this.#drops), candidates, pings }
  }

  handleInput(now: Instant, input: PathFinderInput): void {
    const drop = this.#receive(now, input)
    if (drop !== undefined) this.#drops.set(drop, (this.#drops.get(drop) ?? 0) + 1)
    this.#dueKnown = false
  }

  handleTimeout(now: Instant): void {
    const due = this.pollTimeout()
    if (due === undefined || now < due) return
    for (const state of this.#peers.values()) {
      const at = state.due
      if (at !== undefined && now >= at) state.handleTimeout(now)
    }
    this.#dueKnown = false
  }

  pollOutput(): PathFinderOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    if (!this.#dueKnown) {
      let due: Instant | undefined
      for (const state of this.#peers.values()) due = earlier(due, state.due)
      this.#due = due
      this.#dueKnown = true
    }
    return this.#due
  }

  #receive(now: Instant, input: PathFinderInput): PathDrop | undefined {
    const sender = discoSender(input.bytes)
    if (sender === undefined) return 'not-disco'
    const states = this.#byDiscoKey.get(sender.text)
    if (states === undefined) return 'unknown-sender'
    const plaintext = this.#box.open(sender, input.bytes)
    if (plaintext === undefined) return 'box'
    const message = decodeDiscoMessage(plaintext)
    const drop = message === undefined ? 'message' : this.#take(now, input, sender, states, message)
    if (drop !== undefined && LIES.has(drop)) for (const state of states) this.#outbox.push({ type: 'refused', peer: state.peer.nodeKey, times: 1 })
    return drop
  }

  #take(now: Instant, input: PathFinderInput, sender: DiscoPublicKey, states: ReadonlySet<PathState>, message: DiscoMessage): PathDrop | undefined {
    if (input.type === 'relayed') {
      const state = this.#peers.get(input.peer.text)
      if (state !== undefined && states.has(state)) state.heardByRelay(now, input.region)
    }
    const via: PathVia = input.type === 'datagram' ? { type: 'direct', endpoint: input.from } : { type: 'relay', region: input.region }
    switch (message.type) {
      case 'ping':
        return this.#handlePing(now, states, sender, message, input)
      case 'pong':
        // Several nodes may share a disco key: the one that was pinged knows the transaction.
        for (const state of states) if (state.onPong(now, message.txId, message.source, via)) return undefined
        return 'unexpected-pong'
      case 'call-me-maybe': {
        const state = input.type === 'relayed' ? this.#peers.get(input.peer.text) : undefined
        if (state === undefined || !states.has(state)) return 'call-me-maybe'
        return state.onCallMeMaybe(now, message.endpoints)
      }
      case 'bind-udp-relay':
      case 'bind-udp-relay-challenge':
      case 'bind-udp-relay-answer':
      case 'call-me-maybe-via':
      case 'allocate-udp-relay-request':
      case 'allocate-udp-relay-response':
        return 'unhandled'
      default:
        return assertNever(message)
    }
  }

  #handlePing(now: Instant, states: ReadonlySet<PathState>, sender: DiscoPublicKey, ping: DiscoPing, input: PathFinderInput): PathDrop | undefined {
    if (input.type === 'relayed') {
      const ip = Ip.fromBytes(RELAY_PSEUDO_ADDRESS)
      if (ip === undefined) return 'unhandled'
      const source = { ip, port: input.region & 0xffff }
      this.#send(input.peer, sender, { type: 'relay', region: input.region }, { type: 'pong', txId: ping.txId, source })
      return undefined
    }
    const named = ping.nodeKey === undefined ? undefined : this.#peers.get(ping.nodeKey.text)
    const [first] = states
    const state = named !== undefined && states.has(named) ? named : first
    if (state === undefined || input.from.port === 0) return 'unknown-sender'
    // The answer goes out before a ping of our own to the same place, which onPing may cause.
    if (state.isDuplicate(ping, input.from)) return 'duplicate-ping'
    this.#send(state.peer.nodeKey, sender, { type: 'direct', endpoint: input.from }, { type: 'pong', txId: ping.txId, source: input.from })
    state.onPing(now, ping, input.from)
    return undefined
  }

  #send(peer: NodePublicKey, discoKey: DiscoPublicKey, via: PathVia, message: DiscoMessage): boolean {
    const bytes = this.#box.seal(discoKey, encodeDiscoMessage(message))
    if (bytes === undefined) return false
    if (via.type === 'direct') this.#outbox.push({ type: 'transmit', bytes, to: via.endpoint })
    else this.#outbox.push({ type: 'relay', bytes, region: via.region, peer })
    return true
  }

  #resetAll(now: Instant, reason: 'rebind' | 'udp-unavailable' | 'udp-available'): void {
    for (const state of this.#peers.values()) state.reset(now, reason)
    this.#dueKnown = false
  }

  #relaysChanged(now: Instant): void {
    for (const state of this.#peers.values()) state.relaysChanged(now)
    this.#dueKnown = false
  }

  // A home that answers STUN alone, or that our map does not name, carries nothing (a real client that finds no way out takes any region of
  // the map for its home: tailscale/tailscale:net/netcheck, wgengine/magicsock/derp.go, pickDERPFallback). Such a peer still comes to the home
  // of whoever it talks to: there it is heard, and there we call it.
  #relayFor(home: number | undefined, learnt: number | undefined): number | undefined {
    if (home === undefined) return learnt
    return this.#carriers === undefined || this.#carriers.has(home) ? home : (learnt ?? this.#home)
  }

  #index(state: PathState): void {
    const key = state.peer.discoKey?.text
    if (key === undefined) return
    const states = this.#byDiscoKey.get(key)
    if (states === undefined) this.#byDiscoKey.set(key, new Set([state]))
    else states.add(state)
  }

  #unindex(state: PathState): void {
    const key = state.peer.discoKey
    const states = key && this.#byDiscoKey.get(key.text)
    if (key === undefined || states === undefined) return
    states.delete(state)
    if (states.size > 0) return
    this.#byDiscoKey.delete(key.text)
    this.#box.forget(key)
  }

  #makeContext(): PathContext {
    const isUdp = (): boolean => this.#udp
    const ours = (): readonly Endpoint[] => this.#selfEndpoints
    return {
      prefer: this.#config.preference ?? betterPath,
      get udp(): boolean {
        return isUdp()
      },
      get selfEndpoints(): readonly Endpoint[] {
        return ours()
      },
      endpointsFresh: (now) => this.#endpointsAt !== undefined && now - this.#endpointsAt <= ENDPOINTS_FRESH_MS,
      requestEndpoints: (now) => {
        if (this.#endpointsWantedAt !== undefined && now < after(this.#endpointsWantedAt, ENDPOINTS_WAIT_MS)) return
        this.#endpointsWantedAt = now
        this.#outbox.push({ type: 'endpointsWanted' })
      },
      refusal: (endpoint, key) => this.#rules.refusal(endpoint, key),
      relayFor: (home, learnt) => this.#relayFor(home, learnt),
      freshTxId: () => this.#config.random(TX_ID_BYTES),
      ourNodeKey: () => this.#config.nodeKey,
      send: (peer, discoKey, via, message) => this.#send(peer, discoKey, via, message),
      pathChanged: (peer, path, reason) => this.#outbox.push({ type: 'pathChanged', peer, path, reason }),
      pinged: (peer, id, via, latencyMs, seenAs) => this.#outbox.push({ type: 'pinged', peer, id, via, latencyMs, seenAs }),
      refused: (peer, times) => this.#outbox.push({ type: 'refused', peer, times }),
      pingFailed: (peer, id, code) => this.#outbox.push({ type: 'pingFailed', peer, id, code }),
    }
  }
}
