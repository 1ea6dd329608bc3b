import { writeFileSync } from 'node:fs'
import { deniedPcap } from '../denied.ts'
import { CommandError } from './client.ts'
import { type Command, textFlag } from './command.ts'
import { activity, object } from './status.ts'

/** A command that only has subcommands: without one it fails and names them. */
export function needsSubcommand(name: string, subcommands: readonly string[]): Command['run'] {
  return () => Promise.reject(new CommandError(`meshwright ${name}: missing subcommand: ${subcommands.join(', ')}`))
}

const listExitNodes: Command = {
  usage: 'meshwright exit-node list [--filter COUNTRY]',
  summary: 'Show nodes that offer to carry traffic to everywhere else',
  flags: { filter: { type: 'string', help: 'only those of a country, by its name' } },
  async run(daemon, flags, output) {
    const found = await daemon.call('GET', 'status')
    const all = Object.values(object(found['Peer'])).map(object).filter((peer) => peer['ExitNodeOption'] === true)
    if (all.length === 0) throw new CommandError('no exit nodes found')
    const wanted = textFlag(flags, 'filter') ?? ''
    const peers = wanted === '' ? all : all.filter((peer) => String(object(peer['Location'])['Country'] ?? '').toLowerCase() === wanted.toLowerCase())
    if (peers.length === 0) throw new CommandError(`no exit nodes found for "${wanted}"`)
    const rows = [['IP', 'HOSTNAME', 'STATUS'], ...peers.map((peer) => [Array.isArray(peer['TailscaleIPs']) ? String(peer['TailscaleIPs'][0] ?? '') : '', String(peer['DNSName'] ?? '').replace(/\.$/, ''), peer['ExitNode'] === true ? 'selected' : activity(peer)])]
    const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
    for (const row of rows) output.out(`${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()}\n`)
    output.out('\nUse one with "meshwright set --exit-node=IP", none with "meshwright set --exit-node=".\n')
    return 0
  },
}

const suggestExitNode: Command = {
  usage: 'meshwright exit-node suggest',
  summary: 'Suggest one of them',
  flags: {},
  async run(daemon, _flags, output) {
    const found = await daemon.call('GET', 'suggest-exit-node')
    const id = String(found['ID'] ?? '')
    output.out(id === '' ? 'No exit node suggestion is available.\n' : `Suggested exit node: ${String(found['Name'] ?? id)}\nUse it with "meshwright set --exit-node=${String(found['Name'] ?? id)}".\n`)
    return 0
  },
}

/** `exit-node`: who carries traffic to everywhere else. */
export const exitNode: Command = {
  usage: 'meshwright exit-node <list|suggest>',
  summary: 'Show nodes that carry traffic to everywhere else',
  flags: {},
  subcommands: { list: listExitNodes, suggest: suggestExitNode },
  run: needsSubcommand('exit-node', ['list', 'suggest']),
}

const printMetrics: Command = {
  usage: 'meshwright metrics print',
  summary: 'Print counters as Prometheus text',
  flags: {},
  async run(daemon, _flags, output) {
    output.out(await daemon.text('usermetrics'))
    return 0
  },
}

const writeMetrics: Command = {
  usage: 'meshwright metrics write PATH',
  summary: 'Write them to a file, for the textfile collector of node_exporter',
  takesWords: true,
  flags: {},
  async run(daemon, flags) {
    const [path] = flags.args
    if (path === undefined || flags.args.length > 1) throw new CommandError('usage: meshwright metrics write <path>')
    writeFileSync(path, await daemon.text('usermetrics'), { mode: 0o644 })
    return 0
  },
}

/** `metrics`: counters for Prometheus. */
export const metrics: Command = { ...printMetrics, usage: 'meshwright metrics [print | write PATH]', summary: 'Print counters as Prometheus text', subcommands: { print: printMetrics, write: writeMetrics } }

function shown(usage: string, summary: string, method: string, what: string): Command {
  return {
    usage,
    summary,
    flags: {},
    async run(daemon, _flags, output) {
      output.out(`${JSON.stringify(await daemon.call(method, what), null, '\t')}\n`)
      return 0
    },
  }
}

const denied: Command = {
  usage: 'meshwright debug denied [--pcap FILE]',
  summary: 'Print the last packets that the policy or the router refused',
  flags: { pcap: { type: 'string', help: 'write their first bytes to this file, for tcpdump and Wireshark' } },
  async run(daemon, flags, output) {
    const found = await daemon.call('GET', 'meshwright/denied')
    const file = textFlag(flags, 'pcap')
    if (file !== undefined) writeFileSync(file, deniedPcap(found), { mode: 0o600 })
    else output.out(`${JSON.stringify(found, null, '\t')}\n`)
    return 0
  },
}

const prefs: Command = {
  usage: 'meshwright debug prefs [--pretty]',
  summary: 'Print the preferences',
  flags: { pretty: { type: 'bool', help: 'one setting a line, instead of JSON' } },
  async run(daemon, flags, output) {
    const found = await daemon.call('GET', 'prefs')
    if (flags.values['pretty'] !== true) output.out(`${JSON.stringify(found, null, '\t')}\n`)
    else for (const [name, value] of Object.entries(found)) output.out(`${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}\n`)
    return 0
  },
}

const SHOWN: Readonly<Record<string, Command>> = {
  prefs,
  netmap: shown('meshwright debug netmap', 'Print the network map in force', 'POST', 'debug?action=current-netmap'),
  'derp-map': shown('meshwright debug derp-map', 'Print the relay map', 'GET', 'derpmap'),
  denied,
}

/** `debug`: what the node knows, as JSON. */
export const debug: Command = {
  usage: `meshwright debug <${Object.keys(SHOWN).join('|')}>`,
  summary: 'Print what the node knows, as JSON',
  flags: {},
  subcommands: SHOWN,
  run: needsSubcommand('debug', Object.keys(SHOWN)),
}
