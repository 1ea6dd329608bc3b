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
/** So many messages may wait for the node's thread before nothing more is posted that others can cause at will. */
const MAX_UNTAKEN = 64
/** And so many of those may be in one message. */
const MAX_TOLD_AT_ONCE = 64
/** What changes is shown while fewer messages than this wait, else when they are taken. */
const MAX_UNTAKEN_VIEWS = 16

/** What an engine has around it in its thread. */
export interface EngineHostDoors {
  readonly random: RandomSource
  readonly wallClock: () => number
  readonly stopwatch: () => number
  readonly provider: CryptoProvider
  /** To the node's thread, with the memory that is given away by it. */
  readonly post: (message: FromEngine, given?: readonly ArrayBuffer[]) => void
  /** How many messages the node's thread has not taken yet. Absent: it takes each at once. */
  readonly untaken?: () => number
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
  /** And the node has not been told that there is something to see. */
  #owesChanged = false
  /** What was not told since the node's thread had too much to take. */
  #untold = 0
  #toldNow = 0

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
    this.#toldNow = 0
    if (engine === undefined) return
    // A lane has sealed and opened past the engine: handshakes begin and are answered now, not when a timer next has something to do.
    engine.settle(now)
    let owed: EngineOutput[] | undefined = this.#told.length === 0 ? undefined : this.#told.splice(0)
    for (let output = engine.pollOutput(); output !== undefined; output = engine.pollOutput()) {
      if (output.type === 'datagram') this.#doors.send(output.bytes, output.to)
      else if (output.type === 'deliver' && !this.isForNode(output.bytes, 0, output.bytes.length)) this.#doors.deliver(output.bytes)
      else if (!isAtWill(output) || this.mayTell()) (owed ??= []).push(output)
    }
    if (owed === undefined) return
    this.#stirred ||= owed.some(({ type }) => type === 'changed' || type === 'relayConnected' || type === 'relayDisconnected')
    // Before what makes the node look: not while it does not come to it.
    if (this.#stirred && this.#untaken < MAX_UNTAKEN_VIEWS) this.#show(now, false)
    else if (this.#stirred) {
      const told = owed.filter(({ type }) => type !== 'changed')
      this.#owesChanged ||= told.length < owed.length
      owed = told
    }
    if (owed.length === 0) return
    // What a machine owes belongs to whoever takes it.
    const given: ArrayBuffer[] = []
    this.#doors.post({ type: 'outputs', engine: this.#number, outputs: toPortable(owed, given) }, given)
  }

  /** Whether an inner packet answers an echo request that the node itself has sent. */
  isForNode(memory: Uint8Array, at: number, length: number): boolean {
    return this.#echoes.size > 0 && this.#echoes.has(this.#echo(memory, at, length, ECHO_REPLY_V4, ECHO_REPLY_V6))
  }

  /** Owes the node an output that others can cause at will. */
  tell(output: EngineOutput): void {
    if (this.mayTell()) this.#told.push(output)
  }

  /**
   * Whether the node's thread may be told one more thing that others can cause at will: strangers by datagrams that look like STUN, peers by
   * messages inside the tunnel, programs of this computer by questions for names. What it may not is counted as `node-busy`.
   */
  mayTell(): boolean {
    const may = this.#toldNow < MAX_TOLD_AT_ONCE && this.#untaken < MAX_UNTAKEN
    if (may) this.#toldNow += 1
    else this.#untold += 1
    return may
  }

  /** Shows what has changed: for a look now and then. */
  showChanges(now: Instant): void {
    if (this.#engine !== undefined) this.#show(now, false)
  }

  /** Shows what could not be shown when it changed, once the node's thread has taken what was before it. */
  showLater(now: Instant): void {
    // A view may have been shown for another reason since then: that there was a change is told all the same.
    if (!(this.#stirred || this.#owesChanged) || this.#engine === undefined || this.#untaken >= MAX_UNTAKEN_VIEWS) return
    this.#owesChanged = false
    this.#show(now, false)
    this.#doors.post({ type: 'outputs', engine: this.#number, outputs: toPortable<readonly EngineOutput[]>([{ type: 'changed' }]) })
  }

  get #untaken(): number {
    return this.#doors.untaken?.() ?? 0
  }

  #make(now: Instant, number: number, seed: EngineSeed): void {
    this.#end(now)
    const { random, wallClock, stopwatch, provider } = this.#doors
    let link = seed.firstLink
    this.#number = number
    this.#engine = new Engine({ ...seed, random, wallClock, stopwatch, provider, nextLink: () => (link += 1), relayedRows: true })
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
    this.#doors.post({ type: 'view', engine: this.#number, asked, view: toPortable(viewOf(now, engine, asked, this.#untold)) })
  }
}

/** Outputs that come as often as somebody else wants them to. */
function isAtWill({ type }: EngineOutput): boolean {
  return type === 'stun' || type === 'tsmp' || type === 'deliver'
}

/** What an engine shows now; `all`: also why the path of each peer is what it is, and what was denied, at a cost. @param untold what its node was not told */
export function viewOf(now: Instant, engine: Engine, all: boolean, untold: number = 0): EngineView {
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
    drops: { ...engine.drops(now), ...(untold > 0 && { 'node-busy': untold }) },
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
