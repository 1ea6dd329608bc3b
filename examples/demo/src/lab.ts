import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { BuiltPrograms } from './built-programs.ts'
import { type CommandResult, Program, runCommand } from './program.ts'

/** One fresh folder and all processes of the demo. Nothing of either is left after `close`. */
export class Lab {
  readonly folder: string
  readonly programs: BuiltPrograms
  readonly #running: Set<Program> = new Set()
  readonly #commands: Set<ChildProcess> = new Set()
  readonly #services: Set<{ close(): void }> = new Set()
  #closing: Promise<void> | undefined

  constructor(programs: BuiltPrograms) {
    this.programs = programs
    this.folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-demo-'))
    process.once('exit', this.#lastResort)
  }

  /** Starts a program that stays. */
  start(name: string, file: string, args: readonly string[]): Program {
    if (this.#closing !== undefined) throw new Error('the demo is ending')
    for (const program of this.#running) if (program.name === name) this.#running.delete(program)
    const program = new Program(name, file, args)
    this.#running.add(program)
    return program
  }

  /** Runs a program to its end. */
  run(file: string, args: readonly string[], timeoutMs: number, onOut?: (soFar: string) => void): Promise<CommandResult> {
    if (this.#closing !== undefined) return Promise.reject(new Error('the demo is ending'))
    return runCommand(file, args, {
      timeoutMs,
      ...(onOut === undefined ? {} : { onOut }),
      track: (child) => {
        this.#commands.add(child)
        child.once('close', () => this.#commands.delete(child))
      },
    })
  }

  /** Closes something of this process with the rest. */
  keep<Service extends { close(): void }>(service: Service): Service {
    this.#services.add(service)
    return service
  }

  /** The first program that ended without being asked to. */
  complaint(): string | undefined {
    for (const { failure } of this.#running) if (failure !== undefined) return failure
    return undefined
  }

  /** The last lines of every program's log, for a failure. */
  tails(count: number): readonly { readonly name: string; readonly lines: readonly string[] }[] {
    return [...this.#running].map((program) => ({ name: program.name, lines: program.tail(count) }))
  }

  /** Ends all processes and removes the folder. May be called often. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    for (const child of this.#commands) child.kill('SIGKILL')
    for (const service of this.#services) service.close()
    await Promise.all([...this.#running].map((program) => program.stop()))
    rmSync(this.folder, { recursive: true, force: true })
    process.off('exit', this.#lastResort)
  }

  // For an end that nobody planned: what can be done without waiting.
  readonly #lastResort = (): void => {
    for (const child of this.#commands) child.kill('SIGKILL')
    for (const program of this.#running) program.kill('SIGKILL')
    rmSync(this.folder, { recursive: true, force: true })
  }
}
