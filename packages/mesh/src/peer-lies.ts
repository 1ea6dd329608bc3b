import { after, type Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'

/**
 * What peers do that no honest one does.
 *
 * | kind | means |
 * |---|---|
 * | `source` | inner packets from addresses that are not the peer's |
 * | `packet` | inner packets that are no IP packets |
 * | `disco` | messages about paths that are refused (see `PathFinder.refusals`) |
 */
export type PeerLieKind = 'source' | 'packet' | 'disco'

/** A peer that has lied lately. */
export interface PeerLie {
  readonly peer: NodePublicKey
  readonly kind: PeerLieKind
  /** How often, since it was last honest for a minute. */
  readonly count: number
}

/** So often in a minute is no accident; a router whose routes are not accepted here sends a stray packet now and then. */
const TELL_AFTER: Readonly<Record<PeerLieKind, number>> = { source: 30, packet: 30, disco: 100 }
const WINDOW_MS = 60_000
/** Peers alone come in here, but there may be 60,000 of them: the oldest gives way. */
const MAX_KEPT = 256

/** What happened within a minute, and until when it is told. */
interface Window {
  since: Instant | undefined
  count: number
  toldUntil: Instant | undefined
}

interface Tally extends Window {
  readonly peer: NodePublicKey
  readonly kind: PeerLieKind
  /** Lies before this window, while they have gone on without a minute's pause. */
  before: number
}

/** Cookies asked for in a minute: some are asked for when many nodes start at once. */
const TELL_FLOOD_AFTER = 100

/** Counts what peers were refused, so that people hear of whoever goes on with it. Each has proved its key: nobody is blamed for the words of others. */
export class PeerLies {
  readonly #tallies: Map<string, Tally> = new Map()
  readonly #flood: Window = { since: undefined, count: 0, toldUntil: undefined }

  /** How many tallies are kept. */
  get size(): number {
    return this.#tallies.size
  }

  /** A peer was refused so often just now. */
  note(now: Instant, peer: NodePublicKey, kind: PeerLieKind, times: number = 1): void {
    const key = `${kind} ${peer.text}`
    let tally = this.#tallies.get(key)
    if (tally === undefined) {
      if (this.#tallies.size >= MAX_KEPT) for (const oldest of this.#tallies.keys()) if (this.#tallies.size >= MAX_KEPT) this.#tallies.delete(oldest)
      tally = { peer, kind, since: undefined, count: 0, before: 0, toldUntil: undefined }
      this.#tallies.set(key, tally)
    }
    const last = tally.count
    if (addTo(tally, now, times, TELL_AFTER[kind])) tally.before = isTold(tally, now) ? tally.before + last : 0
  }

  /** Somebody was asked to prove its address before its handshake is read. */
  noteCookie(now: Instant): void {
    addTo(this.#flood, now, 1, TELL_FLOOD_AFTER)
  }

  /** Whether handshakes have come as a flood in the last minute. */
  flooded(now: Instant): boolean {
    return isTold(this.#flood, now)
  }

  /** Whoever has lied in the last minute, and not by accident. */
  told(now: Instant): readonly PeerLie[] {
    return [...this.#tallies.values()].flatMap((tally) => (isTold(tally, now) ? [{ peer: tally.peer, kind: tally.kind, count: tally.before + tally.count }] : []))
  }
}

/** True when a new span was begun with it. */
function addTo(span: Window, now: Instant, times: number, tellAfter: number): boolean {
  const fresh = span.since === undefined || now - span.since > WINDOW_MS
  if (fresh) {
    span.since = now
    span.count = 0
  }
  span.count += times
  if (span.count >= tellAfter) span.toldUntil = after(now, WINDOW_MS)
  return fresh
}

function isTold({ toldUntil }: Window, now: Instant): boolean {
  return toldUntil !== undefined && now < toldUntil
}
