import type { Gate, ReadPace } from '../runtime.ts'
import type { BodyBudget } from './body.ts'

/** What an address is trusted with from which a registered machine came: a thousand reconnections at once. */
const SITE_ALLOWANCE = { atOnceMs: 1_000, share: 0.05 }
/** What a registered machine may cost: far more than any client asks for. */
const MACHINE_ALLOWANCE = { atOnceMs: 200, share: 0.1 }
/** What the way from its first connection to the proof of its key costs a registered machine that is not known here yet, roughly. */
const ARRIVAL_MS = 2
/** What is given to HTTP/2 at once: few enough bytes that even the dearest frames take about a millisecond. */
const GATE_STEP_BYTES = 512
/** Of a registered machine within its allowance: two or three requests, so that no turn of the event loop is much longer than one of them. */
const MACHINE_STEP_BYTES = 1_024
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
  #atGate = true
  #refused = false

  /** @param unread what strangers may have sent that is not worked on yet, all together, in bytes */
  constructor(gate: Gate, address: string, unread: BodyBudget) {
    this.#gate = gate
    this.#address = address
    this.#unread = unread
  }

  get stepBytes(): number {
    return this.#atGate ? GATE_STEP_BYTES : MACHINE_STEP_BYTES
  }

  /** It has turned out to be a registered machine. */
  proved(machineKey: string): void {
    this.#machineKey = machineKey
    trustMachine(this.#gate, machineKey, this.#address)
  }

  /** It has asked for something. */
  asked(): void {
    if (this.#machineKey !== undefined) this.#gate.spent(this.#machineKey, REQUEST_MS)
  }

  /** Nothing of it is read any more: what it still has on its way is worth no turn. Whoever says this ends the connection soon. */
  refuse(): void {
    this.#refused = true
  }

  wait(step: () => boolean): void {
    if (this.#refused) return
    const machineKey = this.#machineKey
    if (machineKey === undefined || !this.#gate.admits(machineKey)) return this.#gate.add(machineKey ?? this.#address, () => this.#turn(step))
    this.#atGate = false
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
    this.#atGate = true
    const until = performance.now() + STRANGER_TURN_MS
    let more = !this.#refused && step()
    while (more && !this.#refused && performance.now() < until) more = step()
    if (more) this.wait(step)
  }
}

/**
 * A registered machine came, from this address. One that was not known yet gives back what its arrival took of the strangers' time, so that
 * those who all come again at once hold each other up by no more than what they cost.
 */
export function trustMachine(gate: Gate, machineKey: string, address: string): void {
  if (gate.trust(machineKey, MACHINE_ALLOWANCE)) gate.refund(ARRIVAL_MS)
  gate.trust(address, SITE_ALLOWANCE)
}
