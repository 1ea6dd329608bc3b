import { readFileSync } from 'node:fs'
import { formatPrefix, isExitRoute, parsePrefix } from '@meshwright/ip'
import { FlagError } from '../go-flags.ts'
import { CommandError, type DaemonClient, type Json } from './client.ts'
import { chosenExitNode } from './exit-choice.ts'
import { type Command, list, numberFlag, textFlag } from './command.ts'
import { LOGIN_ONLY, RARE_SETTINGS, rarePrefs, SET_ONLY } from './settings.ts'

const STATE_NEEDS_MACHINE_AUTH = 3
const STATE_RUNNING = 6
const INITIAL_STATE_AND_PREFS = 2 | 4
const EXPLAIN_EVERY_MS = 5_000

const EXIT_ROUTES: readonly string[] = ['0.0.0.0/0', '::/0']

/** `up`: takes part in the mesh, logging in where that is needed. */
export const up: Command = {
  usage: 'meshwright up [flags]',
  summary: 'Connect to the mesh, logging in if needed',
  flags: {
    'login-server': { type: 'string', help: 'base URL of the control server' },
    'auth-key': { type: 'string', help: 'pre-auth key; "file:PATH" reads it from a file', aliases: ['authkey'] },
    hostname: { type: 'string', help: 'name to use instead of that of the computer' },
    'advertise-routes': { type: 'string', help: 'routes to offer, comma-separated: "10.0.0.0/8,192.168.0.0/24"; "" to take them back' },
    'advertise-exit-node': { type: 'bool', help: 'offer to carry traffic to everywhere else' },
    'snat-subnet-routes': { type: 'bool', help: 'with a TUN device: machines behind this node see its address, not those of the mesh', default: 'true' },
    'advertise-tags': { type: 'string', help: 'tags to ask for, comma-separated: "tag:eng,tag:db"' },
    'accept-routes': { type: 'bool', help: 'use the routes that other nodes offer' },
    'accept-dns': { type: 'bool', help: 'use the DNS settings of the mesh', default: 'true' },
    'exit-node': { type: 'string', help: 'address of the node that carries traffic to everywhere else; "" for none' },
    'exit-node-allow-lan-access': { type: 'bool', help: 'with --exit-node: reach networks next door directly' },
    'shields-up': { type: 'bool', help: 'accept no connections from the mesh' },
    ...RARE_SETTINGS,
    ...LOGIN_ONLY,
    'force-reauth': { type: 'bool', help: 'log in anew, with a new node key' },
    reset: { type: 'bool', help: 'set every setting that is not named to its default' },
    timeout: { type: 'duration', help: 'how long to wait until the node runs; 0 waits for ever', default: '0s' },
    json: { type: 'bool', help: 'print what happens as JSON' },
  },
  async run(daemon, flags, output) {
    if (flags.args.length > 0) throw new FlagError(`too many non-flag arguments: ${flags.args.join(' ')}`)
    const json = flags.values['json'] === true
    const server = textFlag(flags, 'login-server')
    if (server !== undefined && !/^https?:\/\/[^/\s]+\/?$/.test(server)) throw new CommandError(`invalid value "${server}" for --login-server: write it as https://control.example`, 2)
    const authKey = readAuthKey(textFlag(flags, 'auth-key'))
    const timeoutMs = numberFlag(flags, 'timeout', 0)
    const abort = timeoutMs === 0 ? undefined : AbortSignal.timeout(timeoutMs)
    prefsFromFlags(flags.values, flags.values['reset'] === true, {}) // what is wrong with them is told before anybody is asked
    const before = await daemon.call('GET', 'prefs')
    const change = prefsFromFlags(flags.values, flags.values['reset'] === true, before)
    if (typeof change['ExitNodeID'] === 'string') change['ExitNodeID'] = await chosenExitNode(daemon, change['ExitNodeID'])
    const controlUrl = server?.replace(/\/$/, '') ?? String(before['ControlURL'] ?? '')
    if (controlUrl === '') throw new CommandError('no control server is known yet: name it with --login-server=https://control.example', 2)
    const status = await daemon.call('GET', 'status?peers=false')
    const moved = controlUrl !== before['ControlURL']
    await daemon.call('PATCH', 'prefs', change)
    if (status['BackendState'] === 'Running' && authKey === undefined && !moved && flags.values['force-reauth'] !== true) {
      if (json) output.out(`${JSON.stringify({ BackendState: 'Running' }, null, 2)}\n`)
      return 0
    }
    const problems: string[] = []
    // One that must log in anew runs as it was until then: only what comes later counts.
    const anew = moved || flags.values['force-reauth'] === true
    const waiting = waitUntilRunning(daemon, { json, output, problems, anew, ...(abort === undefined ? {} : { signal: abort }) })
    const explaining = setInterval(() => void tellHindrances(daemon, output, problems), EXPLAIN_EVERY_MS)
    if (flags.values['force-reauth'] === true && !moved) await daemon.call('POST', 'meshwright/reauth', authKey === undefined ? {} : { AuthKey: authKey })
    else await daemon.call('POST', 'start', { UpdatePrefs: { ControlURL: controlUrl, WantRunning: true }, ...(authKey === undefined ? {} : { AuthKey: authKey }) })
    try {
      await waiting
    } catch (error) {
      // The bus ends in one of several ways when time is up; refusals are told as they are.
      if (abort?.aborted !== true || (error instanceof CommandError && error.message.startsWith('backend error'))) throw error
      throw new CommandError(`timeout waiting for the node to run${problems.length > 0 ? `: ${problems[problems.length - 1] ?? ''}` : ''}`)
    } finally {
      clearInterval(explaining)
    }
    return 0
  },
}

/** `login`: as `up`, always with a new login. */
export const login: Command = {
  ...up,
  usage: 'meshwright login [flags]',
  summary: 'Log in to a mesh',
  flags: { ...up.flags, nickname: SET_ONLY['nickname'] ?? { type: 'string', help: '' } },
  run: (daemon, flags, output) => up.run(daemon, { ...flags, values: { ...flags.values, 'force-reauth': true } }, output),
}

/** Says once what keeps a node from running that is logged in already, such as a home relay that cannot be reached. */
export async function tellHindrances(daemon: Pick<DaemonClient, 'call'>, output: { err(text: string): void }, told: string[]): Promise<void> {
  const status = await daemon.call('GET', 'status?peers=false').catch((): Json => ({})) // who waits hears of a daemon that is gone
  if (status['BackendState'] !== 'Starting' || !Array.isArray(status['Health'])) return
  for (const line of status['Health'].map(String)) {
    if (told.includes(line)) continue
    told.push(line)
    output.err(`${line}\nStill trying; Ctrl-C ends the waiting.\n`)
  }
}

/** How a node is waited for. */
export interface Waiting {
  readonly json: boolean
  readonly output: { out(text: string): void; err(text: string): void }
  /** What went wrong on the way, the last at the end: added to. */
  readonly problems: string[]
  /** The node runs only when it says so again: it is to log in anew. */
  readonly anew: boolean
  readonly signal?: AbortSignal
}

/** Waits until a node runs, and tells what a person has to do for it. Rejects when the control server refuses the login. */
export async function waitUntilRunning(daemon: Pick<DaemonClient, 'watch'>, { json, output, problems, anew, signal }: Waiting): Promise<void> {
  let shown: unknown
  let begun = false
  await daemon.watch(
    INITIAL_STATE_AND_PREFS,
    (notify: Json) => {
      const url = notify['BrowseToURL']
      if (typeof url === 'string' && url !== shown) {
        shown = url
        if (json) output.out(`${JSON.stringify({ AuthURL: url, BackendState: 'NeedsLogin' }, null, 2)}\n`)
        else output.err(`\nTo authenticate, visit:\n\n\t${url}\n\n`)
      }
      const final = notify['ErrMessage']
      if (typeof final === 'string' && begun) throw new CommandError(`backend error: ${final}`)
      const problem = notify['MeshwrightProblem']
      if (typeof problem === 'string' && begun) {
        if (/^cannot reach/.test(problem) && !problems.includes(problem)) output.err(`${problem}\nStill trying; Ctrl-C ends the waiting.\n`)
        problems.push(problem)
      }
      if (notify['State'] === STATE_NEEDS_MACHINE_AUTH && begun) output.err('\nTo approve your machine, ask an admin of the control server.\n\n')
      if (notify['State'] === STATE_RUNNING && (begun || !anew)) {
        if (json) output.out(`${JSON.stringify({ BackendState: 'Running' }, null, 2)}\n`)
        else if (shown !== undefined) output.err('Success.\n')
        return true
      }
      begun = true
      return false
    },
    signal,
  )
}

/** Preferences that flags name, in the LocalAPI's masked form. @param before the preferences as they are */
export function prefsFromFlags(values: Readonly<Record<string, string | boolean | number | undefined>>, reset: boolean, before: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const change = rarePrefs(values, reset, before)
  const set = (flag: string, name: string, otherwise: unknown, read: (value: string | boolean | number) => unknown = (value) => value): void => {
    const value = values[flag]
    if (value === undefined && !reset) return
    change[name] = value === undefined ? otherwise : read(value)
    change[`${name}Set`] = true
  }
  set('accept-routes', 'RouteAll', false)
  set('accept-dns', 'CorpDNS', true)
  set('shields-up', 'ShieldsUp', false)
  set('snat-subnet-routes', 'NoSNAT', false, (value) => value !== true)
  set('exit-node-allow-lan-access', 'ExitNodeAllowLANAccess', false)
  if (reset || values['advertise-routes'] !== undefined || values['advertise-exit-node'] !== undefined) {
    change['AdvertiseRoutes'] = routesOf(values, reset ? [] : before['AdvertiseRoutes'])
    change['AdvertiseRoutesSet'] = true
  }
  set('advertise-tags', 'AdvertiseTags', [], (value) => list(String(value)).map(checkedTag))
  if (values['hostname'] !== undefined) set('hostname', 'Hostname', '')
  if (values['exit-node'] !== undefined || reset) {
    change['ExitNodeID'] = String(values['exit-node'] ?? '')
    change['ExitNodeIDSet'] = true
  }
  return change
}

/** Each of the two flags leaves to the other what it does not name. */
function routesOf(values: Readonly<Record<string, string | boolean | number | undefined>>, before: unknown): readonly string[] {
  const present = Array.isArray(before) ? before.map(String) : []
  const given = values['advertise-routes'] === undefined ? present.filter((route) => !EXIT_ROUTES.includes(route)) : list(String(values['advertise-routes'])).map(checkedRoute)
  const exit = values['advertise-exit-node'] ?? present.some((route) => EXIT_ROUTES.includes(route))
  return exit === true ? [...given.filter((route) => !EXIT_ROUTES.includes(route)), ...EXIT_ROUTES] : given
}

function checkedRoute(text: string): string {
  const prefix = parsePrefix(text)
  if (prefix === undefined || !text.includes('/')) throw new CommandError(`${JSON.stringify(text)} is not a valid IP address or CIDR prefix`)
  if (formatPrefix(prefix) !== text && !isExitRoute(prefix)) throw new CommandError(`${text} has non-address bits set; expected ${formatPrefix(prefix)}`)
  return text
}

function checkedTag(text: string): string {
  const tag = text.startsWith('tag:') ? text : `tag:${text}`
  if (!/^tag:[A-Za-z][A-Za-z0-9-]*$/.test(tag)) throw new CommandError(`tag: "${tag}": tag names start with a letter and hold letters, digits and dashes`, 2)
  return tag
}

function readAuthKey(given: string | undefined): string | undefined {
  if (given === undefined || !given.startsWith('file:')) return given
  const file = given.slice('file:'.length)
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new CommandError(`cannot read the auth key from ${file}: ${error instanceof Error ? error.message : String(error)}`, 2)
  }
}
