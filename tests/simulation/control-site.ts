import type { ControlClientInput } from '@meshwright/control-client'
import { decodeMapRequest, decodeRegisterRequest, encodeJson, parseJson } from '@meshwright/control-protocol'
import { type AdminCommand, ControlServer, type ControlServerConfig, type ControlServerInput, memoryStore } from '@meshwright/control-server'
import { after, type Instant, utf8Encode } from '@meshwright/core'
import { type Actor, SeededRandom, type VirtualNetwork } from '@meshwright/testkit'
import type { Transcript } from './transcript.ts'

/** One way between a node and the control server. */
const LATENCY_MS = 15
/** A write to the disk. */
const DISK_MS = 3

/** A node's request, inside what would be its Noise channel. */
export interface ControlCall {
  readonly machineKey: string
  readonly path: string
  readonly body: Uint8Array | undefined
  readonly take: (now: Instant, event: ControlEvent) => void
}

type Without<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never
/** What becomes of a call: the inputs of a control client without their number. */
export type ControlEvent = Without<ControlClientInput, 'id'>

/** A control server with its disk, which can be killed and started again. Requests come directly, without Noise. */
export class ControlSite implements Actor {
  readonly #network: VirtualNetwork
  readonly #config: ControlServerConfig
  readonly #transcript: Transcript
  readonly #store = memoryStore()
  readonly #random: SeededRandom
  readonly #calls: Map<number, ControlCall & { started: boolean }> = new Map()
  readonly #answers: Map<number, { readonly status: number; readonly body: unknown }> = new Map()
  #server: ControlServer | undefined
  #next = 1
  /** Counts starts: what an earlier process still owed is lost. */
  #life = 0

  constructor(network: VirtualNetwork, seed: number, config: ControlServerConfig, transcript: Transcript) {
    this.#network = network
    this.#config = config
    this.#transcript = transcript
    this.#random = new SeededRandom(seed)
    this.start()
  }

  start(): void {
    this.#life += 1
    const { clock } = this.#network
    this.#server = new ControlServer(clock.now, { config: this.#config, state: this.#store.state(), random: this.#random.bytes, wallClock: clock.wallClock })
  }

  /** The process dies: every connection breaks, what is not on the disk is gone. */
  kill(): void {
    this.#server = undefined
    this.#life += 1
    for (const id of [...this.#calls.keys()]) this.#later((now) => this.#end(now, id, { type: 'failed', message: 'the connection broke' }))
  }

  /** The connections of one device break. */
  breakConnections(machineKey: string): void {
    for (const [id, call] of [...this.#calls]) {
      if (call.machineKey !== machineKey) continue
      this.#later((now) => this.#end(now, id, { type: 'failed', message: 'the connection broke' }))
      this.#later(() => this.#feed({ type: 'closed', request: id }))
    }
  }

  pollTimeout(): Instant | undefined {
    return this.#server?.pollTimeout()
  }

  handleTimeout(now: Instant): void {
    this.#server?.handleTimeout(now)
    this.#drain()
  }

  /** Whether the relay may let a key in. */
  knows(nodeKey: string): boolean {
    return this.#server?.knowsNodeKey(nodeKey) ?? false
  }

  /** Takes a node's request; gives the way to give it up. */
  request(call: ControlCall): () => void {
    const id = this.#next
    this.#next += 1
    this.#calls.set(id, { ...call, started: false })
    this.#later((now) => {
      this.#transcript.note(now, `control ${id} ${call.path}`, call.body ?? new Uint8Array(0))
      if (this.#server === undefined) this.#end(now, id, { type: 'failed', message: 'connection refused' })
      else this.#dispatch(id, call)
    })
    return () => {
      if (this.#calls.delete(id)) this.#later(() => this.#feed({ type: 'closed', request: id }))
    }
  }

  /** Does what an administrator asks, and lets the answer come. */
  admin(command: AdminCommand): { readonly status: number; readonly body: unknown } {
    const request = this.#next
    this.#next += 1
    this.#feed({ type: 'admin', request, command })
    this.#network.runFor(2 * DISK_MS, [this])
    const answer = this.#answers.get(request)
    if (answer === undefined) throw new Error(`the control server did not answer ${command.command}`)
    return answer
  }

  #dispatch(request: number, call: ControlCall): void {
    const { machineKey } = call
    const json = call.body === undefined ? undefined : parseJson(call.body)
    if (call.path === '/machine/register') {
      const body = decodeRegisterRequest(json)
      if (body.ok) return this.#feed({ type: 'register', request, machineKey, source: '192.0.2.1', body: body.value })
    }
    if (call.path === '/machine/map') {
      const body = decodeMapRequest(json)
      if (body.ok) return this.#feed({ type: 'map', request, machineKey, body: body.value })
    }
    this.#respond(request, 404, `no such thing: ${call.path}`)
  }

  #feed(input: ControlServerInput): void {
    this.#server?.handleInput(this.#network.clock.now, input)
    this.#drain()
  }

  #drain(): void {
    const server = this.#server
    const life = this.#life
    for (let output = server?.pollOutput(); output !== undefined; output = server?.pollOutput()) {
      switch (output.type) {
        case 'respond':
          if (this.#calls.has(output.request)) this.#respond(output.request, output.status, output.body)
          else this.#answers.set(output.request, output)
          break
        case 'mapChunk': {
          const { request, bytes } = output
          const call = this.#calls.get(request)
          if (call === undefined) break
          if (!call.started) this.#tell(request, { type: 'response', status: 200 })
          call.started = true
          this.#tell(request, { type: 'chunk', bytes: Uint8Array.from(bytes) })
          break
        }
        case 'endMap':
          this.#tell(output.request, { type: 'end' })
          break
        case 'commit': {
          const { commit, changes } = output
          this.#network.schedule(after(this.#network.clock.now, DISK_MS), () => {
            if (this.#life !== life) return
            void this.#store.commit(changes)
            this.#feed({ type: 'committed', commit })
          })
          break
        }
        case 'audit':
          break
      }
    }
  }

  #respond(request: number, status: number, body: unknown): void {
    this.#tell(request, { type: 'response', status })
    const bytes = body === undefined ? undefined : typeof body === 'string' ? utf8Encode(body) : encodeJson(body)
    if (bytes !== undefined) this.#tell(request, { type: 'chunk', bytes })
    this.#tell(request, { type: 'end' })
  }

  #tell(id: number, event: ControlEvent): void {
    const life = this.#life
    this.#later((now) => {
      if (this.#life === life) this.#end(now, id, event)
    })
  }

  #end(now: Instant, id: number, event: ControlEvent): void {
    const call = this.#calls.get(id)
    if (call === undefined) return
    if (event.type === 'chunk') this.#transcript.note(now, `answer ${id}`, event.bytes)
    if (event.type === 'end' || event.type === 'failed') this.#calls.delete(id)
    call.take(now, event)
  }

  #later(run: (now: Instant) => void): void {
    this.#network.schedule(after(this.#network.clock.now, LATENCY_MS), run)
  }
}
