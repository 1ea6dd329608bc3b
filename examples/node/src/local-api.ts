import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { connect } from 'node:net'
import path from 'node:path'
import type { Duplex } from 'node:stream'
import { CAPABILITY_VERSION } from '@meshwright/control-protocol'
import { isMeshwrightError } from '@meshwright/core'
import type { PingKind } from '@meshwright/mesh'
import type { RunningNode } from '@meshwright/runtime-node'
import { renderMetrics } from './metrics.ts'
import { VERSION } from './version.ts'
import { type JsonObject, pingJson, prefsJson, readPrefs, stateNumber, statusJson, whoisJson } from './wire.ts'

const BASE = '/localapi/v0/'
const MAX_BODY_BYTES = 1_048_576
const HOST = 'local-tailscaled.sock'
const PING_KINDS: readonly PingKind[] = ['disco', 'TSMP', 'ICMP', 'peerapi']

/** What the LocalAPI needs of the daemon around it. */
export interface LocalApiDoor {
  readonly node: RunningNode
  readonly shutdown: () => void
}

/** An answer other than 200. */
class ApiError extends Error {
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

/**
 * Serves tailscaled's LocalAPI (tailscale/tailscale:ipn/localapi) over a Unix socket of mode 0600: whoever may open the socket may command
 * the node, so keep it to yourself. Requests of browsers are refused.
 */
export async function serveLocalApi(socketPath: string, door: LocalApiDoor): Promise<Server> {
  const server = createServer((request, response) => {
    answer(request, response, door).catch((error: unknown) => {
      const status = error instanceof ApiError ? error.status : 500
      if (response.headersSent) response.destroy()
      else response.writeHead(status, headers('application/json')).end(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }))
    })
  })
  server.on('upgrade', (request, socket, head) => {
    upgrade(request, socket, head, door).catch((error: unknown) => {
      const code = isMeshwrightError(error) || error instanceof Error ? error.message : 'dial failed'
      socket.end(`HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n${code}\n`)
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(socketPath, () => {
      chmodSync(socketPath, 0o600)
      resolve()
    })
  })
  return server
}

/**
 * Makes way for a socket: a file that nobody answers on is what a killed daemon left behind, and is removed.
 * @throws Error when a living daemon answers on it
 */
export async function claimSocket(socketPath: string): Promise<void> {
  mkdirSync(path.dirname(socketPath), { recursive: true })
  if (!existsSync(socketPath)) return
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect(socketPath, () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', () => resolve(false))
  })
  if (alive) throw new Error(`another daemon is listening on ${socketPath}: stop it, or name another socket with --socket`)
  rmSync(socketPath)
}

async function answer(request: IncomingMessage, response: ServerResponse, door: LocalApiDoor): Promise<void> {
  const { host, origin, referer } = request.headers
  if (origin !== undefined || referer !== undefined) throw new ApiError(403, 'invalid localapi request: browsers are not served')
  if (host !== undefined && host !== '' && host !== HOST) throw new ApiError(403, 'invalid localapi request: wrong host')
  const url = new URL(request.url ?? '/', `http://${HOST}`)
  if (!url.pathname.startsWith(BASE)) throw new ApiError(404, `not found: ${url.pathname}`)
  const verb = `${request.method ?? 'GET'} ${url.pathname.slice(BASE.length).replace(/\/$/, '')}`
  const { node } = door
  const send = (value: unknown): void => {
    response.writeHead(200, headers('application/json')).end(`${JSON.stringify(value)}\n`)
  }
  const done = (): void => {
    response.writeHead(204, headers('text/plain')).end()
  }
  switch (verb) {
    case 'GET status':
      return send(statusJson(node.status(), url.searchParams.get('peers') !== 'false'))
    case 'GET prefs':
      return send(currentPrefs(node))
    case 'PATCH prefs': {
      const change = readPrefs(await readJson(request), true)
      change.controlUrl === undefined || change.controlUrl === node.status().controlUrl ? node.setPrefs(change.prefs) : moveTo(node, change.controlUrl, change.prefs)
      return send(currentPrefs(node))
    }
    case 'POST check-prefs':
      readPrefs(await readJson(request), false)
      return send({ Error: '' })
    case 'POST start': {
      const options = await readJson(request)
      const given = options['UpdatePrefs']
      const change = typeof given === 'object' && given !== null ? readPrefs({ ...given }, false) : { prefs: {}, controlUrl: undefined }
      const { wantRunning: _later, ...prefs } = change.prefs
      node.setPrefs(prefs)
      const authKey = options['AuthKey']
      const controlUrl = change.controlUrl === undefined || change.controlUrl === '' ? undefined : change.controlUrl
      node.up({ ...(typeof authKey === 'string' && authKey !== '' ? { authKey } : {}), ...(controlUrl === undefined ? {} : { controlUrl }) })
      return done()
    }
    case 'POST login-interactive': {
      if (node.status().authUrl === undefined) node.up({ forceReauth: node.status().state === 'running' })
      return done()
    }
    case 'POST logout':
      await node.logout()
      return done()
    case 'POST ping':
      return send(pingJson(await ping(node, url.searchParams)))
    case 'GET whois': {
      const address = url.searchParams.get('addr') ?? ''
      const found = node.whois(address)
      if (found === undefined) throw new ApiError(404, `no match for IP:port: ${address} is no address of this mesh`)
      return send(whoisJson(found, node.status()))
    }
    case 'GET watch-ipn-bus':
      return watch(response, node, Number(url.searchParams.get('mask') ?? 0))
    case 'GET metrics':
    case 'GET usermetrics':
      response.writeHead(200, headers('text/plain; version=0.0.4')).end(renderMetrics(node.status()))
      return
    case 'POST shutdown':
      done()
      return door.shutdown()
    case 'GET meshwright/path':
      return send({ Lines: node.explainPath(url.searchParams.get('peer') ?? '') })
    case 'POST meshwright/block-udp':
      node.setUdpBlocked(url.searchParams.get('on') !== 'false')
      return done()
    case 'POST meshwright/resolve':
      return send({ Addresses: await node.resolve(url.searchParams.get('name') ?? '') })
    case 'POST meshwright/reauth': {
      const authKey = url.searchParams.get('authkey') ?? ''
      node.up({ forceReauth: true, ...(authKey === '' ? {} : { authKey }) })
      return done()
    }
    default:
      throw new ApiError(404, `not found: ${verb} is not supported by meshwrightd`)
  }
}

async function ping(node: RunningNode, query: URLSearchParams): ReturnType<RunningNode['ping']> {
  const kind = PING_KINDS.find((each) => each === query.get('type'))
  if (kind === undefined) throw new ApiError(400, `unknown ping type '${query.get('type') ?? ''}': one of ${PING_KINDS.join(', ')}`)
  return node.ping(query.get('ip') ?? '', kind)
}

function currentPrefs(node: RunningNode): JsonObject {
  const status = node.status()
  return prefsJson(node.prefs(), status.controlUrl, status.nodeKey === undefined && !node.prefs().wantRunning)
}

function moveTo(node: RunningNode, controlUrl: string, prefs: Parameters<RunningNode['setPrefs']>[0]): void {
  node.setPrefs({ ...prefs, wantRunning: false })
  node.up({ controlUrl })
}

// Notifications as newline-delimited JSON. Only what our own and the usual command line wait for: state, URL to open, the status behind it.
function watch(response: ServerResponse, node: RunningNode, mask: number): void {
  response.writeHead(200, headers('application/json'))
  let lastState: number | undefined
  let lastUrl: string | undefined
  const tell = (first: boolean): void => {
    const status = node.status()
    const state = stateNumber(status.state)
    const notify: JsonObject = { Version: VERSION }
    if (first && (mask & 2) !== 0) notify['SessionID'] = 'meshwright'
    if ((first && (mask & 2) !== 0) || state !== lastState) notify['State'] = state
    if (first && (mask & 4) !== 0) notify['Prefs'] = currentPrefs(node)
    if (status.authUrl !== undefined && (status.authUrl !== lastUrl || (first && (mask & 2) !== 0))) notify['BrowseToURL'] = status.authUrl
    if (status.lastError !== undefined && status.state !== 'running') notify['ErrMessage'] = status.lastError
    lastState = state
    lastUrl = status.authUrl
    if (Object.keys(notify).length > 1 || first) response.write(`${JSON.stringify(notify)}\n`)
  }
  const stop = node.onChange(() => tell(false))
  response.on('close', stop)
  tell(true)
}

// `nc`: a stream through the mesh, after `Upgrade: ts-dial` (tailscale/tailscale:client/local, UserDial).
async function upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, door: LocalApiDoor): Promise<void> {
  if (request.url !== `${BASE}dial` || request.headers['upgrade'] !== 'ts-dial') throw new Error('unknown upgrade')
  const host = String(request.headers['dial-host'] ?? '')
  const port = Number(request.headers['dial-port'] ?? 0)
  const stream = await door.node.dialTcp(host, port)
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: ts-dial\r\nConnection: upgrade\r\n\r\n')
  if (head.length > 0) stream.write(head)
  stream.on('error', () => socket.destroy())
  socket.on('error', () => stream.destroy())
  stream.on('close', () => socket.end())
  socket.pipe(stream)
  stream.pipe(socket)
}

async function readJson(request: IncomingMessage): Promise<JsonObject> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request) {
    const bytes = chunk as Buffer
    length += bytes.length
    if (length > MAX_BODY_BYTES) throw new ApiError(413, 'the body is too long')
    chunks.push(bytes)
  }
  let value: unknown
  try {
    value = JSON.parse(Buffer.concat(chunks).toString('utf8') || '{}')
  } catch (error) {
    throw new ApiError(400, `the body is not JSON: ${error instanceof Error ? error.message : String(error)}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new ApiError(400, 'the body is not a JSON object')
  return { ...value }
}

function headers(type: string): Record<string, string> {
  return {
    'Content-Type': type,
    'Tailscale-Version': VERSION,
    'Tailscale-Cap': String(CAPABILITY_VERSION),
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'; script-src 'none'; script-src-elem 'none'; script-src-attr 'none'",
    'X-Frame-Options': 'DENY',
    'X-Content-Type-Options': 'nosniff',
  }
}
