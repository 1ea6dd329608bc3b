import type { IncomingMessage, ServerResponse } from 'node:http'
import { NodePublicKey } from '@meshwright/crypto'
import { loginIdIn, type SshCheckView } from '@meshwright/control-server'
import type { ControlService } from '../control-service.ts'
import type { SqliteStore } from '../store-sqlite.ts'
import { VERSION } from '../version.ts'
import { BODY_WITHIN_MS, readBody } from './body.ts'
import { frontPage, loginPage, PAGE_HEADERS, sshCheckPage, unknownLoginPage, type WaitingDevice } from './pages.ts'

const MAX_VERIFY_BYTES = 4096
/** Clients below this version spoke another protocol and ask for nothing here. */
const FIRST_NOISE_VERSION = 39

/** What the front needs. */
export interface FrontOptions {
  readonly service: ControlService
  readonly store: SqliteStore
  readonly serverUrl: string
  /** `mkey:` text of the server's Noise key. */
  readonly publicKey: string
  /** Requests that the relay answers itself. */
  readonly relay: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined
}

/** Answers everything outside the Noise channel. */
export function frontHandler(options: FrontOptions): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    response.on('error', () => response.destroy())
    if (options.relay?.(request, response) === true) return
    route(options, request, response).catch(() => response.destroy()) // a broken connection: there is nobody to tell
  }
}

async function route(options: FrontOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const target = request.url ?? '/'
  if (!target.startsWith('/') || !URL.canParse(target, 'http://server')) return text(response, 400, 'bad request\n')
  const url = new URL(target, 'http://server')
  const method = request.method ?? 'GET'
  if (url.pathname === '/verify') return method === 'POST' ? verify(options, request, response) : text(response, 405, 'only POST is supported\n')
  if (url.pathname === '/ts2021') return text(response, 400, 'this path takes a control connection: a POST with Upgrade: tailscale-control-protocol. A proxy in between must pass it on\n')
  if (method !== 'GET' && method !== 'HEAD') return text(response, 405, 'only GET is supported\n')
  switch (url.pathname) {
    case '/':
      return html(response, 200, frontPage(options.serverUrl))
    case '/key':
      return key(options, url, response)
    case '/health': {
      const healthy = options.store.ping()
      return send(response, healthy ? 200 : 500, 'application/health+json; charset=utf-8', JSON.stringify({ status: healthy ? 'pass' : 'fail' }))
    }
    case '/version':
      return send(response, 200, 'application/json', JSON.stringify({ version: VERSION }))
    case '/robots.txt':
      return text(response, 200, 'User-agent: *\nDisallow: /\n')
    case '/generate_204':
      return void response.writeHead(204, { 'Cache-Control': 'no-store' }).end()
    default:
      if (url.pathname.startsWith('/register/')) return login(options, url.pathname, response)
      return url.pathname.startsWith('/auth/') ? sshCheck(options, url.pathname, response) : text(response, 404, 'not found\n')
  }
}

function key(options: FrontOptions, url: URL, response: ServerResponse): void {
  const version = url.searchParams.get('v') ?? ''
  if (!/^[0-9]{1,6}$/.test(version)) return text(response, 400, 'the capability version is missing: /key?v=NUMBER\n')
  if (Number(version) < FIRST_NOISE_VERSION) return text(response, 400, `unsupported client version: ${version}\n`)
  send(response, 200, 'application/json', JSON.stringify({ legacyPublicKey: `mkey:${'0'.repeat(64)}`, publicKey: options.publicKey }))
}

async function verify(options: FrontOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const bytes = await readBody(request, { bytes: MAX_VERIFY_BYTES, withinMs: BODY_WITHIN_MS, budgets: [] })
  if (typeof bytes === 'string') {
    response.once('finish', () => request.destroy())
    return bytes === 'too-long' ? text(response, 413, 'the body is larger than 4 KiB\n') : text(response, 408, 'the body did not come\n')
  }
  const nodeKey = NodePublicKey.parse(nodePublicIn(Buffer.from(bytes).toString('utf8')) ?? '')
  if (nodeKey === undefined) return text(response, 400, 'expected {"NodePublic":"nodekey:…"}\n')
  send(response, 200, 'application/json', JSON.stringify({ Allow: options.service.machine.knowsNodeKey(nodeKey.text) }))
}

function nodePublicIn(body: string): string | undefined {
  try {
    const value: unknown = JSON.parse(body)
    return typeof value === 'object' && value !== null && 'NodePublic' in value && typeof value.NodePublic === 'string' ? value.NodePublic : undefined
  } catch {
    return undefined // not JSON: answered with 400
  }
}

async function login(options: FrontOptions, path: string, response: ServerResponse): Promise<void> {
  const id = loginIdIn(path)
  const { status, body } = id === undefined ? { status: 404, body: undefined } : await options.service.command({ command: 'getLogin', authId: id })
  if (status !== 200) return html(response, 404, unknownLoginPage())
  html(response, 200, loginPage(body as WaitingDevice)) // sound: the machine's answer to getLogin
}

async function sshCheck(options: FrontOptions, path: string, response: ServerResponse): Promise<void> {
  const id = loginIdIn(path)
  const { status, body } = id === undefined ? { status: 404, body: undefined } : await options.service.command({ command: 'getSshCheck', authId: id })
  if (status !== 200) return html(response, 404, unknownLoginPage())
  html(response, 200, sshCheckPage((body as { sshCheck: SshCheckView }).sshCheck)) // sound: the machine's answer to getSshCheck
}

function html(response: ServerResponse, status: number, page: string): void {
  response.writeHead(status, PAGE_HEADERS).end(page)
}

function text(response: ServerResponse, status: number, body: string): void {
  send(response, status, 'text/plain; charset=utf-8', body)
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { 'Content-Type': type, 'X-Content-Type-Options': 'nosniff', 'Cache-Control': 'no-store' }).end(body)
}
