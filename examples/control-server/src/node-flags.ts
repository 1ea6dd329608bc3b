import os from 'node:os'

/**
 * What `serve` is best started with, as the README does it: the thread that answers collects its garbage itself, and young objects, which
 * most of what strangers cause are, in small portions. On one or two processors V8's helpers for that find no free one while the server
 * has work, and the thread stands still until they have had a turn (benchmarks/load.md, liars). Node must be started with them: V8 takes
 * the first one no later.
 */
export const NODE_FLAGS: readonly string[] = ['--single-threaded-gc', '--max-semi-space-size=4']

/** The most processors with which the flags are asked for: with more the helpers were not measured. */
const FEW_PROCESSORS = 2

/** What an administrator is told of the way in which the program was started, or `undefined` when there is nothing to say. */
export function startAdvice(execArgv: readonly string[], processors: number = os.availableParallelism()): string | undefined {
  const missing = NODE_FLAGS.filter((flag) => !execArgv.includes(flag))
  if (missing.length === 0 || processors > FEW_PROCESSORS) return undefined
  return `requests wait less with so few processors when Node is started with ${missing.join(' and ')}: node ${NODE_FLAGS.join(' ')} main.js serve`
}
