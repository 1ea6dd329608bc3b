import { ControlClient, type ControlClientOutput, type LoginHow, type NetworkMap } from '@meshwright/control-client'
import { assertNever, earlier, type Instant, type Machine, Outbox } from '@meshwright/core'
import { DiscoPrivateKey } from '@meshwright/crypto'
import type { Ip } from '@meshwright/ip'
import { Netstack } from '@meshwright/netstack'
import { offeredAddresses } from './apply-network-map.ts'
import { drain } from './drain.ts'
import { Engine } from './engine.ts'
import { engineOptions, mtuOf } from './engine-options.ts'
import { healthLines, relayProblemLine } from './health.ts'
import { hostFacts } from './host-facts.ts'
import { HomeRelay, type HomeRelayOutput } from './home-relay.ts'
import { InnerPackets } from './inner-packets.ts'
import { MapInForce } from './map-in-force.ts'
import { NodeNames } from './node-names.ts'
import type { EngineOutput, NodeEngine } from './node-engine.ts'
import type { MeshInput, MeshNodeConfig, MeshOutput } from './node-io.ts'
import { nextState, type ReadyStep, readyStep, type Standing } from './node-state.ts'
import { buildStatus, nodeWithAddress, whoIs } from './node-status.ts'
import { type PathStory, pathStory } from './path-story.ts'
import { NodePings } from './node-pings.ts'
import { OwnEndpoints } from './own-endpoints.ts'
import { DEFAULT_PREFS, type Prefs } from './prefs.ts'
import type { MeshState, MeshStatus, PingKind, WhoIs } from './status.ts'

/**
 * A whole mesh node: control client, packet paths, relays, TCP/IP stack and names as one machine.
 *
 * | state | on | next |
 * |---|---|---|
 * | no-state | `start` without wish to run | stopped, or needs-login without a key |
 * | no-state, stopped, needs-login | `up` | starting (or needs-login until a person has opened the URL) |
 * | starting | a network map, and a relay or no relay to be had | running |
 * | starting, running | the server holds the machine back | needs-machine-auth |
 * | running | key expired, `logout` | needs-login |
 * | any | `down` | stopped |
 *
 * Memory: a few hundred kilobytes, some kilobytes for each peer, and the bounded buffers of open flows.
 */
export class MeshNode implements Machine<MeshInput, MeshOutput> {
  readonly #config: MeshNodeConfig
  readonly #outbox: Outbox<MeshOutput> = new Outbox()
  readonly #control: ControlClient
  readonly #stack: Netstack
  readonly #discoKey: DiscoPrivateKey
  readonly #pings: NodePings
  readonly #names: NodeNames
  readonly #home: HomeRelay
  readonly #endpoints: OwnEndpoints
  /** The fast lane: see {@link InnerPackets.receive} and {@link InnerPackets.nextRow}. */
  readonly packets: InnerPackets
  #engine: NodeEngine | undefined
  #prefs: Prefs
  #state: MeshState = 'no-state'
  #lastLink = 0
  #authUrl: string | undefined
  #lastError: string | undefined
  #udpBlocked: boolean
  readonly #inForce: MapInForce

  constructor(now: Instant, config: MeshNodeConfig) {
    this.#config = config
    this.#prefs = config.prefs ?? DEFAULT_PREFS
    this.#udpBlocked = config.blockUdp === true
    this.#discoKey = DiscoPrivateKey.generate(config.random)
    this.#pings = new NodePings(config.random, () => ({ map: this.map, engine: this.#engine, state: this.#state }))
    this.#names = new NodeNames({ random: config.random, wallClock: config.wallClock })
    this.#home = new HomeRelay({ random: config.random, isActive: (at) => this.#engine?.isActive(at) ?? false })
    this.#endpoints = new OwnEndpoints(config.allowLoopback === true)
    this.#stack = new Netstack(config.random, { mtu: mtuOf(config), offerUnclaimed: true, promiscuous: true })
    this.#inForce = new MapInForce({ wallClock: config.wallClock, allowLoopback: config.allowLoopback === true, names: this.#names, home: this.#home, stack: this.#stack })
    const up = (at: Instant, bytes: Uint8Array): void => (config.tun === true ? this.#outbox.push({ type: 'deliver', bytes }) : this.#stack.receive(at, bytes))
    this.packets = new InnerPackets({ names: this.#names, pings: this.#pings, rows: config.rows === true, engine: () => this.#engine, up, back: (at, bytes) => this.#stack.receive(at, bytes, true), recycle: () => this.#stack.recycle(), settle: (at) => this.#settle(at) })
    this.#control = new ControlClient({
      random: config.random,
      wallClock: config.wallClock,
      hostinfo: hostFacts(this.#config, this.#prefs),
      ...(config.state === undefined ? {} : { state: config.state }), ...(config.lastMap && { lastMap: config.lastMap }),
    })
    this.#control.setDiscoKey(now, this.#discoKey.publicKey())
    this.#ensureEngine(now)
    this.#settle(now)
  }

  /** The keys of the Noise channel with the control server. */
  get controlIdentity(): ControlClient['machineKey'] {
    return this.#control.machineKey
  }

  get prefs(): Prefs {
    return this.#prefs
  }

  get state(): MeshState {
    return this.#state
  }
  /** The network map in force. */
  get map(): NetworkMap | undefined {
    return this.#inForce.map
  }

  /** Whether the control server has confirmed the map in this run: false while it is the one of an earlier run. */
  get isMapFresh(): boolean {
    return this.#control.isMapFresh
  }

  /** What keeps peers from knowing this node as it is now; `undefined`: nothing, they do or are about to hear. */
  get waitsFor(): ReadyStep | undefined {
    return readyStep({ ...this.#standing(), isMapFresh: this.isMapFresh, isTold: this.#control.isTold, hasEndpoint: this.#endpoints.hasAny })
  }

  /** Begins as the preferences say: takes part, or stays stopped. */
  start(now: Instant, how: LoginHow = {}): void {
    if (this.#prefs.wantRunning) this.up(now, how)
    this.#settle(now)
  }

  /** Takes part in the mesh, logging in where that is needed. */
  up(now: Instant, how: LoginHow = {}): void {
    this.#prefs = { ...this.#prefs, wantRunning: true }
    this.#lastError = undefined
    this.#authUrl = undefined
    this.#control.setHostinfo(now, hostFacts(this.#config, this.#prefs))
    this.#control.login(now, { ...how, ...(this.#config.ephemeral === true ? { ephemeral: true } : {}) })
    this.#settle(now)
  }

  /** Takes no part any more: no traffic, no poll. Still known to the control server. */
  down(now: Instant): void {
    this.#prefs = { ...this.#prefs, wantRunning: false }
    this.#control.stop()
    this.#authUrl = undefined
    this.#cut(now)
    this.#settle(now)
  }

  /** Expires the node key at the server and forgets it: `loggedOut` follows. */
  logout(now: Instant): void {
    this.#prefs = { ...this.#prefs, wantRunning: false }
    this.#cut(now)
    this.#control.logout(now)
    this.#settle(now)
  }

  /** Changes preferences; the packet paths follow at once, the control server is told. */
  setPrefs(now: Instant, change: Partial<Prefs>): void {
    const wanted = this.#prefs.wantRunning
    this.#prefs = { ...this.#prefs, ...change }
    this.#control.setHostinfo(now, hostFacts(this.#config, this.#prefs))
    this.#engine?.setShieldsUp(this.#prefs.shieldsUp)
    this.#applyAgain(now)
    if (change.wantRunning === true && !wanted) this.up(now)
    if (change.wantRunning === false && wanted) this.down(now)
    this.#settle(now)
  }

  /** Blocks or frees UDP. */
  setUdpBlocked(now: Instant, blocked: boolean): void {
    this.#udpBlocked = blocked
    this.#engine?.setUdpBlocked(now, blocked)
    this.#home.setUdp(now, !blocked)
    this.#tellEndpoints(now)
    this.#settle(now)
  }

  /** The port of the PeerAPI, 0 for none: told in TSMP pongs. */
  setPeerApiPort(port: number): void {
    this.packets.peerApiPort = port
  }

  /** Calls methods of the node's own TCP/IP stack; what they cause is owed as `flow` outputs and packets. */
  withStack<Result>(now: Instant, use: (stack: Netstack) => Result): Result {
    const result = use(this.#stack)
    this.#settle(now)
    return result
  }

  /** Pings a mesh address: `pinged` with this id follows, always. `sizeBytes` is the length of the datagrams, of disco pings alone. */
  ping(now: Instant, id: number, ip: Ip, kind: PingKind, timeoutMs?: number, sizeBytes?: number): void {
    this.#pings.start(now, id, ip, kind, timeoutMs, sizeBytes)
    this.#settle(now)
  }

  /** Addresses of a name of the mesh, full or short; empty when it is none. */
  resolve(name: string): readonly Ip[] {
    return this.#names.addresses(name)
  }

  /** Whether an address is in a route that this node offers and that is approved. */
  isBehind(ip: Ip): boolean {
    return this.map !== undefined && offeredAddresses(this.map.self, this.#prefs).contains(ip)
  }

  /** Who stands behind an address, and what the policy grants them here. */
  whois(ip: Ip): WhoIs | undefined {
    return this.map && whoIs(this.map, this.#prefs, this.#engine, ip)
  }

  /** Everything about the node at this moment. Changes nothing. */
  status(now: Instant): MeshStatus {
    return buildStatus(now, {
      state: this.#state,
      authUrl: this.#authUrl,
      lastError: this.#lastError,
      controlUrl: this.#config.controlUrl,
      nodeKey: this.#control.nodeKey?.publicKey(),
      map: this.map,
      prefs: this.#prefs,
      engine: this.#engine,
      homeRegion: this.#home.region,
      udpBlocked: this.#udpBlocked,
      warnings: healthLines({ map: this.map, warnings: this.#inForce.warnings, lastError: this.#lastError, namesProblem: this.#names.problem, namesWarnings: this.#names.warnings, relayProblem: this.#relayProblem(), watch: this.#engine?.watch(now), expired: this.#inForce.expired }),
      rooms: { names: this.#names, stack: this.#stack, control: this.#control },
    })
  }

  /** The story of the path to a peer; `undefined` when the address is no peer's. */
  pathStory(now: Instant, ip: Ip): PathStory | undefined {
    const { map } = this
    const peer = map && nodeWithAddress(map, ip)
    const told = peer && this.#engine?.explain(now, peer.nodeKey)
    return map && peer && told && pathStory(now, told, peer, map.relays)
  }

  handleInput(now: Instant, input: MeshInput): void {
    switch (input.type) {
      case 'datagram':
      case 'relay':
        this.#engine?.handleInput(now, input)
        break
      case 'control':
        this.#control.handleInput(now, input.input)
        break
      case 'packet':
        this.packets.fromHere(now, input.bytes)
        break
      case 'localEndpoints':
        this.#endpoints.setLocal(input.endpoints)
        this.#tellEndpoints(now)
        // What could not be reached may be reached from there; connections that work are left alone.
        this.#home.endpointsWanted(now)
        this.#control.networkChanged(now)
        break
      case 'engineStirred':
        break // what it owes is taken below
      case 'linkChanged':
        this.#engine?.rebind(now)
        this.#home.restart(now)
        this.#control.reconnect(now)
        break
      case 'dnsAnswer':
        if (input.bytes === undefined) this.#names.failed(now, input.token, input.upstream, input.transport)
        else this.#names.answered(now, input.token, input.upstream, input.bytes, input.transport)
        break
      case 'relayResolved':
        this.#home.resolved(now, input.hostName, input.ips)
        break
      case 'relayMeasured':
        this.#home.relayMeasured(now, input.region, input.latencyMs)
        break
      default:
        assertNever(input)
    }
    this.#settle(now)
  }

  handleTimeout(now: Instant): void {
    this.#control.handleTimeout(now)
    this.#engine?.handleTimeout(now)
    this.#stack.handleTimeout(now)
    this.#home.handleTimeout(now)
    this.#names.handleTimeout(now)
    this.#pings.handleTimeout(now)
    if (this.#inForce.due !== undefined && now >= this.#inForce.due) this.#applyAgain(now)
    this.#settle(now)
  }

  pollOutput(): MeshOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return [this.#engine?.pollTimeout(), this.#stack.pollTimeout(), this.#home.pollTimeout(), this.#names.pollTimeout(), this.#pings.pollTimeout(), this.#inForce.due].reduce(
      earlier,
      this.#control.pollTimeout(),
    )
  }

  #ensureEngine(now: Instant): void {
    const key = this.#control.nodeKey
    if (key !== undefined && this.#engine?.privateKey.equals(key) === true) return
    this.#closeEngine(now)
    if (key === undefined) return
    const options = engineOptions(this.#config, { privateKey: key, discoKey: this.#discoKey, blockUdp: this.#udpBlocked, nextLink: () => (this.#lastLink += 1) })
    this.#engine = this.#config.makeEngine?.(options) ?? new Engine(options)
    this.#engine.setShieldsUp(this.#prefs.shieldsUp)
    // After a new login the network has not changed: what is known of it holds for the new key as well.
    if (this.map !== undefined) this.#engine.setRelayMap(now, this.map.relays)
    if (this.#home.region !== 0) this.#engine.setHome(now, this.#home.region)
    this.#tellEndpoints(now)
    if (this.#prefs.wantRunning) this.#applyAgain(now)
  }

  #closeEngine(now: Instant): void {
    this.#engine?.close(now)
    this.#drainEngine(now)
    this.#engine = undefined
    this.#pings.engineGone()
  }

  // Rights go at once: nobody is a peer any more.
  #cut(now: Instant): void {
    this.#inForce.forget()
    this.#closeEngine(now)
  }

  #apply(now: Instant, map: NetworkMap): void {
    this.#ensureEngine(now)
    if (this.#engine !== undefined) this.#inForce.apply(now, this.#engine, map, this.#prefs)
  }

  #applyAgain(now: Instant): void {
    if (this.map !== undefined && !this.#inForce.expired) this.#apply(now, this.map)
  }

  #tellEndpoints(now: Instant): void {
    const { all, changed } = this.#endpoints.collect(this.#udpBlocked)
    if (changed) this.#control.setEndpoints(now, all)
    this.#engine?.setSelfEndpoints(now, all.map(({ endpoint }) => endpoint))
  }

  // Children may owe something to one another; until all are quiet.
  #settle(now: Instant): void {
    for (let busy = true; busy; ) {
      busy = drain(this.#control, (output) => this.#fromControl(now, output))
      if (this.#drainEngine(now)) busy = true
      if (drain(this.#stack, (output) => (output.type === 'packet' ? this.packets.fromHere(now, output.bytes) : this.#outbox.push({ type: 'flow', output })))) busy = true
      if (drain(this.#names, (output) => (output.type === 'reply' ? this.packets.toHere(now, output.bytes) : this.#outbox.push(output)))) busy = true
      if (drain(this.#pings, (output) => this.#outbox.push(output))) busy = true
      if (drain(this.#home, (output) => this.#fromHome(now, output))) busy = true
    }
    this.#decide()
  }

  #fromHome(now: Instant, output: HomeRelayOutput): void {
    if (output.type === 'stun') {
      if (!this.#udpBlocked) this.#outbox.push({ type: 'datagram', bytes: output.bytes, to: output.to })
    } else if (output.type === 'found') {
      this.#endpoints.setMapped(output.mapped)
      if (output.netInfo.PreferredDERP !== undefined) this.#control.setNetInfo(now, output.netInfo)
      this.#engine?.setHome(now, output.region)
      this.#tellEndpoints(now)
    } else this.#outbox.push(output)
  }

  #drainEngine(now: Instant): boolean {
    return drain(this.#engine, (output) => this.#fromEngine(now, output))
  }

  #fromEngine(now: Instant, output: EngineOutput): void {
    switch (output.type) {
      case 'datagram':
      case 'relayDial':
      case 'relayWrite':
      case 'relayClose':
      case 'changed':
        this.#outbox.push(output)
        return
      case 'stun':
        this.#home.answered(now, output.bytes, output.from)
        return
      case 'deliver':
        return this.packets.toHere(now, output.bytes)
      case 'tsmp':
        return this.packets.tsmp(now, output.bytes, output.peer)
      case 'endpointsWanted':
        this.#home.endpointsWanted(now)
        this.#tellEndpoints(now)
        return
      case 'relayConnected':
        return this.#changed('info', `relay region ${output.region} is connected`)
      case 'relayDisconnected':
        return this.#changed('info', `relay region ${output.region} is lost: ${output.reason}`)
      case 'pinged':
      case 'pingFailed':
        return this.#pings.discoEnded(output)
      default:
        assertNever(output)
    }
  }

  #fromControl(now: Instant, output: ControlClientOutput): void {
    switch (output.type) {
      case 'request':
      case 'cancel':
        this.#outbox.push({ type: 'control', output })
        return
      case 'openUrl':
        this.#authUrl = output.url
        this.#outbox.push(output)
        return
      case 'saveState':
        this.#outbox.push(output)
        this.#ensureEngine(now)
        return
      case 'loginFinished':
        this.#authUrl = undefined
        this.#lastError = undefined
        this.#inForce.renew()
        return
      case 'netmap':
        if (!this.#prefs.wantRunning) return
        if (output.map.self.machineAuthorized && !this.#inForce.expired) this.#apply(now, output.map)
        else this.#inForce.remember(output.map)
        this.#outbox.push({ type: 'changed' })
        return
      case 'keyExpired':
        return this.#inForce.expire(now, this.#engine)
      case 'keyRenewed':
        this.#inForce.renew()
        return this.#applyAgain(now)
      case 'loggedOut':
        this.#cut(now)
        this.#outbox.push({ type: 'loggedOut' })
        return
      case 'polling':
        if (output.up) this.#polls(now)
        this.#outbox.push({ type: 'changed' })
        return
      case 'told':
        this.#outbox.push({ type: 'changed' })
        return
      case 'problem':
        this.#lastError = output.message
        return this.#changed('warn', output.message)
      case 'ping':
        return // control pings other than the plain HEAD, which the client answers itself
      default:
        assertNever(output)
    }
  }

  // The client tells of maps that differ from the last: after `down` and `up` the same one comes again, and nothing is told.
  #polls(now: Instant): void {
    this.#lastError = undefined
    const map = this.map === undefined ? this.#control.status().map : undefined
    if (map !== undefined) this.#fromControl(now, { type: 'netmap', map })
  }

  #changed(level: 'info' | 'warn', line: string): void {
    this.#outbox.push({ type: 'log', level, line })
    this.#outbox.push({ type: 'changed' })
  }

  #relayProblem(): string | undefined {
    return (this.#state === 'running' || this.#state === 'starting') && this.#engine !== undefined ? relayProblemLine(this.#engine, this.#home.region, this.map) : undefined
  }

  #standing(): Standing {
    return {
      control: this.#control.status().state,
      nodeKey: this.#control.nodeKey?.publicKey(),
      wantRunning: this.#prefs.wantRunning,
      expired: this.#inForce.expired,
      map: this.map,
      home: this.#home.region,
      homeConnected: this.#engine?.isRelayConnected(this.#home.region) === true,
    }
  }

  #decide(): void {
    const next = nextState(this.#state, this.#standing())
    if (next === this.#state) return
    this.#state = next
    this.#outbox.push({ type: 'state', state: next })
  }
}
