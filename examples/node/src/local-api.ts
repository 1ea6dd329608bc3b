import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { CAPABILITY_VERSION, formatJson } from '@meshwright/control-protocol'
import { formatIp, parseEndpoint, parseIp } from '@meshwright/ip'
import { MAX_DISCO_PING_BYTES } from '@meshwright/nat-traversal'
import type { PingKind, WhoIs } from '@meshwright/mesh'
import { type GoPrefs, readGoPrefs, type RunningNode, systemHints } from '@meshwright/runtime-node'
import { listenPrivately } from './claims.ts'
import { watchBus } from './local-bus.ts'
import { askNames, RecordTypeError } from './local-dns.ts'
import { suggestedExitNode } from './exit-suggestion.ts'
import { currentPrefs, forgetPrefs, profileJson } from './local-prefs.ts'
import { deniedJson } from './denied.ts'
import { renderMetrics } from './metrics.ts'
import { derpMapJson, type JsonObject, netmapJson, nodeJson } from './netmap-json.ts'
import { userDial } from './user-dial.ts'
import { pingJson, statusJson, userJson, whoisJson } from './wire.ts'

const BASE = '/localapi/v0/'
const MAX_BODY_BYTES = 1_048_576
const HOST = 'local-tailscaled.sock'
const PING_KINDS: readonly PingKind[] = ['disco', 'TSMP', 'ICMP', 'peerapi']

/** What the LocalAPI needs of the daemon around it. */
export interface LocalApiDoor {
  readonly node: RunningNode
  readonly shutdown: () => void
  /** The auth key that the last `start` brought, and whether the node was known then; until it is used for a new login. */
  keyLogin?: { readonly authKey: string; readonly wasKnown: boolean } | undefined
  /** A new login is to begin with nothing: until it does, preferences are shown without a control server, as an empty profile has none. */
  isEmptyProfile?: boolean
}

/** An answer other than 200. */
class ApiError extends Error {
  readonly status: number
  /** As text instead of JSON: the usual command line then shows the status too, as it does for the places where tailscaled answers so. */
  readonly plain: boolean
  constructor(status: number, message: string, plain: boolean = false) {
    super(message)
    this.status = status
    this.plain = plain
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
      else if (error instanceof ApiError && error.plain) response.writeHead(status, headers('text/plain; charset=utf-8')).end(`${error.message}\n`)
      else response.writeHead(status, headers('application/json')).end(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }))
    })
  })
  server.on('upgrade', (request, socket, head) => {
    // The server does not listen any more, and whoever asked may be gone before there is an answer.
    socket.on('error', () => socket.destroy())
    upgrade(request, socket, head, door).catch((error: unknown) => {
      const text = error instanceof Error ? error.message : 'dial failure'
      socket.end(`HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n${text}\n`)
    })
  })
  await listenPrivately(server, socketPath)
  return server
}

async function answer(request: IncomingMessage, response: ServerResponse, door: LocalApiDoor): Promise<void> {
  const { host, origin, referer } = request.headers
  if (origin !== undefined || referer !== undefined) throw new ApiError(403, 'invalid localapi request: browsers are not served')
  if (host !== undefined && host !== '' && host !== HOST) throw new ApiError(403, 'invalid localapi request: wrong host')
  const url = new URL(request.url ?? '/', `http://${HOST}`)
  if (!url.pathname.startsWith(BASE)) throw new ApiError(404, `not found: ${url.pathname}`)
  const call: Call = {
    verb: `${request.method ?? 'GET'} ${url.pathname.slice(BASE.length).replace(/\/$/, '')}`,
    query: url.searchParams,
    request,
    response,
    door,
    send: (value) => void response.writeHead(200, headers('application/json')).end(`${formatJson(value)}\n`),
    text: (text) => void response.writeHead(200, headers('text/plain; version=0.0.4')).end(text),
    done: (status = 204) => void response.writeHead(status, headers('text/plain')).end(),
  }
  if ((await reading(call)) || (await commanding(call))) return
  throw new ApiError(404, `not found: ${call.verb} is not supported by meshwrightd`)
}

/** One request. */
interface Call {
  readonly verb: string
  readonly query: URLSearchParams
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly door: LocalApiDoor
  readonly send: (value: unknown) => void
  readonly text: (text: string) => void
  readonly done: (status?: number) => void
}

// What changes nothing.
async function reading(call: Call): Promise<boolean> {
  const { query, send, door } = call
  const { node } = door
  switch (call.verb) {
    case 'GET status':
    case 'POST status':
      await node.refresh()
      send(statusJson(node.status(), query.get('peers') !== 'false', node.tunName !== undefined, node.networkMap(), await node.dataPlane()))
      return true
    case 'GET prefs':
      send({ ...currentPrefs(node), ...(door.isEmptyProfile === true && { ControlURL: '' }) })
      return true
    case 'GET whois': {
      const address = query.get('addr') ?? ''
      const byKey = address.startsWith('nodekey:') ? node.networkMap()?.peersByKey.get(address)?.addresses[0]?.ip : undefined
      const found = node.whois(byKey === undefined ? address : formatIp(byKey))
      // Who is behind a router is nobody that the control server knows: the usual daemon says so, too.
      if (found === undefined || (byKey === undefined && !isOwnAddress(found, address))) throw new ApiError(404, 'no match for IP:port')
      send(whoisJson(found, node.status(), node.networkMap()))
      return true
    }
    case 'GET watch-ipn-bus':
      call.response.writeHead(200, headers('application/json'))
      watchBus(call.response, node, Number(query.get('mask') ?? 0))
      return true
    case 'GET metrics':
    case 'GET usermetrics':
      await node.refresh()
      call.text(renderMetrics(node.status(), node.prefs(), await node.dataPlane()))
      return true
    case 'GET derpmap':
      send(node.networkMap() === undefined ? null : derpMapJson(needMap(node).relays))
      return true
    case 'GET dns-config':
      if (node.networkMap() === undefined) throw new ApiError(503, 'no netmap', true)
      send(needMap(node).dns)
      return true
    case 'GET dns-osconfig':
      throw new ApiError(500, 'getting DNS OS configuration is not supported on this platform')
    case 'GET dns-query':
      send(await askNames(node, query.get('name') ?? '', query.get('type') ?? 'A').catch((error: unknown) => {
        throw error instanceof RecordTypeError ? new ApiError(400, error.message) : error
      }))
      return true
    case 'GET check-ip-forwarding':
      send({ Warning: node.tunName === undefined ? '' : systemHints(node.prefs()).join(' ') })
      return true
    case 'GET check-udp-gro-forwarding':
      send({ Warning: '' })
      return true
    case 'GET check-so-mark-in-use':
      send({ UseSOMark: node.tunName === undefined })
      return true
    case 'GET suggest-exit-node':
      send(suggestedExitNode(node.status()))
      return true
    case 'GET profiles':
      send(node.status().self === undefined ? [] : [profileJson(node)])
      return true
    case 'GET profiles/current':
      send(profileJson(node))
      return true
    case 'GET serve-config':
      send(null)
      return true
    case 'GET cert-domains':
      send([])
      return true
    case 'GET services': // by name: this node knows of none
      send({})
      return true
    case 'GET tka/status': // tailnet lock is off wherever this node may be
      send({ Enabled: false, Head: null, NodeKeySigned: false })
      return true
    case 'GET peer-by-id': {
      const peer = [...(node.networkMap()?.peers.values() ?? [])].find((each) => String(each.id) === query.get('id'))
      if (peer === undefined) throw new ApiError(404, 'peer not found')
      send(nodeJson(peer, needMap(node)))
      return true
    }
    case 'GET user-profile': {
      const user = node.status().users.find((each) => String(each.id) === query.get('id'))
      if (user === undefined) throw new ApiError(404, 'user not found')
      send(userJson(user))
      return true
    }
    case 'POST debug':
      if (query.get('action') !== 'current-netmap') throw new ApiError(400, `unknown action '${query.get('action') ?? ''}'`)
      if (node.networkMap() === undefined) throw new ApiError(400, 'no netmap', true)
      send(netmapJson(needMap(node)))
      return true
    case 'GET meshwright/denied':
      await node.refresh()
      send(deniedJson(node.status()))
      return true
    case 'GET meshwright/path':
      await node.refresh()
      send({ Lines: node.explainPath(query.get('peer') ?? ''), Story: node.pathStory(query.get('peer') ?? '') ?? null })
      return true
    case 'POST meshwright/resolve':
      send({ Addresses: await node.resolve(query.get('name') ?? '') })
      return true
    case 'POST ping': {
      const kind = PING_KINDS.find((each) => each === query.get('type'))
      if (kind === undefined) throw new ApiError(400, `unknown ping type '${query.get('type') ?? ''}': one of ${PING_KINDS.join(', ')}`)
      const size = query.get('size') ?? ''
      if (!/^[+-]?\d*$/.test(size)) throw new ApiError(400, "invalid 'size' parameter", true)
      if (Number(size) !== 0 && kind !== 'disco') throw new ApiError(400, "'size' parameter is only supported with disco pings", true)
      if (Number(size) > MAX_DISCO_PING_BYTES) throw new ApiError(400, `maximum value for 'size' is ${MAX_DISCO_PING_BYTES}`, true)
      const aborted = new AbortController()
      call.response.on('close', () => aborted.abort())
      send(pingJson(await node.ping(query.get('ip') ?? '', kind, { signal: aborted.signal, sizeBytes: Number(size) }), kind, node.networkMap()))
      return true
    }
    default:
      return false
  }
}

// What changes the node.
async function commanding(call: Call): Promise<boolean> {
  const { query, send, done, door } = call
  const { node } = door
  switch (call.verb) {
    case 'PATCH prefs':
      applyPrefs(door, readWish(await readJson(call.request), true))
      send(currentPrefs(node))
      return true
    case 'POST check-prefs':
      readWish(await readJson(call.request), false)
      send({ Error: '' })
      return true
    case 'POST start': {
      door.isEmptyProfile = false
      const options = await readJson(call.request)
      const given = options['UpdatePrefs']
      const change = readWish(typeof given === 'object' && given !== null ? { ...given } : {}, false)
      const { wantRunning: _later, ...prefs } = change.prefs
      node.setForeignPrefs(change.foreign)
      node.setPrefs(prefs)
      const authKey = options['AuthKey']
      const controlUrl = change.controlUrl === undefined || change.controlUrl === '' ? undefined : change.controlUrl
      const withKey = typeof authKey === 'string' && authKey !== ''
      door.keyLogin = withKey ? { authKey, wasKnown: node.status().nodeKey !== undefined } : undefined
      node.up({ ...(withKey ? { authKey } : {}), ...(controlUrl === undefined ? {} : { controlUrl }) })
      done()
      return true
    }
    case 'POST login-interactive': {
      const { keyLogin } = door
      door.keyLogin = undefined
      // The usual command line sends this after `start` with an auth key too. A first login goes on by itself; a known node wants a new key.
      if (keyLogin?.wasKnown === true) node.up({ forceReauth: true, authKey: keyLogin.authKey })
      else if (keyLogin === undefined && node.status().authUrl === undefined) node.up({ forceReauth: node.status().nodeKey !== undefined })
      done()
      return true
    }
    case 'POST logout':
    case 'POST reset-auth':
      await node.logout()
      // It may have waited for the control server: who logs in meanwhile has named what is wanted.
      if (!node.prefs().wantRunning) forgetPrefs(node)
      done()
      return true
    case 'PUT profiles':
      if (node.status().nodeKey !== undefined) throw new ApiError(400, 'meshwrightd keeps one login: log out first, or run a second daemon with a state file and a socket of its own')
      door.isEmptyProfile = true // `tailscale login` names what it wants; without this it would have to name all that was there before
      done(201)
      return true
    case 'POST shutdown':
      done()
      door.shutdown()
      return true
    case 'POST meshwright/block-udp':
      node.setUdpBlocked(query.get('on') !== 'false')
      done()
      return true
    case 'POST meshwright/reauth': {
      const { AuthKey: authKey } = await readJson(call.request)
      node.up({ forceReauth: true, ...(typeof authKey === 'string' && authKey !== '' ? { authKey } : {}) })
      done()
      return true
    }
    default:
      return false
  }
}

function needMap(node: RunningNode): NonNullable<ReturnType<RunningNode['networkMap']>> {
  const map = node.networkMap()
  if (map === undefined) throw new ApiError(503, 'no netmap')
  return map
}

function isOwnAddress(found: WhoIs, text: string): boolean {
  const ip = parseIp(text) ?? parseEndpoint(text)?.ip
  return ip !== undefined && found.node.addresses.some((own) => own.equals(ip))
}

function readWish(given: JsonObject, masked: boolean): GoPrefs {
  try {
    return readGoPrefs(given, masked)
  } catch (error) {
    throw error instanceof TypeError ? new ApiError(400, error.message) : error
  }
}

function applyPrefs(door: LocalApiDoor, change: GoPrefs): void {
  const { node } = door
  if (Object.keys(change.foreign).length > 0) node.setForeignPrefs(change.foreign)
  if (change.controlUrl === undefined || change.controlUrl === node.status().controlUrl) return node.setPrefs(change.prefs)
  node.setPrefs({ ...change.prefs, wantRunning: false })
  node.up({ controlUrl: change.controlUrl })
}

// `nc`: a stream through the mesh, after `Upgrade: ts-dial` (tailscale/tailscale:client/local, UserDial).
async function upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, door: LocalApiDoor): Promise<void> {
  if (request.url !== `${BASE}dial` || request.headers['upgrade'] !== 'ts-dial') throw new Error('unknown upgrade')
  const host = String(request.headers['dial-host'] ?? '')
  const port = Number(request.headers['dial-port'] ?? 0)
  const stream = await userDial(door.node, host, port)
  if (socket.destroyed) return void stream.destroy()
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
    // No `Tailscale-Version`: this is not a build of tailscaled, and every command line would warn of the difference on every call.
    'Content-Type': type,
    'Tailscale-Cap': String(CAPABILITY_VERSION),
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'; script-src 'none'; script-src-elem 'none'; script-src-attr 'none'",
    'X-Frame-Options': 'DENY',
    'X-Content-Type-Options': 'nosniff',
  }
}
