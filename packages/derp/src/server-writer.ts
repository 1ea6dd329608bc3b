import { after, earlier, type Instant, type Outbox } from '@meshwright/core'
import type { QueuedPacket, RegionPeer, ServerConnection } from './server-connection.ts'
import type { DerpServerOutput } from './server-io.ts'
import { count, type DerpPacketKind } from './server-stats.ts'
import type { ServerTallies } from './server-tallies.ts'

const DEFAULT_WINDOW_BYTES = 128 * 1024
const DEFAULT_WRITE_TIMEOUT_MS = 2_000
const MESH_WRITE_TIMEOUT_MS = 30_000
const MAX_CONTROL_FRAMES = 1_024
const MAX_WATCHER_FRAMES = 65_536

/**
 * Everything that a server writes goes through here: at most a window of bytes is on its way to a transport, packets beyond it wait in
 * the two queues of their destination, and a transport that takes nothing in time is given up.
 */
export class ServerWriter {
  readonly #outbox: Outbox<DerpServerOutput>
  readonly #tallies: ServerTallies
  readonly #window: number
  readonly #timeoutMs: number
  /** The earliest write deadline set since it was last cleared. */
  earliest: Instant | undefined
  /** Watchers that could not be told all: they are to be closed, since what they know is wrong now. */
  overflowed: ServerConnection[] = []

  constructor(outbox: Outbox<DerpServerOutput>, tallies: ServerTallies, windowBytes: number | undefined, writeTimeoutMs: number | undefined) {
    this.#outbox = outbox
    this.#tallies = tallies
    this.#window = windowBytes ?? DEFAULT_WINDOW_BYTES
    this.#timeoutMs = writeTimeoutMs ?? DEFAULT_WRITE_TIMEOUT_MS
  }

  /** Writes at once, whatever is on its way: for the handshake and for what has been taken from a queue. */
  write(now: Instant, conn: ServerConnection, frame: Uint8Array): void {
    if (conn.inFlight === 0) this.#startTimer(now, conn)
    conn.inFlight += frame.length
    this.#outbox.push({ type: 'write', conn: conn.id, bytes: frame })
  }

  /** Writes a packet, or queues it: the oldest of its kind gives way. */
  deliver(now: Instant, to: ServerConnection, from: RegionPeer | undefined, frame: Uint8Array, kind: DerpPacketKind, bytes: number): void {
    if (from !== undefined) to.noteHeardFrom(from)
    if (to.inFlight < this.#window && !to.hasBacklog) {
      count(this.#tallies.sent, kind, bytes)
      return this.write(now, to, frame)
    }
    const evicted = to.queues[kind].offerEvicting({ frame, kind, bytes })
    to.queuedBytes += frame.length
    if (evicted === undefined) return
    to.queuedBytes -= evicted.frame.length
    this.#tallies.drop('queue_head', evicted.kind, evicted.bytes)
  }

  /** Writes a control frame, or keeps it until the transport takes more; `false` when there was no room. */
  control(now: Instant, conn: ServerConnection, frame: Uint8Array): boolean {
    if (conn.inFlight < this.#window && conn.control.length === 0) {
      this.write(now, conn, frame)
      return true
    }
    if (conn.control.length < (conn.watching ? MAX_WATCHER_FRAMES : MAX_CONTROL_FRAMES)) {
      conn.control.push(frame)
      return true
    }
    if (conn.watching) this.overflowed.push(conn)
    return false
  }

  /** Answers a ping; while one answer waits, further ones are dropped. */
  pong(now: Instant, conn: ServerConnection, frame: Uint8Array): void {
    if (conn.inFlight < this.#window) {
      this.#tallies.sentPongs += 1
      this.write(now, conn, frame)
    } else {
      conn.pendingPong ??= frame
    }
  }

  /** The transport has taken bytes, or everything: sends what waits, up to a window; the two kinds of packets in turn. */
  writable(now: Instant, conn: ServerConnection, bytes: number = conn.inFlight): void {
    conn.inFlight = Math.max(0, conn.inFlight - bytes)
    conn.writeDue = undefined
    if (conn.inFlight > 0) this.#startTimer(now, conn) // slow, but alive
    if (!conn.hasBacklog) return
    if (conn.pendingPong !== undefined) {
      this.#tallies.sentPongs += 1
      this.write(now, conn, conn.pendingPong)
      conn.pendingPong = undefined
    }
    let told = 0
    for (; told < conn.control.length && conn.inFlight < this.#window; told += 1) {
      const frame = conn.control[told]
      if (frame !== undefined) this.write(now, conn, frame)
    }
    if (told > 0) conn.control = conn.control.slice(told)
    while (conn.inFlight < this.#window && conn.queuedBytes > 0) {
      this.#writePacket(now, conn, conn.queues.disco.poll())
      this.#writePacket(now, conn, conn.queues.other.poll())
    }
  }

  /** Counts what a closed connection leaves behind. */
  discard(conn: ServerConnection): void {
    for (const kind of ['disco', 'other'] as const) {
      for (let packet = conn.queues[kind].poll(); packet !== undefined; packet = conn.queues[kind].poll()) {
        this.#tallies.drop('gone_disconnected', kind, packet.bytes)
      }
    }
    conn.queuedBytes = 0
    conn.control = []
    conn.pendingPong = undefined
  }

  #writePacket(now: Instant, conn: ServerConnection, packet: QueuedPacket | undefined): void {
    if (packet === undefined) return
    conn.queuedBytes -= packet.frame.length
    count(this.#tallies.sent, packet.kind, packet.bytes)
    this.write(now, conn, packet.frame)
  }

  #startTimer(now: Instant, conn: ServerConnection): void {
    const ms = conn.trusted && this.#timeoutMs > 0 ? MESH_WRITE_TIMEOUT_MS : this.#timeoutMs
    if (ms === 0) return
    conn.writeDue = after(now, ms)
    this.earliest = earlier(this.earliest, conn.writeDue)
  }
}
