/**
 * A number for each object, the same whenever it is asked for. What came out of a change from one object to another is kept with the later one
 * and the number of the earlier: a reference would keep the earlier, and with it the one before that, and so all that ever were.
 */
export class ObjectNumbers {
  readonly #numbers = new WeakMap<object, number>()
  #last = 0

  of(value: object): number {
    const known = this.#numbers.get(value)
    if (known !== undefined) return known
    this.#last += 1
    this.#numbers.set(value, this.#last)
    return this.#last
  }
}
