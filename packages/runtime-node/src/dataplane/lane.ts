import type { Instant } from '@meshwright/core'
import { Inbound } from './inbound.ts'
import type { LaneContext, SocketPair } from './lane-context.ts'
import { EAGAIN, EINTR, EIO, POLLERR, POLLFD_BYTES, POLLHUP, POLLIN, POLLNVAL } from './linux-abi.ts'
import type { LaneDoors } from './lane-engine.ts'
import { Outbound } from './outbound.ts'
import { RowSender } from './row-sender.ts'

/** Even with nothing to wait for, a look at the world now and then. */
const LONGEST_WAIT_MS = 1_000
/** What is under way to a port that was given up arrives within this time. */
const OLD_SOCKETS_MS = 1_000

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
  #oldSockets: { readonly pair: SocketPair; readonly until: Instant } | undefined
  /** Errno of a device that is no more. */
  errno = 0

  /** @param wake an eventfd that wakes the lane up */
  constructor(context: LaneContext, wake: number, clock: () => Instant) {
    this.context = context
    this.#wake = wake
    this.#clock = clock
    this.#sender = new RowSender(context)
    this.#outbound = new Outbound(context, this.#sender)
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
    const { border, view, map, tun, sockets, engine } = this.context
    const fds = [this.#wake, tun.fd, sockets?.ipv4 ?? -1, sockets?.ipv6 ?? -1, this.#oldSockets?.pair.ipv4 ?? -1, this.#oldSockets?.pair.ipv6 ?? -1]
    for (const [i, fd] of fds.entries()) {
      view.setInt32(map.poll + i * POLLFD_BYTES, fd, true)
      view.setUint32(map.poll + i * POLLFD_BYTES + 4, POLLIN, true)
    }
    const ready = border.poll(map.poll, fds.length, this.#waitMs(longestMs))
    const has = (i: number, bits: number = POLLIN): boolean => ready > 0 && (view.getUint16(map.poll + i * POLLFD_BYTES + 6, true) & bits) !== 0
    const now = this.#clock()
    if (has(1, POLLIN | POLLERR | POLLHUP | POLLNVAL)) {
      const failed = this.#outbound.run(now, isNothing)
      if (failed < 0 || has(1, POLLNVAL)) {
        this.errno = -failed
        return 'gone'
      }
    }
    for (let i = 2; i < fds.length; i += 1) if (has(i, POLLIN | POLLERR)) this.#inbound.run(now, fds[i] ?? -1)
    const due = engine.pollTimeout()
    if (due !== undefined && due <= now) engine.handleTimeout(now)
    this.settle(now)
    if (this.#oldSockets !== undefined && now >= this.#oldSockets.until) this.#closeOld()
    return has(0) ? 'woken' : 'on'
  }

  /** Sends what the engine owes. */
  settle(now: Instant): void {
    this.context.engine.settle(now, this.#doors)
  }

  /** Closes the sockets; the TUN device belongs to the host. */
  close(): void {
    this.#closeOld()
    this.#closePair(this.context.sockets)
    this.context.sockets = undefined
  }

  #waitMs(longest: number): number {
    const due = this.context.engine.pollTimeout()
    const wait = due === undefined ? longest : Math.min(longest, due - this.#clock())
    const old = this.#oldSockets === undefined ? wait : Math.min(wait, OLD_SOCKETS_MS)
    // Rounded up: a wait that ends a fraction early finds nothing due and would spin.
    return Math.max(0, Math.ceil(old))
  }

  #closeOld(): void {
    this.#closePair(this.#oldSockets?.pair)
    this.#oldSockets = undefined
  }

  #closePair(pair: SocketPair | undefined): void {
    for (const fd of [pair?.ipv4 ?? -1, pair?.ipv6 ?? -1]) if (fd >= 0) this.context.border.close(fd)
  }
}

/** Errors of reading that are none: nothing there, interrupted, or the interface is down for now. */
function isNothing(errno: number): boolean {
  return errno === EAGAIN || errno === EINTR || errno === EIO
}
