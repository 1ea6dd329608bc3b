import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

const KEPT_LINES = 400
const TERM_GRACE_MS = 4_000

/** A program of the mesh as a process of its own; its last lines are kept for the case that something fails. */
export class Program {
  readonly name: string
  readonly #child: ChildProcess
  readonly #lines: string[] = []
  readonly #watchers: Set<() => void> = new Set()
  readonly #ended: Promise<void>
  #ending: string | undefined
  #wanted = false

  constructor(name: string, file: string, args: readonly string[]) {
    this.name = name
    this.#child = spawn(process.execPath, [file, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NODE_OPTIONS: '' } })
    for (const stream of [this.#child.stdout, this.#child.stderr]) if (stream !== null) createInterface({ input: stream }).on('line', (line) => this.#take(line))
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error) => this.#end(`could not be started: ${error.message}`, resolve))
      this.#child.once('close', (status, signal) => this.#end(signal === null ? `ended with status ${status ?? '?'}` : `was ended by ${signal}`, resolve))
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** How it came to an end that nobody asked for; `undefined` while all is well. */
  get failure(): string | undefined {
    return this.#wanted || this.#ending === undefined ? undefined : `${this.name} ${this.#ending}`
  }

  /** The last lines of its log. */
  tail(count: number): readonly string[] {
    return this.#lines.slice(-count)
  }

  /** The first line that matches, now or later. @throws Error when it ends before, or too much time passes */
  line(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const done = (settle: () => void): void => {
        clearTimeout(timer)
        this.#watchers.delete(look)
        settle()
      }
      const look = (): void => {
        for (const line of this.#lines) {
          const match = pattern.exec(line)
          if (match !== null) return done(() => resolve(match))
        }
        if (this.#ending !== undefined) done(() => reject(new Error(`${this.name} ${this.#ending ?? ''}: ${this.#lines.at(-1) ?? 'without a word'}`)))
      }
      const timer = setTimeout(() => done(() => reject(new Error(`${this.name} was not ready after ${timeoutMs / 1000} s`))), timeoutMs)
      this.#watchers.add(look)
      look()
    })
  }

  /** Ends it and waits until it is gone; SIGTERM is followed by SIGKILL when it does not obey. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    this.#wanted = true
    this.kill(signal)
    const timer = setTimeout(() => this.kill('SIGKILL'), TERM_GRACE_MS)
    await this.#ended
    clearTimeout(timer)
  }

  /** Sends a signal, if it is still there. */
  kill(signal: 'SIGTERM' | 'SIGKILL'): void {
    this.#wanted = true
    if (this.#ending === undefined) this.#child.kill(signal)
  }

  #take(line: string): void {
    this.#lines.push(line)
    if (this.#lines.length > KEPT_LINES) this.#lines.shift()
    for (const watcher of [...this.#watchers]) watcher()
  }

  #end(ending: string, resolve: () => void): void {
    this.#ending ??= ending
    for (const watcher of [...this.#watchers]) watcher()
    resolve()
  }
}

/** What a command that ran to its end has said. */
export interface CommandResult {
  readonly status: number
  readonly out: string
  readonly err: string
  readonly ms: number
}

/** Runs a program to its end. `onOut` hears its standard output as it comes. */
export function runCommand(file: string, args: readonly string[], options: { readonly timeoutMs: number; readonly onOut?: (soFar: string) => void; readonly track?: (child: ChildProcess) => void }): Promise<CommandResult> {
  const begun = performance.now()
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NODE_OPTIONS: '' } })
    options.track?.(child)
    const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs)
    let out = ''
    let err = ''
    child.stdout.on('data', (bytes: Buffer) => {
      out += bytes.toString('utf8')
      options.onOut?.(out)
    })
    child.stderr.on('data', (bytes: Buffer) => (err += bytes.toString('utf8')))
    child.once('error', reject)
    child.once('close', (status) => {
      clearTimeout(timer)
      resolve({ status: status ?? -1, out, err, ms: performance.now() - begun })
    })
  })
}
