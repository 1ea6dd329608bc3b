import { assertNever, type Instant, type RandomSource } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import { type Endpoint, PacketView, PROTOCOL_ICMPV6 } from '@meshwright/ip'
import { Engine, type EngineOutput, type EnginePeer } from '@meshwright/mesh'
import type { PathExplanation } from '@meshwright/nat-traversal'
import type { EngineCommand, EngineSeed, EngineView, FromEngine, ToEngine } from './engine-messages.ts'
import { fromPortable, toPortable } from './portable-values.ts'

const ECHO_REQUEST_V4 = 8
const ECHO_REPLY_V4 = 0
const ECHO_REQUEST_V6 = 128
const ECHO_REPLY_V6 = 129
const MAX_ECHOES = 256

/** What an engine has around it in its thread. */
export interface EngineHostDoors {
  readonly random: RandomSource
  readonly wallClock: () => number
  readonly stopwatch: () => number
  readonly provider: CryptoProvider
  /** To the node's thread. */
  readonly post: (message: FromEngine) => void
  /** By UDP. The bytes are not kept. */
  readonly send: (bytes: Uint8Array, to: Endpoint) => void
  /** To the programs of this computer. The bytes are not kept. */
  readonly deliver: (bytes: Uint8Array) => void
}

/**
 * The engine of a node in the thread that carries its packets: takes commands in their order, sends and delivers by itself, and posts what
 * concerns the node. It neither waits nor reads a clock: its host does.
 */
export class EngineHost {
  readonly #doors: EngineHostDoors
  readonly #view: PacketView = new PacketView()
  readonly #echoes: Set<number> = new Set()
  readonly #told: EngineOutput[] = []
  #engine: Engine | undefined
  #number = 0
  /** Something that a view shows has changed since the last one. */
  #stirred = false

  constructor(doors: EngineHostDoors) {
    this.#doors = doors
  }

  /** The engine in force. */
  get engine(): Engine | undefined {
    return this.#engine
  }

  /** Takes a message of the node's thread. */
  take(now: Instant, message: ToEngine): void {
    switch (message.type) {
      case 'make':
        this.#make(now, message.engine, fromPortable(message.seed))
        break
      case 'command':
        if (message.engine === this.#number && this.#engine !== undefined) this.#command(now, this.#engine, fromPortable(message.command))
        break
      case 'close':
        if (message.engine === this.#number) this.#end(now)
        break
      case 'deliver':
        this.#doors.deliver(message.bytes)
        break
      case 'send':
        this.#doors.send(message.bytes, fromPortable(message.to))
        break
      case 'look':
        if (message.engine === this.#number) this.#show(now, true)
        break
      default:
        assertNever(message)
    }
    this.settle(now)
  }

  /** Performs what the engine owes. */
  settle(now: Instant): void {
    const engine = this.#engine
    if (engine === undefined) return
    // A lane has sealed and opened past the engine: handshakes begin and are answered now, not when a timer next has something to do.
    engine.settle(now)
    let owed: EngineOutput[] | undefined = this.#told.length === 0 ? undefined : this.#told.splice(0)
    for (let output = engine.pollOutput(); output !== undefined; output = engine.pollOutput()) {
      if (output.type === 'datagram') this.#doors.send(output.bytes, output.to)
      else if (output.type === 'deliver' && !this.isForNode(output.bytes, 0, output.bytes.length)) this.#doors.deliver(output.bytes)
      else (owed ??= []).push(output)
    }
    if (owed === undefined) return
    this.#stirred ||= owed.some(({ type }) => type === 'changed' || type === 'relayConnected' || type === 'relayDisconnected')
    // Before what makes the node look.
    if (this.#stirred) this.#show(now, false)
    this.#doors.post({ type: 'outputs', engine: this.#number, outputs: toPortable(owed) })
  }

  /** Whether an inner packet answers an echo request that the node itself has sent. */
  isForNode(memory: Uint8Array, at: number, length: number): boolean {
    return this.#echoes.size > 0 && this.#echoes.has(this.#echo(memory, at, length, ECHO_REPLY_V4, ECHO_REPLY_V6))
  }

  /** Owes the node an output. */
  tell(output: EngineOutput): void {
    this.#told.push(output)
  }

  /** Shows what has changed, if anything has: for a look now and then. */
  showChanges(now: Instant): void {
    if (this.#engine !== undefined) this.#show(now, false)
  }

  #make(now: Instant, number: number, seed: EngineSeed): void {
    this.#end(now)
    const { random, wallClock, stopwatch, provider } = this.#doors
    let link = seed.firstLink
    this.#number = number
    this.#engine = new Engine({ ...seed, random, wallClock, stopwatch, provider, nextLink: () => (link += 1) })
  }

  #end(now: Instant): void {
    this.#engine?.close(now)
    this.settle(now)
    this.#engine = undefined
    this.#echoes.clear()
  }

  #command(now: Instant, engine: Engine, command: EngineCommand): void {
    switch (command.do) {
      case 'apply':
        engine.apply(now, command.applied)
        this.#stirred = true
        return
      case 'setShieldsUp':
        return engine.setShieldsUp(command.up)
      case 'setRelayMap':
        return engine.setRelayMap(now, command.map)
      case 'setHome':
        return engine.setHome(now, command.region)
      case 'setSelfEndpoints':
        return engine.setSelfEndpoints(now, command.endpoints)
      case 'setUdpBlocked':
        return engine.setUdpBlocked(now, command.blocked)
      case 'rebind':
        return engine.rebind(now)
      case 'ping':
        return engine.ping(now, command.peer, command.id, command.sizeBytes)
      case 'sendTo':
        return engine.sendTo(now, command.peer, command.packet)
      case 'setPeerDiscoKey':
        return engine.setPeerDiscoKey(now, command.peer, command.key)
      case 'input':
        if (command.input.type === 'packet') this.#noteEcho(command.input.bytes)
        return engine.handleInput(now, command.input)
      default:
        assertNever(command)
    }
  }

  // Oldest first: a set keeps the order in which things came.
  #noteEcho(packet: Uint8Array): void {
    const echo = this.#echo(packet, 0, packet.length, ECHO_REQUEST_V4, ECHO_REQUEST_V6)
    if (echo < 0) return
    this.#echoes.add(echo)
    for (const oldest of this.#echoes) {
      if (this.#echoes.size <= MAX_ECHOES) return
      this.#echoes.delete(oldest)
    }
  }

  /** Identifier and sequence number of an ICMP echo message of these types, or -1. */
  #echo(memory: Uint8Array, at: number, length: number, typeV4: number, typeV6: number): number {
    const view = this.#view
    if (!view.at(memory, at, length) || !view.isIcmp || view.isFragment || view.transportLength < 8) return -1
    if (view.icmpType !== (view.protocol === PROTOCOL_ICMPV6 ? typeV6 : typeV4)) return -1
    const id = view.transportOffset + 4
    return (((memory[id] ?? 0) << 24) | ((memory[id + 1] ?? 0) << 16) | ((memory[id + 2] ?? 0) << 8) | (memory[id + 3] ?? 0)) >>> 0
  }

  #show(now: Instant, asked: boolean): void {
    const engine = this.#engine
    if (engine === undefined) return
    this.#stirred = false
    this.#doors.post({ type: 'view', engine: this.#number, asked, view: toPortable(viewOf(now, engine, asked)) })
  }
}

/** What an engine shows now; `all`: also why the path of each peer is what it is, and what was denied, at a cost. */
export function viewOf(now: Instant, engine: Engine, all: boolean): EngineView {
  const peers = new Map<string, EnginePeer>()
  const explanations = new Map<string, PathExplanation>()
  for (const key of engine.peerKeys()) {
    const known = engine.peer(now, key)
    if (known !== undefined) peers.set(key.text, known)
    const told = all ? engine.explain(now, key) : undefined
    if (told !== undefined) explanations.set(key.text, told)
  }
  const regions = engine.relays.regions()
  return {
    at: now,
    traffic: engine.traffic(),
    drops: engine.drops(now),
    watch: engine.watch(now),
    denied: all ? engine.denied() : [],
    peers,
    explanations,
    homeRelay: engine.homeRelay,
    connectedRelays: regions.filter((region) => engine.isRelayConnected(region)),
    relayProblems: new Map(regions.flatMap((region) => {
      const problem = engine.relayProblem(region)
      return problem === undefined ? [] : [[region, problem] as const]
    })),
    isActive: engine.isActive(now),
  }
}
