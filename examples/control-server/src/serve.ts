import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import net, { isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import type { DERPMap } from '@meshwright/control-protocol'
import type { AdminProblem } from '@meshwright/control-server'
import { type Instant, instant } from '@meshwright/core'
import { DerpServer } from '@meshwright/derp'
import { formatIp, parseIp, type Prefix } from '@meshwright/ip'
import { loadSettings, type ServerSettings } from './config/load.ts'
import { ControlService } from './control-service.ts'
import { Failure, reasonOf } from './failure.ts'
import { serveAdminSocket } from './http/admin-socket.ts'
import { clientAddress, isTrusted } from './http/client-address.ts'
import { frontHandler } from './http/front.ts'
import { Gate } from './http/gate.ts'
import { Newcomers } from './http/newcomers.ts'
import { NodeDoor } from './http/node-door.ts'
import { readOrMakeKeyFile } from './key-file.ts'
import { type Log, makeLog } from './log.ts'
import { formatMetrics } from './metrics.ts'
import { buildRelayMap } from './relay-map.ts'
import { attachDerpServer, type DerpService, startStunService, systemRandom } from './runtime.ts'
import { SqliteStore } from './store-sqlite.ts'
import { VERSION } from './version.ts'

/** Newcomers are let go before these limits of Node's, which end all that are due in one turn. */
const PATIENCE: http.ServerOptions = { headersTimeout: 30_000, requestTimeout: 60_000 }
const MAX_HEADERS = 100
/** What a connection costs beside the turn in which it is let in: accepting it, its head or TLS handshake, its end. */
const CONNECTION_MS = 0.3
const SECURE_CONNECTION_MS = 2

/** A server that runs. */
export interface RunningServer {
  readonly settings: ServerSettings
  reloadPolicy(): Promise<void>
  stop(): Promise<void>
}

/** The numbers of regions with relays whose certificates the map pins. */
function pinnedRegions(map: DERPMap): readonly string[] {
  return Object.entries(map.Regions ?? {}).flatMap(([id, region]) => ((region.Nodes ?? []).some((node) => node.CertName?.startsWith('sha256-raw:') === true) ? [id] : []))
}

/** Starts everything that the configuration asks for. @throws Failure when something of it cannot be had, and then nothing is left running */
export async function startServer(configFile: string, options: { readonly allowLoopbackEndpoints: boolean }): Promise<RunningServer> {
  const settings = loadSettings(configFile)
  const log = makeLog(settings.log.level, settings.log.format)
  const derpMap = buildRelayMap(settings)
  if (Object.keys(derpMap.Regions ?? {}).length === 0) log.warn('the relay map is empty: clients stay in the state "Starting"; set derp.paths or derp.server.enabled')
  const pinned = pinnedRegions(derpMap)
  if (pinned.length > 0) log.warn('clients before 1.82 know no certificate pins: they are told not to check the certificates of pinned relays', { regions: pinned.join() })
  const machineKey = MachinePrivateKey.parse(readOrMakeKeyFile(settings.noiseKeyPath, 'noise.private_key_path', () => MachinePrivateKey.generate(systemRandom).formatSecret()))
  if (machineKey === undefined) throw new Failure(`${settings.noiseKeyPath} does not hold a key`, { status: 2 })
  const closers: (() => void | Promise<void>)[] = []
  const stop = async (): Promise<void> => {
    for (const close of closers.toReversed()) await close()
    closers.length = 0
  }
  try {
    const store = new SqliteStore(settings.databasePath, settings)
    closers.push(() => store.close())
    // Not one that counts sleep: a server does not sleep, and a wall clock that somebody sets ahead must not use up anybody's time.
    const clock = (): Instant => instant(performance.now())
    const service = new ControlService({ config: settings.controlConfig(derpMap), store, log, clock, allowLoopbackEndpoints: options.allowLoopbackEndpoints, onBroken: (error) => endNow(error, log) })
    closers.push(() => service.stop())
    const reloadPolicy = (): Promise<void> => (settings.policy.mode === 'file' ? loadPolicyFile(settings, service, log) : Promise.resolve())
    await reloadPolicy()
    const web = settings.tls === undefined ? http.createServer(PATIENCE) : https.createServer({ ...readCertificate(settings.tls), ...PATIENCE })
    web.maxHeadersCount = MAX_HEADERS
    const newcomers = watchNewcomers(web, settings.trustedProxies)
    closers.push(() => newcomers.stop())
    const relay = startRelay(settings, service, web, clock, log)
    if (relay !== undefined) closers.push(() => relay.service.close())
    const gate = new Gate()
    const front = frontHandler({ service, store, serverUrl: settings.serverUrl, publicKey: machineKey.publicKey().text, relay: relay && ((request, response) => relay.service.handleRequest(request, response)) })
    web.on('request', (request: http.IncomingMessage, response: http.ServerResponse) => gate.add(clientAddress(request, settings.trustedProxies), () => front(request, response)))
    const nodes = new NodeDoor({ machineKey, service, log, newcomers, gate, trustedProxies: settings.trustedProxies })
    web.on('upgrade', (request: http.IncomingMessage, socket: Duplex, head: Buffer) => {
      const path = (request.url ?? '').split('?')[0]
      if (path === '/ts2021') return nodes.upgrade(request, socket, head)
      newcomers.remove(request.socket) // the relay counts for itself
      if (path !== '/derp' || relay === undefined) socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    })
    web.on('clientError', (_error, socket) => socket.destroy())
    closers.push(() => closeServer(web))
    const door = await listen(entrance(web, gate, newcomers, settings.trustedProxies, settings.tls !== undefined), settings.listenAddr, 'listen_addr')
    closers.push(door.close)
    if (settings.relay !== undefined && settings.relay.stunListenAddr !== '') closers.push(await startStun(settings.relay.stunListenAddr))
    if (settings.metricsListenAddr !== '') {
      const metrics = http.createServer((request, response) => {
        if (request.url !== '/metrics') return void response.writeHead(404).end('not found\n')
        response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4' }).end(formatMetrics(service, { connections: door.connections(), newcomers: newcomers.figures, nodes: nodes.figures, gate: gate.size }, relay?.machine.stats()))
      })
      closers.push((await listen(metrics, settings.metricsListenAddr, 'metrics_listen_addr')).close)
    }
    const admin = await serveAdminSocket(settings.unixSocket, settings.unixSocketMode, service, (command) =>
      settings.policy.mode === 'file' && command.command === 'setPolicy'
        ? { message: 'the policy of this server stands in a file', remedy: `edit ${settings.policy.path || 'policy.path'} and send the server a SIGHUP, or set policy.mode to database` }
        : undefined,
    )
    closers.push(() => closeServer(admin))
    const { body } = await service.command({ command: 'health' })
    log.info('ready', { version: VERSION, url: settings.serverUrl, listen: settings.listenAddr, socket: settings.unixSocket, policy: policyOf(body) })
    return { settings, reloadPolicy, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** What is in memory was never told to anybody, and may or may not be on the disk: only a new start knows. */
function endNow(error: Error, log: Log): never {
  log.error('the server ends: start it again when the disk is well', { reason: reasonOf(error) })
  process.exit(1)
}

function policyOf(body: unknown): string {
  return typeof body === 'object' && body !== null && 'policy' in body ? String(body.policy) : 'unknown'
}

/** Puts the policy of the file in force. A file that does not compile changes nothing. */
async function loadPolicyFile(settings: ServerSettings, service: ControlService, log: Log): Promise<void> {
  const file = settings.policy.path
  if (file === '') {
    await service.command({ command: 'clearPolicy' })
    log.warn('no policy is set: all traffic is denied; set policy.path, or policy.mode to database')
    return
  }
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new Failure(`cannot read the policy ${file}: ${reasonOf(error)}`, { remedy: 'check policy.path', status: 2, cause: error })
  }
  const { body: current } = await service.command({ command: 'getPolicy' })
  if (typeof current === 'object' && current !== null && 'policy' in current && current.policy === text) return
  const { status, body } = await service.command({ command: 'setPolicy', policy: text })
  if (status !== 200) throw new Failure(formatPolicyProblem(file, body), { remedy: 'the policy in force has not changed', status: 2 })
  log.info('the policy is in force', { file })
}

/** All that is wrong with a policy, a line each. */
export function formatPolicyProblem(file: string, body: unknown): string {
  const { message, diagnostics } = body as AdminProblem // sound: the machine's answer to a refused policy
  const lines = (diagnostics ?? []).map((found) => `  ${file}${found.line === undefined ? '' : `:${found.line}:${found.column ?? 1}`}: ${found.message}`)
  return [message, ...lines].join('\n')
}

function readCertificate(tls: { readonly certPath: string; readonly keyPath: string }): { cert: Buffer; key: Buffer } {
  try {
    return { cert: readFileSync(tls.certPath), key: readFileSync(tls.keyPath) }
  } catch (error) {
    throw new Failure(`cannot read the certificate: ${reasonOf(error)}`, { remedy: 'check tls_cert_path and tls_key_path', status: 2, cause: error })
  }
}

/**
 * Takes connections and counts them at once, but has each wait at the gate, unread, before the web server hears of it: to accept, parse and
 * close costs time that strangers must not take from others either.
 */
function entrance(web: http.Server | https.Server, gate: Gate, newcomers: Newcomers, trustedProxies: readonly Prefix[], secure: boolean): net.Server {
  const server = net.createServer({ pauseOnConnect: true, noDelay: true, allowHalfOpen: !secure }, (socket) => {
    socket.on('error', () => socket.destroy())
    newcomers.add(socket)
    const letIn = (): void => {
      if (socket.destroyed) return // it gave way, or did not wait
      web.emit('connection', socket)
      socket.resume()
    }
    const address = parseIp(socket.remoteAddress ?? '')?.unmapped()
    if (address === undefined || isTrusted(address, trustedProxies)) return letIn() // a proxy's clients take turns by their own addresses, later
    gate.add(formatIp(address), () => {
      gate.beside(secure ? SECURE_CONNECTION_MS : CONNECTION_MS)
      letIn()
    })
  })
  server.once('listening', () => web.emit('listening')) // with it the web server begins to look after its connections
  return server
}

/** Counts the connections that have proved nothing: new ones, and ones that are kept alive between two requests. */
function watchNewcomers(web: http.Server | https.Server, trustedProxies: readonly Prefix[]): Newcomers {
  const newcomers = new Newcomers((address) => isTrusted(address, trustedProxies))
  web.on('secureConnection', (socket: Socket) => newcomers.add(socket))
  web.on('request', (request: http.IncomingMessage, response: http.ServerResponse) => {
    newcomers.remove(request.socket)
    response.once('close', () => {
      if (!request.socket.destroyed) newcomers.add(request.socket)
    })
  })
  return newcomers
}

function startRelay(settings: ServerSettings, service: ControlService, web: http.Server | https.Server, clock: () => Instant, log: Log): { readonly machine: DerpServer; readonly service: DerpService } | undefined {
  const { relay } = settings
  if (relay === undefined) return undefined
  const privateKey = NodePrivateKey.parse(readOrMakeKeyFile(relay.keyPath, 'derp.server.private_key_path', () => NodePrivateKey.generate(systemRandom).formatSecret()))
  if (privateKey === undefined) throw new Failure(`${relay.keyPath} does not hold a key`, { status: 2 })
  if (settings.tls === undefined && relay.addRegion) log.warn('the embedded relay has no TLS: real clients reach it only with TS_DEBUG_USE_DERP_HTTP=1')
  const machine = new DerpServer({ privateKey, random: systemRandom, admission: relay.verifyClients })
  const attached = attachDerpServer(web, machine, {
    clock,
    verify: ({ nodeKey }) => Promise.resolve(service.machine.knowsNodeKey(nodeKey.text)),
    log: (line) => log.debug(`relay: ${line}`),
  })
  return { machine, service: attached }
}

async function startStun(address: string): Promise<() => Promise<void>> {
  const { host, port } = splitAddress(address)
  try {
    const stun = await startStunService({ port, ...(host !== '' && host !== '0.0.0.0' && host !== '::' && isIP(host) !== 0 && { address: host }) })
    return () => stun.close()
  } catch (error) {
    throw new Failure(`cannot listen on ${address}: ${reasonOf(error)}`, { remedy: 'choose another port as derp.server.stun_listen_addr', cause: error })
  }
}

async function listen(server: net.Server, address: string, setting: string): Promise<{ close(): Promise<void>; connections(): number }> {
  const { host, port } = splitAddress(address)
  const sockets = trackSockets(server)
  await new Promise<void>((resolve, reject) => {
    const failed = (error: Error): void => {
      const taken = 'code' in error && error.code === 'EADDRINUSE'
      reject(new Failure(taken ? `${address} is in use by another program` : `cannot listen on ${address}: ${error.message}`, { remedy: `stop it, or choose another ${setting}`, cause: error }))
    }
    server.once('error', failed)
    server.listen({ port, ...(host !== '' && { host }) }, () => {
      server.off('error', failed)
      resolve()
    })
  })
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    await closeServer(server)
  }
  return { close, connections: () => sockets.size }
}

/** Closes a server and what is still asked of it. */
function closeServer(server: net.Server): Promise<void> {
  if (server instanceof http.Server || server instanceof https.Server) server.closeAllConnections()
  return new Promise((resolve) => server.close(() => resolve()))
}

/** Remembers the sockets of a server, so that stopping ends upgraded connections as well. */
function trackSockets(server: net.Server): ReadonlySet<Socket> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  return sockets
}

function splitAddress(address: string): { readonly host: string; readonly port: number } {
  const at = address.lastIndexOf(':')
  return { host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)) }
}
