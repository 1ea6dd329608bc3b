import { after, earlier, type Instant } from '@meshwright/core'
import { AckPolicy } from './ack-policy.ts'
import type { Scheduled } from './deadline-heap.ts'
import type { FlowStart } from './flow-secrets.ts'
import { KeepAliveTimer } from './keep-alive.ts'
import type { CloseReason, FlowId, KeepAlive, ListenerId, TcpState } from './netstack-io.ts'
import { PeerWindow } from './peer-window.ts'
import { SynAttempts } from './syn-attempts.ts'
import type { TcpHost } from './tcp-host.ts'
import { LEAST_MSS, segmentSizeFor, TcpOutput, type TcpPath, windowShiftFor, writeResetFor } from './tcp-output.ts'
import { TcpReceiver } from './tcp-receiver.ts'
import { ACK, FIN, PSH, RST, SYN, type TcpSegment } from './tcp-segment.ts'
import { TcpSender } from './tcp-sender.ts'
import { Timestamps } from './tcp-timestamps.ts'

const HOLD_MS = 60_000
/** How long a flow that the application closed may stay without progress. */
const ORPHAN_MS = 120_000
const SYN_ACK_RETRIES = 5
/** RFC 5961 section 7: challenge and out-of-window acknowledgments, one in this time for each flow. */
const CHALLENGE_INTERVAL_MS = 100

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
  readonly #host: TcpHost<TcpConnection>
  #told = false
  #appClosed = false
  readonly #timestamps: Timestamps
  readonly #output: TcpOutput
  readonly #acks: AckPolicy = new AckPolicy()
  readonly #keepAlive: KeepAliveTimer
  #keepAliveSettings: KeepAlive | undefined
  readonly #peerWindow: PeerWindow = new PeerWindow()
  #pathMss: number
  #stateDue: Instant | undefined
  readonly #attempts: SynAttempts
  #challengeAt: number = Number.NEGATIVE_INFINITY
  readonly #edges: number[] = []

  constructor(
    now: Instant,
    host: TcpHost<TcpConnection>,
    id: FlowId,
    path: TcpPath,
    listener: ListenerId | undefined,
    start: FlowStart,
    syn: TcpSegment | undefined,
    hold: boolean,
  ) {
    const { settings } = host
    this.#host = host
    this.id = id
    this.path = path
    this.listener = listener
    this.#pathMss = settings.mtu - (path.local.family === 4 ? 40 : 60)
    this.#timestamps = new Timestamps(settings.timestamps, start.timestampOffset)
    this.sender = new TcpSender(this.#pathMss, { maxBufferBytes: settings.maxSendBufferBytes, maxRetries: settings.maxRetries, chunks: host.chunks })
    this.receiver = new TcpReceiver(settings.maxReceiveBufferBytes)
    this.#keepAlive = new KeepAliveTimer(now, undefined)
    this.#keepAliveSettings = settings.keepAlive
    this.#attempts = new SynAttempts(now)
    this.#output = new TcpOutput(host, path, this.sender, this.receiver, this.#timestamps, this.#acks, start.sequence)
    this.state = syn === undefined ? 'syn-sent' : hold ? 'held' : 'syn-received'
    if (syn !== undefined) this.#adoptPeer(now, syn)
    if (hold) this.#stateDue = after(now, HOLD_MS)
    else this.#sendSyn(now)
  }

  /** When `handleTimeout` is next due. */
  get due(): Instant | undefined {
    const sending = this.state === 'closed' || this.state === 'time-wait' ? undefined : this.sender.due
    return earlier(earlier(sending, this.#acks.due), earlier(this.#stateDue, this.#keepAlive.due))
  }

  get halfOpen(): boolean {
    return this.state === 'syn-received' || this.state === 'held'
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
    if (!this.receiver.finished && this.receiver.windowOpened(this.#output.receiveUnit)) this.#acks.now = true
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
    if (this.state === 'syn-sent' || this.halfOpen) return this.abort(now)
    this.#appClosed = true
    this.shutdownWrite()
    this.receiver.consumed(now, this.receiver.unconsumed, 1)
    this.#stateDue = after(now, ORPHAN_MS)
  }

  /** RST, now. */
  abort(now: Instant): void {
    if (this.state === 'closed') return
    if (this.state === 'held') {
      this.#output.emit(now, RST | ACK, 0, 0, false)
    } else if (this.state !== 'syn-sent' && this.state !== 'time-wait') {
      this.#output.emit(now, RST | ACK, this.state === 'syn-received' ? 1 : this.sender.nxt, 0, false)
    }
    this.#end('aborted')
  }

  /** Forgets the flow without a packet. */
  drop(reason: CloseReason): void {
    this.#end(reason)
  }

  setKeepAlive(now: Instant, keepAlive: KeepAlive | undefined): void {
    this.#keepAliveSettings = keepAlive
    if (this.#isSynchronized()) this.#keepAlive.configure(now, keepAlive)
  }

  /** The path carries packets of this size only (RFC 1191, RFC 8201). */
  setPathMtu(now: Instant, mtu: number): void {
    const mss = Math.max(mtu - (this.path.local.family === 4 ? 40 : 60), LEAST_MSS)
    if (mss >= this.#pathMss) return
    this.#pathMss = mss
    const size = mss - (this.#timestamps.enabled ? 12 : 0)
    if (size >= this.sender.segmentSize) return
    this.sender.setSegmentSize(size)
    this.sender.retransmitSmaller(now)
  }

  /** An ICMP error quotes something that is in flight (RFC 5927 section 4.1). */
  quotes(sequence: number): boolean {
    if (this.state === 'syn-sent') return sequence === this.#output.iss
    const position = this.sender.una + ((sequence - this.#output.iss - this.sender.una) | 0)
    return position >= this.sender.una && position < this.sender.nxt
  }

  /** TIME-WAIT: a new SYN that cannot be an old duplicate may take over the ports (RFC 6191, RFC 9293 section 3.10.7.4). */
  mayBeReplacedBy(segment: TcpSegment): boolean {
    if (this.state !== 'time-wait' || (segment.flags & (SYN | RST | ACK)) !== SYN) return false
    if (this.#timestamps.isNewer(segment)) return true
    return ((segment.sequence - this.#output.wireAck) | 0) > 0
  }

  // Segments from the peer.

  /** Takes one segment of this connection; `flush` must follow before time passes. */
  receive(now: Instant, segment: TcpSegment, bytes: Uint8Array): void {
    if (this.state === 'closed') return
    if (this.state === 'held') {
      if ((segment.flags & RST) !== 0 && segment.sequence === this.#output.wireAck) this.#end('reset')
      return
    }
    if (this.state === 'syn-sent') return this.#receiveInSynSent(now, segment)
    const start = this.receiver.nxt + ((segment.sequence - this.#output.wireAck) | 0)
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
    this.#keepAlive.heard(now)
    if (!this.#receiveAck(now, segment, start, end)) return
    if (segment.payloadLength > 0 || fin) this.#receiveData(now, segment, bytes, start, fin)
  }

  #receiveInSynSent(now: Instant, segment: TcpSegment): void {
    const acknowledged = (segment.flags & ACK) !== 0
    if (acknowledged && segment.acknowledgment !== (this.#output.iss + 1) >>> 0) {
      const reset = writeResetFor(this.#host.builder, this.path, segment)
      if (reset !== undefined) this.#host.packet(reset)
      return
    }
    if ((segment.flags & RST) !== 0) return acknowledged ? this.#end('refused') : undefined
    if ((segment.flags & SYN) === 0) return
    this.#adoptPeer(now, segment)
    if (acknowledged) {
      this.#establish(now, segment, false)
      this.#acks.now = true
      return
    }
    // Simultaneous open: both have sent SYN, both now send SYN-ACK.
    this.state = 'syn-received'
    this.#attempts.restart()
    this.#sendSyn(now)
  }

  /** RFC 9293 section 3.10.7.4 first, RFC 7323 section 5.3; answers what it refuses. */
  #isAcceptable(now: Instant, segment: TcpSegment, start: number, end: number, bytes: Uint8Array): boolean {
    const { receiver } = this
    const reset = (segment.flags & RST) !== 0
    const stale = !reset && this.#timestamps.isStale(now, segment)
    if (!stale && end >= receiver.nxt && start <= receiver.edge) {
      if (start <= this.#output.lastAckSent) this.#timestamps.note(now, segment)
      return true
    }
    if (reset) return false
    if (this.state === 'syn-received' && (segment.flags & SYN) !== 0 && start === receiver.nxt - 1) {
      // The peer's SYN again: it has not seen our answer. In a simultaneous open it acknowledges ours (RFC 9293 figure 8).
      if ((segment.flags & ACK) !== 0 && segment.acknowledgment === (this.#output.iss + 1) >>> 0) {
        this.#establish(now, segment, false)
        this.#acks.now = true
      } else this.#sendSyn(now)
      return false
    }
    if (this.state === 'time-wait' && (segment.flags & FIN) !== 0) this.#stateDue = after(now, this.#host.settings.timeWaitMs)
    if (segment.payloadLength > 0 || (segment.flags & FIN) !== 0) {
      if (segment.payloadLength > 0 && !stale)
        receiver.accept(start, bytes.subarray(segment.payloadAt, segment.payloadEnd), false, () => undefined)
      this.#acks.now = true
    } else this.#challenge(now)
    return false
  }

  /** RFC 9293 section 3.10.7.4 fifth; false when the segment is to be ignored. */
  #receiveAck(now: Instant, segment: TcpSegment, start: number, end: number): boolean {
    const { sender } = this
    if (this.state === 'syn-received') {
      if (segment.acknowledgment !== (this.#output.iss + 1) >>> 0) {
        const reset = writeResetFor(this.#host.builder, this.path, segment)
        if (reset !== undefined) this.#host.packet(reset)
        return false
      }
      this.#establish(now, segment, true)
    }
    const ack = sender.una + ((segment.acknowledgment - this.#output.iss - sender.una) | 0)
    // RFC 5961 section 5: neither from the future nor from far below.
    if (ack > sender.nxt || ack < sender.una - Math.max(sender.maxWindow, 65_535)) {
      this.#challenge(now)
      return false
    }
    if (ack >= sender.una && this.#peerWindow.hears(start, ack)) {
      const edge = ack + this.#peerWindow.bytes(segment.window)
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
    for (let i = 0; i < segment.sackEdgeCount; i += 1) edges.push(ack + (((segment.sackEdges[i] ?? 0) - this.#output.iss - ack) | 0))
    const advanced = ack > sender.una
    sender.acknowledge(now, ack, edges, duplicate, this.#timestamps.roundTrip(now, segment))
    if (advanced && this.#appClosed) this.#stateDue = after(now, ORPHAN_MS)
  }

  #receiveData(now: Instant, segment: TcpSegment, bytes: Uint8Array, start: number, fin: boolean): void {
    const { receiver } = this
    const receiving = this.state === 'established' || this.state === 'fin-wait-1' || this.state === 'fin-wait-2'
    if (!receiving) {
      this.#acks.now = true
      return
    }
    const payload = bytes.subarray(segment.payloadAt, segment.payloadEnd)
    if (this.#appClosed && start + payload.length > receiver.nxt) {
      // Nobody is left to take it: say so, lest the peer believes that it arrived (RFC 9293 section 3.6.1, RFC 2525 section 2.17).
      this.#output.emit(now, RST | ACK, this.sender.nxt, 0, false)
      return this.#end('reset')
    }
    if (payload.length > this.#output.receiveUnit) this.#output.receiveUnit = payload.length
    const result = receiver.accept(start, payload, fin, (part, owned) => this.#host.data(this, part, owned))
    if (receiver.finished) {
      this.#acks.now = true
      if (!this.#appClosed) this.#host.ended(this)
      if (this.state === 'established') this.state = 'close-wait'
      else if (this.state === 'fin-wait-1') this.state = 'closing'
      else this.#enterTimeWait(now)
      return
    }
    if (result !== 'in-order' || receiver.hasHoles) {
      this.#acks.lossSeen()
      // One for each segment (RFC 5681 section 4.2): peers without SACK count duplicates, and gVisor counts them with SACK too.
      this.#output.emit(now, ACK, this.sender.nxt, 0, false)
      return
    }
    const atOnce = this.#acks.inOrder(now, this.#host.settings.delayedAckMs, this.sender.rtt.smoothed ?? Number.POSITIVE_INFINITY)
    if (atOnce) this.#output.emit(now, ACK, this.sender.nxt, 0, false)
  }

  // Time.

  /** Does what is due; `flush` must follow. */
  handleTimeout(now: Instant): void {
    if (this.#stateDue !== undefined && now >= this.#stateDue) {
      this.#stateDue = undefined
      this.#handleStateTimeout(now)
    }
    if (this.state === 'closed' || this.state === 'time-wait') return
    this.#acks.handleTimeout(now)
    const alive = this.#keepAlive.handleTimeout(now, this.sender.inFlight > 0)
    if (alive === 'probe') this.#output.emit(now, ACK, this.sender.nxt - 1, 0, false)
    else if (alive === 'dead') {
      this.#output.emit(now, RST | ACK, this.sender.nxt, 0, false)
      return this.#end('timeout')
    }
    if (this.sender.due !== undefined && now >= this.sender.due) {
      const verdict = this.sender.handleTimeout(now)
      // A segment just below the window asks for the window without using any of it.
      if (verdict === 'probe') this.#output.emit(now, ACK, this.sender.una - 1, 0, false)
      else if (verdict === 'dead') this.#end('timeout')
    }
  }

  /** Sends what the last events have made due: data, then an acknowledgment unless data carried it. */
  flush(now: Instant): void {
    this.dirty = false
    if (this.state === 'closed') return
    if (this.state !== 'syn-sent' && this.state !== 'syn-received' && this.state !== 'held') {
      if (this.state !== 'time-wait') {
        this.sender.send(now, (start, length, fin, push) =>
          this.#output.emit(now, ACK | (fin ? FIN : 0) | (push ? PSH : 0), start, length, true),
        )
      }
      if (this.#acks.now) this.#output.emit(now, ACK, this.sender.nxt, 0, false)
    }
    if (this.wantsWritable && this.sender.writable) {
      this.wantsWritable = false
      this.#host.writable(this)
    }
  }

  #handleStateTimeout(now: Instant): void {
    if (this.state === 'syn-sent' || this.state === 'syn-received') {
      if (this.#attempts.failed(this.state === 'syn-sent' ? this.#host.settings.synRetries : SYN_ACK_RETRIES)) this.#end('timeout')
      else this.#sendSyn(now)
    } else if (this.state === 'time-wait') this.#end('finished')
    else {
      if (this.state !== 'held' && this.state !== 'fin-wait-2') this.#output.emit(now, RST | ACK, this.sender.nxt, 0, false)
      this.#end('timeout')
    }
  }

  // Opening and ending.

  #adoptPeer(now: Instant, syn: TcpSegment): void {
    const { settings } = this.#host
    this.#output.irs = syn.sequence
    this.#output.scaled = this.#output.scaled && syn.windowShift >= 0
    this.#peerWindow.shift = this.#output.scaled ? syn.windowShift : 0
    this.receiver.windowShift = this.#output.scaled ? windowShiftFor(settings.maxReceiveBufferBytes) : 0
    this.#timestamps.adopt(now, syn)
    this.sender.sackPermitted = settings.selectiveAcks && syn.sackPermitted
    this.sender.setSegmentSize(segmentSizeFor(this.path, this.#pathMss, syn.maximumSegmentSize) - (this.#timestamps.enabled ? 12 : 0))
    this.sender.setWindow(now, 1 + syn.window)
    this.#output.lastAckSent = 1
  }

  #establish(now: Instant, segment: TcpSegment, scaledWindow: boolean): void {
    const roundTripMs = this.#attempts.roundTripMs(now)
    if (roundTripMs !== undefined) this.sender.rtt.sample(now, roundTripMs)
    this.state = this.sender.finQueued ? 'fin-wait-1' : 'established'
    this.#stateDue = undefined
    this.#attempts.restart()
    this.#peerWindow.open()
    this.sender.setWindow(now, 1 + (scaledWindow ? this.#peerWindow.bytes(segment.window) : segment.window))
    this.#keepAlive.configure(now, this.#keepAliveSettings)
    this.#host.opened(this)
  }

  #enterTimeWait(now: Instant): void {
    this.state = 'time-wait'
    this.sender.clear()
    this.receiver.clear()
    this.#acks.stop()
    this.#acks.now = true // the FIN just taken is still to be acknowledged
    this.#keepAlive.stop()
    this.#stateDue = after(now, this.#host.settings.timeWaitMs)
    this.#tell('finished')
  }

  #end(reason: CloseReason): void {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.sender.clear()
    this.receiver.clear()
    this.#stateDue = undefined
    this.#acks.stop()
    this.#keepAlive.stop()
    this.#tell(reason)
  }

  #tell(reason: CloseReason): void {
    if (this.#told) return
    this.#told = true
    this.#host.closed(this, reason)
  }

  // Segments to the peer.

  #sendSyn(now: Instant): void {
    this.#stateDue = this.#attempts.sent(now)
    this.#output.emit(now, this.state === 'syn-sent' ? SYN : SYN | ACK, 0, 0, false)
  }

  #challenge(now: Instant): void {
    if (now - this.#challengeAt < CHALLENGE_INTERVAL_MS) return
    this.#challengeAt = now
    this.#acks.now = true
  }

  #isSynchronized(): boolean {
    return this.state !== 'syn-sent' && !this.halfOpen && this.state !== 'time-wait' && this.state !== 'closed'
  }
}
