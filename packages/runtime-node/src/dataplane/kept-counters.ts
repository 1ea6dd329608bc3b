/**
 * Counters of something that may begin anew, as whoever looks from outside sees them: they never go back. What was shown last is what the next
 * one counts on from; what a worker counted after the last look, and before it died, nobody knows.
 */
export class KeptCounters {
  #base: Map<string, number> = new Map()
  readonly #shown: Map<string, number> = new Map()

  /** What is to be shown for a counter that stands at `value` now. */
  show(name: string, value: number): number {
    const total = value + (this.#base.get(name) ?? 0)
    this.#shown.set(name, total)
    return total
  }

  /** The same for an object of numbers. */
  showAll<T extends Readonly<Record<keyof T, number>>>(under: string, now: T): T {
    return Object.fromEntries(Object.entries<number>(now).map(([name, value]) => [name, this.show(`${under} ${name}`, value)])) as T // the same names
  }

  /** The same for counters that are there once they have counted: those that were shown are there. */
  showMap<K extends string>(under: string, now: ReadonlyMap<K, number>): ReadonlyMap<K, number> {
    const before = Array.from(this.#base.keys()).flatMap((name) => (name.startsWith(`${under} `) ? [name.slice(under.length + 1) as K] : [])) // as it was put there
    return new Map([...new Set([...before, ...now.keys()])].map((name) => [name, this.show(`${under} ${name}`, now.get(name) ?? 0)]))
  }

  /** Whoever these counters are of is gone: when it comes back, it begins at zero. */
  forget(isGone: (name: string) => boolean): void {
    for (const counters of [this.#base, this.#shown]) for (const name of [...counters.keys()]) if (isGone(name)) counters.delete(name)
  }

  /** It begins anew, from zero. */
  restart(): void {
    this.#base = new Map(this.#shown)
  }
}
