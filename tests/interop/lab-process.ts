import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { noteKeys } from './outer-watch.ts'

export { freePort } from '../../examples/demo/src/free-port.ts'

const LOG_CHARACTERS = 60_000
const TAIL_LINES = 25
const TERM_GRACE_MS = 3_000
/** For what takes a moment: nothing is asserted by it, and a busy computer takes its time. */
const WAIT_MS = 45_000
/** For commands that nobody gave a limit. */
const COMMAND_MS = 60_000

/** How a program is started. */
export interface ProcessOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
}

/** What a program that ran to its end has said. */
export interface RunResult {
  readonly status: number
  readonly out: string
  readonly err: string
  readonly ms: number
}

/** A program that should go on has ended: what is waited for will not come. */
export class ProgramEnded extends Error {
  override readonly name: string = 'ProgramEnded'
}

/** A program in the background, whose last output is kept for the case that something fails. */
export class LabProcess {
  readonly name: string
  readonly #child: ChildProcess
  readonly #ended: Promise<void>
  readonly #counts: ((text: string) => void)[] = []
  #log = ''
  #alive = true

  constructor(name: string, file: string, args: readonly string[], options: ProcessOptions = {}) {
    this.name = name
    this.#child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: cleanEnvironment(options.env), ...(options.cwd !== undefined && { cwd: options.cwd }) })
    const take = (bytes: Buffer): void => {
      const text = bytes.toString('utf8')
      this.#log = (this.#log + text).slice(-LOG_CHARACTERS)
      for (const count of this.#counts) count(text)
    }
    this.#child.stdout?.on('data', take)
    this.#child.stderr?.on('data', take)
    this.#ended = new Promise((resolve) => {
      const end = (how: string): void => {
        this.#alive = false
        this.#log += `(${this.name} ${how})\n`
        resolve()
      }
      this.#child.once('error', (error) => end(`could not be started: ${error.message}`))
      this.#child.once('exit', (status, signal) => end(signal === null ? `ended with status ${String(status)}` : `was ended by ${signal}`))
    })
  }

  get alive(): boolean {
    return this.#alive
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  /** The end of what it has said: what is older is dropped. */
  get log(): string {
    return this.#log
  }

  /** Counts how often it says something from now on, however much it says. @param words of two characters at least */
  counted(words: string): () => number {
    let [count, rest] = [0, '']
    this.#counts.push((text) => {
      const all = rest + text
      count += all.split(words).length - 1
      // Too short to hold the words, long enough for those that come in two pieces.
      rest = all.slice(1 - words.length)
    })
    return () => count
  }

  /** Its last lines, under its name. */
  tail(lines: number = TAIL_LINES): string {
    return `--- ${this.name}\n${this.#log.trimEnd().split('\n').slice(-lines).join('\n')}`
  }

  /** For waits: there is nothing to wait for once it has ended. @throws ProgramEnded with its last lines, which say why */
  mustLive(): void {
    if (!this.#alive) throw new ProgramEnded(`${this.name} has ended\n${this.tail()}`)
  }

  /** Ends it; SIGKILL follows when it does not obey. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    if (!this.#alive) return
    this.#child.kill(signal)
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), TERM_GRACE_MS)
    await this.#ended
    clearTimeout(timer)
  }
}

/** A temporary folder and the programs that run in it: `stop` ends them all and removes the folder. */
export class Lab {
  #folder: string | undefined
  readonly #processes: LabProcess[] = []
  readonly #cleanups: (() => void | Promise<void>)[] = []

  start(name: string, file: string, args: readonly string[], options: ProcessOptions = {}): LabProcess {
    const started = new LabProcess(name, file, args, options)
    this.#processes.push(started)
    return started
  }

  /** Made when it is first wanted: suites whose flows are all skipped leave nothing behind. */
  get folder(): string {
    return (this.#folder ??= mkdtempSync(path.join(os.tmpdir(), 'meshwright-interop-')))
  }

  at(...names: readonly string[]): string {
    return path.join(this.folder, ...names)
  }

  /** Something to be closed when the lab ends. */
  onStop(cleanup: () => void | Promise<void>): void {
    this.#cleanups.push(cleanup)
  }

  /** The last lines of every program: what a failed wait is explained by. */
  tails(lines: number = TAIL_LINES): string {
    return this.#processes.map((each) => each.tail(lines)).join('\n')
  }

  /**
   * Asks until `look` gives something; its last error or nothing is what the failure tells, with the programs' last words.
   * @throws ProgramEnded at once when `look` does
   */
  async until<T>(what: string, look: () => Promise<T | undefined | false> | T | undefined | false, limitMs: number = WAIT_MS, everyMs: number = 100): Promise<T> {
    const deadline = performance.now() + limitMs
    let reason = ''
    for (;;) {
      try {
        const found = await look()
        if (found !== undefined && found !== false) return found
        reason = ''
      } catch (error) {
        if (error instanceof ProgramEnded) throw new Error(`${what}: ${error.message}`, { cause: error })
        reason = error instanceof Error ? error.message : String(error)
      }
      if (performance.now() > deadline) throw new Error(`not within ${limitMs / 1000} s: ${what}${reason === '' ? '' : ` (${reason})`}\n${this.tails()}`)
      await pause(everyMs)
    }
  }

  async stop(): Promise<void> {
    for (const cleanup of this.#cleanups.splice(0).reverse()) await cleanup()
    await Promise.all(this.#processes.splice(0).map((each) => each.stop()))
    if (this.#folder !== undefined) noteKeys(this.#folder)
    if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
    this.#folder = undefined
  }
}

/**
 * Starts a program in a network namespace. `ip netns exec` gives a mount namespace of its own: /etc in it is a small copy in the folder `name` of
 * the lab, which the program may write to.
 * @param resolvConf what /etc/resolv.conf holds there at first
 */
export function startInside(lab: Lab, name: string, netns: string, command: readonly string[], env: Readonly<Record<string, string>> = {}, resolvConf: string = ''): LabProcess {
  const etc = lab.at(name, 'etc')
  if (!existsSync(etc)) {
    mkdirSync(etc, { recursive: true })
    for (const each of ['passwd', 'group', 'shells', 'ssl', 'hosts', 'nsswitch.conf', 'alternatives']) if (existsSync(`/etc/${each}`)) cpSync(`/etc/${each}`, path.join(etc, each), { recursive: true, verbatimSymlinks: true })
    writeFileSync(path.join(etc, 'resolv.conf'), resolvConf)
  }
  const script = `mount --bind ${etc} /etc && exec "$0" "$@"`
  return lab.start(`${path.basename(command[0] ?? '')} ${name}`, 'ip', ['netns', 'exec', netns, 'sh', '-c', script, ...command], { env })
}

/** Runs a program to its end. */
export function runProgram(file: string, args: readonly string[], options: ProcessOptions & { readonly timeoutMs?: number } = {}): Promise<RunResult> {
  const begun = performance.now()
  const limitMs = options.timeoutMs ?? COMMAND_MS
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: cleanEnvironment(options.env) })
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
    let out = ''
    let err = ''
    child.stdout.on('data', (bytes: Buffer) => (out += bytes.toString('utf8')))
    child.stderr.on('data', (bytes: Buffer) => (err += bytes.toString('utf8')))
    child.once('error', reject)
    child.once('close', (status, signal) => {
      clearTimeout(timer)
      resolve({ status: status ?? -1, out, err: signal === 'SIGKILL' ? `${err}(ended after ${limitMs / 1000} s)` : err, ms: performance.now() - begun })
    })
  })
}

/** As {@link runProgram}; gives standard output. @throws Error with all that it said when the status is not 0 */
export async function runOk(file: string, args: readonly string[], options: ProcessOptions & { readonly timeoutMs?: number } = {}): Promise<string> {
  const { status, out, err } = await runProgram(file, args, options)
  if (status !== 0) throw new Error(`"${path.basename(file)} ${args.join(' ')}" ended with status ${status}: ${`${err}\n${out}`.trim()}`)
  return out
}

/** Resident memory of a process, from /proc. */
export function residentBytes(pid: number | undefined): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid ?? 0}/status`, 'latin1'))?.[1] ?? Number.NaN) * 1024
}

/** What a process has used of the processors so far, from /proc. */
export function cpuSeconds(pid: number | undefined): number {
  const fields = readFileSync(`/proc/${pid ?? 0}/stat`, 'latin1').split(') ').at(-1)?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** The IPv4 address of this computer that peers on it may use: real clients never use loopback for direct paths. */
export function interfaceAddress(): string | undefined {
  return Object.values(os.networkInterfaces())
    .flatMap((each) => each ?? [])
    .find((each) => each.family === 'IPv4' && !each.internal && !/^(169\.254\.|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.)/.test(each.address))?.address
}

// Programs of the lab take no settings from the test runner.
function cleanEnvironment(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const { NODE_OPTIONS: _options, VITEST: _vitest, NODE_ENV: _env, ...rest } = process.env
  return { ...rest, ...more }
}
