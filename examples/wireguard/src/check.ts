import { readFileSync, statSync } from 'node:fs'
import { type ConfigFile, parseConfig } from '@meshwright/wireguard/text'
import { UsageError } from './usage-error.ts'

const OTHERS_MAY_READ = 0o077

/** `check [--json] FILE`: every problem of a configuration with its place; status 1 when one of them is an error. @throws UsageError */
export function check(args: readonly string[]): { readonly text: string; readonly status: number } {
  const isJson = args.includes('--json')
  const [file, ...rest] = args.filter((each) => each !== '--json')
  if (file === undefined || rest.length > 0 || (file.startsWith('-') && file !== '-')) throw new UsageError('usage: meshwright-wg check [--json] FILE')
  const { diagnostics } = parseConfig(readText(file))
  const ok = diagnostics.every(({ severity }) => severity !== 'error')
  const isOpen = (statSync(file).mode & OTHERS_MAY_READ) !== 0
  const openMessage = `others may read it, and it holds secrets: chmod 600 ${file}`
  if (isJson) {
    const all = [...diagnostics, ...(isOpen ? [{ severity: 'warning', message: openMessage }] : [])]
    return { text: `${JSON.stringify({ ok, file, diagnostics: all }, null, 2)}\n`, status: ok ? 0 : 1 }
  }
  const lines = diagnostics.map(({ severity, line, column, message }) => `${file}:${line}:${column}: ${severity}: ${message}`)
  if (isOpen) lines.push(`${file}: warning: ${openMessage}`)
  if (ok) lines.push(`${file}: ok`)
  return { text: lines.map((line) => `${line}\n`).join(''), status: ok ? 0 : 1 }
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
