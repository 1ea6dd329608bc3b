import { PULSE_TAKEN } from './pulse.ts'

/** Messages to the thread that has started this one, and how many of them it has not taken yet. */
export class CountedPosts<Message> {
  readonly #pulse: Int32Array
  readonly #post: (message: Message, given?: readonly ArrayBuffer[]) => void
  #posted = 0

  /** @param pulse shared with the other thread, which counts there what it has taken */
  constructor(pulse: Int32Array, post: (message: Message, given?: readonly ArrayBuffer[]) => void) {
    this.#pulse = pulse
    this.#post = post
  }

  /** How many the other thread has not taken yet. */
  get untaken(): number {
    return (this.#posted - Atomics.load(this.#pulse, PULSE_TAKEN)) | 0
  }

  /** @param given memory that goes with the message and is not copied */
  post(message: Message, given?: readonly ArrayBuffer[]): void {
    this.#posted += 1
    this.#post(message, given)
  }
}
