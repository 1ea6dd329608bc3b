import { after, earlier, type Instant, type Machine, Outbox, type RandomSource, type WallClock } from '@meshwright/core'
import type { Ip } from '@meshwright/ip'
import { DNS_HEADER_BYTES, decodeDns, ednsSizeOffset, endOfQuestion } from './decode.ts'
import { canonicalName, type DnsName } from './dns-name.ts'
import { encodeDns } from './encode.ts'
import { decide, localMessage } from './local-answer.ts'
import { type DnsMessage, RCODE_FORMAT_ERROR, RCODE_NAME_ERROR, RCODE_NO_ERROR, RCODE_NOT_IMPLEMENTED, RCODE_REFUSED, RCODE_SERVER_FAILURE } from './message.ts'
import { type DnsConfig, DnsNames } from './records.ts'

/** Longest query taken. */
export const MAX_QUERY_BYTES = 4096
/** Longest answer given; what larger clients offer is cut to it. */
export const MAX_ANSWER_BYTES = 4095
/** What a UDP client takes that says nothing (RFC 1035 section 2.3.4). */
const DEFAULT_UDP_BYTES = 512
/** Queries at upstreams at the same time (tailscale/tailscale:net/dns/resolver/forwarder.go, as the times below). */
export const MAX_PENDING = 256
export const QUERY_TIMEOUT_MS = 10_000
export const TCP_AFTER_MS = 2_000

/** How a message travels. */
export type DnsTransport = 'udp' | 'tcp'

/** What the resolver is fed. */
export type ResolverInput =
  /** A client asks. `id` is the caller's own name for the question and comes back with its answer. */
  | { readonly type: 'query'; readonly id: number; readonly bytes: Uint8Array; readonly transport?: DnsTransport }
  /** An upstream has answered a forwarded query. */
  | { readonly type: 'reply'; readonly token: number; readonly upstream: string; readonly bytes: Uint8Array; readonly transport?: DnsTransport }
  /** An upstream cannot be asked, or not in this way. */
  | { readonly type: 'failed'; readonly token: number; readonly upstream: string; readonly transport?: DnsTransport }

/** What the resolver owes. */
export type ResolverOutput =
  | { readonly type: 'answer'; readonly id: number; readonly bytes: Uint8Array }
  /** To be sent to each of the upstreams, over this transport; what comes back is fed as `reply` or `failed` under the same token. */
  | { readonly type: 'forward'; readonly token: number; readonly bytes: Uint8Array; readonly upstreams: readonly string[]; readonly transport: DnsTransport }
  /** The query of this token is settled: whatever is open for it can be closed. */
  | { readonly type: 'cancel'; readonly token: number }

/** What the resolver has done, since it was made. */
export interface ResolverCounters {
  readonly answered: number
  readonly forwarded: number
  readonly malformed: number
  readonly timedOut: number
  /** Replies that fit no open query: late, or forged. */
  readonly strayReplies: number
  readonly refusedFull: number
  /** Questions that would have gone round in a circle: servers that are this resolver itself, and questions of its own that came back to it. */
  readonly loops: number
}

/** What `resolve` says about a name. */
export type LocalLookup =
  | { readonly type: 'known'; readonly name: DnsName; readonly addresses: readonly Ip[] }
  /** It lies in a zone of the mesh and does not exist. */
  | { readonly type: 'unknown' }
  | { readonly type: 'forward'; readonly upstreams: readonly string[] }

interface Pending {
  readonly id: number
  readonly query: DnsMessage
  readonly transport: DnsTransport
  /** The query as the upstreams see it, under an id of our own. */
  readonly bytes: Uint8Array
  readonly upstreamId: number
  readonly upstreams: readonly string[]
  /** Ways (upstream and transport) that can still answer. */
  readonly open: Set<string>
  readonly deadline: Instant
  /** When those that have not answered over UDP are asked over TCP; `undefined`: never, or done. */
  tcpAt: Instant | undefined
  /** The best of the answers that are no answer. */
  worst: Uint8Array | undefined
  worstRcode: number
}

/**
 * The resolver behind 100.100.100.100: answers the names and addresses of the mesh itself, and has everything else forwarded to the
 * upstreams of the longest matching suffix. All of them are asked at once, the first usable answer wins.
 *
 * | a forwarded query | happens |
 * |---|---|
 * | usable reply (no error, or no such name) | answer, settled |
 * | reply with another code, failure | remembered; when nobody is left: SERVFAIL before REFUSED before none |
 * | truncated reply over UDP, client on TCP | the same upstream is asked over TCP |
 * | 2 s without answer over UDP | every silent upstream is asked over TCP too |
 * | 10 s | the best so far, else SERVFAIL |
 *
 * Queries travel under random ids, and a reply counts only with that id and the same question. At most 256 are open at a time.
 */
export class Resolver implements Machine<ResolverInput, ResolverOutput> {
  readonly #outbox: Outbox<ResolverOutput> = new Outbox()
  readonly #pending: Map<number, Pending> = new Map()
  readonly #random: RandomSource
  readonly #wallClock: WallClock
  readonly #counters = { answered: 0, forwarded: 0, malformed: 0, timedOut: 0, strayReplies: 0, refusedFull: 0, loops: 0 }
  #names: DnsNames = new DnsNames({ hosts: new Map() })
  #nextToken = 1

  /** @param options `random` for the ids of forwarded queries; `wallClock` for serial numbers. Knows no name until configured. */
  constructor(options: { readonly random: RandomSource; readonly wallClock: WallClock }) {
    this.#random = options.random
    this.#wallClock = options.wallClock
  }

  /** Takes a new configuration as a whole; open queries go on. @throws MAGICDNS_CONFIG, and then nothing has changed */
  configure(config: DnsConfig): void {
    this.#names = new DnsNames(config)
  }

  handleInput(now: Instant, input: ResolverInput): void {
    switch (input.type) {
      case 'query':
        return this.#query(now, input.id, input.bytes, input.transport ?? 'udp')
      case 'reply':
        return this.#reply(input.token, input.upstream, input.transport ?? 'udp', input.bytes)
      case 'failed': {
        const pending = this.#pending.get(input.token)
        if (pending !== undefined) this.#closeWay(input.token, pending, wayOf(input.upstream, input.transport ?? 'udp'))
      }
    }
  }

  handleTimeout(now: Instant): void {
    for (const [token, pending] of [...this.#pending]) {
      if (now >= pending.deadline) {
        this.#counters.timedOut += 1
        this.#fail(token, pending)
      } else if (pending.tcpAt !== undefined && now >= pending.tcpAt) {
        pending.tcpAt = undefined
        const silent = pending.upstreams.filter((upstream) => pending.open.has(wayOf(upstream, 'udp')))
        this.#forward(token, pending, silent, 'tcp')
      }
    }
  }

  pollOutput(): ResolverOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    let due: Instant | undefined
    for (const pending of this.#pending.values()) due = earlier(due, earlier(pending.tcpAt, pending.deadline))
    return due
  }

  /** What the mesh itself knows of a full name, or where it would be asked for: for dialling by name inside the process. */
  resolve(name: string): LocalLookup {
    const full = canonicalName(name)
    const addresses = this.#names.addressesOf(full)
    if (addresses !== undefined) return { type: 'known', name: full, addresses }
    const route = this.#names.routeFor(full)
    return route.type === 'authoritative' ? { type: 'unknown' } : { type: 'forward', upstreams: route.upstreams }
  }

  /** The full names that a person may mean by a short one, best first (search domains). */
  searchNames(text: string): readonly DnsName[] {
    return this.#names.searchNames(text)
  }

  /** The name of an address of the mesh. */
  nameOf(ip: Ip): DnsName | undefined {
    return this.#names.nameOf(ip)
  }

  /** Zones whose servers are this resolver itself, as far as they are: they are not asked there. */
  get loopingZones(): readonly DnsName[] {
    return this.#names.loopingZones
  }

  /** How many queries are at upstreams. */
  get pendingCount(): number {
    return this.#pending.size
  }

  /** A copy of the counters. */
  counters(): ResolverCounters {
    return { ...this.#counters }
  }

  #query(now: Instant, id: number, bytes: Uint8Array, transport: DnsTransport): void {
    const query = bytes.length <= MAX_QUERY_BYTES ? decodeDns(bytes) : undefined
    if (query === undefined || query.questions.length !== 1 || query.response) return this.#refuseMalformed(id, bytes)
    const [question] = query.questions
    if (question === undefined) return
    if (query.opcode !== 0) return this.#answer(id, query, transport, localMessage(query, RCODE_NOT_IMPLEMENTED))
    const decision = decide(this.#names, question, Math.floor(this.#wallClock() / 1000))
    if (decision.type === 'answer') return this.#answer(id, query, transport, localMessage(query, decision.rcode, decision.answers, decision.authorities))
    const returned = this.#isOwnQuestion(query)
    if (decision.loops || returned) this.#counters.loops += 1
    if (decision.upstreams.length === 0 || returned) return this.#answer(id, query, transport, localMessage(query, RCODE_SERVER_FAILURE))
    if (this.#pending.size >= MAX_PENDING) {
      this.#counters.refusedFull += 1
      return this.#answer(id, query, transport, localMessage(query, RCODE_SERVER_FAILURE))
    }
    this.#startForward(now, id, query, bytes, transport, decision.upstreams)
  }

  /** What is no query is answered with FORMERR if it may have come from someone who asks; answers to answers would never end. */
  #refuseMalformed(id: number, bytes: Uint8Array): void {
    this.#counters.malformed += 1
    if (bytes.length < DNS_HEADER_BYTES || (bytes[2] ?? 0) >= 0x80) return
    const queryId = ((bytes[0] ?? 0) << 8) | (bytes[1] ?? 0)
    const opcode = ((bytes[2] ?? 0) >> 3) & 15
    this.#outbox.push({ type: 'answer', id, bytes: encodeDns({ id: queryId, response: true, opcode, rcode: RCODE_FORMAT_ERROR, questions: [] }) })
  }

  /** A question that this resolver has sent to somebody, under the very number that it gave it, has gone round in a circle. */
  #isOwnQuestion(query: DnsMessage): boolean {
    for (const pending of this.#pending.values()) if (pending.upstreamId === query.id && sameQuestion(pending.query, query)) return true
    return false
  }

  #answer(id: number, query: DnsMessage, transport: DnsTransport, message: DnsMessage): void {
    this.#counters.answered += 1
    this.#outbox.push({ type: 'answer', id, bytes: encodeDns(message, answerLimit(query, transport)) })
  }

  #startForward(now: Instant, id: number, query: DnsMessage, bytes: Uint8Array, transport: DnsTransport, upstreams: readonly string[]): void {
    const copy = Uint8Array.from(bytes)
    const [high = 0, low = 0] = this.#random(2)
    copy[0] = high
    copy[1] = low
    const sizeAt = ednsSizeOffset(copy)
    if (sizeAt >= 0 && query.edns !== undefined && query.edns.udpSize > MAX_ANSWER_BYTES) new DataView(copy.buffer).setUint16(sizeAt, MAX_ANSWER_BYTES)
    const token = this.#nextToken
    this.#nextToken += 1
    const pending: Pending = {
      id,
      query,
      transport,
      bytes: copy,
      upstreamId: (high << 8) | low,
      upstreams: [...new Set(upstreams)],
      open: new Set(),
      deadline: after(now, QUERY_TIMEOUT_MS),
      tcpAt: transport === 'udp' ? after(now, TCP_AFTER_MS) : undefined,
      worst: undefined,
      worstRcode: -1,
    }
    this.#pending.set(token, pending)
    this.#counters.forwarded += 1
    this.#forward(token, pending, pending.upstreams, 'udp')
    if (transport === 'tcp') this.#forward(token, pending, pending.upstreams, 'tcp')
  }

  #forward(token: number, pending: Pending, upstreams: readonly string[], transport: DnsTransport): void {
    const asked = upstreams.filter((upstream) => !pending.open.has(wayOf(upstream, transport)))
    if (asked.length === 0) return
    for (const upstream of asked) pending.open.add(wayOf(upstream, transport))
    this.#outbox.push({ type: 'forward', token, bytes: pending.bytes, upstreams: asked, transport })
  }

  #reply(token: number, upstream: string, transport: DnsTransport, bytes: Uint8Array): void {
    const pending = this.#pending.get(token)
    if (pending === undefined || !pending.open.has(wayOf(upstream, transport)) || !fitsQuery(pending, bytes)) {
      this.#counters.strayReplies += 1
      return
    }
    const truncated = ((bytes[2] ?? 0) & 0x02) !== 0
    const rcode = (bytes[3] ?? 0) & 15
    if (truncated && transport === 'udp' && pending.transport === 'tcp') {
      this.#forward(token, pending, [upstream], 'tcp')
      return this.#closeWay(token, pending, wayOf(upstream, transport))
    }
    if (rcode === RCODE_NO_ERROR || rcode === RCODE_NAME_ERROR) return this.#settle(token, pending, bytes)
    // SERVFAIL says more than REFUSED: somebody tried.
    if (pending.worst === undefined || (pending.worstRcode === RCODE_REFUSED && rcode !== RCODE_REFUSED)) {
      pending.worst = Uint8Array.from(bytes)
      pending.worstRcode = rcode
    }
    this.#closeWay(token, pending, wayOf(upstream, transport))
  }

  /** One way is closed; when none is left the query has failed. */
  #closeWay(token: number, pending: Pending, way: string): void {
    if (pending.open.delete(way) && pending.open.size === 0) this.#fail(token, pending)
  }

  #fail(token: number, pending: Pending): void {
    this.#settle(token, pending, pending.worst ?? encodeDns(localMessage(pending.query, RCODE_SERVER_FAILURE)))
  }

  #settle(token: number, pending: Pending, reply: Uint8Array): void {
    this.#pending.delete(token)
    const limit = pending.transport === 'tcp' ? 65_535 : answerLimit(pending.query, 'udp')
    const bytes = reply.length > limit ? truncate(reply) : Uint8Array.from(reply)
    new DataView(bytes.buffer).setUint16(0, pending.query.id)
    this.#counters.answered += 1
    this.#outbox.push({ type: 'answer', id: pending.id, bytes })
    this.#outbox.push({ type: 'cancel', token })
  }
}

function wayOf(upstream: string, transport: DnsTransport): string {
  return `${transport} ${upstream}`
}

function answerLimit(query: DnsMessage, transport: DnsTransport): number {
  return transport === 'tcp' ? MAX_ANSWER_BYTES : Math.min(MAX_ANSWER_BYTES, Math.max(DEFAULT_UDP_BYTES, query.edns?.udpSize ?? 0))
}

/** A reply counts only if it is one, under our id, to our question. */
function fitsQuery(pending: Pending, bytes: Uint8Array): boolean {
  const reply = decodeDns(bytes)
  const [asked] = pending.query.questions
  const [answered] = reply?.questions ?? []
  if (reply === undefined || !reply.response || reply.id !== pending.upstreamId || asked === undefined) return false
  // Some servers leave the question out of a refusal; then the id has to do.
  if (answered === undefined) return reply.rcode !== RCODE_NO_ERROR && reply.rcode !== RCODE_NAME_ERROR
  return reply.questions.length === 1 && sameQuestion(pending.query, reply)
}

function sameQuestion({ questions: [one] }: DnsMessage, { questions: [other] }: DnsMessage): boolean {
  return one !== undefined && other !== undefined && one.type === other.type && one.class === other.class && canonicalName(one.name) === canonicalName(other.name)
}

/** Header and question of an answer that is too long, marked as cut off. */
function truncate(reply: Uint8Array): Uint8Array {
  const questions = ((reply[4] ?? 0) << 8) | (reply[5] ?? 0)
  const cut = reply.slice(0, questions === 1 ? endOfQuestion(reply) : DNS_HEADER_BYTES)
  const view = new DataView(cut.buffer)
  view.setUint8(2, view.getUint8(2) | 0x02)
  view.setUint16(4, questions === 1 ? 1 : 0)
  view.setUint16(6, 0)
  view.setUint32(8, 0)
  return cut
}
