import { CAPABILITY_VERSION } from '@meshwright/control-protocol'
import { FlagError } from '../go-flags.ts'
import { SHORT_VERSION, VERSION } from '../version.ts'
import { CommandError, type Json } from './client.ts'
import { type Command, numberFlag, textFlag } from './command.ts'
import { debug, exitNode, metrics } from './diagnose.ts'
import { dns } from './dns.ts'
import { netcheck } from './netcheck.ts'
import { chosenExitNode } from './exit-choice.ts'
import { RARE_SETTINGS, SET_ONLY } from './settings.ts'
import { findPeer, object, pingTarget, status } from './status.ts'
import { login, prefsFromFlags, up } from './up.ts'

/** Flags of the usual command line that nothing here asks for. */
const REASON: Command['flags'] = { reason: { type: 'string', help: 'taken, without effect: no policy here asks for reasons' } }
const RISK_AND_REASON: Command['flags'] = { ...REASON, 'accept-risk': { type: 'string', help: 'taken, without effect: nothing here asks about risks' } }

const down: Command = {
  usage: 'meshwright down [flags]',
  summary: 'Disconnect from the mesh',
  flags: RISK_AND_REASON,
  async run(daemon, _flags, output) {
    const found = await daemon.call('GET', 'status?peers=false')
    if (found['BackendState'] === 'Stopped') {
      output.err('Meshwright was already stopped.\n')
      return 0
    }
    await daemon.call('PATCH', 'prefs', { WantRunning: false, WantRunningSet: true })
    return 0
  },
}

const logout: Command = {
  usage: 'meshwright logout [flags]',
  summary: 'Disconnect, and expire the key of this node',
  flags: REASON,
  async run(daemon) {
    await daemon.call('POST', 'logout')
    return 0
  },
}

/** What `set` shares with `up`. */
const SETTINGS: readonly string[] = ['hostname', 'advertise-routes', 'advertise-exit-node', 'snat-subnet-routes', 'accept-routes', 'accept-dns', 'shields-up', 'exit-node', 'exit-node-allow-lan-access']

const set: Command = {
  usage: 'meshwright set [flags]',
  summary: 'Change settings',
  flags: { ...Object.fromEntries(Object.entries(up.flags).filter(([name]) => SETTINGS.includes(name))), ...RARE_SETTINGS, ...SET_ONLY },
  async run(daemon, flags) {
    if (Object.keys(prefsFromFlags(flags.values, false, {})).length === 0 && flags.values['accept-risk'] === undefined) throw new FlagError('nothing to set: name at least one flag')
    const change = prefsFromFlags(flags.values, false, await daemon.call('GET', 'prefs'))
    if (typeof change['ExitNodeID'] === 'string') change['ExitNodeID'] = await chosenExitNode(daemon, change['ExitNodeID'])
    await daemon.call('PATCH', 'prefs', change)
    return 0
  },
}

/** What the daemon says of a ping that nobody has answered. */
const NO_ANSWER = 'no answer in time'

const ping: Command = {
  usage: 'meshwright ping [flags] HOST-OR-IP',
  summary: 'Ping a node of the mesh, and see how it is reached',
  takesWords: true,
  flags: {
    icmp: { type: 'bool', help: 'ICMP echo through the tunnel: needs the policy to allow it' },
    tsmp: { type: 'bool', help: 'a message inside the tunnel that every node answers' },
    c: { type: 'int', help: 'how many pings; 0 goes on until the path is direct', default: '10' },
    'until-direct': { type: 'bool', help: 'stop once a direct path is found', default: 'true' },
    timeout: { type: 'duration', help: 'how long to wait for each answer', default: '5s' },
    verbose: { type: 'bool', help: 'tell what the name stands for' },
    size: { type: 'int', help: 'length of the datagrams, without --icmp and --tsmp; 0: as short as can be', default: '0' },
    peerapi: { type: 'bool', help: 'ask the HTTP server that nodes have for one another' },
  },
  async run(daemon, flags, output) {
    const wanted = flags.args[0]
    if (wanted === undefined || flags.args.length > 1) throw new FlagError('usage: ping HOST-OR-IP')
    const peer = pingTarget(await daemon.call('GET', 'status'), wanted)
    if (peer.self) {
      output.out(`${peer.ip} is local IP\n`)
      return 0
    }
    if (flags.values['verbose'] === true && wanted !== peer.ip) output.err(`lookup "${wanted}" => "${peer.ip}"\n`)
    const kind = flags.values['tsmp'] === true ? 'TSMP' : flags.values['icmp'] === true ? 'ICMP' : flags.values['peerapi'] === true ? 'peerapi' : 'disco'
    const size = numberFlag(flags, 'size', 0)
    const timeoutMs = numberFlag(flags, 'timeout', 5_000)
    const count = numberFlag(flags, 'c', 10)
    let answered = 0
    for (let i = 0; count === 0 || i < count; i += 1) {
      const limit = AbortSignal.timeout(timeoutMs)
      const result = await daemon.call('POST', `ping?ip=${encodeURIComponent(peer.ip)}&type=${kind}${size === 0 ? '' : `&size=${size}`}`, undefined, limit).catch((error: unknown): Json => {
        if (!limit.aborted) throw error
        return { Err: NO_ANSWER }
      })
      if (result['Err'] !== '') {
        if (result['Err'] === 'no matching peer') throw new CommandError(`no matching peer: no node has the address ${peer.ip}, and none carries it as a route that is in use`)
        if (kind === 'peerapi' && result['Err'] !== NO_ANSWER) throw new CommandError(String(result['Err']))
        output.out(result['Err'] === NO_ANSWER ? `ping "${peer.ip}" timed out\n` : `ping error: ${String(result['Err'])}\n`)
      } else {
        answered += 1
        const latency = `${Math.max(1, Math.round(Number(result['LatencySeconds']) * 1000))}ms`
        if (kind === 'peerapi') {
          output.out(`hit peerapi of ${String(result['NodeIP'])} (${String(result['NodeName'])}) at ${String(result['PeerAPIURL'])} in ${latency}\n`)
          return 0
        }
        const via = result['Endpoint'] !== '' ? String(result['Endpoint']) : Number(result['DERPRegionID']) !== 0 ? `DERP(${String(result['DERPRegionCode'])})` : kind
        const port = typeof result['PeerAPIPort'] === 'number' && result['PeerAPIPort'] > 0 ? `, ${String(result['PeerAPIPort'])}` : ''
        output.out(`pong from ${String(result['NodeName'])} (${String(result['NodeIP'])}${port}) via ${via} in ${latency}\n`)
        if (kind === 'disco' && result['Endpoint'] !== '' && flags.values['until-direct'] !== false) return 0
        // As the real program does it: these kinds have no better path to wait for.
        if (kind !== 'disco') return 0
      }
      if (i + 1 < count || count === 0) await new Promise((resolve) => setTimeout(resolve, 1000))
    }
    if (answered === 0) throw new CommandError('no reply')
    if (kind === 'disco' && flags.values['until-direct'] !== false) throw new CommandError('direct connection not established')
    return 0
  },
}

const ip: Command = {
  usage: 'meshwright ip [-4] [-6] [-1] [HOST-OR-IP]',
  summary: 'Show addresses of the mesh',
  takesWords: true,
  flags: { '4': { type: 'bool', help: 'only IPv4' }, '6': { type: 'bool', help: 'only IPv6' }, '1': { type: 'bool', help: 'only the first address' }, assert: { type: 'string', help: 'end with status 1 unless one of the addresses is this one' } },
  async run(daemon, flags, output) {
    if (flags.args.length > 1) throw new FlagError('too many arguments, expected at most one peer')
    if (['1', '4', '6'].filter((name) => flags.values[name] === true).length > 1) throw new CommandError('-1, -4 and -6 cannot be used together')
    const found = await daemon.call('GET', 'status')
    let addresses = found['TailscaleIPs']
    const wanted = flags.args[0]
    if (wanted !== undefined) {
      const peer = findPeer(found, wanted)
      const all = [object(found['Self']), ...Object.values(object(found['Peer'])).map(object)]
      addresses = all.find((each) => Array.isArray(each['TailscaleIPs']) && each['TailscaleIPs'].includes(peer.ip))?.['TailscaleIPs']
    }
    const shown = (Array.isArray(addresses) ? addresses.map(String) : []).filter((address) => (flags.values['4'] !== true || !address.includes(':')) && (flags.values['6'] !== true || address.includes(':')))
    const assert = textFlag(flags, 'assert')
    if (assert !== undefined) {
      if (Array.isArray(addresses) && addresses.includes(assert)) return 0
      throw new CommandError(`assertion failed: IP "${assert}" not found among [${Array.isArray(addresses) ? addresses.map(String).join(' ') : ''}]`)
    }
    if (shown.length === 0) throw new CommandError(`no current Tailscale IPs; state: ${String(found['BackendState'])}`)
    for (const address of flags.values['1'] === true ? shown.slice(0, 1) : shown) output.out(`${address}\n`)
    return 0
  },
}

const whois: Command = {
  usage: 'meshwright whois [--json] IP[:PORT]',
  summary: 'Show the machine and user behind an address',
  takesWords: true,
  flags: { json: { type: 'bool', help: 'print as JSON' }, proto: { type: 'string', help: 'protocol: tcp or udp; empty for both' } },
  async run(daemon, flags, output) {
    const address = flags.args[0]
    if (address === undefined || flags.args.length > 1) throw new FlagError(address === undefined ? 'missing argument, expected one peer' : 'too many arguments, expected at most one peer')
    const found = await daemon.call('GET', `whois?addr=${encodeURIComponent(address)}`)
    if (flags.values['json'] === true) {
      output.out(`${JSON.stringify(found, null, '\t')}\n`)
      return 0
    }
    const node = object(found['Node'])
    const user = object(found['UserProfile'])
    const tags = Array.isArray(node['Tags']) ? node['Tags'].map(String) : []
    const routes = (Array.isArray(node['AllowedIPs']) ? node['AllowedIPs'].map(String) : []).filter((route) => !(Array.isArray(node['Addresses']) && node['Addresses'].includes(route)))
    // As wide as its longest name and five more, as the usual command line has it.
    const row = (name: string, value: string): void => output.out(`${`  ${name}:`.padEnd(routes.length > 0 ? 18 : 17)}${value}\n`)
    output.out('Machine:\n')
    row('Name', String(node['Name'] ?? '').replace(/\.$/, ''))
    row('ID', String(node['StableID'] ?? ''))
    row('Addresses', `[${(Array.isArray(node['Addresses']) ? node['Addresses'] : []).map(String).join(' ')}]`)
    if (routes.length > 0) row('AllowedIPs', `[${routes.join(' ')}]`)
    if (tags.length > 0) row('Tags', tags.join(', '))
    else output.out(`User:\n  Name:     ${String(user['LoginName'] ?? '')}\n  ID:       ${String(user['ID'] ?? '')}\n`)
    const capabilities = Object.entries(object(found['CapMap']))
    if (capabilities.length > 0) {
      output.out('Capabilities:\n')
      for (const [name, values] of capabilities) output.out(`  - ${name}${Array.isArray(values) && values.length > 0 ? `:\n${values.map((value) => `      ${JSON.stringify(value)}\n`).join('')}` : '\n'}`)
    }
    return 0
  },
}

const nc: Command = {
  usage: 'meshwright nc HOSTNAME-OR-IP PORT',
  summary: 'Connect to a port on a node, joined to standard input and output',
  takesWords: true,
  flags: {},
  async run(daemon, flags) {
    const [host, port] = flags.args
    if (host === undefined || port === undefined || flags.args.length > 2) throw new FlagError('usage: nc <hostname-or-IP> <port>')
    if (!/^\d+$/.test(port) || Number(port) > 65_535) throw new CommandError(`invalid port number ${JSON.stringify(port)}`)
    const stream = await daemon.dial(host, Number(port))
    process.stdin.pipe(stream)
    stream.pipe(process.stdout)
    await new Promise<void>((resolve, reject) => {
      stream.on('end', resolve)
      stream.on('close', () => resolve())
      stream.on('error', reject)
    })
    process.stdin.unref?.()
    return 0
  },
}

const version: Command = {
  usage: 'meshwright version [--json] [--daemon]',
  summary: 'Print the version',
  flags: {
    json: { type: 'bool', help: 'print as JSON' },
    daemon: { type: 'bool', help: 'print the version of the daemon too' },
    upstream: { type: 'bool', help: 'print the newest version', refused: 'ask the registry: npm view @meshwright/runtime-node version' },
    track: { type: 'string', help: 'of which track', refused: 'there is one track' },
  },
  async run(daemon, flags, output) {
    const running = flags.values['daemon'] === true ? String((await daemon.call('GET', 'status?peers=false'))['Version']) : undefined
    if (flags.values['json'] === true) {
      output.out(`${JSON.stringify({ majorMinorPatch: SHORT_VERSION, short: SHORT_VERSION, long: VERSION, cap: CAPABILITY_VERSION, ...(running === undefined ? {} : { daemonLong: running }) }, null, 2)}\n`)
      return 0
    }
    output.out(running === undefined ? `${SHORT_VERSION}\n  speaks the protocol of tailscale ${VERSION.split('-')[0] ?? ''} (capability version ${CAPABILITY_VERSION})\n  Node ${process.versions.node}\n` : `Client: ${VERSION}\nDaemon: ${running}\n`)
    return 0
  },
}

const path: Command = {
  usage: 'meshwright path [--json] HOST-OR-IP',
  summary: 'Tell how a node is reached, what was tried, and why',
  takesWords: true,
  flags: { json: { type: 'bool', help: 'print as JSON' } },
  async run(daemon, flags, output) {
    const [wanted, more] = flags.args
    if (wanted === undefined || more !== undefined) throw new FlagError(more?.startsWith('-') === true ? 'flags stand before the name: meshwright path [--json] HOST-OR-IP' : 'usage: path HOST-OR-IP')
    const peer = findPeer(await daemon.call('GET', 'status'), wanted)
    if (peer.self) {
      output.out(flags.values['json'] === true ? `${JSON.stringify({ peer: peer.name, addresses: [peer.ip], path: 'self' }, null, 2)}\n` : `${peer.name} (${peer.ip}) is this node\n`)
      return 0
    }
    const told = await daemon.call('GET', `meshwright/path?peer=${encodeURIComponent(peer.ip)}`)
    const lines = Array.isArray(told['Lines']) ? told['Lines'].map(String) : []
    output.out(flags.values['json'] === true ? `${JSON.stringify(told['Story'], null, 2)}\n` : `${lines.join('\n')}\n`)
    return 0
  },
}

/** All verbs, in the order of the help. */
export const COMMANDS: Readonly<Record<string, Command>> = { up, down, set, login, logout, status, ping, path, ip, whois, netcheck, dns, 'exit-node': exitNode, nc, metrics, debug, version }
