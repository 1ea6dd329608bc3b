import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const MARK = 'MESHWRIGHT_INTEROP_RUN'
const PATIENCE_MS = 5_000
/** What tsx, which runs our TypeScript, keeps for its next start. */
const TOOLS = /^tsx-\d+$/
/** How the folder of a run begins. Short: the paths of sockets in it may have 107 bytes. */
export const RUN_FOLDER = 'mwi-'
/** The file in it that says whose it is: the mark, the process, and when that began. */
const OWNER = 'owner'

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

  /** Writes into the folder of the run whose it is: should this process be killed, the next run knows what to take away. */
  own(temp: string): void {
    writeFileSync(path.join(temp, OWNER), `${this.#id} ${process.pid} ${begunAt(process.pid) ?? ''}`)
  }

  /** Ends what still runs and tells of all that was left. */
  async left(temp: string): Promise<readonly string[]> {
    // The last ones may be on their way out.
    for (const deadline = performance.now() + PATIENCE_MS; performance.now() < deadline && marked(this.#id).length > 0; ) await pause(100)
    const processes = marked(this.#id)
    for (const { pid } of processes) end(pid)
    rmSync(path.join(temp, OWNER), { force: true })
    return [
      ...processes.map(({ pid, command }) => `process ${pid} (${command})`),
      ...readdirSync(temp).filter((name) => !TOOLS.test(name) && !isEmpty(path.join(temp, name))).map((name) => `temporary file ${name}`),
    ]
  }
}

/** Processes with the mark of a run. */
function marked(id: string): readonly { readonly pid: number; readonly command: string }[] {
  return numbers('/proc').flatMap((pid) => {
    const environment = readOr(`/proc/${pid}/environ`)
    if (pid === process.pid || !environment.includes(`${MARK}=${id}`)) return []
    return [{ pid, command: readOr(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() }]
  })
}

/** When a process began, in ticks since the computer did: a number that was given anew is known by it. */
function begunAt(pid: number): string | undefined {
  return readOr(`/proc/${pid}/stat`).split(') ').at(-1)?.split(' ')[19]
}

/** Removes the folder of a run, and the bundles of labs that were not ended. @param bundles the folder in the repository with a folder for each lab */
export function removeRun(folder: string, bundles: string): void {
  const labs = entries(folder)
  for (const bundle of entries(bundles)) if (labs.some((lab) => bundle.startsWith(lab))) rmSync(path.join(bundles, bundle), { recursive: true, force: true })
  rmSync(folder, { recursive: true, force: true })
}

/**
 * Takes away what runs have left whose own process was killed before it could: their processes (network namespaces, mounts and devices go
 * with the last of them) and their folders.
 * @param bundles see {@link removeRun}
 * @returns a line for each such run
 */
export async function clearKilledRuns(bundles: string): Promise<readonly string[]> {
  const said: string[] = []
  for (const name of readdirSync(os.tmpdir()).filter((each) => each.startsWith(RUN_FOLDER))) {
    const folder = path.join(os.tmpdir(), name)
    const [id, pid, begun] = readOr(path.join(folder, OWNER)).split(' ')
    if (id === undefined || !/^[0-9a-f]{16}$/.test(id) || begun === undefined || begun === '' || begunAt(Number(pid)) === begun) continue
    // Test runners start programs while they are ended.
    let processes = 0
    const deadline = performance.now() + PATIENCE_MS
    for (let found = marked(id); found.length > 0 && performance.now() < deadline; found = marked(id)) {
      processes += found.length
      for (const each of found) end(each.pid)
      await pause(50)
    }
    removeRun(folder, bundles)
    said.push(`a run that was killed had left ${processes} processes and ${folder}: they are gone`)
  }
  return said
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
  return entries(folder).filter((name) => /^\d+$/.test(name)).map(Number)
}

function entries(folder: string): readonly string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // there is none
  }
}

function readOr(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return '' // it ended meanwhile, or belongs to somebody else
  }
}
