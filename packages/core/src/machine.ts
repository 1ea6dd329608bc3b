import type { Instant } from './instant.ts'

/**
 * A protocol as a pure state machine: it eats events and time and owes effects. Feed it, then drain `pollOutput` until it gives
 * `undefined`, then wait until `pollTimeout` or the next event.
 *
 * Laws (checked by `machineLaws` of `@meshwright/testkit`): the same seed and inputs give the same outputs; `handleTimeout` before
 * the deadline changes nothing, at the deadline it moves the deadline forward or clears it; polling changes nothing else; bytes from
 * the wire never throw; a flood never grows memory past the stated bound.
 */
export interface Machine<Input, Output> {
  /** Takes one event from outside. Never throws on bytes from the wire. */
  handleInput(now: Instant, input: Input): void
  /** Lets time pass. Before the deadline it changes nothing; a late call does everything that is overdue. */
  handleTimeout(now: Instant): void
  /** The oldest effect still owed, or `undefined` when drained. */
  pollOutput(): Output | undefined
  /** When `handleTimeout` is next due, or `undefined` for never. */
  pollTimeout(): Instant | undefined
}
