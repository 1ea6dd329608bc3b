import type { ReadPace } from '../runtime.ts'
import type { BodyBudget } from './body.ts'
import type { Gate } from './gate.ts'

/** What is given to HTTP/2 at once: few enough bytes that even the dearest frames take about a millisecond. */
const STRANGER_STEP_BYTES = 512
const MACHINE_STEP_BYTES = 4_096
/** A registered machine is served so long at once; then everybody else has their turn. */
const AT_ONCE_MS = 1
/** A stranger's turn at the gate: as many steps as begin within it. What they set going (a request, an answer) comes on top. */
const STRANGER_TURN_MS = 0.25
/** What a request costs beside the reading of its bytes, roughly; its answer is made in other turns. */
const REQUEST_MS = 0.2

/**
 * How one connection is read: a stranger's through the gate, step by step; that of a registered machine at once, as long as it costs no more
 * than it may. Then it goes through the gate like a stranger's, for its own account.
 */
export class Visitor implements ReadPace {
  readonly #gate: Gate
  readonly #address: string
  readonly #unread: BodyBudget
  #machineKey: string | undefined
  #taken = 0

  /** @param unread what strangers may have sent that is not worked on yet, all together, in bytes */
  constructor(gate: Gate, address: string, unread: BodyBudget) {
    this.#gate = gate
    this.#address = address
    this.#unread = unread
  }

  get stepBytes(): number {
    return this.#machineKey === undefined ? STRANGER_STEP_BYTES : MACHINE_STEP_BYTES
  }

  /** It has turned out to be a registered machine. */
  proved(machineKey: string): void {
    this.#machineKey = machineKey
    this.#gate.trust(machineKey, this.#address)
  }

  /** It has asked for something. */
  asked(): void {
    if (this.#machineKey !== undefined) this.#gate.spent(this.#machineKey, REQUEST_MS)
  }

  wait(step: () => boolean): void {
    const machineKey = this.#machineKey
    if (machineKey === undefined || !this.#gate.admits(machineKey)) return this.#gate.add(machineKey ?? this.#address, () => this.#turn(step))
    const begun = performance.now()
    let [more, took] = [true, 0]
    while (more && took < AT_ONCE_MS) {
      more = step()
      took = performance.now() - begun
    }
    this.#gate.spent(machineKey, took)
    if (more) setImmediate(() => this.wait(step))
  }

  hold(bytes: number): boolean {
    if (bytes > 0) {
      if (this.#machineKey !== undefined) return true
      if (!this.#unread.take(bytes)) return false
      this.#taken += bytes
      return true
    }
    const back = Math.min(-bytes, this.#taken)
    this.#taken -= back
    this.#unread.give(back)
    return true
  }

  #turn(step: () => boolean): void {
    const until = performance.now() + STRANGER_TURN_MS
    let more = step()
    while (more && performance.now() < until) more = step()
    if (more) this.wait(step)
  }
}
