import http from 'node:http'
import net, { isIP, type Socket } from 'node:net'
import type { DERPMap } from '@meshwright/control-protocol'
import type { AdminProblem, ControlServerConfig } from '@meshwright/control-server'
import { type Instant, instant } from '@meshwright/core'
import { MachinePrivateKey } from '@meshwright/crypto'
import { MAX_POLICY_BYTES, readText } from './bounded-file.ts'
import { CertificateFiles, hasExpired, readCertificate, untilOf } from './certificate-files.ts'
import { loadSettings, type ServerSettings } from './config/load.ts'
import { ControlService } from './control-service.ts'
import { EmbeddedRelay } from './embedded-relay.ts'
import { Failure, reasonOf } from './failure.ts'
import { serveAdminSocket } from './http/admin-socket.ts'
import { clientAddress, isTrusted } from './http/client-address.ts'
import { frontHandler } from './http/front.ts'
import { NodeDoor } from './http/node-door.ts'
import { Web } from './http/web.ts'
import { readOrMakeKeyFile } from './key-file.ts'
import { type Log, makeLog } from './log.ts'
import { formatMetrics } from './metrics.ts'
import { NODE_FLAGS } from './node-flags.ts'
import { readRelayMaps, withEmbedded } from './relay-map.ts'
import { Gate, Newcomers, startAdvice, startStunService, systemRandom } from './runtime.ts'
import { SqliteStore } from './store-sqlite.ts'
import { VERSION } from './version.ts'

/** What the introduction of a client of the relay costs, roughly: two key agreements, in a turn of their own. */
const INTRODUCTION_MS = 0.5

/** A server that runs. */
export interface RunningServer {
  readonly settings: ServerSettings
  /** Reads the policy and certificates anew where they stand in files. What cannot be used changes nothing. @throws Failure that says what is wrong */
  reload(): Promise<void>
  stop(): Promise<void>
}

/** Says what clients of this relay map will miss. */
function warnOfRelays(map: DERPMap, log: Log): void {
  const regions = Object.entries(map.Regions ?? {})
  if (regions.length === 0) log.warn('the relay map is empty: clients stay in the state "Starting"; set derp.paths or derp.server.enabled')
  const pinned = regions.flatMap(([id, region]) => ((region.Nodes ?? []).some((node) => node.CertName?.startsWith('sha256-raw:') === true) ? [id] : []))
  if (pinned.length > 0) log.warn('clients before 1.82 know no certificate pins: they are told not to check the certificates of pinned relays', { regions: pinned.join() })
}

/** Starts everything that the configuration asks for. @throws Failure when something of it cannot be had, and then nothing is left running */
export async function startServer(configFile: string, options: { readonly allowLoopbackEndpoints: boolean }): Promise<RunningServer> {
  const settings = loadSettings(configFile)
  const log = makeLog(settings.log.level, settings.log.format)
  const relayFiles = readRelayMaps(settings)
  const files = settings.tls && readCertificate(settings.tls)
  if (files !== undefined && hasExpired(files)) log.warn('the certificate has expired: clients will refuse it', { file: settings.tls?.certPath, until: untilOf(files) })
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
    const relay = settings.relay && new EmbeddedRelay(settings, settings.relay)
    const configNow = (): ControlServerConfig => settings.controlConfig(withEmbedded(relayFiles, settings, relay?.pin))
    const config = configNow()
    warnOfRelays(config.derpMap, log)
    const service = new ControlService({ config, store, log, clock, allowLoopbackEndpoints: options.allowLoopbackEndpoints, onBroken: (error) => endNow(error, log) })
    closers.push(() => service.stop())
    const reloadPolicy = (): Promise<void> => (settings.policy.mode === 'file' ? loadPolicyFile(settings, service, log) : Promise.resolve())
    await reloadPolicy()
    const newcomers = new Newcomers((address) => isTrusted(address, settings.trustedProxies))
    closers.push(() => newcomers.stop())
    const derp = relay?.attach(clock, (nodeKey) => service.machine.knowsNodeKey(nodeKey), log)
    if (derp !== undefined) closers.push(() => derp.close())
    const gate = new Gate()
    const nodes = new NodeDoor({ machineKey, service, log, newcomers, gate, trustedProxies: settings.trustedProxies })
    const web = new Web({
      gate,
      newcomers,
      trustedProxies: settings.trustedProxies,
      secrets: files ?? relay?.secrets,
      plain: files === undefined,
      request: frontHandler({ service, store, serverUrl: settings.serverUrl, publicKey: machineKey.publicKey().text, relay: derp && ((request, response) => derp.handleRequest(request, response)) }),
      upgrade(request, socket, head) {
        const target = (request.url ?? '').split('?')[0]
        if (target === '/ts2021') nodes.upgrade(request, socket, head)
        if (target !== '/derp' || derp === undefined) return target === '/ts2021'
        newcomers.add(request.socket) // until its turn
        gate.add(clientAddress(request, settings.trustedProxies), () => {
          newcomers.remove(request.socket) // the relay counts those that it has not let in itself
          if (socket.destroyed) return
          gate.beside(INTRODUCTION_MS)
          derp.handleUpgrade(request, socket, head)
        })
        return true
      },
    })
    closers.push(() => web.close())
    const certificate = settings.tls && new CertificateFiles(settings.tls, (secrets) => web.setSecrets(secrets), log)
    closers.push(() => certificate?.stop())
    relay?.keepCertificate((secrets, newPin) => {
      web.setSecrets(secrets)
      if (newPin) service.configure(configNow())
    }, log)
    closers.push(() => relay?.stop())
    const door = await listen(web.entrance, settings.listenAddr, 'listen_addr')
    closers.push(door.close)
    if (settings.relay !== undefined && settings.relay.stunListenAddr !== '') closers.push(await startStun(settings.relay.stunListenAddr))
    if (settings.metricsListenAddr !== '') {
      const metrics = http.createServer((request, response) => {
        if (request.url !== '/metrics') return void response.writeHead(404).end('not found\n')
        response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4' }).end(formatMetrics(service, { connections: door.connections(), newcomers: newcomers.figures, handshakes: web.handshakes, nodes: nodes.figures, gate: gate.size }, relay?.machine.stats()))
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
    const advice = startAdvice(NODE_FLAGS, 'main.js serve', process.execArgv)
    if (advice !== undefined) log.info(advice)
    log.info('ready', { version: VERSION, url: settings.serverUrl, listen: settings.listenAddr, socket: settings.unixSocket, policy: policyOf(body) })
    const reload = async (): Promise<void> => {
      relay?.look()
      const outcomes = await Promise.allSettled([reloadPolicy(), Promise.resolve().then(() => certificate?.reload())])
      const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []))
      if (failures.length > 1) for (const failure of failures.slice(1)) log.error('this was not read again', { reason: reasonOf(failure) })
      if (failures.length > 0) throw failures[0]
    }
    return { settings, reload, stop }
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
  const text = readText(file, MAX_POLICY_BYTES, { what: 'the policy', remedy: 'check policy.path' })
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
  if (server instanceof http.Server) server.closeAllConnections()
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
