import { applyMapResponse, type NetworkMap } from '@meshwright/control-client'
import { encodeJson, encodeMapChunk, type MapResponse, type Node, parseJson, type RegisterResponse } from '@meshwright/control-protocol'
import { after, type Instant } from '@meshwright/core'
import { DiscoPrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { type Endpoint, type Ip, parseEndpoint, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { DEFAULT_PREFS, MeshNode, type MeshNodeConfig, type MeshOutput, type MeshState } from './index.ts'

/** The wall clock of tests without a clock. */
export const WALL = Date.UTC(2026, 10, 21)
/** A rule that lets everybody do everything. */
export const ALLOW_ALL = [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }]
export const ACCEPTED: RegisterResponse = { NodeKeyExpired: false, MachineAuthorized: true, AuthURL: '', Error: '', User: { ID: 1, DisplayName: 'Alice' } }

export const ip = (text: string): Ip => parseIp(text) ?? expect.fail(text)
export const prefix = (text: string): Prefix => parsePrefix(text) ?? expect.fail(text)
export const endpoint = (text: string): Endpoint => parseEndpoint(text) ?? expect.fail(text)

/** The keys of node n: always the same ones. */
export function keysOf(n: number): { readonly node: NodePrivateKey; readonly disco: DiscoPrivateKey } {
  const random = new SeededRandom(1_000 + n)
  return { node: NodePrivateKey.generate(random.bytes), disco: DiscoPrivateKey.generate(random.bytes) }
}

/** Node n on the wire, at 100.64.0.n. */
export function wireNode(n: number, change: Partial<Node> = {}): Node {
  const { node, disco } = keysOf(n)
  const Addresses = [`100.64.0.${n}/32`, `fd7a:115c:a1e0::${n}/128`]
  return {
    ID: n,
    StableID: `stable${n}`,
    Name: `n${n}.mesh.test.`,
    User: 1,
    Key: node.publicKey().text,
    DiscoKey: disco.publicKey().text,
    Addresses,
    AllowedIPs: Addresses,
    MachineAuthorized: true,
    ...change,
  }
}

/** A network map as a server would make it. */
export function networkMap(response: MapResponse, wallNow: number = WALL): NetworkMap {
  return applyMapResponse(undefined, response, wallNow) ?? expect.fail('no map')
}

type Request = Extract<Extract<MeshOutput, { type: 'control' }>['output'], { type: 'request' }>

/** A node whose control server is answered by hand, in virtual time. */
export class Bench {
  readonly clock = new VirtualClock()
  readonly node: MeshNode
  readonly outputs: MeshOutput[] = []
  readonly states: MeshState[] = []
  readonly open: Request[] = []
  readonly #headed = new Set<number>()

  constructor(config: Partial<MeshNodeConfig> = {}) {
    this.node = new MeshNode(this.clock.now, {
      random: new SeededRandom(7).bytes,
      wallClock: this.clock.wallClock,
      controlUrl: 'http://control.test',
      prefs: { ...DEFAULT_PREFS, hostname: 'n1' },
      ...config,
    })
    this.settle()
  }

  act(change: (now: Instant) => void): this {
    change(this.clock.now)
    this.settle()
    return this
  }

  settle(): void {
    for (let output = this.node.pollOutput(); output !== undefined; output = this.node.pollOutput()) {
      this.outputs.push(output)
      if (output.type === 'state') this.states.push(output.state)
      if (output.type !== 'control') continue
      const request = output.output
      if (request.type === 'request') this.open.push(request)
      else this.#forget(request.id)
    }
  }

  /** Lets time pass, deadline by deadline. */
  pass(ms: number): this {
    const end = after(this.clock.now, ms)
    for (let due = this.node.pollTimeout(); due !== undefined && due <= end; due = this.node.pollTimeout()) {
      this.clock.advanceTo(due)
      this.act((now) => this.node.handleTimeout(now))
    }
    this.clock.advanceTo(end)
    return this
  }

  find(kind: 'register' | 'poll' | 'lite'): Request {
    return this.open.find((request) => kindOf(request) === kind) ?? expect.fail(`no open ${kind} among ${this.open.map(kindOf).join(', ')}`)
  }

  has(kind: string): boolean {
    return this.open.some((request) => kindOf(request) === kind)
  }

  /** The body of an open request, as loose JSON. */
  body(kind: 'register' | 'poll' | 'lite'): Record<string, unknown> {
    return Object(parseJson(this.find(kind).body ?? '')) as Record<string, unknown>
  }

  answer(request: Request, status: number, body: Uint8Array = new Uint8Array(0)): this {
    this.#forget(request.id)
    return this.act((now) => {
      this.node.handleInput(now, { type: 'control', input: { type: 'response', id: request.id, status } })
      if (body.length > 0) this.node.handleInput(now, { type: 'control', input: { type: 'chunk', id: request.id, bytes: body } })
      this.node.handleInput(now, { type: 'control', input: { type: 'end', id: request.id } })
    })
  }

  registered(change: Partial<RegisterResponse> = {}): this {
    return this.answer(this.find('register'), 200, encodeJson({ ...ACCEPTED, ...change }))
  }

  frame(frame: MapResponse): this {
    const { id } = this.find('poll')
    return this.act((now) => {
      if (!this.#headed.has(id)) this.node.handleInput(now, { type: 'control', input: { type: 'response', id, status: 200 } })
      this.#headed.add(id)
      this.node.handleInput(now, { type: 'control', input: { type: 'chunk', id, bytes: encodeMapChunk(encodeJson(frame), 'none') } })
    })
  }

  /** This node on the wire: node 1, with the key that it has made. */
  self(change: Partial<Node> = {}): Node {
    return wireNode(1, { Key: this.node.status(this.clock.now).nodeKey?.text ?? '', ...change })
  }

  /** Logged in by key, with a first frame. */
  running(frame: MapResponse = {}): this {
    this.act((now) => this.node.up(now, { authKey: 'tskey-1' })).registered()
    return this.frame({ Node: this.self(), PacketFilters: { base: ALLOW_ALL }, ...frame })
  }

  taken(type: MeshOutput['type']): MeshOutput[] {
    const found = this.outputs.filter((output) => output.type === type)
    this.outputs.length = 0
    return found
  }

  #forget(id: number): void {
    const at = this.open.findIndex((request) => request.id === id)
    if (at >= 0) this.open.splice(at, 1)
  }
}

function kindOf(request: Request): string {
  if (request.path === '/machine/register') return 'register'
  return request.path !== '/machine/map' ? 'other' : request.stream ? 'poll' : 'lite'
}

test('the bench of these tests leads a node to running', () => {
  expect(new Bench().running().node.state).toBe('running')
})
