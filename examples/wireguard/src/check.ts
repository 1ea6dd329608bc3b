import { readFileSync, statSync } from 'node:fs'
import { type ConfigFile, parseConfig } from '@meshwright/wireguard/text'
import { UsageError } from './usage-error.ts'

const OTHERS_MAY_READ = 0o077

/** `check FILE`: every problem of a configuration with its place; status 1 when one of them is an error. @throws UsageError */
export function check(args: readonly string[]): { readonly text: string; readonly status: number } {
  const [file] = args
  if (file === undefined || args.length !== 1) throw new UsageError('usage: meshwright-wg check FILE')
  const { diagnostics } = parseConfig(readText(file))
  const lines = diagnostics.map(({ severity, line, column, message }) => `${file}:${line}:${column}: ${severity}: ${message}`)
  if ((statSync(file).mode & OTHERS_MAY_READ) !== 0) lines.push(`${file}: warning: others may read it, and it holds secrets: chmod 600 ${file}`)
  const failed = diagnostics.some(({ severity }) => severity === 'error')
  if (!failed) lines.push(`${file}: ok`)
  return { text: lines.map((line) => `${line}\n`).join(''), status: failed ? 1 : 0 }
}

/** A configuration file without errors. @throws UsageError with the place of the first one */
export function readConfigFile(file: string): ConfigFile {
  const { config, diagnostics } = parseConfig(readText(file))
  const first = diagnostics.find(({ severity }) => severity === 'error')
  if (first !== undefined) throw new UsageError(`${file}:${first.line}:${first.column}: ${first.message}`)
  return config
}

/** The text of a file. @throws UsageError */
export function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new UsageError(`${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  }
}
