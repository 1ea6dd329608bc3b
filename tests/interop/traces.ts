import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const MARK = 'MESHWRIGHT_INTEROP_RUN'
const PATIENCE_MS = 5_000
/** What tsx, which runs our TypeScript, keeps for its next start. */
const TOOLS = /^tsx-\d+$/

/**
 * Finds what a run leaves behind: processes by a mark in their environment, which all descendants inherit; files in the folder for
 * temporary files that the run has for itself.
 */
export class Traces {
  readonly #id = randomBytes(8).toString('hex')

  /** For the environment of the run. */
  get environment(): Readonly<Record<string, string>> {
    return { [MARK]: this.#id }
  }

  /** Ends what still runs and tells of all that was left. */
  async left(temp: string): Promise<readonly string[]> {
    // The last ones may be on their way out.
    for (const deadline = performance.now() + PATIENCE_MS; performance.now() < deadline && this.#processes().length > 0; ) await pause(100)
    const processes = this.#processes()
    for (const { pid } of processes) end(pid)
    return [
      ...processes.map(({ pid, command }) => `process ${pid} (${command})`),
      ...readdirSync(temp).filter((name) => !TOOLS.test(name) && !isEmpty(path.join(temp, name))).map((name) => `temporary file ${name}`),
    ]
  }

  #processes(): readonly { readonly pid: number; readonly command: string }[] {
    return numbers('/proc').flatMap((pid) => {
      const environment = readOr(`/proc/${pid}/environ`)
      if (pid === process.pid || !environment.includes(`${MARK}=${this.#id}`)) return []
      return [{ pid, command: readOr(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() }]
    })
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error // ended meanwhile: as wanted
  }
}

// A suite whose flows are all skipped may have named a folder and done nothing with it.
function isEmpty(file: string): boolean {
  try {
    return readdirSync(file).length === 0
  } catch {
    return false // no folder
  }
}

function numbers(folder: string): readonly number[] {
  try {
    return readdirSync(folder).filter((name) => /^\d+$/.test(name)).map(Number)
  } catch {
    return []
  }
}

function readOr(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return '' // it ended meanwhile, or belongs to somebody else
  }
}
