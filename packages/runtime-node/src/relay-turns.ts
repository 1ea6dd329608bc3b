import { Gate, type Turns } from './gate.ts'

/** What clients of one address that were let in may cost without waiting, in milliseconds of the thread: those who say little are never held up. */
const LIGHT_ALLOWANCE = { atOnceMs: 0.5, share: 0.02 }
/** More at once is not little: a few dozen packets. */
const LIGHT_BYTES = 4_096
/** All that is left over, in turns of addresses. */
const CARRIED_ALLOWANCE = { atOnceMs: Number.POSITIVE_INFINITY, share: 1 }
/** What is worked on in one turn of a connection: as many of the smallest frames take a fraction of a millisecond. */
const STEP_BYTES = 8_192
/** When so much of one connection waits here, nothing more is read of it. */
const MAX_WAITING_BYTES = 16_384
/** What of all connections may wait. Beyond it, what is carried waits no longer, and who has nothing carried is ended. */
const MAX_WAITING_BYTES_OF_ALL = 33_554_432
/** What reading and writing cost beside the work on it, roughly. */
const SYSTEM_MS = 0.02
/** What a KiB counts for, beside the work on it, that is carried to nobody: its memory is garbage for everybody else. */
const IDLE_KIB_MS = 0.025
/** How far back it is looked whether what a connection says reaches anybody: longer than any packet. */
const LOOKED_BACK_BYTES = 262_144

/** Who was let in and is still there after so long gives back what the way in took of the strangers' time. */
const STAYS_MS = 500

/** Of the time in which clients that were let in have something to say, what strangers get, all together. */
const STRANGERS_SHARE = 0.03
/** What they may save up: those who give back what they took do so many at once. */
const SAVED_MS = 8

/** The gate of a relay, for all that strangers make it do. */
export function relayGate(turns?: Turns): Gate {
  return new Gate({ share: STRANGERS_SHARE, savedMs: SAVED_MS, guaranteed: true }, turns)
}

/** A connection of a relay, as it is read. */
export interface RelayReading {
  /** Who it counts for, together with others: its address. */
  readonly source: string
  /** What its way in has cost, roughly, in milliseconds of the thread. */
  readonly arrivalMs: number
  /** Bytes of it that were carried to somebody, so far; `undefined` before it is let in. */
  carried(): number | undefined
  /** Works on what came. */
  take(bytes: Uint8Array): void
  /** Stops reading from the transport, or goes on. */
  read(on: boolean): void
  /** Ends the connection. */
  end(): void
}

/**
 * When what the connections of a relay say is worked on, so that those who say little, and those whose packets are carried, never wait for others.
 *
 * | who | when |
 * |---|---|
 * | let in, and its address says little | at once |
 * | let in, and most of what it says is carried to somebody | in turns of addresses, with all the time that is left over |
 * | not let in; or let in, says much, and little of it reaches anybody | as strangers at the gate: a share of the time, one piece in a turn of the event loop |
 *
 * Who is let in and stays gives back what it took of that share, so that many who come again at once hold each other up by little more than what they cost.
 */
export class RelayTurns {
  readonly gate: Gate
  #waitingBytes = 0

  constructor(gate: Gate) {
    this.gate = gate
  }

  /** A connection whose bytes take turns. */
  add(reading: RelayReading): RelayTurn {
    return new RelayTurn(this, reading)
  }

  /** Bytes of all connections that wait: for metrics. */
  get waitingBytes(): number {
    return this.#waitingBytes
  }

  /** So many more wait; fewer, where it is negative. */
  count(bytes: number): void {
    this.#waitingBytes += bytes
  }

  /** No more can wait. */
  get isFull(): boolean {
    return this.#waitingBytes > MAX_WAITING_BYTES_OF_ALL
  }
}

/** The turns of one connection: see {@link RelayTurns}. */
export class RelayTurn {
  readonly #turns: RelayTurns
  readonly #reading: RelayReading
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #isAtGate = false
  #isHeld = false
  #isReading = true
  #hasEnded = false
  #isClosed = false
  #wasLetIn = false
  #said = 0
  #carried = 0

  constructor(turns: RelayTurns, reading: RelayReading) {
    this.#turns = turns
    this.#reading = reading
  }

  /** Bytes came. */
  push(bytes: Uint8Array): void {
    if (this.#isClosed || this.#isLight(bytes)) return
    this.#waiting.push(bytes)
    this.#count(bytes.length)
    if (!this.#turns.isFull) return this.#settle()
    if (!this.#isCarried) return this.#reading.end()
    while (this.#waiting.length > 0 && !this.#isHeld && !this.#isClosed) this.#work()
    this.#settle()
  }

  /** Whether it is to be left alone, as others decide: a limit of rate, or somebody is asked about it. */
  hold(isHeld: boolean): void {
    this.#isHeld = isHeld
    if (!isHeld) this.#lookForLetIn()
    this.#settle()
  }

  /** Nothing more will come: it is ended when all has had its turn. */
  finish(): void {
    this.#hasEnded = true
    this.#settle()
  }

  /** The connection is gone: what waits is let go of. */
  close(): void {
    this.#isClosed = true
    this.#waiting = []
    this.#count(-this.#waitingBytes)
  }

  get #isCarried(): boolean {
    return this.#carried > this.#said / 2
  }

  /** Works on little that somebody says who was let in. */
  #isLight(bytes: Uint8Array): boolean {
    if (this.#waiting.length > 0 || this.#isHeld || bytes.length > LIGHT_BYTES || this.#reading.carried() === undefined) return false
    const { gate } = this.#turns
    const name = `light ${this.#reading.source}`
    gate.trust(name, LIGHT_ALLOWANCE)
    return gate.atOnce(name, SYSTEM_MS, () => this.#take(bytes))
  }

  #wait(): void {
    this.#isAtGate = true
    const { gate } = this.#turns
    const { source } = this.#reading
    if (this.#reading.carried() !== undefined) gate.busy()
    if (!this.#isCarried) return gate.add(source, () => this.#turn())
    const name = `carried ${source}`
    gate.trust(name, CARRIED_ALLOWANCE)
    gate.add(name, () => this.#turn())
  }

  #turn(): void {
    this.#isAtGate = false
    if (!this.#isHeld && !this.#isClosed) this.#work()
    this.#settle()
  }

  /** Works on several small pieces that came one after the other, or on a part of a long one. */
  #work(): void {
    let [bytes, count] = [0, 0]
    for (const piece of this.#waiting) {
      if (count > 0 && bytes + piece.length > STEP_BYTES) break
      bytes += piece.length
      count += 1
    }
    const pieces = this.#waiting.splice(0, count)
    const [first] = pieces
    if (first === undefined) return
    const whole = pieces.length === 1 ? first : Buffer.concat(pieces)
    const step = whole.subarray(0, STEP_BYTES)
    if (step.length < whole.length) this.#waiting.unshift(whole.subarray(STEP_BYTES))
    this.#count(-step.length)
    if (!this.#isCarried) this.#turns.gate.beside((step.length / 1_024) * IDLE_KIB_MS)
    this.#take(step)
  }

  #take(bytes: Uint8Array): void {
    const before = this.#reading.carried()
    this.#reading.take(bytes)
    if (before === undefined) return this.#lookForLetIn()
    this.#said += bytes.length
    this.#carried += (this.#reading.carried() ?? before) - before
    if (this.#said < LOOKED_BACK_BYTES) return
    this.#said /= 2
    this.#carried /= 2
  }

  #lookForLetIn(): void {
    if (this.#wasLetIn || this.#isClosed || this.#reading.carried() === undefined) return
    this.#wasLetIn = true
    const { gate } = this.#turns
    gate.later(STAYS_MS, () => {
      if (!this.#isClosed) gate.refund(this.#reading.arrivalMs)
    })
  }

  #count(bytes: number): void {
    this.#waitingBytes += bytes
    this.#turns.count(bytes)
  }

  #settle(): void {
    if (this.#isClosed) return
    if (this.#waiting.length > 0) {
      if (!this.#isHeld && !this.#isAtGate) this.#wait()
    } else if (this.#hasEnded) {
      return this.#reading.end()
    }
    const shouldRead = !this.#isHeld && this.#waitingBytes < MAX_WAITING_BYTES
    if (shouldRead === this.#isReading) return
    this.#isReading = shouldRead
    this.#reading.read(shouldRead)
  }
}
