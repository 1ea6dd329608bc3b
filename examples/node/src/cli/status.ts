import { formatIp, parseIp } from '@meshwright/ip'
import { CommandError, type Json } from './client.ts'
import type { Command } from './command.ts'

/** `status`: this node and its peers. */
export const status: Command = {
  usage: 'meshwright status [--json] [--active] [--peers] [--self]',
  summary: 'Show the state of this node and its connections',
  flags: {
    json: { type: 'bool', help: 'print as JSON' },
    active: { type: 'bool', help: 'only peers with traffic' },
    peers: { type: 'bool', help: 'show peers', default: 'true' },
    self: { type: 'bool', help: 'show this node', default: 'true' },
    header: { type: 'bool', help: 'show what the columns are' },
    web: { type: 'bool', help: 'show a web page', refused: 'there is no web page: --json has everything' },
    listen: { type: 'string', help: 'where the web page is', refused: 'there is no web page' },
    browser: { type: 'bool', help: 'open the web page', refused: 'there is no web page' },
  },
  async run(daemon, flags, output) {
    const found = await daemon.call('GET', `status${flags.values['peers'] === false ? '?peers=false' : ''}`)
    if (flags.values['json'] === true) {
      output.out(`${JSON.stringify(found, null, 2)}\n`)
      return 0
    }
    const problem = stopped(found)
    if (problem !== undefined) {
      output.out(`${problem}\n`)
      return 1
    }
    const users = object(found['User'])
    const rows: string[][] = []
    if (found['TailscaleIPs'] === null) output.out('Meshwright is starting.\n')
    else if (flags.values['self'] !== false) rows.push(row(object(found['Self']), users, true))
    const peers = Object.values(object(found['Peer'])).map(object)
    peers.sort((a, b) => String(a['DNSName']).localeCompare(String(b['DNSName'])))
    for (const peer of peers) if (flags.values['active'] !== true || peer['Active'] === true) rows.push(row(peer, users, false))
    if (flags.values['header'] === true && rows.length > 0) rows.unshift(['IP', 'Hostname', 'Owner', 'OS', 'Status'], ['--', '--------', '-----', '--', '------'])
    const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((each) => each[column]?.length ?? 0)))
    for (const each of rows) output.out(`${each.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()}\n`)
    const health = Array.isArray(found['Health']) ? found['Health'].map(String) : []
    if (health.length > 0) output.out(`\n# Health check:\n${health.map((line) => `#     - ${line}\n`).join('')}`)
    return found['BackendState'] === 'Running' || found['BackendState'] === 'Starting' ? 0 : 1
  },
}

function stopped(found: Json): string | undefined {
  switch (found['BackendState']) {
    case 'Stopped':
      return 'Meshwright is stopped.'
    case 'NeedsLogin': {
      const url = found['AuthURL']
      return typeof url === 'string' && url !== '' ? `Logged out.\nLog in at: ${url}` : 'Logged out.'
    }
    case 'NeedsMachineAuth':
      return 'Machine is not yet approved by an admin.'
    case 'NoState':
      return 'unexpected state: NoState'
    default:
      return undefined
  }
}

function row(peer: Json, users: Json, self: boolean): string[] {
  const addresses = Array.isArray(peer['TailscaleIPs']) ? peer['TailscaleIPs'].map(String) : []
  const name = String(peer['DNSName'] ?? '').split('.')[0] || String(peer['HostName'] ?? '')
  const tagged = Array.isArray(peer['Tags']) && peer['Tags'].length > 0
  const login = String(object(users[String(peer['UserID'])])['LoginName'] ?? '')
  return [addresses[0] ?? '', name, tagged ? 'tagged-devices' : login.includes('@') ? `${login.split('@')[0] ?? ''}@` : login, String(peer['OS'] ?? ''), self ? '-' : activity(peer)]
}

/** What goes on with a peer, in a word or two. */
export function activity(peer: Json): string {
  const parts: string[] = []
  const bytes = Number(peer['TxBytes'] ?? 0) + Number(peer['RxBytes'] ?? 0)
  if (peer['Expired'] === true) parts.push('expired')
  if (peer['ExitNode'] === true) parts.push('exit node')
  else if (peer['ExitNodeOption'] === true) parts.push('offers exit node')
  if (peer['Active'] === true) {
    if (peer['CurAddr'] !== '') parts.push(`active; direct ${String(peer['CurAddr'])}`)
    else parts.push(`active; relay "${String(peer['Relay'])}"`)
  } else if (bytes > 0) parts.push('idle')
  if (peer['Online'] !== true) parts.push('offline')
  if (bytes > 0) parts.push(`tx ${String(peer['TxBytes'])} rx ${String(peer['RxBytes'])}`)
  return parts.length === 0 ? '-' : parts.join(', ').replace('active;', 'active;')
}

/** A JSON object, or an empty one. */
export function object(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {}
}

/** Whom to ping: a node by its name, or any address, also one behind a router. @throws CommandError when nobody is called so */
export function pingTarget(found: Json, wanted: string): { readonly ip: string; readonly self: boolean } {
  const ip = parseIp(wanted)
  const own = object(found['Self'])['TailscaleIPs']
  if (ip === undefined || stopped(found) !== undefined || (Array.isArray(own) && own.includes(formatIp(ip)))) return findPeer(found, wanted)
  return { ip: formatIp(ip), self: false }
}

/** The address of a peer that is given by name or address. @throws CommandError when nobody is called so */
export function findPeer(found: Json, wanted: string): { readonly ip: string; readonly self: boolean; readonly name: string } {
  if (found['BackendState'] !== 'Running' && found['BackendState'] !== 'Starting') throw new CommandError(stopped(found) ?? 'the node is not running')
  const name = wanted.replace(/\.$/, '').toLowerCase()
  const all: readonly (readonly [Json, boolean])[] = [[object(found['Self']), true], ...Object.values(object(found['Peer'])).map((peer) => [object(peer), false] as const)]
  for (const [peer, self] of all) {
    const addresses = Array.isArray(peer['TailscaleIPs']) ? peer['TailscaleIPs'].map(String) : []
    const dns = String(peer['DNSName'] ?? '').replace(/\.$/, '').toLowerCase()
    const byAddress = addresses.find((address) => address.toLowerCase() === name)
    const first = byAddress ?? addresses[0]
    if (first !== undefined && (byAddress !== undefined || dns === name || dns.split('.')[0] === name)) return { ip: first, self, name: dns.split('.')[0] ?? '' }
  }
  throw new CommandError(`no node of the mesh is called or has the address "${wanted}"; "meshwright status" lists them`)
}
