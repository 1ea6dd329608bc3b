/** Something that did not come to pass, in words for people. */
export class Disappointment extends Error {}

/** Resolves after `ms`. */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/**
 * Asks again and again until the answer is something else than `undefined`. `complaint` is looked at between questions: when it speaks,
 * there is no use in waiting.
 * @throws Disappointment when the time is over, saying what was awaited and the last error
 */
export async function until<T>(what: string, timeoutMs: number, ask: () => Promise<T | undefined> | T | undefined, complaint: () => string | undefined = () => undefined): Promise<T> {
  const deadline = performance.now() + timeoutMs
  let last = ''
  for (;;) {
    try {
      const answer = await ask()
      if (answer !== undefined) return answer
    } catch (error) {
      last = `; last: ${error instanceof Error ? error.message : String(error)}`
    }
    const problem = complaint()
    if (problem !== undefined) throw new Disappointment(`${problem}, while waiting until ${what}`)
    if (performance.now() > deadline) throw new Disappointment(`after ${timeoutMs / 1000} s it is still not so that ${what}${last}`)
    await sleep(40)
  }
}

/** @throws Disappointment when it is not so */
export function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new Disappointment(otherwise)
}
