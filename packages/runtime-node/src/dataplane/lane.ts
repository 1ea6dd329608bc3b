import type { Instant } from '@meshwright/core'
import { Inbound } from './inbound.ts'
import type { LaneContext, SocketPair } from './lane-context.ts'
import { EBADF, POLLERR, POLLFD_BYTES, POLLIN, POLLNVAL } from './linux-abi.ts'
import type { LaneDoors } from './lane-engine.ts'
import { Outbound } from './outbound.ts'
import { RowSender } from './row-sender.ts'
import { closeSockets } from './udp-pair.ts'

/** Even with nothing to wait for, a look at the world now and then. */
const LONGEST_WAIT_MS = 1_000
/** Whoever waited for so long was woken up by what came alone, or first. */
const AWOKEN_MS = 0.05
/** What is under way to a port that was given up arrives within this time. */
const OLD_SOCKETS_MS = 1_000

/** The wake descriptor, the TUN device, two sockets, two sockets that were given up. */
const POLLED = 6
const FIRST_SOCKET = 2

/** How a lane behaves. */
export interface LaneOptions {
  /**
   * Whether packets that come one at a time are worth haste: such a packet is sent before the next one is looked for, and after a wait
   * `poll` is asked for the next one, since whom the packet has woken up often waits for this processor. Else all that is there is read first.
   */
  readonly prompt?: boolean
  /** Sockets that were given up are closed now: their descriptors are somebody else's afterwards. */
  readonly onClosing?: (pair: SocketPair) => void
}

/** How a turn of the lane ended. */
export type LaneTurn =
  /** All is well. */
  | 'on'
  /** Somebody wrote to the wake descriptor: there are messages. */
  | 'woken'
  /** The TUN device is gone. */
  | 'gone'

/**
 * Carries packets between a TUN device and sockets, turn by turn: waits in `poll`, reads what there is, lets the engine's time pass, and
 * sends what it owes. It blocks its thread while it waits.
 */
export class Lane {
  readonly context: LaneContext
  readonly #clock: () => Instant
  readonly #wake: number
  readonly #sender: RowSender
  readonly #outbound: Outbound
  readonly #inbound: Inbound
  readonly #doors: LaneDoors
  readonly #isPrompt: boolean
  readonly #onClosing: ((pair: SocketPair) => void) | undefined
  #lastReceived = 0
  // What `poll` was last told to look at.
  #shown = false
  #shownSockets: SocketPair | undefined
  #shownOld: SocketPair | undefined
  #oldSockets: { readonly pair: SocketPair; readonly until: Instant } | undefined
  /** Whether this turn began with a wait. */
  #isAwoken = false
  /** Errno of a device that is no more. */
  errno = 0
  #now: Instant

  /** @param wake an eventfd that wakes the lane up */
  constructor(context: LaneContext, wake: number, clock: () => Instant, options: LaneOptions = {}) {
    this.context = context
    this.#wake = wake
    this.#clock = clock
    this.#now = clock()
    const isPrompt = options.prompt === true
    this.#isPrompt = isPrompt
    this.#onClosing = options.onClosing
    this.#sender = new RowSender(context)
    this.#outbound = new Outbound(context, this.#sender, isPrompt)
    this.#inbound = new Inbound(context)
    this.#doors = {
      send: (path, bytes, trafficClass) => this.#sender.sendCopy(this.#clock(), path, bytes, trafficClass),
      deliver: (packet) => this.#inbound.deliver(packet),
    }
  }

  /** Rows that were joined on their way in, and the packets in them. */
  get joined(): { readonly rows: number; readonly packets: number } {
    return this.#inbound.joined
  }

  /** When the last turn had waited. */
  get now(): Instant {
    return this.#now
  }

  /** For how many peers rows were put together at the same time, at most, since this was last asked. */
  takePeersAtOnce(): number {
    return this.#outbound.takePeersAtOnce()
  }

  /** From now on these sockets; what comes by the ones before is still read for a while, then they are closed. */
  useSockets(now: Instant, pair: SocketPair): void {
    this.#closeOld()
    const old = this.context.sockets
    this.context.sockets = pair
    if (old === undefined) return
    this.#oldSockets = { pair: old, until: (now + OLD_SOCKETS_MS) as Instant }
  }

  /** Waits for something to do, at most `longestMs`, and does it. */
  turn(longestMs: number = LONGEST_WAIT_MS): LaneTurn {
    const { view, map, engine, border } = this.context
    this.#showDescriptors()
    const before = this.#clock()
    const ready = border.poll(map.poll, POLLED, this.#waitMs(before, longestMs))
    const now = this.#clock()
    this.#now = now
    this.#isAwoken = this.#isPrompt && now - before >= AWOKEN_MS
    let received = 0
    if (ready > 0) {
      const events = map.poll + 6
      const ofTun = view.getUint16(events + POLLFD_BYTES, true)
      if (ofTun !== 0) {
        const failed = this.#outbound.run(now, this.#isAwoken)
        if (failed < 0 || (ofTun & POLLNVAL) !== 0) {
          this.errno = failed < 0 ? -failed : EBADF
          return 'gone'
        }
      }
      for (let i = FIRST_SOCKET; i < POLLED; i += 1) {
        if ((view.getUint16(events + i * POLLFD_BYTES, true) & (POLLIN | POLLERR)) !== 0) received += this.#receive(now, view.getInt32(map.poll + i * POLLFD_BYTES, true))
      }
      this.#lastReceived = received
    }
    const due = engine.pollTimeout()
    if (due !== undefined && due <= now) engine.handleTimeout(now)
    this.settle(now)
    if (this.#oldSockets !== undefined && now >= this.#oldSockets.until) this.#closeOld()
    return ready > 0 && (view.getUint16(map.poll + 6, true) & POLLIN) !== 0 ? 'woken' : 'on'
  }

  /** Sends what the engine owes. */
  settle(now: Instant): void {
    const { engine } = this.context
    engine.settle(now, this.#doors)
    // What is opened may make the engine owe something again: a first packet lets out those that waited for it.
    while (this.#inbound.takeRelayed(now)) engine.settle(now, this.#doors)
  }

  /** Closes the sockets; the TUN device belongs to the host. */
  close(): void {
    this.#closeOld()
    closeSockets(this.context.border, this.context.sockets)
    this.context.sockets = undefined
  }

  /** Takes what a socket has, and what the kernel answers: mostly it does at once, and need not be asked whether it did. */
  #receive(now: Instant, fd: number): number {
    const isLone = this.#isPrompt && this.#lastReceived <= 1
    let received = this.#inbound.run(now, fd, isLone)
    if (received > 0) this.#outbound.run(now, this.#isAwoken)
    if (isLone && !this.#isAwoken) received += this.#inbound.run(now, fd, false)
    return received
  }

  /** Writes down what `poll` is to look at, where that has changed. */
  #showDescriptors(): void {
    const { view, map, tun, sockets } = this.context
    const old = this.#oldSockets?.pair
    if (this.#shown && sockets === this.#shownSockets && old === this.#shownOld) return
    this.#shown = true
    this.#shownSockets = sockets
    this.#shownOld = old
    for (const [i, fd] of [this.#wake, tun.fd, sockets?.ipv4 ?? -1, sockets?.ipv6 ?? -1, old?.ipv4 ?? -1, old?.ipv6 ?? -1].entries()) {
      view.setInt32(map.poll + i * POLLFD_BYTES, fd, true)
      view.setUint32(map.poll + i * POLLFD_BYTES + 4, POLLIN, true)
    }
  }

  #waitMs(now: Instant, longest: number): number {
    const due = this.context.engine.pollTimeout()
    const wait = due === undefined ? longest : Math.min(longest, due - now)
    const old = this.#oldSockets === undefined ? wait : Math.min(wait, OLD_SOCKETS_MS)
    // Rounded up: a wait that ends a fraction early finds nothing due and would spin.
    return Math.max(0, Math.ceil(old))
  }

  #closeOld(): void {
    if (this.#oldSockets === undefined) return
    const { pair } = this.#oldSockets
    this.#oldSockets = undefined
    // Said first: whoever would close them for a lane that dies must not close what has their numbers then.
    this.#onClosing?.(pair)
    closeSockets(this.context.border, pair)
  }
}
