/**
 * Why a datagram or packet was dropped.
 *
 * | reason | meaning |
 * |---|---|
 * | `malformed` | not a WireGuard message: wrong type, reserved bytes, length |
 * | `no-private-key` | a handshake message, but the device has no key |
 * | `mac1` | wrong or missing mac1: the sender does not know our public key |
 * | `cookie-required` | under load and mac2 not valid: answered by a cookie reply |
 * | `rate-limited` | under load and too many handshakes from this source |
 * | `overloaded` | handshakes have taken all the time that they may take: dropped unread, or not answered by a cookie |
 * | `handshake-auth` | a handshake message whose sealed parts do not open, or with a low-order point |
 * | `unknown-peer` | a peer that is not configured |
 * | `initiation-replay` | timestamp not newer than the greatest one accepted |
 * | `initiation-flood` | less than 20 ms after the peer's last accepted initiation |
 * | `unknown-index` | addressed to no session or handshake of ours |
 * | `cookie-auth` | a cookie reply that answers no message of ours, or does not open |
 * | `session-expired` | session older than 180 seconds, or its message numbers used up |
 * | `packet-auth` | the packet's tag is wrong |
 * | `packet-replay` | message number seen before, or too old to tell |
 * | `inner-malformed` | authentic, but neither empty nor a whole IP packet |
 * | `staging-full` | the oldest staged packet made room for a new one |
 * | `staging-given-up` | staged packets dropped: handshake given up, or peer reset |
 * | `no-endpoint` | nowhere to send it |
 * | `unusable-key` | the peer's public key is a low-order point |
 * | `too-large` | more inner bytes than a datagram carries, or no room around the slot |
 */
export type DropReason =
  | 'malformed'
  | 'no-private-key'
  | 'mac1'
  | 'cookie-required'
  | 'rate-limited'
  | 'overloaded'
  | 'handshake-auth'
  | 'unknown-peer'
  | 'initiation-replay'
  | 'initiation-flood'
  | 'unknown-index'
  | 'cookie-auth'
  | 'session-expired'
  | 'packet-auth'
  | 'packet-replay'
  | 'inner-malformed'
  | 'staging-full'
  | 'staging-given-up'
  | 'no-endpoint'
  | 'unusable-key'
  | 'too-large'

/** Drops counted by reason. Reasons that never occurred take no memory. */
export class DropCounters {
  #counts: Map<DropReason, number> | undefined

  /** Counts one drop, or `times` of them. */
  add(reason: DropReason, times: number = 1): void {
    this.#counts ??= new Map()
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + times)
  }

  /** How often `reason` occurred. */
  of(reason: DropReason): number {
    return this.#counts?.get(reason) ?? 0
  }

  /** A copy: every reason that occurred, with its count. */
  snapshot(): ReadonlyMap<DropReason, number> {
    return new Map(this.#counts)
  }
}
