import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { check } from './check.ts'
import { diff } from './diff.ts'
import { explain } from './explain.ts'
import { fmt } from './fmt.ts'
import { COLOURED, type Options, type Outcome, PLAIN } from './outcome.ts'
import { preview } from './preview.ts'
import { schema } from './schema.ts'
import { test } from './test-command.ts'
import { type CommandName, COMMANDS, helpFor, isCommand, OPTIONS, UsageError } from './usage.ts'

const RUN: Readonly<Record<CommandName, (words: readonly string[], options: Options) => Promise<Outcome>>> = { check, test, explain, diff, preview, fmt, schema }
const FORMATS = ['text', 'json', 'github']

/** Runs one command; gives the exit status. */
async function main(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parse(argv)
  const [name = '', ...words] = positionals
  if (values.version === true) return say(version(), 0)
  if (name === 'help' || values.help === true) {
    const topic = name === 'help' ? words[0] ?? '' : name
    if (topic !== '' && !isCommand(topic)) throw new UsageError(noCommand(topic))
    return say(helpFor(topic !== '' && isCommand(topic) ? topic : undefined).trimEnd(), 0)
  }
  if (!isCommand(name)) throw new UsageError(noCommand(name))
  const allowed: readonly string[] = COMMANDS[name].options
  const other = Object.keys(values).find((option) => option !== 'json' && !allowed.includes(option))
  if (other !== undefined) throw new UsageError(`${name} takes no --${other}`)
  if (values.format !== undefined && !FORMATS.includes(values.format)) throw new UsageError(`--format ${values.format}: choose from ${FORMATS.join(', ')}`)
  const forPrograms = values.json === true || values.format === 'json'
  const style = process.stdout.isTTY && process.env['NO_COLOR'] === undefined ? COLOURED : PLAIN
  const { status, lines, json } = await RUN[name](words, { ...values, style })
  if (forPrograms) return say(JSON.stringify(json), status)
  return lines.length === 0 ? status : say(lines.join('\n'), status)
}

function say(text: string, status: number): number {
  process.stdout.write(`${text}\n`)
  return status
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  return typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : 'unknown'
}

function noCommand(name: string): string {
  return `${name === '' ? 'no command' : `no command '${name}'`}; there are ${Object.keys(COMMANDS).join(', ')}`
}

// Options may be unknown; then the reason is told as wrong usage.
function parse(argv: readonly string[]): ReturnType<typeof parseArgs<{ args: string[]; allowPositionals: true; options: typeof OPTIONS }>> {
  try {
    return parseArgs({ args: [...argv], allowPositionals: true, options: OPTIONS })
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify({ ok: false, usage: error.message })}\n`)
  process.stderr.write(`meshwright-policy: ${error.message}\n(meshwright-policy --help shows the usage)\n`)
  process.exitCode = 2
}
