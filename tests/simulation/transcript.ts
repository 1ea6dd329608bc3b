import { createHash } from 'node:crypto'
import type { Instant } from '@meshwright/core'

/** A digest of everything that arrived anywhere in a simulation, byte for byte, with its time and place. */
export class Transcript {
  readonly #hash = createHash('sha256')
  entries = 0

  note(now: Instant, place: string, bytes: Uint8Array): void {
    this.entries += 1
    this.#hash.update(`${now} ${place} ${bytes.length}\n`)
    this.#hash.update(bytes)
  }

  /** The digest so far; more may be noted afterwards. */
  get digest(): string {
    return this.#hash.copy().digest('hex')
  }
}
