import { randomFillSync } from 'node:crypto'
import { existsSync } from 'node:fs'
import v8 from 'node:v8'
import { MachinePrivateKey } from '@meshwright/crypto'
import { type Arguments, type Flag, parseArguments, wrong } from './cli/arguments.ts'
import { ask } from './cli/client.ts'
import { type Command, type Group, GROUPS, warnWithoutPolicy } from './cli/commands.ts'
import { outputForm, write } from './cli/output.ts'
import { loadSettings } from './config/load.ts'
import { nearest } from './config/nearest.ts'
import { Failure, reasonOf } from './failure.ts'
import { buildRelayMap } from './relay-map.ts'
import { VERSION } from './version.ts'

const CONFIG: Flag = { name: 'config', short: 'c', kind: 'text', value: 'FILE', help: 'configuration (YAML)' }
const GLOBAL: readonly Flag[] = [
  CONFIG,
  { name: 'output', short: 'o', kind: 'text', value: 'FORM', help: 'json, json-line or yaml' },
  { name: 'help', short: 'h', kind: 'switch', help: 'show this' },
]
const SERVE_FLAGS: readonly Flag[] = [{ name: 'allow-loopback', kind: 'switch', help: 'tell loopback endpoints to peers: for tests on one machine' }]
/**
 * How much may be added to what lives in the heap before garbage is collected, in percent. The engine's own choice is up to 300, and among
 * connections that come and go by the hundred the heap then grows tenfold, all of it garbage, until a collection takes 50 ms.
 */
const HEAP_GROWING_PERCENT = 50
const CONFIG_PLACES = ['/etc/meshwright/control.yaml', 'config.yaml']
const SINGLE: Readonly<Record<string, string>> = {
  serve: 'run the server',
  configtest: 'check the configuration',
  health: 'ask whether the server is well',
  version: 'show the version',
  'generate private-key': 'print a fresh server key',
}

async function main(words: readonly string[]): Promise<void> {
  // Global flags may stand before the command, as with headscale.
  const { before, rest } = splitGlobal(words)
  const [first, second] = rest
  if (first === '--version') return void process.stdout.write(`${VERSION}\n`)
  if (first === undefined || first === 'help' || first === '--help' || first === '-h') return void process.stdout.write(usage())
  const group = GROUPS.find((one) => one.names.includes(first))
  if (group !== undefined) return runGroup(group, second, [...before, ...rest.slice(2)])
  if (first !== 'serve' && (SINGLE[first] !== undefined || first === 'generate') && rest.slice(1).some((word) => word === '--help' || word === '-h')) return void process.stdout.write(singleUsage(first))
  switch (first) {
    case 'serve':
      return serve(parse([...before, ...rest.slice(1)], SERVE_FLAGS, 'serve'))
    case 'configtest': {
      const settings = loadSettings(configFile(parse([...before, ...rest.slice(1)], [], 'configtest')))
      buildRelayMap(settings)
      return void process.stdout.write(`${settings.file} is fine\n`)
    }
    case 'health': {
      const args = parse([...before, ...rest.slice(1)], [], 'health')
      const answer = await ask(socketOf(args), { command: 'health' })
      return write(outputForm(args.text('output')), answer, () => `The server is well.\nPolicy: ${String(answer['policy'])}\nNodes: ${String(answer['nodes'])}`)
    }
    case 'version': {
      const args = parse([...before, ...rest.slice(1)], [], 'version')
      return write(outputForm(args.text('output')), { version: VERSION }, () => VERSION)
    }
    case 'generate':
      if (second !== 'private-key') throw wrong('generate knows only private-key', '')
      parse([...before, ...rest.slice(2)], [], 'generate private-key')
      return void process.stdout.write(`${MachinePrivateKey.generate((length) => randomFillSync(new Uint8Array(length))).formatSecret()}\n`)
    default: {
      const near = nearest(first, [...GROUPS.flatMap((one) => one.names), ...Object.keys(SINGLE)])
      throw new Failure(`unknown command ${first}`, { remedy: near === undefined ? 'meshwright-control --help lists them' : `did you mean ${near}?`, status: 2 })
    }
  }
}

async function runGroup(group: Group, name: string | undefined, words: readonly string[]): Promise<void> {
  if (name === undefined || name === '--help' || name === '-h') return void process.stdout.write(groupUsage(group))
  const command = group.commands.find((one) => one.names.includes(name))
  if (command === undefined) {
    const near = nearest(name, group.commands.flatMap((one) => one.names))
    throw new Failure(`unknown command ${group.names[0]} ${name}`, { remedy: near === undefined ? `meshwright-control ${group.names[0]} --help lists them` : `did you mean ${near}?`, status: 2 })
  }
  const full = `${group.names[0]} ${command.names[0]}`
  const args = parse(words, command.flags, full)
  if (args.has('help')) return void process.stdout.write(commandUsage(full, command))
  const run = { args, socket: socketOf(args), form: outputForm(args.text('output')), name: full }
  await command.run(run)
  if (group.names[0] === 'preauthkeys' && command.names[0] === 'create') await warnWithoutPolicy(run)
}

async function serve(args: Arguments): Promise<void> {
  if (args.has('help')) return void process.stdout.write(`meshwright-control serve\n\n${flagLines([...SERVE_FLAGS, ...GLOBAL])}`)
  v8.setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`)
  // Only here: administrators wait for no engine to load.
  const { startServer } = await import('./serve.ts')
  const running = await startServer(configFile(args), { allowLoopbackEndpoints: args.has('allow-loopback') })
  process.on('SIGHUP', () => {
    running.reload().catch((error: unknown) => report(error))
  })
  // Whoever read the log may go; the server stays.
  process.stderr.on('error', () => undefined)
  let stopping = false
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stopping) process.exit(1)
      stopping = true
      void running.stop().then(() => process.exit(0))
    })
  }
}

function parse(words: readonly string[], flags: readonly Flag[], command: string): Arguments {
  return parseArguments(words, [...flags, ...GLOBAL], command)
}

function splitGlobal(words: readonly string[]): { readonly before: readonly string[]; readonly rest: readonly string[] } {
  const before: string[] = []
  let at = 0
  while (at < words.length) {
    const word = words[at] ?? ''
    if (!/^(-[co]|--config|--output)/.test(word)) break
    const takesNext = /^(-[co]|--config|--output)$/.test(word)
    before.push(...words.slice(at, at + (takesNext ? 2 : 1)))
    at += takesNext ? 2 : 1
  }
  return { before, rest: words.slice(at) }
}

function configFile(args: Arguments): string {
  const file = args.text('config') ?? process.env['MESHWRIGHT_CONTROL_CONFIG'] ?? CONFIG_PLACES.find((place) => existsSync(place))
  if (file === undefined) throw new Failure('no configuration was found', { remedy: `name it with --config, or put it at ${CONFIG_PLACES[0] ?? ''}`, status: 2 })
  return file
}

function socketOf(args: Arguments): string {
  return loadSettings(configFile(args)).unixSocket
}

function usage(): string {
  const groups = GROUPS.map((group) => `  ${group.names[0].padEnd(22)}${group.help}: ${group.commands.map((command) => command.names[0]).join(', ')}`)
  const single = Object.entries(SINGLE).map(([name, help]) => `  ${name.padEnd(22)}${help}`)
  return `meshwright-control ${VERSION}: a control server of a private mesh\n\nServer:\n${single.join('\n')}\n\nAdministration (through the server's socket):\n${groups.join('\n')}\n\nFlags of all commands:\n${flagLines(GLOBAL)}`
}

function singleUsage(name: string): string {
  const [full, help] = Object.entries(SINGLE).find(([each]) => each.split(' ')[0] === name) ?? [name, '']
  return `meshwright-control ${full}: ${help}\n\n${flagLines(GLOBAL)}`
}

function groupUsage(group: Group): string {
  const commands = group.commands.map((command) => `  ${command.names.join(', ').padEnd(24)}${command.help}`)
  return `meshwright-control ${group.names[0]}: ${group.help}\n\n${commands.join('\n')}\n`
}

function commandUsage(full: string, command: Command): string {
  return `meshwright-control ${full}${command.usage === undefined ? '' : ` ${command.usage}`}: ${command.help}\n\n${flagLines([...command.flags, ...GLOBAL])}`
}

function flagLines(flags: readonly Flag[]): string {
  return flags.map((flag) => `  ${flag.short === undefined ? '    ' : `-${flag.short}, `}${`--${flag.name}${flag.value === undefined ? '' : ` ${flag.value}`}`.padEnd(26)}${flag.help}\n`).join('')
}

function report(error: unknown): 1 | 2 {
  if (error instanceof Failure) {
    process.stderr.write(`error: ${error.message}\n${error.remedy === undefined ? '' : `  ${error.remedy}\n`}`)
    return error.status
  }
  process.stderr.write(`error: ${reasonOf(error)}\n${error instanceof Error ? `${error.stack ?? ''}\n` : ''}`)
  return 1
}

// A reader that has seen enough (`| head -1`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

main(process.argv.slice(2)).catch((error: unknown) => {
  process.exitCode = report(error)
})
