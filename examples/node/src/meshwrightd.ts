import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { parseIp } from '@meshwright/ip'
import { isMeshLaneWorker, runMeshLaneWorker } from '@meshwright/runtime-node/dataplane'
import { cleanUpSystem, createSocks5Server, type MeshDaemonOptions, type RunningNode, startMeshNode, type SystemDnsManager } from '@meshwright/runtime-node'
import { claimSocket, claimState } from './claims.ts'
import { describeFlags, FlagError, type FlagSpec, parseFlags } from './go-flags.ts'
import { serveLocalApi } from './local-api.ts'
import { mayChangeNetwork } from './rights.ts'
import { defaultSocket } from './socket-path.ts'
import { userDial } from './user-dial.ts'
import { VERSION } from './version.ts'

const FLAGS: Readonly<Record<string, FlagSpec>> = {
  state: { type: 'string', help: 'path of the state file; "mem:" keeps state in memory and logs the node out on exit' },
  statedir: { type: 'string', help: 'folder for state; used when --state is absent' },
  socket: { type: 'string', help: 'path of the Unix socket for the command line', default: defaultSocket() },
  port: { type: 'int', help: 'UDP port for WireGuard and peer-to-peer traffic; 0 means any', default: '0' },
  tun: { type: 'string', help: 'name of a TUN device to make (Linux, root, npm package koffi), or "userspace-networking": no device, no root', default: 'userspace-networking' },
  'system-dns': { type: 'string', help: 'with --tun: tell the system that names of the mesh are answered at 100.100.100.100, by "resolvconf" or "resolved" (systemd); "off" leaves it alone', default: 'off' },
  cleanup: { type: 'bool', help: 'take back what a killed daemon left in the system (rules, routes, name servers, masquerading), and exit; give --tun and --system-dns as it had them' },
  'socks5-server': { type: 'string', help: '[ip]:port of a SOCKS5 proxy into the mesh, such as localhost:1055' },
  verbose: { type: 'int', help: 'log level: 0 quiet, 1 more', default: '0' },
  'no-logs-no-support': { type: 'bool', help: 'accepted for compatibility: no log ever leaves this computer' },
  'allow-loopback': { type: 'bool', help: 'use loopback addresses as endpoints: only where several nodes share one computer' },
  'block-udp': { type: 'bool', help: 'never use UDP: everything goes by relay' },
  version: { type: 'bool', help: 'print the version and exit' },
}

const USAGE = `usage: meshwrightd [flags]

The daemon of a mesh node. It needs no root: programs reach the mesh through its SOCKS5 port, and connections
from the mesh are handed to the same port on 127.0.0.1. With --tun=NAME all programs of this computer take part
by a network device instead, and the DNS service of the mesh answers at 100.100.100.100; the system's name
servers are left alone unless --system-dns says who sets them. Command it with "meshwright".

${describeFlags(FLAGS)}`

/** Whoever listens here is reached from the mesh, by either family. */
const loopback = parseIp('127.0.0.1')

async function main(words: readonly string[]): Promise<number> {
  const { values, args } = parseFlags(words, FLAGS)
  if (values['version'] === true) {
    process.stdout.write(`${VERSION}\n`)
    return 0
  }
  if (args.length > 0) throw new FlagError(`meshwrightd takes flags alone, not '${args.join(' ')}'`)
  const tun = values['tun'] ?? 'userspace-networking'
  const systemDns = readSystemDns(String(values['system-dns'] ?? 'off'))
  // An empty path is no socket, and would be taken for a TCP port.
  const socketPath = String(values['socket'] ?? defaultSocket())
  if (socketPath === '') throw new FlagError('invalid value "" for flag -socket: the path of a Unix socket; leave the flag out for the default')
  if (systemDns !== 'off' && tun === 'userspace-networking') throw new FlagError(`--system-dns=${systemDns} needs --tun=NAME: without a device the system reaches no name server of the mesh`)
  if (values['cleanup'] === true) {
    if (tun === 'userspace-networking') throw new FlagError('--cleanup needs --tun=NAME: without a device nothing is set in the system')
    if (!mayChangeNetwork()) throw new Error('--cleanup takes back rules and routes of the system, which needs root (CAP_NET_ADMIN): nothing was changed')
    await cleanUpSystem(String(tun), systemDns)
    return 0
  }
  const verbose = Number(values['verbose'] ?? 0)
  const state = String(values['state'] ?? '')
  const inMemory = state === 'mem:'
  const stateFile = inMemory ? undefined : state !== '' ? state : path.join(String(values['statedir'] ?? defaultStateFolder()), 'tailscaled.state')
  const port = Number(values['port'] ?? 0)
  if (port < 0 || port > 65_535) throw new FlagError(`invalid value "${port}" for flag -port: a UDP port, 1 to 65535, or 0 for any`)
  const socksAt = values['socks5-server'] === undefined ? undefined : readSocks(String(values['socks5-server']))
  const options: MeshDaemonOptions = {
    controlUrl: '',
    port,
    respectStoredPrefs: true,
    version: VERSION,
    allowLoopback: values['allow-loopback'] === true,
    blockUdp: values['block-udp'] === true,
    ephemeral: inMemory,
    ...(tun === 'userspace-networking' ? {} : { tun: String(tun), systemDns, dataPlaneUrl: new URL(import.meta.url) }),
    forwardUnclaimed: (local) => dialLocal(local.port),
    forwardUnclaimedDatagrams: (local) => loopback && { ip: loopback, port: local.port },
    log: (level, line) => {
      if (level !== 'debug' || verbose > 0) process.stderr.write(`${new Date().toISOString()} ${level} ${line}\n`)
    },
    ...(stateFile === undefined ? {} : { stateFile }),
  }
  await claimSocket(socketPath) // before anything is written: a second daemon must leave no trace
  const releaseState = stateFile === undefined ? () => undefined : await claimState(stateFile)
  // Before anything is set in the system: a signal in the middle of the start takes it back.
  const stopping = new AbortController()
  const stop = (): void => stopping.abort()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop)
  const node = await startMeshNode({ ...options, signal: stopping.signal }).catch((error: unknown) => {
    if (stopping.signal.aborted) return undefined
    throw error
  })
  if (node === undefined) {
    releaseState()
    return 0
  }
  const api = await serveLocalApi(socketPath, { node, shutdown: stop }).catch(async (error: unknown) => {
    await node.close()
    throw error
  })
  const socks = socksAt && await listenSocks(node, socksAt).catch(async (error: unknown) => {
    api.close()
    await node.close() // a device with its routes and name servers may be there already
    throw error
  })
  process.stderr.write(`${new Date().toISOString()} info meshwrightd ${VERSION} is ready: socket ${socketPath}${node.tunName === undefined ? '' : `, device ${node.tunName}`}${stateFile === undefined ? '' : `, state ${stateFile}`}\n`)
  if (!stopping.signal.aborted) await once(stopping.signal, 'abort')
  socks?.close()
  api.close()
  api.closeAllConnections()
  await node.close()
  releaseState()
  return 0
}

// Whoever listens on this computer's loopback serves the mesh, as with tailscaled in userspace mode. A refused port is refused to the peer.
function dialLocal(port: number): Promise<ReturnType<typeof connect> | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    socket.once('connect', () => resolve(socket))
    socket.once('error', () => resolve(undefined))
  })
}

interface SocksAddress {
  readonly text: string
  readonly host: string
  readonly port: number
}

function readSocks(text: string): SocksAddress {
  const [, host = '', port] = /^(.*):(\d{1,5})$/.exec(text) ?? []
  if (port === undefined || Number(port) > 65_535) throw new FlagError(`invalid value "${text}" for flag -socks5-server: write it as localhost:1055`)
  return { text, host: host === '' ? '127.0.0.1' : host.replace(/^\[|\]$/g, ''), port: Number(port) }
}

async function listenSocks(node: RunningNode, where: SocksAddress): Promise<ReturnType<typeof createSocks5Server>> {
  const server = createSocks5Server((host, port) => userDial(node, host, port))
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(new Error(`the SOCKS5 port ${where.text} cannot be opened: ${error.message}`, { cause: error })))
    server.listen(where.port, where.host, resolve)
  })
  return server
}

function readSystemDns(text: string): SystemDnsManager {
  if (text === 'off' || text === 'resolvconf' || text === 'resolved') return text
  throw new FlagError(`invalid value "${text}" for flag -system-dns: resolvconf, resolved or off`)
}

function defaultStateFolder(): string {
  if (process.getuid?.() === 0 && existsSync('/var/lib')) return '/var/lib/meshwright'
  return path.join(process.env['XDG_STATE_HOME'] ?? path.join(os.homedir(), '.local', 'state'), 'meshwright')
}

const run = (): Promise<void> => main(process.argv.slice(2)).then(
  (status) => process.exit(status),
  (error: unknown) => {
    if (error instanceof FlagError && error.message === 'help') {
      process.stdout.write(USAGE)
      process.exit(0)
    }
    const remedy = typeof error === 'object' && error !== null && 'remedy' in error && typeof error.remedy === 'string' ? `.\n${error.remedy}` : ''
    process.stderr.write(`meshwrightd: ${error instanceof Error ? error.message : String(error)}${remedy}\n`)
    if (error instanceof FlagError) process.stderr.write('Run "meshwrightd --help" for the flags.\n')
    process.exit(2)
  },
)

// The data plane's thread is this very file again.
if (isMeshLaneWorker()) runMeshLaneWorker()
else await run()
