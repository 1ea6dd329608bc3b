import type { Instant, RandomSource } from '@meshwright/core'
import { SipHash } from './siphash.ts'
import type { TcpPath } from './tcp-output.ts'

/**
 * The clock of initial sequence numbers ticks every 64 nanoseconds, as Linux's does. With the 4 microseconds of RFC 9293 section 3.4.1 a
 * connection of more than 2 Mbit/s uses numbers faster than the clock, and who looks at numbers alone (gVisor) takes the next for old.
 */
const TICKS_PER_MS = 15_625

/** What a new connection counts from. */
export interface FlowStart {
  /** Initial sequence number. */
  readonly sequence: number
  /** What its timestamps add to the clock. */
  readonly timestampOffset: number
}

/**
 * Where connections begin to count: unpredictable for others (RFC 6528), yet always forward for the same two ends, so that a connection
 * which takes the ports of one in TIME-WAIT is known to be newer, by its number and by its timestamp (RFC 6191, RFC 7323 section 5.4).
 */
export class FlowSecrets {
  readonly #hash: SipHash

  constructor(random: RandomSource) {
    this.#hash = new SipHash(random(16))
  }

  start(now: Instant, path: TcpPath): FlowStart {
    const local = path.local.bytes
    const remote = path.remote.bytes
    const bytes = new Uint8Array(4 + local.length + remote.length)
    const view = new DataView(bytes.buffer)
    view.setUint16(0, path.localPort)
    view.setUint16(2, path.remotePort)
    bytes.set(local, 4)
    bytes.set(remote, 4 + local.length)
    const [low, high] = this.#hash.hash(bytes)
    return { sequence: (low + Math.floor(now * TICKS_PER_MS)) >>> 0, timestampOffset: high }
  }
}
