import { instant, utf8Decode } from '@meshwright/core'
import { decodeMapResponse, type MapRequest, type MapResponse, MapChunkReader, parseJson, type RegisterRequest, type RegisterResponse } from '@meshwright/control-protocol'
import { SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { type AdminCommand, type AuditEvent, type ControlServerConfig, type ControlServerInput, ControlServer, controlServerConfig, memoryStore, type StateStore } from './index.ts'

/** A server with a store, a clock and a wire, for tests: everything a caller of the package would write, in fifty lines. */
export class Lab {
  readonly clock = new VirtualClock(1000)
  readonly random = new SeededRandom(7)
  /** How far somebody has set the wall clock ahead (or back). */
  wallOffsetMs = 0
  readonly store: ReturnType<typeof memoryStore>
  server: ControlServer
  readonly answers = new Map<number, { status: number; body: unknown; retryAfterSeconds: number | undefined }>()
  readonly frames = new Map<number, MapResponse[]>()
  readonly texts = new Map<number, string[]>()
  readonly ended = new Set<number>()
  readonly audit: AuditEvent[] = []
  readonly commits: number[] = []
  /** `hold`: commits wait for `commit()`; `fail`: they cannot be written. */
  storing: 'now' | 'hold' | 'fail' = 'now'
  #next = 1
  readonly #readers = new Map<number, MapChunkReader>()
  readonly #config: ControlServerConfig
  #held: { commit: number; changes: Parameters<StateStore['commit']>[0] } | undefined

  constructor(config: Partial<ControlServerConfig> = {}, state: Parameters<typeof memoryStore>[0] = undefined) {
    this.#config = controlServerConfig({ serverUrl: 'http://control.test', baseDomain: 'mesh.test', ...config })
    this.store = state === undefined ? memoryStore() : memoryStore(state)
    this.server = this.#start()
  }

  #start(): ControlServer {
    return new ControlServer(this.clock.now, {
      config: this.#config,
      state: this.store.state(),
      random: (length) => this.random.bytes(length),
      wallClock: () => this.clock.wallClock() + this.wallOffsetMs,
    })
  }

  /** The process dies and starts again from what is stored. */
  restart(): void {
    this.server = this.#start()
  }

  feed(input: ControlServerInput): void {
    this.server.handleInput(this.clock.now, input)
    this.drain()
  }

  drain(): void {
    for (let output = this.server.pollOutput(); output !== undefined; output = this.server.pollOutput()) {
      switch (output.type) {
        case 'respond':
          expect(this.answers.has(output.request), 'a request is answered once').toBe(false)
          this.answers.set(output.request, { status: output.status, body: output.body, retryAfterSeconds: output.retryAfterSeconds })
          break
        case 'mapChunk':
          this.#read(output.request, output.bytes)
          break
        case 'endMap':
          this.ended.add(output.request)
          break
        case 'audit':
          this.audit.push(output.event)
          break
        case 'commit':
          this.commits.push(output.commit)
          this.#held = output
          if (this.storing === 'fail') this.server.handleInput(this.clock.now, { type: 'commitFailed', commit: output.commit, reason: 'disk full' })
          else if (this.storing === 'now') this.commit()
      }
    }
  }

  /** The disk has it. */
  commit(): void {
    const held = this.#held
    if (held === undefined) throw new Error('nothing to commit')
    this.#held = undefined
    void this.store.commit(held.changes)
    this.server.handleInput(this.clock.now, { type: 'committed', commit: held.commit })
    this.drain()
  }

  #read(request: number, bytes: Uint8Array): void {
    const reader = this.#readers.get(request) ?? new MapChunkReader()
    this.#readers.set(request, reader)
    reader.push(bytes.slice())
    for (let json = reader.next(); json !== undefined; json = reader.next()) {
      const frame = decodeMapResponse(parseJson(json))
      if (!frame.ok) throw new Error(`frame does not decode: ${frame.path} ${frame.problem}`)
      this.frames.set(request, [...(this.frames.get(request) ?? []), frame.value])
      this.texts.set(request, [...(this.texts.get(request) ?? []), utf8Decode(json)])
    }
  }

  /** Lets time pass, deadline by deadline. */
  advance(ms: number): void {
    const until = instant(this.clock.now + ms)
    for (;;) {
      const due = this.server.pollTimeout()
      if (due === undefined || due > until) break
      this.clock.advanceTo(due)
      this.server.handleTimeout(this.clock.now)
      this.drain()
    }
    this.clock.advanceTo(until)
  }

  send(input: { type: 'register'; machineKey: string; source?: string; body: RegisterRequest } | { type: 'map'; machineKey: string; body: MapRequest } | { type: 'admin'; command: AdminCommand }): number {
    const request = this.#next
    this.#next += 1
    this.feed(input.type === 'register' ? { source: '192.0.2.1', ...input, request } : { ...input, request })
    return request
  }

  /** The answer to a command, as loose JSON. */
  admin(command: AdminCommand): { status: number; body: LooseJson } {
    const answer = this.answers.get(this.send({ type: 'admin', command }))
    if (answer === undefined) throw new Error('not answered')
    return { status: answer.status, body: answer.body as LooseJson }
  }

  register(machine: string, body: Partial<RegisterRequest> & { NodeKey: string }, source = '192.0.2.1'): number {
    return this.send({ type: 'register', machineKey: machine, source, body: { Version: 142, ...body } })
  }

  registered(request: number): RegisterResponse {
    const answer = this.answers.get(request)
    if (answer === undefined) throw new Error('not answered')
    expect(answer.status).toBe(200)
    return answer.body as RegisterResponse
  }

  map(machine: string, body: Partial<MapRequest> & { NodeKey: string }): number {
    return this.send({ type: 'map', machineKey: machine, body: { Version: 142, Compress: 'zstd', ...body } })
  }

  /** A user with a node that is registered by key and polls. */
  node(user: string, name: string, more: { ephemeral?: boolean; tags?: string[]; routes?: string[] } = {}): LabNode {
    const machine = key('mkey', `${user}/${name}`)
    const NodeKey = key('nodekey', `${user}/${name}`)
    const known = this.admin({ command: 'listUsers', name: user }).body['users'][0] ?? this.admin({ command: 'createUser', name: user }).body['user']
    const tags = more.tags ?? []
    const auth = this.admin({
      command: 'createAuthKey',
      ...(tags.length === 0 && { userId: Number(known.id) }),
      tags,
      ephemeral: more.ephemeral ?? false,
    }).body['preAuthKey'].key as string
    const Hostinfo = { Hostname: name, OS: 'linux', ...(more.routes !== undefined && { RoutableIPs: more.routes }) }
    expect(this.registered(this.register(machine, { NodeKey, Auth: { AuthKey: auth }, Hostinfo })).Error).toBe('')
    const stream = this.map(machine, { NodeKey, Stream: true, DiscoKey: key('discokey', name) })
    this.map(machine, { NodeKey, OmitPeers: true, DiscoKey: key('discokey', name), Hostinfo, Endpoints: ['10.0.0.1:41641'] })
    const id = this.frames.get(stream)?.[0]?.Node?.ID
    return { machine, NodeKey, stream, id: Number(id), auth, name }
  }

  framesOf(stream: number): MapResponse[] {
    return this.frames.get(stream) ?? []
  }
}

/** JSON that a test looks into without asking. */
type LooseJson = ReturnType<typeof JSON.parse>

/** A node of the lab. */
export interface LabNode {
  readonly machine: string
  readonly NodeKey: string
  readonly stream: number
  readonly id: number
  readonly auth: string
  readonly name: string
}

/** A well-formed key that stands for a name. */
export function key(prefix: string, name: string): string {
  let hex = ''
  for (const char of `${name}                                `.slice(0, 32)) hex += char.charCodeAt(0).toString(16).padStart(2, '0')
  return `${prefix}:${hex}`
}

test('a node that logs in by key gets a first frame with itself in it', () => {
  const lab = new Lab()
  const node = lab.node('alice', 'laptop')
  const [first] = lab.framesOf(node.stream)
  expect(first?.Node).toMatchObject({ Name: 'laptop.mesh.test.', Addresses: ['100.64.0.1/32', 'fd7a:115c:a1e0::1/128'], MachineAuthorized: true, Key: node.NodeKey })
  expect(first?.Peers).toEqual([])
  expect(first?.PacketFilters).toEqual({ base: [] })
})
