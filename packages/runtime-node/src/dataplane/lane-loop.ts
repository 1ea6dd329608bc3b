import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import type { Lane } from './lane.ts'
import { PULSE_HEARD, PULSE_TURNS } from './pulse.ts'
import { ThreadPriority } from './thread-priority.ts'

/** So long the lane has the thread before the thread's event loop has a turn. */
const LOOP_MS = 250

/** Whom a loop tells. */
export interface LaneLoopEvents {
  /** A message of the other thread. */
  readonly onMessage: (message: unknown) => void
  /** The TUN device is gone; the loop has ended. */
  readonly onGone: (errno: number) => void
  /** Before each turn of the thread's event loop. */
  readonly onTurn?: () => void
}

/** Turns a lane in a thread of its own, taking messages whenever it is woken, until it is ended. */
export class LaneLoop {
  readonly #lane: Lane
  readonly #wake: number
  readonly #port: MessagePort
  readonly #pulse: Int32Array
  readonly #events: LaneLoopEvents
  readonly #priority: ThreadPriority | undefined
  #ended = false

  /**
   * @param pulse counts turns, for the thread that watches this one; shared with it
   * @param hasPriority whether the thread comes before programs where that is permitted, while it serves many peers
   */
  constructor(lane: Lane, wake: number, port: MessagePort, pulse: Int32Array, hasPriority: boolean, events: LaneLoopEvents) {
    this.#lane = lane
    this.#wake = wake
    this.#port = port
    this.#pulse = pulse
    this.#events = events
    this.#priority = hasPriority ? new ThreadPriority() : undefined
  }

  /** Begins; gives the thread back now and then. */
  run(): void {
    this.#priority?.look(this.#lane.takePeersAtOnce())
    const from = this.#lane.now
    while (!this.#ended && this.#lane.now - from < LOOP_MS) {
      const how = this.#lane.turn()
      Atomics.add(this.#pulse, PULSE_TURNS, 1)
      if (how === 'woken') this.#takeMessages()
      else if (how === 'gone') {
        this.#events.onGone(this.#lane.errno)
        return this.end()
      }
    }
    if (this.#ended) return
    this.#events.onTurn?.()
    setImmediate(() => this.run())
  }

  /** Ends the loop, and with it the thread. */
  end(): void {
    this.#ended = true
    this.#port.close()
  }

  #takeMessages(): void {
    const { border, map } = this.#lane.context
    border.read(this.#wake, map.scratch, 8)
    for (let got = receiveMessageOnPort(this.#port); got !== undefined; got = receiveMessageOnPort(this.#port)) {
      this.#events.onMessage(got.message)
      Atomics.add(this.#pulse, PULSE_HEARD, 1)
      Atomics.add(this.#pulse, PULSE_TURNS, 1)
    }
  }
}

/** What a test may ask a worker for. */
export type LaneTest = 'fail' | 'hang' | 'collect'

/** For tests: dies, hangs, or collects garbage where Node was started with `--expose-gc`. */
export function obeyTest(what: LaneTest): void {
  if (what === 'fail') throw new Error('asked to fail')
  if (what === 'collect') {
    const gc: unknown = Reflect.get(globalThis, 'gc')
    if (typeof gc === 'function') gc()
    return
  }
  for (;;); // ended from outside
}
