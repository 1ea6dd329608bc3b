import type { RunResult } from './lab-process.ts'

const TRIES = 3

/** A node that can be told to ping: a real one or ours. */
export interface Pinger {
  run(args: readonly string[]): Promise<RunResult>
  cli(...args: readonly string[]): Promise<string>
}

/**
 * What the command line says of one ping that was answered. A single one may be lost by nobody's fault: as devices of the computer come and
 * go, and the labs beside this one make some, a real node closes its relay connections and its sockets and opens them anew.
 * @throws Error of the last try
 */
export async function pong(from: Pinger, ...args: readonly string[]): Promise<string> {
  for (let left = TRIES; left > 1; left -= 1) {
    const { status, out } = await from.run(['ping', '--c', '1', ...args])
    if (status === 0) return out
  }
  return from.cli('ping', '--c', '1', ...args)
}
