import { after, earlier, type Instant } from '@meshwright/core'
import type { Scheduled } from './deadline-heap.ts'
import type { PacketBuilder } from './ip-packet.ts'
import type { CloseReason, FlowId, FlowStatus, KeepAlive, ListenerId, NetstackSettings, TcpState } from './netstack-io.ts'
import { type SegmentFields, type TcpPath, writeResetFor, writeSegment } from './tcp-output.ts'
import { TcpReceiver } from './tcp-receiver.ts'
import { ACK, FIN, PSH, RST, SYN, type SynOptions, type TcpSegment } from './tcp-segment.ts'
import { TcpSender } from './tcp-sender.ts'

const INITIAL_RTO_MS = 1_000
const HOLD_MS = 60_000
/** A flow that the application has closed may stay this long without progress: FIN-WAIT-2, or data that nobody takes. */
const ORPHAN_MS = 120_000
const SYN_ACK_RETRIES = 5
/** RFC 5961 section 7: challenge and out-of-window acknowledgments, one in this time for each flow. */
const CHALLENGE_INTERVAL_MS = 100
/** RFC 7323 section 5.5: a timestamp older than this proves nothing. */
const TIMESTAMP_AGE_MS = 24 * 86_400_000
const QUICK_ACKS = 8
/** RFC 9293 section 3.7.1. */
const DEFAULT_MSS_V4 = 536
const DEFAULT_MSS_V6 = 1220
const LEAST_MSS = 88
/** Smallest shift that lets 16 bits name `bytes`. */
const shiftFor = (bytes: number): number => Math.min(14, Math.max(0, Math.ceil(Math.log2((bytes + 1) / 65_536))))

/** What a connection needs of its stack. Calls only append to queues: nothing re-enters the connection. */
export interface TcpHost {
  readonly builder: PacketBuilder
  readonly settings: NetstackSettings
  packet(bytes: Uint8Array): void
  opened(connection: TcpConnection): void
  data(connection: TcpConnection, bytes: Uint8Array, owned: boolean): void
  ended(connection: TcpConnection): void
  writable(connection: TcpConnection): void
  /** The application's part is over (the connection may linger in TIME-WAIT). */
  closed(connection: TcpConnection, reason: CloseReason): void
}

/**
 * One TCP connection: the state table of RFC 9293 section 3.3.2.
 *
 * | state        | event                   | next                                  |
 * | ------------ | ----------------------- | ------------------------------------- |
 * | held         | accept                  | syn-received                          |
 * | syn-sent     | SYN-ACK / SYN           | established / syn-received            |
 * | syn-received | ACK of our SYN          | established (close-wait with FIN)     |
 * | established  | close, FIN              | fin-wait-1, close-wait                |
 * | fin-wait-1   | ACK of FIN, FIN, both   | fin-wait-2, closing, time-wait        |
 * | fin-wait-2   | FIN                     | time-wait                             |
 * | close-wait   | close                   | last-ack                              |
 * | closing      | ACK of FIN              | time-wait                             |
 * | last-ack     | ACK of FIN              | closed                                |
 * | time-wait    | 2 MSL                   | closed                                |
 * | any          | RST, abort, silence     | closed                                |
 */
export class TcpConnection implements Scheduled {
  heapIndex = -1
  heapDue = 0
  /** Chain of the flow table. */
  nextInBucket: TcpConnection | undefined
  hash = 0
  /** Waits for `flush`. */
  dirty = false
  /** A writer waits for room. */
  wantsWritable = false
  /** Counted among the attempts that wait for `accept`. */
  waiting = false
  state: TcpState
  readonly id: FlowId
  readonly path: TcpPath
  readonly listener: ListenerId | undefined
  readonly sender: TcpSender
  readonly receiver: TcpReceiver
  readonly #host: TcpHost
  readonly #iss: number
  #irs = 0
  #told = false
  #appClosed = false
  #timestamps: boolean
  #scaled: boolean
  readonly #timestampOffset: number
  #timestampRecent = 0
  #timestampRecentAt: Instant | undefined
  #lastAckSent = 0
  #peerShift = 0
  #pathMss: number
  #windowSeq = 0
  #windowAck = 0
  #ackNow = false
  #ackDue: Instant | undefined
  #segmentsUnacked = 0
  #largestPayload = 0
  #quickAcks = QUICK_ACKS
  #stateDue: Instant | undefined
  #attempts = 0
  #synSentAt: Instant
  #keepAlive: KeepAlive | undefined
  #keepDue: Instant | undefined
  #lastHeard: Instant
  #keepProbes = 0
  #challengeAt: number = Number.NEGATIVE_INFINITY
  readonly #fields: SegmentFields
  readonly #edges: number[] = []

  /** @param entropy 8 random bytes: initial sequence number (RFC 9293 section 3.4.1) and timestamp offset */
  constructor(now: Instant, host: TcpHost, id: FlowId, path: TcpPath, listener: ListenerId | undefined, entropy: Uint8Array, syn: TcpSegment | undefined, hold: boolean) {
    const { settings } = host
    const view = new DataView(entropy.buffer, entropy.byteOffset, 8)
    this.#host = host
    this.id = id
    this.path = path
    this.listener = listener
    this.#iss = view.getUint32(0)
    this.#timestampOffset = view.getUint32(4)
    this.#pathMss = settings.mtu - (path.local.family === 4 ? 40 : 60)
    this.#timestamps = settings.timestamps
    this.#scaled = settings.windowScaling
    this.sender = new TcpSender(this.#pathMss, { maxBufferBytes: settings.maxSendBufferBytes, maxRetries: settings.maxRetries })
    this.receiver = new TcpReceiver(settings.maxReceiveBufferBytes)
    this.#keepAlive = settings.keepAlive
    this.#lastHeard = now
    this.#synSentAt = now
    this.#fields = { flags: 0, sequence: 0, acknowledgment: 0, window: 0, timestamps: false, timestampValue: 0, timestampEcho: 0, sackEdges: [], syn: undefined }
    this.state = syn === undefined ? 'syn-sent' : hold ? 'held' : 'syn-received'
    if (syn !== undefined) this.#adoptPeer(now, syn)
    if (hold) this.#stateDue = after(now, HOLD_MS)
    else this.#sendSyn(now)
  }

  /** When `handleTimeout` is next due. */
  get due(): Instant | undefined {
    const sending = this.state === 'closed' || this.state === 'time-wait' ? undefined : this.sender.due
    return earlier(earlier(sending, this.#ackDue), earlier(this.#stateDue, this.#keepDue))
  }

  get halfOpen(): boolean {
    return this.state === 'syn-received' || this.state === 'held'
  }

  status(): FlowStatus {
    const { path, sender } = this
    return {
      state: this.state,
      local: { ip: path.local, port: path.localPort },
      remote: { ip: path.remote, port: path.remotePort },
      queuedBytes: sender.buffer.size,
      unconsumedBytes: this.receiver.unconsumed,
      congestionWindowBytes: Math.floor(sender.congestion.window),
      inFlightBytes: sender.inFlight,
      smoothedRttMs: sender.rtt.smoothed,
      segmentBytes: sender.segmentSize,
      due: this.due,
    }
  }

  // Commands of the application.

  accept(now: Instant): void {
    if (this.state !== 'held') return
    this.state = 'syn-received'
    this.#stateDue = undefined
    this.#sendSyn(now)
  }

  write(bytes: Uint8Array): number {
    if (this.#appClosed || !['syn-sent', 'syn-received', 'established', 'close-wait'].includes(this.state)) return 0
    const taken = this.sender.write(bytes)
    if (taken < bytes.length && !this.sender.finQueued) this.wantsWritable = true
    return taken
  }

  consumed(now: Instant, bytes: number): void {
    this.receiver.consumed(now, bytes, this.sender.rtt.smoothed ?? 100)
    if (!this.receiver.finished && this.receiver.windowOpened(this.#receiveUnit())) this.#ackNow = true
  }

  /** Half-close: FIN after everything written. */
  shutdownWrite(): void {
    this.sender.finish()
    this.wantsWritable = false
    if (this.state === 'established') this.state = 'fin-wait-1'
    else if (this.state === 'close-wait') this.state = 'last-ack'
  }

  /** No more of it in either direction: what was written is still delivered, what still comes is refused. */
  close(now: Instant): void {
    if (this.#appClosed || this.state === 'closed' || this.state === 'time-wait') return
    if (this.state === 'syn-sent') return this.#end('aborted')
    if (this.state === 'held' || this.state === 'syn-received') return this.abort(now)
    this.#appClosed = true
    this.shutdownWrite()
    this.receiver.consumed(now, this.receiver.unconsumed, 1)
    this.#stateDue = after(now, ORPHAN_MS)
  }

  /** RST, now. */
  abort(now: Instant): void {
    if (this.state === 'closed') return
    if (this.state === 'held') {
      this.#emit(now, RST | ACK, 0, 0, false)
    } else if (this.state !== 'syn-sent' && this.state !== 'time-wait') {
      this.#emit(now, RST | ACK, this.state === 'syn-received' ? 1 : this.sender.nxt, 0, false)
    }
    this.#end('aborted')
  }

  /** Forgets the flow without a packet. */
  drop(reason: CloseReason): void {
    this.#end(reason)
  }

  setKeepAlive(now: Instant, keepAlive: KeepAlive | undefined): void {
    this.#keepAlive = keepAlive
    this.#keepProbes = 0
    this.#armKeepAlive(now)
  }

  /** The path carries packets of this size only (RFC 1191, RFC 8201). */
  setPathMtu(now: Instant, mtu: number): void {
    const mss = Math.max(mtu - (this.path.local.family === 4 ? 40 : 60), LEAST_MSS)
    if (mss >= this.#pathMss) return
    this.#pathMss = mss
    const size = mss - (this.#timestamps ? 12 : 0)
    if (size >= this.sender.segmentSize) return
    this.sender.setSegmentSize(size)
    this.sender.retransmitSmaller(now)
  }

  /** True when an ICMP error quotes something that is in flight (RFC 5927 section 4.1). */
  quotes(sequence: number): boolean {
    if (this.state === 'syn-sent') return sequence === this.#iss
    const position = this.sender.una + ((sequence - this.#iss - this.sender.una) | 0)
    return position >= this.sender.una && position < this.sender.nxt
  }

  /** TIME-WAIT: a new SYN that cannot be an old duplicate may take over the ports (RFC 6191, RFC 9293 section 3.10.7.4). */
  mayBeReplacedBy(segment: TcpSegment): boolean {
    if (this.state !== 'time-wait' || (segment.flags & (SYN | RST | ACK)) !== SYN) return false
    if (this.#timestamps && segment.hasTimestamps && ((segment.timestampValue - this.#timestampRecent) | 0) > 0) return true
    return ((segment.sequence - this.#wireAck()) | 0) > 0
  }

  // Segments from the peer.

  /** Takes one segment of this connection; `flush` must follow before time passes. */
  receive(now: Instant, segment: TcpSegment, bytes: Uint8Array): void {
    if (this.state === 'closed') return
    if (this.state === 'held') {
      if ((segment.flags & RST) !== 0 && segment.sequence === this.#wireAck()) this.#end('reset')
      return
    }
    if (this.state === 'syn-sent') return this.#receiveInSynSent(now, segment)
    const start = this.receiver.nxt + ((segment.sequence - this.#wireAck()) | 0)
    const fin = (segment.flags & FIN) !== 0
    const end = start + segment.payloadLength + (fin ? 1 : 0)
    if (!this.#isAcceptable(now, segment, start, end, bytes)) return
    if ((segment.flags & RST) !== 0) {
      // RFC 5961 section 3: only the exact number resets; TIME-WAIT is not cut short (RFC 1337).
      if (this.state === 'time-wait') return
      if (start === this.receiver.nxt) this.#end('reset')
      else this.#challenge(now)
      return
    }
    if ((segment.flags & SYN) !== 0) {
      if (this.state === 'syn-received') this.#sendSyn(now)
      else this.#challenge(now)
      return
    }
    if ((segment.flags & ACK) === 0) return
    this.#lastHeard = now
    this.#keepProbes = 0
    if (this.#keepAlive !== undefined) this.#armKeepAlive(now)
    if (!this.#receiveAck(now, segment, start, end)) return
    if (segment.payloadLength > 0 || fin) this.#receiveData(now, segment, bytes, start, fin)
  }

  #receiveInSynSent(now: Instant, segment: TcpSegment): void {
    const acknowledged = (segment.flags & ACK) !== 0
    if (acknowledged && segment.acknowledgment !== (this.#iss + 1) >>> 0) {
      const reset = writeResetFor(this.#host.builder, this.path, segment)
      if (reset !== undefined) this.#host.packet(reset)
      return
    }
    if ((segment.flags & RST) !== 0) return acknowledged ? this.#end('refused') : undefined
    if ((segment.flags & SYN) === 0) return
    this.#adoptPeer(now, segment)
    this.#lastHeard = now
    if (acknowledged) {
      this.#establish(now, segment, false)
      this.#ackNow = true
      return
    }
    // Simultaneous open: both have sent SYN, both now send SYN-ACK.
    this.state = 'syn-received'
    this.#attempts = 0
    this.#sendSyn(now)
  }

  /** RFC 9293 section 3.10.7.4 first, RFC 7323 section 5.3; answers what it refuses. */
  #isAcceptable(now: Instant, segment: TcpSegment, start: number, end: number, bytes: Uint8Array): boolean {
    const { receiver } = this
    const reset = (segment.flags & RST) !== 0
    const stale =
      this.#timestamps && segment.hasTimestamps && !reset && ((segment.timestampValue - this.#timestampRecent) | 0) < 0 &&
      this.#timestampRecentAt !== undefined && now - this.#timestampRecentAt < TIMESTAMP_AGE_MS
    if (!stale && end >= receiver.nxt && start <= receiver.edge) {
      if (this.#timestamps && segment.hasTimestamps && start <= this.#lastAckSent) {
        this.#timestampRecent = segment.timestampValue
        this.#timestampRecentAt = now
      }
      return true
    }
    if (reset) return false
    if (this.state === 'syn-received' && (segment.flags & SYN) !== 0 && start === receiver.nxt - 1) {
      // The peer's SYN again: it has not seen our answer. In a simultaneous open it acknowledges ours (RFC 9293 figure 8).
      if ((segment.flags & ACK) !== 0 && segment.acknowledgment === (this.#iss + 1) >>> 0) {
        this.#establish(now, segment, false)
        this.#ackNow = true
      } else this.#sendSyn(now)
      return false
    }
    if (this.state === 'time-wait' && (segment.flags & FIN) !== 0) this.#stateDue = after(now, this.#host.settings.timeWaitMs)
    if (segment.payloadLength > 0 || (segment.flags & FIN) !== 0) {
      if (segment.payloadLength > 0 && !stale) receiver.accept(start, bytes.subarray(segment.payloadAt, segment.payloadEnd), false, () => undefined)
      this.#ackNow = true
    } else this.#challenge(now)
    return false
  }

  /** RFC 9293 section 3.10.7.4 fifth; false when the segment is to be ignored. */
  #receiveAck(now: Instant, segment: TcpSegment, start: number, end: number): boolean {
    const { sender } = this
    if (this.state === 'syn-received') {
      if (segment.acknowledgment !== (this.#iss + 1) >>> 0) {
        const reset = writeResetFor(this.#host.builder, this.path, segment)
        if (reset !== undefined) this.#host.packet(reset)
        return false
      }
      this.#establish(now, segment, true)
    }
    const ack = sender.una + ((segment.acknowledgment - this.#iss - sender.una) | 0)
    // RFC 5961 section 5: neither from the future nor from far below.
    if (ack > sender.nxt || ack < sender.una - Math.max(sender.maxWindow, 65_535)) {
      this.#challenge(now)
      return false
    }
    if (ack >= sender.una && (start > this.#windowSeq || (start === this.#windowSeq && ack >= this.#windowAck))) {
      this.#windowSeq = start
      this.#windowAck = ack
      const edge = ack + segment.window * 2 ** this.#peerShift
      const duplicate = ack === sender.una && end === start && edge === sender.windowEdge && sender.inFlight > 0
      this.#acknowledge(now, segment, ack, duplicate)
      sender.setWindow(now, edge)
    } else if (ack >= sender.una) this.#acknowledge(now, segment, ack, false)
    if (!sender.finQueued || !sender.allAcknowledged) return true
    if (this.state === 'fin-wait-1') {
      this.state = 'fin-wait-2'
    } else if (this.state === 'closing') this.#enterTimeWait(now)
    else if (this.state === 'last-ack') {
      this.#end('finished')
      return false
    }
    return true
  }

  #acknowledge(now: Instant, segment: TcpSegment, ack: number, duplicate: boolean): void {
    const { sender } = this
    const edges = this.#edges
    edges.length = 0
    for (let i = 0; i < segment.sackEdgeCount; i += 1) edges.push(ack + (((segment.sackEdges[i] ?? 0) - this.#iss - ack) | 0))
    const echo = this.#timestamps && segment.hasTimestamps && segment.timestampEcho !== 0 ? (this.#timestampNow(now) - segment.timestampEcho) | 0 : -1
    const advanced = ack > sender.una
    sender.acknowledge(now, ack, edges, duplicate, echo >= 0 && echo < 3_600_000 ? echo : -1)
    if (advanced && this.#appClosed) this.#stateDue = after(now, ORPHAN_MS)
  }

  #receiveData(now: Instant, segment: TcpSegment, bytes: Uint8Array, start: number, fin: boolean): void {
    const { receiver } = this
    const receiving = this.state === 'established' || this.state === 'fin-wait-1' || this.state === 'fin-wait-2'
    if (!receiving) {
      this.#ackNow = true
      return
    }
    const payload = bytes.subarray(segment.payloadAt, segment.payloadEnd)
    if (this.#appClosed && start + payload.length > receiver.nxt) {
      // Nobody is left to take it: say so, lest the peer believes that it arrived (RFC 9293 section 3.6.1, RFC 2525 section 2.17).
      this.#emit(now, RST | ACK, this.sender.nxt, 0, false)
      return this.#end('reset')
    }
    if (payload.length > this.#largestPayload) this.#largestPayload = payload.length
    const result = receiver.accept(start, payload, fin, (part, owned) => this.#host.data(this, part, owned))
    if (receiver.finished) {
      this.#ackNow = true
      if (!this.#appClosed) this.#host.ended(this)
      if (this.state === 'established') this.state = 'close-wait'
      else if (this.state === 'fin-wait-1') this.state = 'closing'
      else this.#enterTimeWait(now)
      return
    }
    if (result !== 'in-order' || receiver.hasHoles) {
      this.#ackNow = true
      // Peers without SACK count duplicates: one for each segment.
      if (!this.sender.sackPermitted) this.#sendAck(now)
      return
    }
    this.#segmentsUnacked += 1
    const quick = this.#quickAcks > 0
    if (quick) this.#quickAcks -= 1
    if (quick || this.#segmentsUnacked >= 2) this.#ackNow = true
    else this.#ackDue ??= after(now, this.#host.settings.delayedAckMs)
  }

  // Time.

  /** Does what is due; `flush` must follow. */
  handleTimeout(now: Instant): void {
    if (this.#stateDue !== undefined && now >= this.#stateDue) {
      this.#stateDue = undefined
      this.#handleStateTimeout(now)
    }
    if (this.state === 'closed' || this.state === 'time-wait') return
    if (this.#ackDue !== undefined && now >= this.#ackDue) {
      this.#ackDue = undefined
      this.#ackNow = true
    }
    if (this.#keepDue !== undefined && now >= this.#keepDue) this.#probeAlive(now)
    if (this.sender.due !== undefined && now >= this.sender.due) {
      const verdict = this.sender.handleTimeout(now)
      // A segment just below the window asks for the window without using any of it.
      if (verdict === 'probe') this.#emit(now, ACK, this.sender.una - 1, 0, false)
      else if (verdict === 'dead') this.#end('timeout')
    }
  }

  /** Sends what the last events have made due: data, then an acknowledgment unless data carried it. */
  flush(now: Instant): void {
    this.dirty = false
    if (this.state === 'closed') return
    if (this.state !== 'syn-sent' && this.state !== 'syn-received' && this.state !== 'held') {
      if (this.state !== 'time-wait') {
        this.sender.send(now, (start, length, fin, push) => this.#emit(now, ACK | (fin ? FIN : 0) | (push ? PSH : 0), start, length, true))
      }
      if (this.#ackNow) this.#sendAck(now)
    }
    if (this.wantsWritable && this.sender.writable) {
      this.wantsWritable = false
      this.#host.writable(this)
    }
  }

  #handleStateTimeout(now: Instant): void {
    if (this.state === 'syn-sent' || this.state === 'syn-received') {
      this.#attempts += 1
      if (this.#attempts > (this.state === 'syn-sent' ? this.#host.settings.synRetries : SYN_ACK_RETRIES)) this.#end('timeout')
      else this.#sendSyn(now)
    } else if (this.state === 'time-wait') this.#end('finished')
    else {
      if (this.state !== 'held' && this.state !== 'fin-wait-2') this.#emit(now, RST | ACK, this.sender.nxt, 0, false)
      this.#end('timeout')
    }
  }

  #probeAlive(now: Instant): void {
    const keepAlive = this.#keepAlive
    this.#keepDue = undefined
    if (keepAlive === undefined) return
    if (now - this.#lastHeard < keepAlive.idleMs || this.sender.inFlight > 0) return this.#armKeepAlive(now)
    if (this.#keepProbes >= keepAlive.count) {
      this.#emit(now, RST | ACK, this.sender.nxt, 0, false)
      return this.#end('timeout')
    }
    this.#keepProbes += 1
    this.#emit(now, ACK, this.sender.nxt - 1, 0, false)
    this.#keepDue = after(now, keepAlive.intervalMs)
  }

  #armKeepAlive(now: Instant): void {
    const active = this.#keepAlive !== undefined && this.state !== 'closed' && this.state !== 'time-wait' && this.state !== 'syn-sent' && !this.halfOpen
    if (!active || this.#keepAlive === undefined) this.#keepDue = undefined
    else this.#keepDue = after(this.sender.inFlight > 0 ? now : this.#lastHeard, this.#keepAlive.idleMs)
    if (this.#keepDue !== undefined && this.#keepDue <= now) this.#keepDue = after(now, this.#keepAlive?.intervalMs ?? 1)
  }

  // Opening and ending.

  #adoptPeer(now: Instant, syn: TcpSegment): void {
    const { settings } = this.#host
    this.#irs = syn.sequence
    this.#scaled = this.#scaled && syn.windowShift >= 0
    this.#peerShift = this.#scaled ? syn.windowShift : 0
    this.receiver.windowShift = this.#scaled ? shiftFor(settings.maxReceiveBufferBytes) : 0
    this.#timestamps = this.#timestamps && syn.hasTimestamps
    this.sender.sackPermitted = settings.selectiveAcks && syn.sackPermitted
    if (this.#timestamps) {
      this.#timestampRecent = syn.timestampValue
      this.#timestampRecentAt = now
    }
    const offered = syn.maximumSegmentSize || (this.path.local.family === 4 ? DEFAULT_MSS_V4 : DEFAULT_MSS_V6)
    this.sender.setSegmentSize(Math.max(Math.min(this.#pathMss, offered), LEAST_MSS) - (this.#timestamps ? 12 : 0))
    this.sender.setWindow(now, 1 + syn.window)
    this.#lastAckSent = 1
  }

  #establish(now: Instant, segment: TcpSegment, scaledWindow: boolean): void {
    if (this.#attempts === 0) this.sender.rtt.sample(now, now - this.#synSentAt)
    this.state = this.sender.finQueued ? 'fin-wait-1' : 'established'
    this.#stateDue = undefined
    this.#attempts = 0
    this.#windowSeq = 1
    this.#windowAck = 1
    this.sender.setWindow(now, 1 + segment.window * 2 ** (scaledWindow ? this.#peerShift : 0))
    this.#lastHeard = now
    this.#armKeepAlive(now)
    this.#host.opened(this)
  }

  #enterTimeWait(now: Instant): void {
    this.state = 'time-wait'
    this.sender.clear()
    this.receiver.clear()
    this.#ackDue = undefined
    this.#keepDue = undefined
    this.#stateDue = after(now, this.#host.settings.timeWaitMs)
    this.#tell('finished')
  }

  #end(reason: CloseReason): void {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.sender.clear()
    this.receiver.clear()
    this.#stateDue = undefined
    this.#ackDue = undefined
    this.#keepDue = undefined
    this.#ackNow = false
    this.#tell(reason)
  }

  #tell(reason: CloseReason): void {
    if (this.#told) return
    this.#told = true
    this.#host.closed(this, reason)
  }

  // Segments to the peer.

  #sendSyn(now: Instant): void {
    this.#stateDue = after(now, Math.min(INITIAL_RTO_MS * 2 ** this.#attempts, 60_000))
    if (this.#attempts === 0) this.#synSentAt = now
    this.#emit(now, this.state === 'syn-sent' ? SYN : SYN | ACK, 0, 0, false)
  }

  #sendAck(now: Instant): void {
    this.#emit(now, ACK, this.sender.nxt, 0, false)
  }

  #challenge(now: Instant): void {
    if (now - this.#challengeAt < CHALLENGE_INTERVAL_MS) return
    this.#challengeAt = now
    this.#ackNow = true
  }

  #emit(now: Instant, flags: number, position: number, length: number, data: boolean): void {
    const fields = this.#fields
    const { receiver } = this
    const syn = (flags & SYN) !== 0
    fields.flags = flags
    fields.sequence = (this.#iss + position) >>> 0
    fields.timestamps = this.#timestamps && (flags & RST) === 0
    fields.timestampValue = this.#timestampNow(now)
    fields.timestampEcho = this.#timestampRecent
    fields.syn = syn ? this.#synOptions() : undefined
    fields.sackEdges = []
    if ((flags & ACK) !== 0) {
      fields.acknowledgment = this.#wireAck()
      if (!syn && (flags & RST) === 0) {
        if (this.sender.sackPermitted && !data && (receiver.hasHoles || receiver.hasDuplicate)) {
          fields.sackEdges = receiver.sackEdges().map((edge) => (this.#irs + edge) >>> 0)
        }
        this.#lastAckSent = receiver.nxt
        this.#segmentsUnacked = 0
        this.#ackDue = undefined
        // Data cannot carry SACK blocks here: while there are holes the acknowledgment follows.
        if (!data || !receiver.hasHoles) this.#ackNow = false
      }
    }
    fields.window = (flags & RST) !== 0 ? 0 : syn && this.state === 'syn-sent' ? Math.min(receiver.room, 0xffff) : receiver.advertise(this.#receiveUnit(), !syn && this.#scaled)
    this.#host.packet(writeSegment(this.#host.builder, this.path, fields, this.sender.buffer, position, length))
  }

  #synOptions(): SynOptions {
    const { settings } = this.#host
    const answering = this.state !== 'syn-sent'
    return {
      maximumSegmentSize: settings.mtu - (this.path.local.family === 4 ? 40 : 60),
      windowShift: this.#scaled ? shiftFor(settings.maxReceiveBufferBytes) : -1,
      sackPermitted: answering ? this.sender.sackPermitted : settings.selectiveAcks,
    }
  }

  #receiveUnit(): number {
    return Math.max(this.#largestPayload, 536)
  }

  #wireAck(): number {
    return (this.#irs + this.receiver.nxt) >>> 0
  }

  /** Milliseconds with an offset of this flow's own (RFC 7323 section 5.4). */
  #timestampNow(now: Instant): number {
    return (this.#timestampOffset + Math.floor(now)) >>> 0
  }
}
