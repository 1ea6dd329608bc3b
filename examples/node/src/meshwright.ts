import { CommandError, DaemonClient } from './cli/client.ts'
import type { Command } from './cli/command.ts'
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
${describeFlags(GLOBAL_FLAGS)}  --version
    \tprint the version, as the command does

"meshwright <command> --help" tells more of each.
`
}

async function main(given: readonly string[]): Promise<number> {
  // As the usual command line has it.
  const words = given.length === 1 && (given[0] === '--version' || given[0] === '-V') ? ['version'] : given
  const global = parseFlags(words, GLOBAL_FLAGS)
  const [name, ...rest] = global.args
  if (name === undefined || name === 'help') {
    const about = name === 'help' ? commandOf(rest)?.command : undefined
    if (about === undefined && rest[0] !== undefined) throw new FlagError(`unknown command: ${rest[0]}${nearest(rest[0], Object.keys(COMMANDS))}`)
    process.stdout.write(about === undefined ? usage() : commandUsage(about))
    return name === undefined ? 2 : 0
  }
  const found = commandOf(global.args)
  if (found === undefined) throw new FlagError(`unknown command: ${name}${nearest(name, Object.keys(COMMANDS))}`)
  const { command } = found
  let flags
  try {
    flags = parseFlags(found.rest, { ...command.flags, ...GLOBAL_FLAGS })
  } catch (error) {
    if (!(error instanceof FlagError) || error.message !== 'help') throw error
    process.stdout.write(commandUsage(command))
    return 0
  }
  if (command.subcommands !== undefined && flags.args.length > 0) throw new FlagError(`unknown subcommand: ${name} ${flags.args[0] ?? ''}${nearest(flags.args[0] ?? '', Object.keys(command.subcommands))}`)
  if (command.takesWords !== true && flags.args.length > 0) throw new FlagError(`too many non-flag arguments: ${flags.args.join(' ')}`)
  // An empty path is none, and never a TCP port: the default, as with the usual command line.
  const socket = String(flags.values['socket'] ?? global.values['socket'] ?? '') || defaultSocket()
  return command.run(new DaemonClient(socket), flags, {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
  })
}

/** The command that words begin with, subcommands included, and what stands behind its name. */
function commandOf(words: readonly string[]): { readonly command: Command; readonly rest: readonly string[] } | undefined {
  const [name = '', ...rest] = words
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  const [verb = '', ...more] = rest
  const below = command?.subcommands !== undefined && Object.hasOwn(command.subcommands, verb) ? command.subcommands[verb] : undefined
  return below !== undefined ? { command: below, rest: more } : command && { command, rest }
}

function commandUsage({ usage: line, summary, flags, subcommands = {} }: Command): string {
  const verbs = Object.entries(subcommands).map(([name, each]) => `  ${name.padEnd(10)} ${each.summary}\n`)
  return `usage: ${line}\n\n${summary}.\n${verbs.length === 0 ? '' : `\nSUBCOMMANDS\n${verbs.join('')}`}${Object.keys(flags).length === 0 ? '' : `\nFLAGS\n${describeFlags(flags)}`}`
}

// A reader that has seen enough (`meshwright ping --c 0 db | head -1`) ends what goes on, and is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

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
