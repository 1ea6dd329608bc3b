import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { Failure, reasonOf } from './failure.ts'

/** The longest configuration and the longest relay map. */
export const MAX_CONFIG_BYTES = 1_048_576
/** The longest policy: reading one takes about a second for each MiB, in which nobody is served. */
export const MAX_POLICY_BYTES = 2_097_152

/** What a file is, for messages. */
export interface FileWords {
  /** As in "the policy". */
  readonly what: string
  /** What to do when it cannot be read. */
  readonly remedy: string
}

/**
 * The text of a file, or of standard input for `-`. A longer one is not read to its end, whatever it is.
 * @throws Failure with status 2
 */
export function readText(file: string, maxBytes: number, words: FileWords): string {
  const name = `${words.what} ${file === '-' ? 'on standard input' : file}`
  const bytes = readUpTo(file, maxBytes, name, words.remedy)
  if (bytes === undefined) throw new Failure(`${name} is longer than ${maxBytes / 1_048_576} MiB`, { remedy: 'is it the file that you mean? That is the most that is read', status: 2 })
  return bytes.toString('utf8')
}

function readUpTo(file: string, maxBytes: number, name: string, remedy: string): Buffer | undefined {
  let handle: number | undefined
  try {
    handle = file === '-' ? 0 : openSync(file, 'r')
    if (fstatSync(handle).size > maxBytes) return undefined
    // What tells no size, a pipe, is read piece by piece.
    const parts: Buffer[] = []
    let length = 0
    while (length <= maxBytes) {
      const part = Buffer.allocUnsafe(65_536)
      const taken = readSome(handle, part)
      if (taken === 0) return Buffer.concat(parts)
      parts.push(part.subarray(0, taken))
      length += taken
    }
    return undefined
  } catch (error) {
    throw new Failure(`cannot read ${name}: ${reasonOf(error)}`, { remedy, status: 2, cause: error })
  } finally {
    if (handle !== undefined && handle !== 0) closeSync(handle)
  }
}

function readSome(handle: number, part: Buffer): number {
  for (;;) {
    try {
      return readSync(handle, part)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      if (code === 'EOF') return 0
      if (code !== 'EAGAIN') throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20) // a terminal or a pipe that has nothing yet
    }
  }
}
