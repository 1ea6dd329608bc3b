import type { FlagSpec, ParsedFlags } from '../go-flags.ts'
import type { DaemonClient } from './client.ts'

/** Where a command writes. */
export interface CommandOutput {
  out(text: string): void
  err(text: string): void
}

/** One verb of the command line. */
export interface Command {
  readonly usage: string
  /** One line for the list of commands. */
  readonly summary: string
  readonly flags: Readonly<Record<string, FlagSpec>>
  /** Whether it takes words behind its flags, and says itself when they are too many. Else any of them is wrong usage. */
  readonly takesWords?: true
  /** Verbs of its own: `dns status`. Then `run` is what happens without one. */
  readonly subcommands?: Readonly<Record<string, Command>>
  /** Does it; gives the exit status. */
  run(daemon: DaemonClient, flags: ParsedFlags, output: CommandOutput): Promise<number>
}

/** A text flag, or `undefined`. */
export function textFlag(flags: ParsedFlags, name: string): string | undefined {
  const value = flags.values[name]
  return typeof value === 'string' ? value : undefined
}

/** A number flag, or `otherwise`. */
export function numberFlag(flags: ParsedFlags, name: string, otherwise: number): number {
  const value = flags.values[name]
  return typeof value === 'number' ? value : otherwise
}

/** The items of a comma-separated list; empty for an empty text. */
export function list(text: string): readonly string[] {
  return text === '' ? [] : text.split(',').map((item) => item.trim())
}
