import { sleep } from './waiting.ts'

/** What a probe has seen, with the times at which requests were begun. */
export interface ProbeReport {
  readonly answered: number
  readonly failures: readonly { readonly at: number; readonly reason: string }[]
  readonly firstAnswer: number | undefined
  readonly lastAnswer: number | undefined
}

/** Sends requests at a steady pace, none waiting for another, until it is stopped. */
export class Probe {
  readonly #ask: () => Promise<unknown>
  readonly #everyMs: number
  readonly #failures: { at: number; reason: string }[] = []
  readonly #open: Set<Promise<void>> = new Set()
  readonly #loop: Promise<void>
  #answered = 0
  #firstAnswer: number | undefined
  #lastAnswer: number | undefined
  #stopped = false

  constructor(ask: () => Promise<unknown>, everyMs: number) {
    this.#ask = ask
    this.#everyMs = everyMs
    this.#loop = this.#run()
  }

  get report(): ProbeReport {
    return { answered: this.#answered, failures: this.#failures, firstAnswer: this.#firstAnswer, lastAnswer: this.#lastAnswer }
  }

  /** Begins no more requests, and waits for those that are open. */
  async stop(): Promise<ProbeReport> {
    this.#stopped = true
    await this.#loop
    await Promise.all(this.#open)
    return this.report
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const request = this.#one()
      this.#open.add(request)
      void request.then(() => this.#open.delete(request))
      await sleep(this.#everyMs)
    }
  }

  async #one(): Promise<void> {
    const at = performance.now()
    try {
      await this.#ask()
      this.#answered += 1
      this.#firstAnswer = Math.min(this.#firstAnswer ?? at, at)
      this.#lastAnswer = Math.max(this.#lastAnswer ?? at, at)
    } catch (error) {
      this.#failures.push({ at, reason: error instanceof Error ? error.message : String(error) })
    }
  }
}
