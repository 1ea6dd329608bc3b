import type { Instant } from '@meshwright/core'
import { type Endpoint, formatEndpoint } from '@meshwright/ip'
import { MAX_CANDIDATES, MAX_LISTED_ENDPOINTS, SESSION_ACTIVE_TIMEOUT_MS } from './timing.ts'

/** An endpoint at which a peer may be reachable, and what came of trying. */
export interface Candidate {
  readonly endpoint: Endpoint
  /** Text of the endpoint. */
  readonly key: string
  /** Listed by the network map now. */
  inMap: boolean
  /** When the peer last listed it in a call-me-maybe. */
  calledAt: Instant | undefined
  /** When a ping of the peer last came from it. */
  heardAt: Instant | undefined
  /** Transaction id of that ping, to tell duplicates. */
  heardTxId: Uint8Array | undefined
  /** When we last pinged it; cleared to ping again at once. */
  pingedAt: Instant | undefined
  /** When we last answered a ping from there with a ping of our own. */
  pingedBackAt: Instant | undefined
  pongAt: Instant | undefined
  latencyMs: number | undefined
  /** Our endpoint as the peer saw it on this path. */
  seenAs: Endpoint | undefined
  pings: number
  pongs: number
  timeouts: number
}

/** The candidates of one peer, by endpoint: about 100, and never more than 2 x 64 listed ones beside those. */
export class CandidateSet {
  readonly #byKey: Map<string, Candidate> = new Map()
  /** Text of the endpoint in use, which is never removed while it is. */
  keep: string | undefined

  get size(): number {
    return this.#byKey.size
  }

  values(): IterableIterator<Candidate> {
    return this.#byKey.values()
  }

  get(key: string): Candidate | undefined {
    return this.#byKey.get(key)
  }

  /** Replaces what the map lists. What the peer itself named or used lately stays. */
  setMapEndpoints(now: Instant, endpoints: readonly Endpoint[]): void {
    for (const candidate of this.#byKey.values()) candidate.inMap = false
    for (const endpoint of endpoints.slice(0, MAX_LISTED_ENDPOINTS)) this.#add(endpoint).inMap = true
    this.#removeWhere((candidate) => !candidate.inMap && candidate.calledAt === undefined && !heardLately(now, candidate))
    this.#shrink(now)
  }

  /**
   * Takes a call-me-maybe's list and removes what only an earlier list named. Unlike the real client, one that the map lists too, that
   * is in use, or that the peer pinged us from lately, stays.
   */
  setCalledEndpoints(now: Instant, endpoints: readonly Endpoint[]): void {
    const listed = new Set<Candidate>()
    for (const endpoint of endpoints.slice(0, MAX_LISTED_ENDPOINTS)) {
      const candidate = this.#add(endpoint)
      candidate.calledAt = now
      listed.add(candidate)
    }
    this.#removeWhere((candidate) => {
      if (candidate.calledAt === undefined || listed.has(candidate)) return false
      candidate.calledAt = undefined
      return !candidate.inMap && !heardLately(now, candidate)
    })
    this.#shrink(now)
  }

  /** The candidate from which a ping came, new or known. */
  heard(now: Instant, endpoint: Endpoint): Candidate {
    const key = formatEndpoint(endpoint)
    if (!this.#byKey.has(key) && this.#byKey.size >= MAX_CANDIDATES) this.#prune(now)
    return this.#add(endpoint, key)
  }

  remove(key: string): void {
    this.#byKey.delete(key)
  }

  /** Forgets what was learnt on an earlier network: measurements, and everything that the map does not list. */
  resetHistories(): void {
    for (const [key, candidate] of this.#byKey) {
      if (candidate.inMap) this.#byKey.set(key, { ...fresh(candidate.endpoint, key), inMap: true })
      else this.#byKey.delete(key)
    }
  }

  #add(endpoint: Endpoint, key: string = formatEndpoint(endpoint)): Candidate {
    const known = this.#byKey.get(key)
    if (known !== undefined) return known
    const candidate = fresh(endpoint, key)
    this.#byKey.set(key, candidate)
    return candidate
  }

  #shrink(now: Instant): void {
    while (this.#byKey.size > MAX_CANDIDATES + 1 && this.#prune(now));
  }

  /** Makes room: first what was only heard and is silent now, else what was only heard and heard longest ago. False when there is none. */
  #prune(now: Instant): boolean {
    const onlyHeard = (candidate: Candidate): boolean => !candidate.inMap && candidate.calledAt === undefined && candidate.key !== this.keep
    if (this.#removeWhere((candidate) => onlyHeard(candidate) && !heardLately(now, candidate))) return true
    let oldest: Candidate | undefined
    for (const candidate of this.#byKey.values()) {
      if (onlyHeard(candidate) && (oldest === undefined || (candidate.heardAt ?? 0) < (oldest.heardAt ?? 0))) oldest = candidate
    }
    return oldest !== undefined && this.#byKey.delete(oldest.key)
  }

  #removeWhere(rule: (candidate: Candidate) => boolean): boolean {
    const before = this.#byKey.size
    for (const [key, candidate] of this.#byKey) if (rule(candidate) && key !== this.keep) this.#byKey.delete(key)
    return this.#byKey.size < before
  }
}

function heardLately(now: Instant, candidate: Candidate): boolean {
  return candidate.heardAt !== undefined && now - candidate.heardAt < SESSION_ACTIVE_TIMEOUT_MS
}

function fresh(endpoint: Endpoint, key: string): Candidate {
  return {
    endpoint,
    key,
    inMap: false,
    calledAt: undefined,
    heardAt: undefined,
    heardTxId: undefined,
    pingedAt: undefined,
    pingedBackAt: undefined,
    pongAt: undefined,
    latencyMs: undefined,
    seenAs: undefined,
    pings: 0,
    pongs: 0,
    timeouts: 0,
  }
}
