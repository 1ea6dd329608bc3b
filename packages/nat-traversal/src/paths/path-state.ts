import { after, earlier, equalBytes, type Instant } from '@meshwright/core'
import type { DiscoPublicKey, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, equalEndpoints, formatEndpoint } from '@meshwright/ip'
import type { DiscoMessage, DiscoPing } from '../disco/index.ts'
import { type Candidate, CandidateSet } from './candidate.ts'
import { type EndpointRefusal, isLie } from './endpoint-refusal.ts'
import type { PathFacts } from './explain.ts'
import { type Path, type PathChangeReason, type PathPeer, type PathVia, samePath } from './path.ts'
import type { PathPreference } from './scoring.ts'
import { SentPings } from './sent-pings.ts'
import {
  CALL_ME_MAYBE_BURST,
  CALL_ME_MAYBE_INTERVAL_MS,
  DISCO_PING_INTERVAL_MS,
  ENDPOINTS_WAIT_MS,
  GOOD_ENOUGH_LATENCY_MS,
  HEARTBEAT_INTERVAL_MS,
  MAX_LISTED_ENDPOINTS,
  PING_BACK_INTERVAL_MS,
  SESSION_ACTIVE_TIMEOUT_MS,
  SUSPECT_LEAST_MS,
  SUSPECT_MOST_MS,
  TRUST_UDP_MS,
  UPGRADE_INTERVAL_MS,
} from './timing.ts'

/** What the state of one peer needs of the finder: its keys, its random numbers, its outbox. */
export interface PathContext {
  readonly prefer: PathPreference
  /** False while the host cannot send UDP. */
  readonly udp: boolean
  /** Our endpoints, for call-me-maybes. */
  readonly selfEndpoints: readonly Endpoint[]
  /** False when STUN should be asked again before they are told to a peer. */
  endpointsFresh(now: Instant): boolean
  /** Asks the host for a fresh look at our endpoints. */
  requestEndpoints(now: Instant): void
  refusal(endpoint: Endpoint, key: string): EndpointRefusal | undefined
  /** The relay by which a peer is reached that names `home`, and was last heard by `learnt`. */
  relayFor(home: number | undefined, learnt: number | undefined): number | undefined
  freshTxId(): Uint8Array
  ourNodeKey(): NodePublicKey
  /** Seals and sends; false when nothing can be sealed for that key. */
  send(peer: NodePublicKey, discoKey: DiscoPublicKey, via: PathVia, message: DiscoMessage): boolean
  pathChanged(peer: NodePublicKey, path: Path, reason: PathChangeReason): void
  pinged(peer: NodePublicKey, id: number, via: PathVia, latencyMs: number, seenAs: Endpoint): void
  /** The peer has named endpoints that can be no honest node's. */
  refused(peer: NodePublicKey, times: number): void
  pingFailed(peer: NodePublicKey, id: number, code: 'PATH_PING_TIMEOUT' | 'PATH_PING_NO_PATH'): void
}

const NONE: Path = { type: 'none' }

/**
 * Path finding to one peer.
 *
 * | state | condition | packets go |
 * |---|---|---|
 * | `relay` | no best candidate | to the relay of the peer's home region, the one it was last heard by, or ours: see `relayFor` |
 * | `direct` | a best candidate, now before `trustUntil` | to the best candidate alone |
 * | `doubtful` | a best candidate, now not before `trustUntil` | to the best candidate and the relay |
 *
 * | event | from | to |
 * |---|---|---|
 * | pong of a candidate | relay, doubtful | direct |
 * | pong of a better candidate | direct | direct (over the better one) |
 * | 6.5 s without a pong of the best one, or a heartbeat and its repetition unanswered | direct | doubtful |
 * | ping of the best one lost (5 s) | doubtful | relay |
 * | send refused by the system, rebind, UDP unavailable | any | relay |
 *
 * Discovery is driven by what we send, never by a timer on an idle peer. Source: tailscale/tailscale:wgengine/magicsock/endpoint.go.
 */
export class PathState {
  readonly #context: PathContext
  readonly candidates: CandidateSet = new CandidateSet()
  readonly #sent: SentPings = new SentPings()
  #peer: PathPeer
  #best: Candidate | undefined
  #trustUntil: Instant | undefined
  /** As `trustUntil`, until the end of trust has been announced. */
  #lapseAt: Instant | undefined
  #lastSend: Instant | undefined
  #lastReceived: { readonly at: Instant; readonly from: PathVia } | undefined
  #lastFullPing: Instant | undefined
  /** Nothing can be pinged before: saves a walk over the candidates on every packet. */
  #discoverNotBefore: Instant | undefined
  #heartbeatAt: Instant | undefined
  /** An unanswered heartbeat is repeated then, or the second time, trust ends. */
  #suspectAt: Instant | undefined
  #suspectRepeated = false
  #callMeMaybeAt: Instant | undefined
  #calledUsAt: Instant | undefined
  #calledThemAt: Instant | undefined
  #callAllowance = CALL_ME_MAYBE_BURST
  #learntRegion: number | undefined
  /** Where a peer without disco last sent from. */
  #roamedTo: Endpoint | undefined
  #relayLatencyMs: number | undefined
  #announced: Path = NONE
  #changedAt: Instant
  #changeReason: PathChangeReason = 'peer-set'
  /** The three shapes of the path with the present best and region: `pathFor` allocates nothing. */
  #shapes: { direct: Path; both: Path; relay: Path } = { direct: NONE, both: NONE, relay: NONE }

  constructor(now: Instant, context: PathContext, peer: PathPeer) {
    this.#context = context
    this.#peer = peer
    this.#changedAt = now
    this.update(now, peer)
  }

  get peer(): PathPeer {
    return this.#peer
  }

  /** Pings without an answer yet. */
  get pingsInFlight(): number {
    return this.#sent.size
  }

  /** When {@link PathState.handleTimeout} is next due. */
  get due(): Instant | undefined {
    let due = earlier(this.#sent.due, this.#heartbeatAt)
    due = earlier(due, earlier(this.#suspectAt, this.#callMeMaybeAt))
    return earlier(due, this.#lapseAt)
  }

  /** Takes a new map entry of the same node. */
  update(now: Instant, peer: PathPeer): void {
    this.#peer = peer
    this.candidates.setMapEndpoints(now, peer.endpoints)
    this.#discoverNotBefore = undefined
    this.#reshape()
    this.#announce(now, 'peer-set')
  }

  pathAt(now: Instant): Path {
    if (this.#best === undefined) return this.#shapes.relay
    return this.#trustUntil !== undefined && now < this.#trustUntil ? this.#shapes.direct : this.#shapes.both
  }

  state(now: Instant): 'relay' | 'direct' | 'doubtful' {
    if (this.#best === undefined) return 'relay'
    return this.#trusted(now) ? 'direct' : 'doubtful'
  }

  /** A packet is being sent to the peer. False when that changed no deadline and caused nothing: the usual case, and a cheap one. */
  noteTraffic(now: Instant): boolean {
    this.#lastSend = now
    if (this.#peer.discoKey === undefined) return false
    if (this.#heartbeatAt !== undefined && (this.#trusted(now) || (this.#discoverNotBefore !== undefined && now < this.#discoverNotBefore))) return false
    if (!this.#trusted(now)) this.#discover(now, true)
    this.#heartbeatAt ??= after(now, HEARTBEAT_INTERVAL_MS)
    return true
  }

  /** A packet that WireGuard accepted came from the peer. */
  noteReceived(now: Instant, from: PathVia): void {
    this.#lastReceived = { at: now, from }
    if (from.type === 'relay') this.heardByRelay(now, from.region)
    if (from.type === 'direct' && this.#peer.discoKey === undefined && !(this.#roamedTo && equalEndpoints(this.#roamedTo, from.endpoint))) {
      this.#roamedTo = from.endpoint
      this.#reshape()
      this.#announce(now, 'better-path')
    }
  }

  /** The peer was heard by the relay of a region: the way back where the map names no home. */
  heardByRelay(now: Instant, region: number): void {
    if (this.#learntRegion === region) return
    this.#learntRegion = region
    this.#reshape()
    this.#announce(now, 'relay-learnt')
  }

  /** The relay map or our own home relay has changed. */
  relaysChanged(now: Instant): void {
    this.#reshape()
    this.#announce(now, 'relay-map')
  }

  /** True when this very ping came from this very place before. */
  isDuplicate(ping: DiscoPing, from: Endpoint): boolean {
    const heard = this.candidates.get(formatEndpoint(from))?.heardTxId
    return heard !== undefined && equalBytes(heard, ping.txId)
  }

  /** A ping of the peer came over UDP and was answered by the finder: its source becomes a candidate. */
  onPing(now: Instant, ping: DiscoPing, from: Endpoint): void {
    if (this.#context.refusal(from, formatEndpoint(from)) !== undefined) return
    const candidate = this.candidates.heard(now, from)
    candidate.heardAt = now
    candidate.heardTxId = ping.txId.slice()
    this.#discoverNotBefore = undefined
    // The peer's ping has passed our NAT, so ours will pass its NAT now: no need to wait for the next round of discovery.
    const due = candidate.pingedBackAt === undefined || now - candidate.pingedBackAt >= PING_BACK_INTERVAL_MS
    if (due && this.#context.udp && this.#active(now) && !this.#trusted(now)) {
      candidate.pingedBackAt = now
      this.#pingCandidate(now, candidate, undefined)
    }
  }

  /** A pong of the peer; false when it answers no ping of ours. */
  onPong(now: Instant, txId: Uint8Array, seenAs: Endpoint, via: PathVia): boolean {
    const sent = this.#sent.take(txId)
    if (sent === undefined || sent.via.type !== via.type) return false
    const latencyMs = now - sent.sentAt
    if (sent.userId !== undefined) {
      this.#sent.settleUser(sent.userId)
      this.#context.pinged(this.#peer.nodeKey, sent.userId, sent.via, latencyMs, seenAs)
    }
    if (sent.candidateKey === undefined) {
      this.#relayLatencyMs = latencyMs
      return true
    }
    const candidate = this.candidates.get(sent.candidateKey)
    if (candidate === undefined || !this.#context.udp) return true
    candidate.pongAt = now
    candidate.latencyMs = latencyMs
    candidate.seenAs = seenAs
    candidate.pongs += 1
    this.#credit(now, candidate, latencyMs)
    return true
  }

  /** A call-me-maybe of the peer; why it is dropped when it is empty or comes too often. */
  onCallMeMaybe(now: Instant, endpoints: readonly Endpoint[]): 'call-me-maybe' | 'early-call-me-maybe' | undefined {
    if (endpoints.length === 0) return 'call-me-maybe' // the real client would forget addresses that work
    const earned = this.#calledUsAt === undefined ? CALL_ME_MAYBE_BURST : (now - this.#calledUsAt) / CALL_ME_MAYBE_INTERVAL_MS
    this.#callAllowance = Math.min(CALL_ME_MAYBE_BURST, this.#callAllowance + earned)
    this.#calledUsAt = now
    if (this.#callAllowance < 1) return 'early-call-me-maybe'
    this.#callAllowance -= 1
    const lies = endpoints.slice(0, MAX_LISTED_ENDPOINTS).filter((endpoint) => isLie(this.#context.refusal(endpoint, formatEndpoint(endpoint))))
    if (lies.length > 0) this.#context.refused(this.#peer.nodeKey, lies.length)
    this.candidates.setCalledEndpoints(now, endpoints)
    for (const candidate of this.candidates.values()) candidate.pingedAt = undefined
    this.#discoverNotBefore = undefined
    this.#discover(now, false)
    return undefined
  }

  /** The user asks for the round trip: over the trusted path, else over the relay and all candidates, the first pong wins. */
  ping(now: Instant, id: number, padding: number): void {
    let sent = false
    if (this.#best !== undefined && this.#trusted(now)) {
      sent = this.#pingCandidate(now, this.#best, id, padding)
    } else {
      const region = this.#region()
      if (region !== undefined) sent = this.#sendPing(now, { type: 'relay', region }, undefined, id, padding)
      if (this.#context.udp) {
        for (const candidate of this.candidates.values()) {
          if (this.#context.refusal(candidate.endpoint, candidate.key) === undefined && this.#pingCandidate(now, candidate, id, padding)) sent = true
        }
      }
      this.#callThem(now)
    }
    if (!sent) return this.#context.pingFailed(this.#peer.nodeKey, id, 'PATH_PING_NO_PATH')
    this.#lastSend = now
    this.#heartbeatAt ??= after(now, HEARTBEAT_INTERVAL_MS)
  }

  /** The system refused to send to this endpoint. */
  unreachable(now: Instant, key: string): void {
    if (this.#best?.key === key) this.#setBest(undefined)
    this.candidates.remove(key)
    this.#announce(now, 'unreachable')
  }

  /** The network changed, or UDP came or went: everything that was measured is void. */
  reset(now: Instant, reason: 'rebind' | 'udp-unavailable' | 'udp-available'): void {
    for (const id of this.#sent.clear()) this.#context.pingFailed(this.#peer.nodeKey, id, 'PATH_PING_TIMEOUT')
    this.#setBest(undefined)
    this.candidates.resetHistories()
    this.#discoverNotBefore = undefined
    this.#lastFullPing = undefined
    this.#announce(now, reason)
    if (this.#active(now)) this.#discover(now, true)
  }

  /** Our endpoints have just been looked up: what waited for them goes out. */
  endpointsKnown(now: Instant): void {
    if (this.#callMeMaybeAt !== undefined) this.#sendCallMeMaybe(now)
  }

  /** The peer is going: whoever waits for a ping is told. */
  close(): void {
    for (const id of this.#sent.clear()) this.#context.pingFailed(this.#peer.nodeKey, id, 'PATH_PING_NO_PATH')
  }

  /** The whole story of the pair, for people; see {@link explainPath}. */
  facts(now: Instant): PathFacts {
    return {
      peer: this.#peer,
      path: this.pathAt(now),
      state: this.state(now),
      since: this.#changedAt,
      reason: this.#changeReason,
      udp: this.#context.udp,
      active: this.#active(now),
      trustedUntil: this.#trustUntil,
      chosen: this.#best?.key,
      relayRegion: this.#region(),
      relayLatencyMs: this.#relayLatencyMs,
      pingsInFlight: this.#sent.size,
      lastSentAt: this.#lastSend,
      lastReceived: this.#lastReceived,
      lastDiscoveryAt: this.#lastFullPing,
      callMeMaybeSentAt: this.#calledThemAt,
      callMeMaybeReceivedAt: this.#calledUsAt,
    }
  }

  handleTimeout(now: Instant): void {
    for (let lost = this.#sent.takeExpired(now); lost !== undefined; lost = this.#sent.takeExpired(now)) {
      const candidate = lost.candidateKey === undefined ? undefined : this.candidates.get(lost.candidateKey)
      if (candidate !== undefined) candidate.timeouts += 1
      if (lost.userId !== undefined && !this.#sent.hasUser(lost.userId)) this.#context.pingFailed(this.#peer.nodeKey, lost.userId, 'PATH_PING_TIMEOUT')
      if (candidate !== undefined && candidate === this.#best && !this.#trusted(now)) {
        this.#setBest(undefined)
        this.#announce(now, 'ping-timeout')
      }
    }
    if (this.#suspectAt !== undefined && now >= this.#suspectAt) this.#suspect(now)
    if (this.#callMeMaybeAt !== undefined && now >= this.#callMeMaybeAt) this.#sendCallMeMaybe(now)
    if (this.#heartbeatAt !== undefined && now >= this.#heartbeatAt) this.#heartbeat(now)
    if (this.#lapseAt !== undefined && now >= this.#lapseAt) {
      this.#lapseAt = undefined
      this.#announce(now, 'trust-lapsed')
    }
  }

  #heartbeat(now: Instant): void {
    if (!this.#active(now)) {
      this.#heartbeatAt = undefined
      return
    }
    this.#heartbeatAt = after(now, HEARTBEAT_INTERVAL_MS)
    if (this.#best !== undefined && this.#pingCandidate(now, this.#best, undefined) && this.#trusted(now) && this.#suspectAt === undefined) {
      this.#suspectAt = after(now, suspectMs(this.#best))
      this.#suspectRepeated = false
    }
    if (this.#wantsFullPing(now)) this.#discover(now, true)
  }

  /** The best candidate has not answered a heartbeat in its usual time: ask once more, then add the relay without waiting for 6.5 s. */
  #suspect(now: Instant): void {
    this.#suspectAt = undefined
    if (this.#best === undefined || !this.#trusted(now)) return
    if (!this.#suspectRepeated) {
      this.#suspectRepeated = true
      if (this.#pingCandidate(now, this.#best, undefined)) this.#suspectAt = after(now, suspectMs(this.#best))
      return
    }
    this.#trustUntil = now
    this.#lapseAt = undefined
    this.#announce(now, 'heartbeat-unanswered')
  }

  #wantsFullPing(now: Instant): boolean {
    if (this.#best === undefined || this.#lastFullPing === undefined || !this.#trusted(now)) return true
    return (this.#best.latencyMs ?? 0) > GOOD_ENOUGH_LATENCY_MS && now - this.#lastFullPing >= UPGRADE_INTERVAL_MS
  }

  /** Pings every candidate that has not been pinged lately; then asks the peer to do the same. */
  #discover(now: Instant, callThem: boolean): void {
    if (this.#discoverNotBefore !== undefined && now < this.#discoverNotBefore) return
    this.#lastFullPing = now
    let next = after(now, DISCO_PING_INTERVAL_MS)
    let sent = false
    let tried = false
    for (const candidate of this.#context.udp ? this.candidates.values() : []) {
      if (this.#context.refusal(candidate.endpoint, candidate.key) !== undefined) continue
      tried = true
      const allowedAt = candidate.pingedAt === undefined ? now : after(candidate.pingedAt, DISCO_PING_INTERVAL_MS)
      if (allowedAt > now) {
        if (allowedAt < next) next = allowedAt
        continue
      }
      if (this.#pingCandidate(now, candidate, undefined)) sent = true
    }
    this.#discoverNotBefore = next
    // Without any candidate there is nothing to open our NAT for, but the peer may still reach one of ours.
    if (callThem && (sent || !tried)) this.#callThem(now)
  }

  #callThem(now: Instant): void {
    if (this.#region() === undefined || !this.#context.udp || this.#peer.discoKey === undefined || this.#callMeMaybeAt !== undefined) return
    if (this.#context.endpointsFresh(now)) return this.#sendCallMeMaybe(now)
    this.#callMeMaybeAt = after(now, ENDPOINTS_WAIT_MS)
    this.#context.requestEndpoints(now)
  }

  #sendCallMeMaybe(now: Instant): void {
    this.#callMeMaybeAt = undefined
    const region = this.#region()
    const endpoints = this.#context.selfEndpoints
    if (region === undefined || this.#peer.discoKey === undefined || endpoints.length === 0) return // an empty list would harm
    this.#calledThemAt = now
    this.#context.send(this.#peer.nodeKey, this.#peer.discoKey, { type: 'relay', region }, { type: 'call-me-maybe', endpoints })
  }

  #pingCandidate(now: Instant, candidate: Candidate, userId: number | undefined, padding: number = 0): boolean {
    candidate.pingedAt = now
    if (!this.#sendPing(now, { type: 'direct', endpoint: candidate.endpoint }, candidate.key, userId, padding)) return false
    candidate.pings += 1
    return true
  }

  #sendPing(now: Instant, via: PathVia, candidateKey: string | undefined, userId: number | undefined, padding: number): boolean {
    if (this.#peer.discoKey === undefined) return false
    const txId = this.#context.freshTxId()
    const ping: DiscoPing = { type: 'ping', txId, nodeKey: this.#context.ourNodeKey(), padding }
    if (!this.#context.send(this.#peer.nodeKey, this.#peer.discoKey, via, ping)) return false
    const evicted = this.#sent.add(txId, { via, candidateKey, sentAt: now, userId })
    if (evicted?.userId !== undefined && !this.#sent.hasUser(evicted.userId)) this.#context.pingFailed(this.#peer.nodeKey, evicted.userId, 'PATH_PING_TIMEOUT')
    return true
  }

  #credit(now: Instant, candidate: Candidate, latencyMs: number): void {
    const best = this.#best
    if (best === candidate) {
      this.#trust(now)
      this.#reshape()
      return this.#announce(now, 'pong')
    }
    const trusted = this.#trusted(now)
    const measured = { endpoint: candidate.endpoint, latencyMs }
    if (best !== undefined && trusted && !this.#context.prefer(measured, { endpoint: best.endpoint, latencyMs: best.latencyMs ?? Infinity })) return
    this.#setBest(candidate)
    this.#trust(now)
    this.#announce(now, best !== undefined && trusted ? 'better-path' : 'pong')
  }

  #trust(now: Instant): void {
    this.#trustUntil = after(now, TRUST_UDP_MS)
    this.#lapseAt = this.#trustUntil
    this.#suspectAt = undefined
    this.#suspectRepeated = false
  }

  #setBest(candidate: Candidate | undefined): void {
    this.#best = candidate
    this.#trustUntil = undefined
    this.#lapseAt = undefined
    this.#suspectAt = undefined
    this.candidates.keep = candidate?.key
    this.#reshape()
  }

  #trusted(now: Instant): boolean {
    return this.#best !== undefined && this.#trustUntil !== undefined && now < this.#trustUntil
  }

  #active(now: Instant): boolean {
    return this.#lastSend !== undefined && now - this.#lastSend <= SESSION_ACTIVE_TIMEOUT_MS
  }

  #reshape(): void {
    const region = this.#region()
    const relay: Path = region !== undefined ? { type: 'relay', region } : this.#peer.discoKey === undefined ? this.#withoutDisco() : NONE
    const best = this.#best
    if (best === undefined) {
      this.#shapes = { direct: relay, both: relay, relay }
      return
    }
    const direct: Path = { type: 'direct', endpoint: best.endpoint, latencyMs: best.latencyMs }
    this.#shapes = { direct, both: region === undefined ? direct : { ...direct, type: 'both', region }, relay }
  }

  /** A peer that speaks WireGuard alone is reached where it last sent from, else at the first endpoint of the map. */
  #withoutDisco(): Path {
    if (!this.#context.udp) return NONE
    const endpoint = [this.#roamedTo, ...this.#peer.endpoints].find((item) => item !== undefined && this.#context.refusal(item, formatEndpoint(item)) === undefined)
    return endpoint === undefined ? NONE : { type: 'direct', endpoint, latencyMs: undefined }
  }

  #announce(now: Instant, reason: PathChangeReason): void {
    const path = this.pathAt(now)
    if (samePath(path, this.#announced)) return
    this.#announced = path
    this.#changedAt = now
    this.#changeReason = reason
    this.#context.pathChanged(this.#peer.nodeKey, path, reason)
  }

  #region(): number | undefined {
    return this.#context.relayFor(this.#peer.homeRegion, this.#learntRegion)
  }
}

function suspectMs(best: Candidate): number {
  const latencyMs = best.latencyMs ?? SUSPECT_LEAST_MS
  const usual = Math.min(SUSPECT_MOST_MS, Math.max(SUSPECT_LEAST_MS, 3 * latencyMs))
  return Math.max(usual, 1.5 * latencyMs) // a very slow path must not be doubted at every heartbeat
}
