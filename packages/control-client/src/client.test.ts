import { decodeMapRequest, decodeRegisterRequest, encodeJson, encodeKeepAliveChunk, encodeMapChunk, formatJson, formatTime, type MapRequest, type MapResponse, parseJson, type RegisterRequest, type RegisterResponse, ZERO_NODE_KEY } from '@meshwright/control-protocol'
import { after, type Instant, isMeshwrightError, utf8Encode } from '@meshwright/core'
import { DiscoPrivateKey, MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { drain, machineLaws, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { ControlClient, type ControlClientOptions, type ControlClientOutput, type ControlClientState, type ControlState, formatControlState, mapResponseOf, parseControlState } from './index.ts'

type Request = Extract<ControlClientOutput, { type: 'request' }>

const ACCEPTED: RegisterResponse = { NodeKeyExpired: false, MachineAuthorized: true, AuthURL: '', Error: '', User: { ID: 1, DisplayName: 'Alice' } }
const HOSTINFO = { Hostname: 'laptop', OS: 'linux' }

/** A client and the hand of a server that answers it by hand, in virtual time. */
class Bench {
  readonly clock = new VirtualClock()
  readonly client: ControlClient
  readonly events: ControlClientOutput[] = []
  readonly open: Request[] = []

  constructor(options: Partial<ControlClientOptions> = {}) {
    this.client = new ControlClient({ random: new SeededRandom(7).bytes, wallClock: this.clock.wallClock, hostinfo: HOSTINFO, ...options })
    this.settle()
  }

  get now(): Instant {
    return this.clock.now
  }

  settle(): void {
    for (const output of drain(this.client)) {
      if (output.type === 'request') this.open.push(output)
      else if (output.type === 'cancel') this.#forget(output.id)
      this.events.push(output)
    }
  }

  act(change: (now: Instant) => void): void {
    change(this.now)
    this.settle()
  }

  /** Lets time pass, deadline by deadline. */
  pass(ms: number): void {
    const end = after(this.now, ms)
    for (let due = this.client.pollTimeout(); due !== undefined && due <= end; due = this.client.pollTimeout()) {
      this.clock.advanceTo(due)
      this.client.handleTimeout(this.now)
      this.settle()
    }
    this.clock.advanceTo(end)
  }

  /** The open request of a kind; fails when there is none. */
  find(kind: 'register' | 'poll' | 'lite' | 'HEAD' | 'answer'): Request {
    const found = this.open.find((request) => kindOf(request) === kind)
    return found ?? expect.fail(`no open ${kind} among ${this.open.map(kindOf).join(', ')}`)
  }

  has(kind: string): boolean {
    return this.open.some((request) => kindOf(request) === kind)
  }

  register(): RegisterRequest {
    return good(decodeRegisterRequest(parseJson(this.find('register').body ?? '')))
  }

  map(kind: 'poll' | 'lite'): MapRequest {
    return good(decodeMapRequest(parseJson(this.find(kind).body ?? '')))
  }

  answer(request: Request, status: number, body: Uint8Array = new Uint8Array(0), retryAfter?: string): void {
    this.#forget(request.id)
    this.client.handleInput(this.now, { type: 'response', id: request.id, status, ...(retryAfter !== undefined && { retryAfter }) })
    if (body.length > 0) this.client.handleInput(this.now, { type: 'chunk', id: request.id, bytes: body })
    this.client.handleInput(this.now, { type: 'end', id: request.id })
    this.settle()
  }

  registered(change: Partial<RegisterResponse> = {}): void {
    this.answer(this.find('register'), 200, encodeJson({ ...ACCEPTED, ...change }))
  }

  fail(request: Request): void {
    this.#forget(request.id)
    this.client.handleInput(this.now, { type: 'failed', id: request.id, message: 'connection reset' })
    this.settle()
  }

  frame(...frames: (MapResponse | Uint8Array)[]): void {
    const { id } = this.find('poll')
    if (!this.#headed.has(id)) this.client.handleInput(this.now, { type: 'response', id, status: 200 })
    this.#headed.add(id)
    for (const frame of frames) {
      this.client.handleInput(this.now, { type: 'chunk', id, bytes: frame instanceof Uint8Array ? frame : encodeMapChunk(encodeJson(frame), 'none') })
    }
    this.settle()
  }

  readonly #headed = new Set<number>()

  selfNode(change: Partial<NonNullable<MapResponse['Node']>> = {}): NonNullable<MapResponse['Node']> {
    return { ID: 7, StableID: '7', Name: 'laptop.example.com.', User: 1, Key: this.client.nodeKey?.publicKey().text ?? ZERO_NODE_KEY, Addresses: ['100.64.0.7/32'], MachineAuthorized: true, ...change }
  }

  /** Logged in with a first frame. */
  running(change: Partial<NonNullable<MapResponse['Node']>> = {}): this {
    this.act((now) => this.client.login(now, { authKey: 'tskey-1' }))
    this.registered()
    this.answer(this.find('lite'), 200)
    this.frame({ Node: this.selfNode(change) })
    this.events.length = 0
    return this
  }

  types(): string[] {
    return this.events.map((event) => event.type)
  }

  problems(): string[] {
    return this.events.flatMap((event) => (event.type === 'problem' ? [event.code] : []))
  }

  #forget(id: number): void {
    const at = this.open.findIndex((request) => request.id === id)
    if (at >= 0) this.open.splice(at, 1)
  }
}

function kindOf(request: Request): string {
  if (request.method === 'HEAD') return 'HEAD'
  if (request.path === '/machine/register') return 'register'
  return request.path !== '/machine/map' ? 'answer' : request.stream ? 'poll' : 'lite'
}

function good<T>(decoded: { ok: true; value: T } | { ok: false; path: string; problem: string }): T {
  return decoded.ok ? decoded.value : expect.fail(`${decoded.path}: ${decoded.problem}`)
}

test('a first login makes a node key, registers it with the auth key, and starts poll and update when accepted', () => {
  const bench = new Bench()
  expect(bench.types()).toEqual(['saveState'])
  bench.act((now) => bench.client.login(now, { authKey: 'tskey-1' }))
  const request = bench.register()
  expect(request).toMatchObject({ Version: 142, OldNodeKey: ZERO_NODE_KEY, Auth: { AuthKey: 'tskey-1' }, Hostinfo: HOSTINFO })
  expect(bench.find('register').headers['ts-lb']).toBe(request.NodeKey)
  expect(bench.client.status().state).toBe('loggingIn')
  bench.registered()
  expect(bench.types().slice(-4)).toEqual(['saveState', 'loginFinished', 'request', 'request'])
  expect(bench.map('poll')).toMatchObject({ Stream: true, KeepAlive: true, NodeKey: request.NodeKey })
  expect(bench.map('poll').Compress).toBeUndefined()
  expect(bench.map('lite')).toMatchObject({ OmitPeers: true, NodeKey: request.NodeKey, Hostinfo: HOSTINFO })
  bench.frame({ Node: bench.selfNode() })
  expect(bench.client.status()).toMatchObject({ state: 'running', polling: true, map: { self: { id: 7 } } })
})

test('a login by URL shows it once, waits for ever, follows a new URL and backs off on the same one', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now))
  const key = bench.register().NodeKey
  bench.registered({ AuthURL: 'https://c.example/register/1' })
  expect(bench.events.at(-2)).toEqual({ type: 'openUrl', url: 'https://c.example/register/1' })
  expect(bench.register()).toMatchObject({ NodeKey: key, Followup: 'https://c.example/register/1' })
  bench.pass(600_000)
  expect(bench.client.status()).toMatchObject({ state: 'needsApprovalUrl', authUrl: 'https://c.example/register/1' })
  bench.registered({ AuthURL: 'https://c.example/register/1' })
  expect(bench.has('register')).toBe(false)
  bench.pass(16)
  bench.fail(bench.find('register'))
  bench.pass(100)
  expect(bench.register().Followup).toBe('https://c.example/register/1')
  bench.registered({ AuthURL: 'https://c.example/register/2' })
  expect(bench.client.status().authUrl).toBe('https://c.example/register/2')
  expect(bench.has('register')).toBe(false)
  bench.pass(1_000)
  expect(bench.register().Followup).toBe('https://c.example/register/2')
  bench.registered()
  expect(bench.events.filter((event) => event.type === 'openUrl').length).toBe(2)
  expect(bench.client.nodeKey?.publicKey().text).toBe(key)
  expect(bench.client.status().authUrl).toBeUndefined()
})

test('a server that answers with ever new URLs is asked more and more slowly', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now))
  let asked = 0
  for (let ms = 0; ms < 60_000; ms += 100) {
    bench.pass(100)
    if (!bench.has('register')) continue
    asked += 1
    bench.registered({ AuthURL: `https://c.example/register/${asked}` })
  }
  expect(asked).toBeGreaterThan(5)
  expect(asked).toBeLessThan(40)
})

test('what is no address of the web is not shown to anybody, and refusals have an end', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now))
  bench.registered({ AuthURL: 'javascript:alert(1)' })
  expect(bench.problems()).toEqual(['CONTROL_LOGIN_FAILED'])
  bench.pass(2_000)
  bench.registered({ Error: `no\u001b[2J${'x'.repeat(100_000)}` })
  const told = bench.events.flatMap((event) => (event.type === 'problem' ? [event.message] : []))
  expect(told.at(-1)).toMatch(/^the control server refused the login: no \[2Jx{400,500}…$/)
  expect(bench.events.some((event) => event.type === 'openUrl')).toBe(false)
})

test('an expired key is answered with a new one that names the old one; a second refusal in the round is a problem', () => {
  const bench = new Bench().running()
  const old = bench.client.nodeKey?.publicKey().text
  bench.act((now) => bench.client.login(now, { authKey: 'k' }))
  expect(bench.register().NodeKey).toBe(old)
  bench.registered({ NodeKeyExpired: true })
  expect(bench.register().OldNodeKey).toBe(old)
  const next = bench.register().NodeKey
  expect(next === old).toBe(false)
  bench.registered({ NodeKeyExpired: true })
  expect(bench.problems()).toEqual(['CONTROL_LOGIN_REFUSED'])
  bench.pass(2000)
  expect(bench.register().NodeKey).toBe(next)
  bench.registered()
  expect(bench.client.nodeKey?.publicKey().text).toBe(next)
  expect(bench.map('poll').NodeKey).toBe(next)
})

test('the running poll goes on under the old key until a forced new login is accepted', () => {
  const bench = new Bench().running()
  const poll = bench.find('poll').id
  bench.act((now) => bench.client.login(now, { forceNewKey: true }))
  bench.registered({ AuthURL: 'https://c.example/a' })
  expect(bench.find('poll').id).toBe(poll)
  bench.registered()
  expect(bench.find('poll').id === poll).toBe(false)
  expect(bench.open.length).toBe(2)
})

test('429 waits for what Retry-After says; without it 5 to 10 seconds', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now, { authKey: 'k' }))
  bench.answer(bench.find('register'), 429, utf8Encode('slow down'), '3')
  bench.pass(2999)
  expect(bench.has('register')).toBe(false)
  bench.pass(1)
  for (const header of [undefined, '0', '-1', '99999', 'Sat, 21 Nov 2026 00:00:00 GMT']) {
    bench.answer(bench.find('register'), 429, new Uint8Array(0), header)
    bench.pass(4999)
    expect(bench.has('register')).toBe(false)
    bench.pass(5002)
    expect(bench.has('register')).toBe(true)
  }
})

test('failed logins wait n² × 10 ms, half to one and a half of it, never more than 45 s', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now, { authKey: 'k' }))
  for (let n = 1; n <= 80; n += 1) {
    bench.fail(bench.find('register'))
    const waitMs = (bench.client.pollTimeout() ?? bench.now) - bench.now
    const nominal = Math.min(n * n * 10, 30_000)
    expect(waitMs).toBeGreaterThanOrEqual(nominal * 0.5)
    expect(waitMs).toBeLessThanOrEqual(nominal * 1.5)
    bench.pass(waitMs)
  }
})

test('a refusal, a bad status, garbage, too much and silence are problems with plain words, and are tried again', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now, { authKey: 'secret-key' }))
  bench.registered({ Error: 'invalid pre auth key' })
  bench.pass(60_000 - 1)
  bench.answer(bench.find('register'), 500)
  bench.pass(1000)
  bench.answer(bench.find('register'), 200, utf8Encode('{"NodeKeyExpired":"yes"}'))
  bench.pass(1000)
  bench.answer(bench.find('register'), 200, new Uint8Array(1_048_577))
  bench.pass(1000)
  bench.pass(60_000)
  const texts = bench.events.flatMap((event) => (event.type === 'problem' ? [event.message] : []))
  expect(texts).toEqual([
    'the control server refused the login: invalid pre auth key',
    'the control server answered the login with status 500',
    'the answer to the login cannot be read: NodeKeyExpired expected true or false',
    'cannot reach the control server: the answer is longer than 1048576 bytes',
    'cannot reach the control server: the control server did not answer in time',
  ])
  expect(texts.join().includes('secret-key')).toBe(false)
})

test('a saved state comes back without an auth key and with the same keys; damaged text is refused, not taken for empty', () => {
  const bench = new Bench().running()
  const state: ControlState = { machineKey: bench.client.machineKey, nodeKey: bench.client.nodeKey }
  const text = formatControlState(state)
  const again = new Bench({ state: parseControlState(text) ?? expect.fail('unreadable') })
  expect(again.types()).toEqual([])
  again.act((now) => again.client.login(now))
  expect(again.register()).toMatchObject({ NodeKey: bench.client.nodeKey?.publicKey().text, OldNodeKey: ZERO_NODE_KEY })
  expect(again.register().Auth).toBeUndefined()
  for (const bad of ['', '{}', text.slice(0, -2), text.replace('"version":1', '"version":2'), text.replace('nodeKey":"privkey:', 'nodeKey":"privkey:z')]) {
    expect(parseControlState(bad)).toBeUndefined()
  }
})

test('no output but a request body and a deliberate save shows a secret', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now, { authKey: 'k' }))
  bench.registered()
  const secret = bench.client.nodeKey?.formatSecret().slice('privkey:'.length) ?? ''
  expect(JSON.stringify(bench.events).includes(secret)).toBe(false)
  expect(formatControlState({ machineKey: bench.client.machineKey, nodeKey: bench.client.nodeKey }).includes(secret)).toBe(true)
})

test('a poll that is silent for 120 s is replaced; keepalives and frames keep it', () => {
  const bench = new Bench().running()
  const first = bench.find('poll').id
  for (let i = 0; i < 3; i += 1) {
    bench.pass(119_999)
    bench.frame(encodeKeepAliveChunk('none'))
  }
  expect(bench.find('poll').id).toBe(first)
  bench.pass(120_000)
  expect(bench.find('poll').id === first).toBe(false)
  expect(bench.types().slice(0, 4)).toEqual(['cancel', 'polling', 'problem', 'request'])
  bench.pass(119_999)
  const second = bench.find('poll').id
  bench.pass(1)
  expect(bench.find('poll').id === second).toBe(false)
})

test('keepalives may come before the first frame, which must say who the node is', () => {
  const bench = new Bench()
  bench.act((now) => bench.client.login(now, { authKey: 'k' }))
  bench.registered()
  bench.frame(encodeKeepAliveChunk('zstd'))
  expect(bench.client.status()).toMatchObject({ state: 'starting', polling: false })
  bench.frame({ Domain: 'example.com' })
  expect(bench.problems()).toEqual(['CONTROL_MAP_UNREADABLE'])
  bench.pass(15)
  bench.frame({ Node: bench.selfNode({ MachineAuthorized: false }) })
  expect(bench.client.status().state).toBe('needsMachineApproval')
  bench.frame({ Node: bench.selfNode() })
  expect(bench.client.status().state).toBe('running')
})

test('a new poll begins from nothing, but the old map stays in force until its first frame', () => {
  const bench = new Bench().running()
  const peer = { ...bench.selfNode(), ID: 8, Key: NodePrivateKey.generate(new SeededRandom(3).bytes).publicKey().text }
  bench.frame({ Peers: [peer], PacketFilter: [{ SrcIPs: ['*'] }] })
  bench.client.handleInput(bench.now, { type: 'end', id: bench.find('poll').id })
  bench.open.length = 0
  bench.settle()
  expect(bench.client.status()).toMatchObject({ polling: false, map: { peers: new Map([[8, { id: 8 }]]) } })
  bench.pass(20)
  bench.frame({ Node: bench.selfNode() })
  expect(bench.client.status().map?.peers.size).toBe(0)
  expect(bench.client.status().map?.packetFilter).toEqual([])
})

test('a new poll that says what is known already yields no map; what differs alone is new', () => {
  const bench = new Bench()
  const peer = (id: number): NonNullable<MapResponse['Node']> => ({ ...bench.selfNode(), ID: id, Key: `nodekey:${String(id).repeat(64)}` })
  const whole = (): MapResponse => ({ Node: bench.selfNode(), Peers: [peer(2), peer(3)], PacketFilters: { base: [{ SrcIPs: ['*'] }] }, DNSConfig: { Proxied: true }, UserProfiles: [{ ID: 1, LoginName: 'a', DisplayName: 'A' }] })
  bench.running()
  bench.frame(whole())
  const map = bench.client.status().map
  for (const change of [{}, { Peers: [peer(2), { ...peer(3), Online: true }] }]) {
    bench.events.length = 0
    bench.pass(120_000)
    bench.frame({ ...whole(), ...change })
    if (Object.keys(change).length === 0) expect(bench.client.status().map).toBe(map)
    expect(bench.types().includes('netmap')).toBe(Object.keys(change).length > 0)
  }
  expect(bench.client.status().map?.peers.get(2)).toBe(map?.peers.get(2))
  expect(bench.client.status().map?.packetFilter).toBe(map?.packetFilter)
})

test('a frame that changes nothing yields no map', () => {
  const bench = new Bench().running()
  bench.frame({ ControlTime: formatTime(bench.clock.wallClock()) }, { Node: bench.selfNode() }, { PeersChangedPatch: [{ NodeID: 99, Online: true }] })
  expect(bench.types()).toEqual([])
})

test('a key that the server registered and does not know after all is registered again, twice at most; a key that worked before is not', () => {
  const unknown = (bench: Bench): void => bench.answer(bench.find('poll'), 404)
  const lost = new Bench()
  lost.act((now) => lost.client.login(now, { authKey: 'tskey-1' }))
  const keys: string[] = []
  for (let i = 0; i < 3; i += 1) {
    expect(lost.register()).toMatchObject({ Auth: { AuthKey: 'tskey-1' } })
    keys.push(lost.register().NodeKey)
    lost.registered()
    unknown(lost)
  }
  expect(new Set(keys).size).toBe(1)
  expect(lost.has('register')).toBe(false)
  expect(lost.events.filter((event) => event.type === 'problem').map((event) => event.code)).toEqual(['CONTROL_NODE_UNKNOWN'])
  // The second registration was kept: the node runs.
  const kept = new Bench()
  kept.act((now) => kept.client.login(now, { authKey: 'tskey-1' }))
  kept.registered()
  unknown(kept)
  kept.registered()
  kept.frame({ Node: kept.selfNode() })
  expect(kept.client.status().state).toBe('running')
  // A node that was deleted later waits for a person.
  kept.client.handleInput(kept.now, { type: 'end', id: kept.find('poll').id })
  kept.settle()
  kept.pass(1_000)
  kept.open.splice(0, kept.open.length - 1)
  unknown(kept)
  expect([kept.has('register'), kept.events.at(-1)]).toMatchObject([false, { type: 'problem', code: 'CONTROL_NODE_UNKNOWN' }])
})

test('an unknown node, a refusal, a wrong type, a hostile length and a compressed frame end the poll with the right words', () => {
  const cases: [string, (bench: Bench) => void][] = [
    ['CONTROL_NODE_UNKNOWN', (bench) => bench.client.handleInput(bench.now, { type: 'response', id: bench.find('poll').id, status: 404 })],
    ['CONTROL_MAP_REFUSED', (bench) => bench.client.handleInput(bench.now, { type: 'response', id: bench.find('poll').id, status: 500 })],
    ['CONTROL_MAP_UNREADABLE', (bench) => bench.frame(encodeMapChunk(utf8Encode('{"Peers":[{"ID":"x"}]}'), 'none'))],
    ['CONTROL_MAP_UNREADABLE', (bench) => bench.frame(Uint8Array.of(0, 0, 1, 0x90, 0x7b))],
    ['CONTROL_MAP_UNREADABLE', (bench) => bench.frame(Uint8Array.of(8, 0, 0, 0, 0x28, 0xb5, 0x2f, 0xfd, 0x24, 3, 0x1d, 0))],
    ['CONTROL_UNREACHABLE', (bench) => bench.fail(bench.find('poll'))],
  ]
  for (const [code, happen] of cases) {
    const bench = new Bench().running()
    if (code !== 'CONTROL_UNREACHABLE' && code !== 'CONTROL_MAP_UNREADABLE') {
      bench.client.handleInput(bench.now, { type: 'end', id: bench.find('poll').id })
      bench.open.length = 0
      bench.settle()
      bench.pass(20)
      bench.events.length = 0
    }
    happen(bench)
    bench.settle()
    expect(bench.problems()).toEqual([code])
    expect(bench.client.status().map?.self.id).toBe(7)
    bench.pass(100)
    expect(bench.has('poll')).toBe(true)
  }
})

test('changes of the host are sent one at a time, the newest state only, again after a failure, and never disturb the poll', () => {
  const bench = new Bench().running()
  const poll = bench.find('poll').id
  const disco = DiscoPrivateKey.generate(new SeededRandom(9).bytes).publicKey()
  bench.act((now) => bench.client.setDiscoKey(now, disco))
  bench.act((now) => bench.client.setNetInfo(now, { PreferredDERP: 1 }))
  bench.act((now) => bench.client.setNetInfo(now, { PreferredDERP: 900 }))
  expect(bench.open.length).toBe(2)
  expect(bench.map('lite').Hostinfo?.NetInfo).toBeUndefined()
  bench.answer(bench.find('lite'), 500)
  expect(bench.problems()).toEqual(['CONTROL_UPDATE_FAILED'])
  bench.act((now) => bench.client.setEndpoints(now, []))
  expect(bench.has('lite')).toBe(false)
  bench.pass(15)
  expect(bench.map('lite')).toMatchObject({ DiscoKey: disco.text, Hostinfo: { NetInfo: { PreferredDERP: 900 } } })
  bench.answer(bench.find('lite'), 200, utf8Encode('ignored'))
  bench.pass(100_000)
  expect(bench.open.map((request) => request.id)).toEqual([poll])
})

test('whether the server knows this node as it is now: from its answer on, until something changes', () => {
  const bench = new Bench().running()
  expect(bench.client.isTold).toBe(true)
  bench.act((now) => bench.client.setEndpoints(now, []))
  const first = bench.find('lite')
  bench.act((now) => bench.client.setNetInfo(now, { PreferredDERP: 1 }))
  bench.answer(first, 200)
  expect([bench.client.isTold, bench.types()]).toEqual([false, ['request', 'request']]) // it took what was so before
  bench.answer(bench.find('lite'), 200)
  expect([bench.client.isTold, bench.types().at(-1)]).toEqual([true, 'told'])
  bench.act(() => bench.client.stop())
  expect(bench.client.isTold).toBe(false)
})

test('a lite update that is never answered is given up and repeated', () => {
  const bench = new Bench().running()
  bench.act((now) => bench.client.setNetInfo(now, { PreferredDERP: 1 }))
  bench.pass(30_000 + 15)
  expect(bench.events.map((event) => event.type)).toEqual(['request', 'cancel', 'problem', 'request'])
})

test('logout ends the poll first, expires the key at the server, and forgets it', () => {
  const bench = new Bench().running()
  bench.act((now) => bench.client.logout(now))
  expect(bench.types()).toEqual(['cancel', 'polling', 'request'])
  expect(bench.register()).toMatchObject({ Expiry: '1970-01-01T00:02:03Z', Auth: { AuthKey: 'tskey-1' } })
  expect(bench.client.status().state).toBe('loggingOut')
  bench.registered({ NodeKeyExpired: true })
  expect(bench.types().slice(-2)).toEqual(['saveState', 'loggedOut'])
  expect(bench.client.status()).toMatchObject({ state: 'needsLogin', nodeKey: undefined, map: undefined })
})

test('a logout that the server never confirms still forgets the key, after some tries', () => {
  const bench = new Bench().running()
  bench.act((now) => bench.client.logout(now))
  for (let i = 0; i < 4; i += 1) {
    bench.fail(bench.find('register'))
    bench.pass(1000)
  }
  expect(bench.problems()).toEqual(Array.from({ length: 4 }, () => 'CONTROL_LOGOUT_FAILED'))
  expect(bench.client.status()).toMatchObject({ state: 'needsLogin', nodeKey: undefined })
  expect(bench.open).toEqual([])
})

test('an expiry hours away is met to the millisecond, whatever becomes of the poll meanwhile', () => {
  const bench = new Bench()
  const expiry = bench.clock.wallClock() + 3 * 3_600_000
  bench.running({ KeyExpiry: formatTime(expiry) })
  bench.pass(3 * 3_600_000 - 1)
  expect(bench.types()).not.toContain('keyExpired')
  bench.pass(1)
  expect(bench.types()).toContain('keyExpired')
})

test('expiry is told once, and so is the end of it', () => {
  const bench = new Bench()
  bench.running({ KeyExpiry: formatTime(bench.clock.wallClock() + 50_000) })
  bench.pass(49_999)
  expect(bench.types()).toEqual([])
  bench.pass(1)
  expect(bench.types()).toEqual(['keyExpired'])
  expect(bench.client.status()).toMatchObject({ state: 'keyExpired', polling: true })
  bench.frame({ Node: bench.selfNode({ KeyExpiry: formatTime(bench.clock.wallClock() + 1000) }) })
  expect(bench.types()).toEqual(['keyExpired', 'netmap', 'keyRenewed'])
})

test('a key that the server renews by a new login is told to be good again by the first frame', () => {
  const bench = new Bench()
  bench.running({ KeyExpiry: formatTime(bench.clock.wallClock() + 1000) })
  bench.pass(1000)
  bench.act((now) => bench.client.login(now, { authKey: 'k' }))
  bench.registered()
  expect(bench.client.status().state).toBe('keyExpired')
  bench.frame({ Node: bench.selfNode() })
  expect(bench.types().filter((type) => type.startsWith('key'))).toEqual(['keyExpired', 'keyRenewed'])
  expect(bench.client.status().state).toBe('running')
})

test('a server whose clock differs decides when the key expires', () => {
  const bench = new Bench().running()
  const server = bench.clock.wallClock() + 600_000
  bench.frame({ ControlTime: formatTime(server), Node: bench.selfNode({ KeyExpiry: formatTime(server - 1) }) })
  expect(bench.types()).toContain('keyExpired')
})

test('control pings: HEAD inside the channel by itself, others by the program, each URL once, also in keepalives', () => {
  const bench = new Bench().running()
  bench.frame({ KeepAlive: true, PingRequest: { URL: 'https://unused/ping/1?x=2', URLIsNoise: true } })
  expect(bench.find('HEAD').path).toBe('/ping/1?x=2')
  bench.frame({ PingRequest: { URL: 'https://unused/ping/1?x=2', URLIsNoise: true } })
  expect(bench.open.filter((request) => request.method === 'HEAD').length).toBe(1)
  const ping = { URL: 'https://unused/c2n/9', URLIsNoise: true, Types: 'c2n', Payload: '' }
  bench.frame({ PingRequest: ping })
  expect(bench.events.at(-1)).toEqual({ type: 'ping', request: ping })
  bench.act((now) => bench.client.answerPing(now, ping, utf8Encode('HTTP/1.1 200 OK\r\n\r\n')))
  expect(bench.find('answer')).toMatchObject({ method: 'POST', path: '/c2n/9' })
  bench.answer(bench.find('answer'), 200, new Uint8Array(5_000_000))
})

test('PopBrowserURL is shown once for each value', () => {
  const bench = new Bench().running()
  bench.frame({ PopBrowserURL: 'https://a' }, { PopBrowserURL: 'https://a' }, { PopBrowserURL: 'https://b' })
  expect(bench.types()).toEqual(['openUrl', 'openUrl'])
})

test('answers to requests that nobody waits for change nothing, and stop closes everything', () => {
  const bench = new Bench().running()
  bench.act((now) => bench.client.handleInput(now, { type: 'end', id: 12345 }))
  bench.act(() => bench.client.stop())
  expect(bench.open).toEqual([])
  expect(bench.client.pollTimeout()).toBeUndefined()
  expect(() => bench.client.handleInput(bench.now, { type: 'chunk', id: 3, bytes: new Uint8Array(9) })).not.toThrow()
})

test('a destroyed key is refused by name, not used as zeros', () => {
  const key = MachinePrivateKey.generate(new SeededRandom(1).bytes)
  key.destroy()
  let caught: unknown
  try {
    formatControlState({ machineKey: key, nodeKey: undefined })
  } catch (error) {
    caught = error
  }
  expect(isMeshwrightError(caught, 'CRYPTO_KEY_DESTROYED')).toBe(true)
})

test('the client obeys the machine laws in every state', () => {
  const states: readonly ControlClientState[] = ['needsLogin', 'loggingIn', 'needsApprovalUrl', 'starting', 'needsMachineApproval', 'running', 'keyExpired', 'loggingOut']
  const bodies = (random: SeededRandom, key: string): Uint8Array => {
    const node = { ID: 1, Name: 'a.b.', Key: key, Addresses: ['100.64.0.1/32'], MachineAuthorized: random.chance(0.7), ...(random.chance(0.3) && { KeyExpiry: '2020-01-01T00:00:00Z' }) }
    return random.pick([
      () => encodeJson(ACCEPTED),
      () => encodeJson({ ...ACCEPTED, AuthURL: `https://x/${random.below(3)}` }),
      () => encodeJson({ ...ACCEPTED, NodeKeyExpired: true }),
      () => encodeMapChunk(encodeJson({ Node: node, Peers: [{ ...node, ID: 2 }] }), random.chance(0.5) ? 'zstd' : 'none'),
      () => encodeKeepAliveChunk('zstd'),
      () => random.bytes(random.below(60)),
    ])()
  }
  machineLaws<Parameters<ControlClient['handleInput']>[1], ControlClientOutput>({
    make(random, now) {
      const clock = new VirtualClock(now)
      const client = new ControlClient({ random: random.bytes, wallClock: clock.wallClock, hostinfo: HOSTINFO })
      // What the program around it does now and then, told by the answers it is fed.
      const feed = client.handleInput.bind(client)
      client.handleInput = (at, input) => {
        if (input.id === 0) return input.type === 'end' ? client.logout(at) : input.type === 'failed' ? client.login(at, { authKey: 'k' }) : client.setNetInfo(at, {})
        feed(at, input)
      }
      return client
    },
    arbitraryInput(random) {
      const id = random.chance(0.1) ? 0 : 1 + random.below(60)
      return random.pick([
        { type: 'response' as const, id, status: random.pick([200, 200, 200, 404, 429, 500]) },
        { type: 'chunk' as const, id, bytes: bodies(random, `nodekey:${'1'.repeat(64)}`) },
        { type: 'end' as const, id },
        { type: 'failed' as const, id, message: 'x' },
      ])
    },
    exercise(machine, now) {
      if (!(machine instanceof ControlClient)) return
      const open: Request[] = []
      const look = (): void => {
        for (const output of drain(machine)) if (output.type === 'request') open.push(output)
        reached.add(machine.status().state)
      }
      const reply = (kind: string, body: Uint8Array, end: boolean): void => {
        const id = open.findLast((request) => kindOf(request) === kind)?.id ?? -1
        machine.handleInput(now, { type: 'response', id, status: 200 })
        machine.handleInput(now, { type: 'chunk', id, bytes: body })
        if (end) machine.handleInput(now, { type: 'end', id })
        look()
      }
      const self = (change: object): Uint8Array => encodeMapChunk(encodeJson({ Node: { ID: 1, Name: 'a.b.', Key: `nodekey:${'1'.repeat(64)}`, Addresses: [], MachineAuthorized: true, ...change } }), 'none')
      look()
      machine.login(now, {})
      look()
      reply('register', encodeJson({ ...ACCEPTED, AuthURL: 'https://x' }), true)
      reply('register', encodeJson(ACCEPTED), true)
      reply('poll', self({ MachineAuthorized: false }), false)
      reply('poll', self({}), false)
      reply('poll', self({ KeyExpiry: '2020-01-01T00:00:00Z' }), false)
      machine.logout(now)
      look()
      reply('register', encodeJson(ACCEPTED), true)
      machine.login(now, {})
      look()
    },
    memory: { size: (machine) => (machine instanceof ControlClient ? machine.openRequests : 0), bound: 20 },
    inputs: 300,
  })
  expect([...reached].sort()).toEqual([...states].sort())
})

const reached = new Set<string>()

/** A client of an earlier run with the last map of that run, whose server does not answer the login. */
function remembering(change: Partial<MapResponse> = {}): Bench {
  const first = new Bench().running({ KeyExpiry: formatTime(new VirtualClock().wallClock() + 3_600_000) })
  first.frame({ PeersChanged: [{ ...first.selfNode(), ID: 8, StableID: '8', Key: `nodekey:${'8'.repeat(64)}` }], PacketFilters: { a: [{ SrcIPs: ['100.64.0.8'], DstPorts: [] }] }, Domain: 'example.com' })
  const map = first.client.status().map ?? expect.fail('no map')
  const nodeKey = first.client.nodeKey ?? expect.fail('no key')
  const lastMap = parseJson(formatJson({ ...mapResponseOf(map), ...change })) as MapResponse // as from a file
  const second = new Bench({ state: { machineKey: first.client.machineKey, nodeKey }, lastMap })
  second.act((now) => second.client.login(now))
  return second
}

test('a map of an earlier run is in force only when the server cannot be reached, and until it answers', () => {
  const bench = remembering()
  expect(bench.client.status().map).toBeUndefined()
  bench.fail(bench.find('register'))
  expect(bench.types()).toContain('netmap')
  expect(bench.client.status().map).toMatchObject({ domain: 'example.com', packetFilter: [{ SrcIPs: ['100.64.0.8'] }] })
  expect([...(bench.client.status().map?.peers.keys() ?? [])]).toEqual([8])
  bench.pass(60_000)
  bench.registered()
  bench.answer(bench.find('lite'), 200)
  bench.frame({ Node: bench.selfNode() })
  expect(bench.client.status().map).toMatchObject({ peers: new Map(), packetFilter: [] })
  const reached = remembering()
  reached.registered()
  reached.fail(reached.find('poll'))
  reached.answer(reached.find('lite'), 200)
  reached.pass(60_000)
  expect([...(reached.client.status().map?.peers.keys() ?? [])], 'a poll that fails is the same').toEqual([8])
})

test('a remembered map ends with the first no of the server, whatever its form', () => {
  for (const no of [{ Error: 'node not found' }, { NodeKeyExpired: true }, { AuthURL: 'https://control.example/a/1' }]) {
    const bench = remembering()
    bench.fail(bench.find('register'))
    bench.pass(60_000)
    bench.events.length = 0
    bench.registered(no)
    expect([bench.types().includes('keyExpired'), bench.client.status().map]).toEqual([true, undefined])
  }
})

test('a remembered map for another key is not taken, and one whose key has ended since stops the traffic', () => {
  const other = remembering({ Node: { ...new Bench().selfNode(), Key: `nodekey:${'9'.repeat(64)}` } })
  other.fail(other.find('register'))
  expect(other.client.status().map).toBeUndefined()
  const late = remembering()
  late.clock.advance(7_200_000)
  late.fail(late.find('register'))
  expect(late.types()).toContain('keyExpired')
})

test('when the network has changed, what waits for it tries at once; what the server asked to wait for does not', () => {
  const login = new Bench()
  login.act((now) => login.client.login(now, { authKey: 'tskey-1' }))
  for (let i = 0; i < 20; i += 1) {
    login.fail(login.find('register'))
    login.act((now) => login.client.networkChanged(now))
  }
  login.answer(login.find('register'), 429, undefined, '60')
  login.act((now) => login.client.networkChanged(now))
  expect(login.has('register')).toBe(false)
  const poll = new Bench().running()
  poll.fail(poll.find('poll'))
  poll.act((now) => poll.client.networkChanged(now))
  poll.frame({ Node: poll.selfNode(), Debug: { SleepSeconds: 60 } })
  poll.act((now) => poll.client.networkChanged(now))
  expect(poll.has('poll')).toBe(false)
})

test('a connection that the node itself gives up is made anew without a word: login, poll, update and logout are asked again, late failures of the old ones mean nothing', () => {
  const bench = new Bench()
  const renewed = (kind: 'register' | 'poll' | 'lite'): void => {
    const old = bench.find(kind)
    bench.act((now) => bench.client.reconnect(now))
    const next = bench.find(kind)
    expect(next.id).not.toBe(old.id)
    expect(bench.open).not.toContain(old) // given up
    bench.client.handleInput(bench.now, { type: 'failed', id: old.id, message: 'the connection was closed' })
    bench.settle()
    expect(bench.find(kind)).toBe(next)
  }
  bench.act((now) => bench.client.login(now, { authKey: 'tskey-1' }))
  const asked = bench.register()
  renewed('register')
  expect(bench.register()).toEqual(asked)
  bench.registered()
  renewed('lite')
  bench.answer(bench.find('lite'), 200)
  bench.frame({ Node: bench.selfNode() })
  renewed('poll')
  bench.frame({ Node: bench.selfNode() })
  expect(bench.client.status().map?.self.name).toBe('laptop.example.com')
  bench.act((now) => bench.client.logout(now))
  renewed('register')
  bench.registered()
  expect(bench.types()).toContain('loggedOut')
  expect(bench.types()).not.toContain('problem')
})

test.each<[string, (bench: Bench) => void]>([
  ['ends it', (bench) => {
    bench.frame({ Node: bench.selfNode() })
    const { id } = bench.find('poll')
    bench.open.splice(0)
    bench.act((now) => bench.client.handleInput(now, { type: 'end', id }))
  }],
  ['asks for a pause of a millisecond', (bench) => bench.frame({ Node: bench.selfNode(), Debug: { SleepSeconds: 0.001 } })],
])('a server that %s behind each first frame is asked more and more seldom; after a stream of five seconds at once again', (_what, end) => {
  const bench = new Bench().running()
  const pauses: number[] = []
  for (let i = 0; i < 40; i += 1) {
    if (i === 38) bench.pass(5_000)
    end(bench)
    const begun = bench.now
    while (!bench.has('poll')) bench.pass(1)
    pauses.push(bench.now - begun)
  }
  expect(pauses.slice(0, 38).reduce((sum, ms) => sum + ms, 0)).toBeGreaterThan(60_000)
  expect(pauses[38]).toBeLessThan(30)
})
