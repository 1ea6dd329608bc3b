import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'

/** Clock ticks of a second in /proc: 100 on every Linux that Node runs on. */
const TICKS = 100
const LOG_CHARACTERS = 20_000
const TERM_GRACE_MS = 3_000

/** A program that is measured from outside: its CPU time and memory are read from /proc. */
export class Measured {
  readonly name: string
  readonly #child: ChildProcess
  readonly #ended: Promise<void>
  #log = ''
  #alive = true

  constructor(name: string, file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.name = name
    const { NODE_OPTIONS: _options, ...inherited } = process.env
    this.#child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...inherited, ...env } })
    const take = (bytes: Buffer): void => {
      this.#log = (this.#log + bytes.toString('utf8')).slice(-LOG_CHARACTERS)
    }
    this.#child.stdout?.on('data', take)
    this.#child.stderr?.on('data', take)
    this.#ended = new Promise((resolve) => {
      const kill = (): void => void this.#child.kill('SIGKILL')
      const end = (): void => {
        this.#alive = false
        process.off('exit', kill)
        resolve()
      }
      process.on('exit', kill) // nothing is left behind, however this process ends
      this.#child.once('error', (error) => {
        this.#log += error.message
        end()
      })
      this.#child.once('exit', end)
    })
  }

  get alive(): boolean {
    return this.#alive
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  get log(): string {
    return this.#log
  }

  /** CPU seconds that it has used, user and system. */
  get cpuSeconds(): number {
    return this.#alive ? cpuSecondsOf(this.pid) : 0
  }

  get rssBytes(): number {
    return this.#status('VmRSS')
  }

  /** The most memory that it ever held. */
  get peakRssBytes(): number {
    return this.#status('VmHWM')
  }

  async stop(): Promise<void> {
    if (!this.#alive) return
    this.#child.kill('SIGTERM')
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), TERM_GRACE_MS)
    await this.#ended
    clearTimeout(timer)
  }

  #status(field: string): number {
    const text = this.#alive ? readFileSync(`/proc/${this.pid}/status`, 'utf8') : ''
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024
  }
}

/** CPU seconds of a process by its number. */
export function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / TICKS
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Asks every 20 ms until it holds; gives how long that took, or `undefined` when it did not within the limit. */
export async function until(look: () => boolean, limitMs: number): Promise<number | undefined> {
  const begun = performance.now()
  while (!look()) {
    if (performance.now() - begun > limitMs) return undefined
    await pause(20)
  }
  return performance.now() - begun
}
