import os from 'node:os'

/**
 * What `serve` is best started with, `node --single-threaded-gc main.js serve`: the thread that answers collects its garbage itself.
 * On one or two processors V8's helpers for that find no free one while the server has work, and the thread stands still until they
 * have had a turn: what one honest request in a hundred waits for is up to a third shorter without them (benchmarks/load.md, liars). Node must be
 * started with it: V8 takes it no later.
 */
export const NODE_FLAGS: readonly string[] = ['--single-threaded-gc']

/** The most processors with which the flags are asked for: with more the helpers were not measured. */
const FEW_PROCESSORS = 2

/** What an administrator is told of the way in which the program was started, or `undefined` when there is nothing to say. */
export function startAdvice(execArgv: readonly string[], processors: number = os.availableParallelism()): string | undefined {
  const missing = NODE_FLAGS.filter((flag) => !execArgv.includes(flag))
  if (missing.length === 0 || processors > FEW_PROCESSORS) return undefined
  return `requests wait less with so few processors when Node is started with ${missing.join(' ')}: node ${missing.join(' ')} main.js serve`
}
