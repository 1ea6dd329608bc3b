import { CommandError, DaemonClient } from './cli/client.ts'
import { COMMANDS } from './cli/commands.ts'
import { describeFlags, FlagError, type FlagSpec, nearest, parseFlags } from './go-flags.ts'
import { defaultSocket } from './socket-path.ts'

const GLOBAL_FLAGS: Readonly<Record<string, FlagSpec>> = {
  socket: { type: 'string', help: 'path of the socket of meshwrightd', default: defaultSocket() },
}

function usage(): string {
  const commands = Object.entries(COMMANDS).map(([name, command]) => `  ${name.padEnd(10)} ${command.summary}\n`)
  return `usage: meshwright [flags] <command> [command flags]

The easiest way to command a node of a mesh: it speaks with meshwrightd on this computer.

COMMANDS
${commands.join('')}
FLAGS
${describeFlags(GLOBAL_FLAGS)}
"meshwright <command> --help" tells more of each.
`
}

async function main(words: readonly string[]): Promise<number> {
  const global = parseFlags(words, GLOBAL_FLAGS)
  const [name, ...rest] = global.args
  if (name === undefined || name === 'help') {
    const about = name === 'help' ? COMMANDS[rest[0] ?? ''] : undefined
    process.stdout.write(about === undefined ? usage() : commandUsage(about.usage, about.summary, about.flags))
    return name === undefined ? 2 : 0
  }
  const command = COMMANDS[name]
  if (command === undefined) throw new FlagError(`unknown command: ${name}${nearest(name, Object.keys(COMMANDS))}`)
  let flags
  try {
    flags = parseFlags(rest, { ...command.flags, ...GLOBAL_FLAGS })
  } catch (error) {
    if (!(error instanceof FlagError) || error.message !== 'help') throw error
    process.stdout.write(commandUsage(command.usage, command.summary, command.flags))
    return 0
  }
  const socket = String(flags.values['socket'] ?? global.values['socket'] ?? defaultSocket())
  return command.run(new DaemonClient(socket), flags, {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
  })
}

function commandUsage(line: string, summary: string, flags: Readonly<Record<string, FlagSpec>>): string {
  return `usage: ${line}\n\n${summary}.\n${Object.keys(flags).length === 0 ? '' : `\nFLAGS\n${describeFlags(flags)}`}`
}

main(process.argv.slice(2)).then(
  (status) => process.exit(status),
  (error: unknown) => {
    if (error instanceof FlagError && error.message === 'help') {
      process.stdout.write(usage())
      process.exit(0)
    }
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    if (error instanceof FlagError) process.stderr.write('Run "meshwright --help" for the commands.\n')
    process.exit(error instanceof CommandError ? error.status : error instanceof FlagError ? 2 : 1)
  },
)
