import { type Instant, Outbox, type RelayMap } from '@meshwright/core'
import type { DiscoPublicKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint, Ip } from '@meshwright/ip'
import { capsOf, NO_WAY_COUNTS, type WayCount, type WayCounts } from '@meshwright/mesh'
import type { AppliedMap, DeniedPacket, EngineInput, EngineOptions, EngineOutput, EnginePeer, EngineTraffic, EngineWatch, NodeEngine } from '@meshwright/mesh'
import type { PathExplanation } from '@meshwright/nat-traversal'
import { PacketFilter } from '@meshwright/packet-filter'
import { KeptCounters } from '../dataplane/kept-counters.ts'
import type { EngineCommand, EngineView, FromEngine, ToEngine } from './engine-messages.ts'
import { fromPortable, toPortable } from './portable-values.ts'

const NO_TRAFFIC: EngineTraffic = { packetsIn: 0, packetsOut: 0, received: NO_WAY_COUNTS, sent: NO_WAY_COUNTS, relayIn: 0, relayOut: 0 }
const NOTHING_SEEN: EngineWatch = { lies: [], flooded: false, held: {} }
const PEER = 'peer '
/** Room for the numbers of an engine's relay links: of all threads that it may have, and of what one of them can have under way. */
const LINKS_PER_ENGINE = 1_000_000
const LINKS_AT_ONCE = 1_000

/**
 * An engine that works in another thread, as its node sees it: commands are posted, what it owes comes by {@link RemoteEngine.receive}, and
 * looks show the last view that it sent. What a packet may do is decided there, by the same code.
 */
export class RemoteEngine implements NodeEngine {
  readonly privateKey: NodePrivateKey
  /** Tells this engine from the ones before it. */
  readonly number: number
  readonly #post: (message: ToEngine, given?: readonly ArrayBuffer[]) => void
  readonly #options: EngineOptions
  readonly #outbox: Outbox<EngineOutput> = new Outbox()
  /** The same rules once more, for questions about them. */
  readonly #filter: PacketFilter = new PacketFilter()
  #view: EngineView | undefined
  /** What threads that died had moved, as far as they have told. */
  #traffic: EngineTraffic = NO_TRAFFIC
  readonly #kept: KeptCounters = new KeptCounters()
  // What a new thread must be told when this one has died.
  #applied: AppliedMap | undefined
  #shieldsUp = false
  #relayMap: RelayMap | undefined
  #home = 0
  #selfEndpoints: readonly Endpoint[] = []
  #udpBlocked: boolean
  /** Its connections with relays, which another thread has: by their numbers, none of which comes again. */
  readonly #links: Set<number> = new Set()
  #lastLink: number
  #isLost = false

  constructor(number: number, options: EngineOptions, post: (message: ToEngine, given?: readonly ArrayBuffer[]) => void) {
    this.number = number
    this.privateKey = options.privateKey
    this.#options = options
    this.#udpBlocked = options.blockUdp
    this.#post = post
    this.#lastLink = number * LINKS_PER_ENGINE
    this.#make()
  }

  /** The thread is no more: its connections with relays end, and nothing is heard of it until {@link RemoteEngine.revive}. What was counted stays. */
  lost(): void {
    if (this.#isLost) return
    this.#isLost = true
    for (const link of this.#links) this.#outbox.push({ type: 'relayClose', link })
    this.#links.clear()
    this.#outbox.push({ type: 'changed' })
    if (this.#view === undefined) return
    const peers = new Map(Array.from(this.#view.peers, ([key, peer]) => [key, { ...peer, path: { type: 'none' } as const }]))
    this.#view = { ...this.#view, peers, explanations: new Map(), connectedRelays: [], relayProblems: new Map() }
  }

  /** Makes the engine anew in a thread that knows nothing: sessions are begun again, everything else is as it was, and counters go on. */
  revive(): void {
    this.lost()
    this.#isLost = false
    this.#lastLink += LINKS_AT_ONCE // whatever was under way
    this.#traffic = this.traffic()
    this.#kept.restart()
    this.#view = undefined
    this.#make()
    this.#outbox.push({ type: 'changed' })
    this.#command({ do: 'setShieldsUp', up: this.#shieldsUp })
    if (this.#relayMap !== undefined) this.#command({ do: 'setRelayMap', map: this.#relayMap })
    if (this.#home !== 0) this.#command({ do: 'setHome', region: this.#home })
    this.#command({ do: 'setSelfEndpoints', endpoints: this.#selfEndpoints })
    if (this.#applied !== undefined) this.#command({ do: 'apply', applied: this.#applied })
  }

  /** Takes what the thread posts; a message about another engine is passed over. Its node owes the outputs from then on. */
  receive(message: Extract<FromEngine, { readonly engine: number }>): void {
    if (message.engine !== this.number || this.#isLost) return
    if (message.type === 'view') {
      const view = fromPortable(message.view)
      // A view that nobody asked for leaves out what is costly.
      this.#view = message.asked || this.#view === undefined ? view : { ...view, denied: this.#view.denied, explanations: new Map([...this.#view.explanations, ...view.explanations]) }
    } else for (const output of fromPortable(message.outputs)) this.#note(output)
  }

  apply(_now: Instant, applied: AppliedMap): void {
    this.#applied = applied
    const present = new Set(applied.plane.peers.map((peer) => PEER + peer.text))
    this.#kept.forget((name) => name.startsWith(PEER) && !present.has(name.slice(0, name.indexOf(' ', PEER.length))))
    this.#filter.replace(applied.plane.rules, applied.plane.local, capsOf(applied.plane.capabilities))
    this.#command({ do: 'apply', applied })
  }

  setShieldsUp(up: boolean): void {
    this.#shieldsUp = up
    this.#filter.setShieldsUp(up)
    this.#command({ do: 'setShieldsUp', up })
  }

  setRelayMap(_now: Instant, map: RelayMap): void {
    this.#relayMap = map
    this.#command({ do: 'setRelayMap', map })
  }

  setHome(_now: Instant, region: number): void {
    this.#home = region
    this.#command({ do: 'setHome', region })
  }

  setSelfEndpoints(_now: Instant, endpoints: readonly Endpoint[]): void {
    this.#selfEndpoints = endpoints
    this.#command({ do: 'setSelfEndpoints', endpoints })
  }

  setUdpBlocked(_now: Instant, blocked: boolean): void {
    this.#udpBlocked = blocked
    this.#command({ do: 'setUdpBlocked', blocked })
  }

  rebind(_now: Instant): void {
    this.#command({ do: 'rebind' })
  }

  ping(_now: Instant, peer: NodePublicKey, id: number, sizeBytes?: number): void {
    this.#command({ do: 'ping', peer, id, ...(sizeBytes !== undefined && { sizeBytes }) })
  }

  sendTo(_now: Instant, peer: NodePublicKey, packet: Uint8Array): void {
    this.#command({ do: 'sendTo', peer, packet })
  }

  setPeerDiscoKey(_now: Instant, peer: NodePublicKey, key: DiscoPublicKey): void {
    this.#command({ do: 'setPeerDiscoKey', peer, key })
  }

  close(_now: Instant): void {
    this.#post({ type: 'close', engine: this.number })
  }

  /** Asks for a fresh view: the next `view` message answers. */
  look(): void {
    this.#post({ type: 'look', engine: this.number })
  }

  traffic(): EngineTraffic {
    return this.#view === undefined ? this.#traffic : plus(this.#traffic, this.#view.traffic)
  }

  drops(_now: Instant): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#kept.showMap('drops', new Map(Object.entries(this.#view?.drops ?? {}))))
  }

  watch(_now: Instant): EngineWatch {
    return this.#view?.watch ?? NOTHING_SEEN
  }

  denied(): readonly DeniedPacket[] {
    return this.#view?.denied ?? []
  }

  peer(_now: Instant, key: NodePublicKey): EnginePeer | undefined {
    const known = this.#view?.peers.get(key.text)
    return known && { ...known, ...this.#kept.showAll(PEER + key.text, { receivedBytes: known.receivedBytes, sentBytes: known.sentBytes }) }
  }

  explain(_now: Instant, peer: NodePublicKey): PathExplanation | undefined {
    return this.#view?.explanations.get(peer.text)
  }

  capsFor(source: Ip, destination: Ip): ReturnType<PacketFilter['capsFor']> {
    return this.#filter.capsFor(source, destination)
  }

  get homeRelay(): number {
    return this.#home
  }

  isRelayConnected(region: number): boolean {
    return this.#view?.connectedRelays.includes(region) === true
  }

  relayProblem(region: number): string | undefined {
    return this.#view?.relayProblems.get(region)
  }

  isActive(_now: Instant): boolean {
    return this.#view?.isActive === true
  }

  handleInput(_now: Instant, input: EngineInput): void {
    if (input.type === 'relay' && input.input.type === 'closed') this.#links.delete(input.input.link)
    // What a connection brought is nobody's any more.
    const given: ArrayBuffer[] | undefined = input.type === 'relay' && input.input.type === 'bytes' ? [] : undefined
    this.#post({ type: 'command', engine: this.number, command: toPortable<EngineCommand>({ do: 'input', input }, given) }, given)
  }

  handleTimeout(_now: Instant): void {
    // Its time passes in its own thread.
  }

  pollOutput(): EngineOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return undefined
  }

  #note(output: EngineOutput): void {
    if (output.type === 'relayDial') {
      this.#links.add(output.link)
      this.#lastLink = Math.max(this.#lastLink, output.link)
    } else if (output.type === 'relayClose') this.#links.delete(output.link)
    this.#outbox.push(output)
  }

  #make(): void {
    const { privateKey, discoKey, mtu, allowLoopback } = this.#options
    const seed = { privateKey, discoKey, mtu, allowLoopback, blockUdp: this.#udpBlocked, firstLink: this.#lastLink }
    this.#post({ type: 'make', engine: this.number, seed: toPortable(seed) })
  }

  #command(command: EngineCommand): void {
    this.#post({ type: 'command', engine: this.number, command: toPortable(command) })
  }
}

function plus(a: EngineTraffic, b: EngineTraffic): EngineTraffic {
  return {
    packetsIn: a.packetsIn + b.packetsIn, packetsOut: a.packetsOut + b.packetsOut, received: bothWays(a.received, b.received), sent: bothWays(a.sent, b.sent),
    relayIn: a.relayIn + b.relayIn, relayOut: a.relayOut + b.relayOut,
  }
}

function bothWays(a: WayCounts, b: WayCounts): WayCounts {
  const both = (one: WayCount, other: WayCount): WayCount => ({ datagrams: one.datagrams + other.datagrams, bytes: one.bytes + other.bytes })
  return { relay: both(a.relay, b.relay), ipv4: both(a.ipv4, b.ipv4), ipv6: both(a.ipv6, b.ipv6) }
}
