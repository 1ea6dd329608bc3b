import os from 'node:os'

/** The most processors with which flags of Node are asked for: with more the engine's helpers were not measured. */
const FEW_PROCESSORS = 2

/**
 * What an administrator is told of the way in which a server was started, or `undefined` when there is nothing to say: on one or two processors
 * the helpers of V8's collector find no free one while the server has work, and its thread stands still until they have had a turn.
 * @param wanted flags of Node; @param command what follows them, as it is typed
 */
export function startAdvice(wanted: readonly string[], command: string, execArgv: readonly string[], processors: number = os.availableParallelism()): string | undefined {
  const missing = wanted.filter((flag) => !execArgv.includes(flag))
  if (missing.length === 0 || processors > FEW_PROCESSORS) return undefined
  return `requests wait less with so few processors when Node is started with ${missing.join(' and ')}: node ${wanted.join(' ')} ${command}`
}
