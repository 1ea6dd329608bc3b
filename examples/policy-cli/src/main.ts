import { parseArgs } from 'node:util'
import { check, diff, explain, fmt, type Options, type Outcome, preview, test } from './commands.ts'
import { USAGE, UsageError } from './usage.ts'

const COMMANDS: Readonly<Record<string, (files: readonly string[], options: Options) => Promise<Outcome>>> = {
  check,
  test,
  explain,
  diff,
  preview,
  fmt,
}
const FORMATS = ['text', 'json', 'github']

/** Runs one command; gives the exit status. */
async function main(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parse(argv)
  const [name = '', ...files] = positionals
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined)
    throw new UsageError(name === '' ? 'no command' : `no command '${name}'; there are ${Object.keys(COMMANDS).join(', ')}`)
  if (values.format !== undefined && !FORMATS.includes(values.format))
    throw new UsageError(`--format ${values.format}: choose from ${FORMATS.join(', ')}`)
  const { status, lines, json } = await command(files, values)
  if (values.json === true || values.format === 'json') process.stdout.write(`${JSON.stringify(json)}\n`)
  else if (lines.length > 0) process.stdout.write(`${lines.join('\n')}\n`)
  return status
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        inventory: { type: 'string', short: 'i' },
        format: { type: 'string' },
        proto: { type: 'string' },
        as: { type: 'string' },
        check: { type: 'boolean' },
        write: { type: 'boolean' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`meshwright-policy: ${error.message}\n(meshwright-policy --help shows the usage)\n`)
  process.exitCode = 2
}
