import { ControlClient, type ControlClientOutput, type LoginHow, type MapNode, type NetworkMap } from '@meshwright/control-client'
import { ENDPOINT_LOCAL, ENDPOINT_STUN, type Hostinfo } from '@meshwright/control-protocol'
import { after, assertNever, earlier, type Instant, type Machine, Outbox } from '@meshwright/core'
import { DiscoPrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, equalEndpoints, formatPrefix, type Ip, IpSet, isLoopback, PacketView } from '@meshwright/ip'
import { Netstack } from '@meshwright/netstack'
import { applyNetworkMap } from './apply-network-map.ts'
import { Engine, type EngineOutput } from './engine.ts'
import { HomeRelay } from './home-relay.ts'
import { NodeNames } from './node-names.ts'
import type { MeshInput, MeshNodeConfig, MeshOutput } from './node-io.ts'
import { buildStatus, nodeWithAddress, peerStatus, selfStatus, userStatus } from './node-status.ts'
import { tellPath } from './path-story.ts'
import { type EndedPing, TunnelPings } from './pings.ts'
import { DEFAULT_PREFS, type Prefs } from './prefs.ts'
import type { MeshState, MeshStatus, PingKind, PingResult, WhoIs } from './status.ts'
import { decodeTsmp, encodeTsmpPong } from './tsmp.ts'

const DEFAULT_MTU = 1280
/** Peers' keys expire by the wall clock, which people set: it is looked at again at least this often. */
const MAX_EXPIRY_WAIT_MS = 60_000

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
  readonly #pings: TunnelPings
  readonly #names: NodeNames
  readonly #home: HomeRelay
  readonly #view: PacketView = new PacketView()
  readonly #discoPings: Map<number, { readonly ip: Ip; readonly peer: MapNode }> = new Map()
  #engine: Engine | undefined
  #prefs: Prefs
  #map: NetworkMap | undefined
  #warnings: readonly string[] = []
  #state: MeshState = 'no-state'
  #expired = false
  #authUrl: string | undefined
  #lastError: string | undefined
  #udpBlocked: boolean
  #localEndpoints: readonly Endpoint[] = []
  #mappedEndpoints: readonly Endpoint[] = []
  #peerApiPort = 0
  #reapplyAt: Instant | undefined

  constructor(now: Instant, config: MeshNodeConfig) {
    this.#config = config
    this.#prefs = config.prefs ?? DEFAULT_PREFS
    this.#udpBlocked = config.blockUdp === true
    this.#discoKey = DiscoPrivateKey.generate(config.random)
    this.#pings = new TunnelPings(config.random)
    this.#names = new NodeNames()
    this.#home = new HomeRelay({ random: config.random, wallClock: config.wallClock })
    this.#stack = new Netstack(config.random, { mtu: config.mtu ?? DEFAULT_MTU, offerUnclaimed: true })
    this.#control = new ControlClient({
      random: config.random,
      wallClock: config.wallClock,
      hostinfo: this.#hostinfo(),
      ...(config.state === undefined ? {} : { state: config.state }),
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
    return this.#map
  }

  /** Begins as the preferences say: takes part, or stays stopped. */
  start(now: Instant, how: LoginHow = {}): void {
    if (this.#prefs.wantRunning) this.up(now, how)
    else this.#decide(now)
    this.#settle(now)
  }

  /** Takes part in the mesh, logging in where that is needed. */
  up(now: Instant, how: LoginHow = {}): void {
    this.#prefs = { ...this.#prefs, wantRunning: true }
    this.#lastError = undefined
    this.#authUrl = undefined
    this.#control.setHostinfo(now, this.#hostinfo())
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
    this.#control.setHostinfo(now, this.#hostinfo())
    this.#engine?.plane.filter.setShieldsUp(this.#prefs.shieldsUp)
    if (this.#map !== undefined && !this.#expired) this.#apply(now, this.#map)
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
    this.#peerApiPort = port
  }

  /** Calls methods of the node's own TCP/IP stack; what they cause is owed as `flow` outputs and packets. */
  withStack<Result>(now: Instant, use: (stack: Netstack) => Result): Result {
    const result = use(this.#stack)
    this.#settle(now)
    return result
  }

  /** Pings a mesh address: `pinged` with this id follows, always. */
  ping(now: Instant, id: number, ip: Ip, kind: PingKind, timeoutMs?: number): void {
    const peer = this.#map && nodeWithAddress(this.#map, ip)
    const from = this.#map?.self.addresses.find((own) => own.ip.family === ip.family)?.ip
    if (peer === undefined || this.#engine === undefined || from === undefined) {
      this.#pinged(id, ip, peer, { error: this.#state === 'running' ? 'no matching peer' : `this node is not running (${this.#state})` })
    } else if (peer === this.#map?.self) {
      this.#pinged(id, ip, peer, { error: undefined, latencyMs: 0 })
    } else if (kind === 'disco') {
      this.#discoPings.set(id, { ip, peer })
      this.#engine.ping(now, peer.nodeKey, id)
    } else if (kind === 'peerapi') {
      this.#pinged(id, ip, peer, { error: 'peerapi pings are sent over a TCP connection to the peer' })
    } else {
      const packet = this.#pings.start(now, { id, kind, from, to: ip, peer: peer.nodeKey, ...(timeoutMs === undefined ? {} : { timeoutMs }) })
      if (packet === undefined) this.#pinged(id, ip, peer, { error: 'too many pings are under way' })
      else if (kind === 'TSMP') this.#engine.sendTo(now, peer.nodeKey, packet)
      else this.#engine.handleInput(now, { type: 'packet', bytes: packet })
    }
    this.#settle(now)
  }

  /** Addresses of a name of the mesh, full or short; empty when it is none. */
  resolve(name: string): readonly Ip[] {
    return this.#names.addresses(name)
  }

  /** Who stands behind an address, and what the policy grants them here. */
  whois(ip: Ip): WhoIs | undefined {
    const map = this.#map
    const node = map && nodeWithAddress(map, ip)
    if (map === undefined || node === undefined) return undefined
    const own = map.self.addresses.find((each) => each.ip.family === ip.family)?.ip
    const capabilities = own === undefined ? new Map<string, readonly unknown[]>() : (this.#engine?.plane.filter.capsFor(ip, own) ?? new Map())
    const user = node.tags.length > 0 ? undefined : map.users.get(node.userId)
    return { node: node === map.self ? selfStatus(map, this.#prefs) : peerStatus(node, this.#prefs, undefined), user: user && userStatus(user), capabilities }
  }

  /** Everything about the node at this moment. Changes nothing. */
  status(now: Instant): MeshStatus {
    return buildStatus(now, {
      state: this.#state,
      authUrl: this.#authUrl,
      lastError: this.#lastError,
      controlUrl: this.#config.controlUrl,
      nodeKey: this.#control.nodeKey?.publicKey(),
      map: this.#map,
      prefs: this.#prefs,
      engine: this.#engine,
      homeRegion: this.#home.region,
      udpBlocked: this.#udpBlocked,
      warnings: this.#health(),
    })
  }

  /** The story of the path to a peer, as lines for people. */
  explainPath(now: Instant, ip: Ip): readonly string[] {
    const peer = this.#map && nodeWithAddress(this.#map, ip)
    const told = peer && this.#engine?.paths.explain(now, peer.nodeKey)
    return told === undefined ? [`${ip.key} is no peer of this node`] : tellPath(now, told)
  }

  handleInput(now: Instant, input: MeshInput): void {
    switch (input.type) {
      case 'datagram':
        this.#engine?.handleInput(now, input)
        break
      case 'relay':
        this.#engine?.handleInput(now, { type: 'relay', input: input.input })
        break
      case 'control':
        this.#control.handleInput(now, input.input)
        break
      case 'packet':
        this.#fromTun(now, input.bytes)
        break
      case 'localEndpoints':
        this.#localEndpoints = input.endpoints
        this.#tellEndpoints(now)
        break
      case 'linkChanged':
        this.#engine?.rebind(now)
        this.#home.restart(now)
        break
      case 'dnsAnswer':
        this.#names.answered(now, input.id, input.bytes)
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
    for (const ended of this.#pings.expire(now)) this.#tunnelPinged(ended)
    if (this.#reapplyAt !== undefined && now >= this.#reapplyAt && this.#map !== undefined) this.#apply(now, this.#map)
    this.#settle(now)
  }

  pollOutput(): MeshOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return [this.#engine?.pollTimeout(), this.#stack.pollTimeout(), this.#home.pollTimeout(), this.#names.pollTimeout(), this.#pings.pollTimeout(), this.#reapplyAt].reduce(
      earlier,
      this.#control.pollTimeout(),
    )
  }

  #hostinfo(): Hostinfo {
    const { os, osVersion, version } = this.#config
    return {
      IPNVersion: version ?? '1.102.5-meshwright',
      BackendLogID: '0'.repeat(64),
      OS: os ?? 'linux',
      ...(osVersion === undefined ? {} : { OSVersion: osVersion }),
      Hostname: this.#prefs.hostname,
      ...(this.#prefs.shieldsUp ? { ShieldsUp: true } : {}),
      NoLogsNoSupport: true,
      App: 'meshwright',
      Userspace: this.#config.tun !== true,
      UserspaceRouter: this.#config.tun !== true,
      ...(this.#prefs.advertiseRoutes.length === 0 ? {} : { RoutableIPs: this.#prefs.advertiseRoutes.map(formatPrefix) }),
      ...(this.#prefs.advertiseTags.length === 0 ? {} : { RequestTags: this.#prefs.advertiseTags }),
    }
  }

  #ensureEngine(now: Instant): void {
    const key = this.#control.nodeKey
    if (this.#engine?.privateKey !== undefined && key !== undefined && this.#engine.privateKey.equals(key)) return
    this.#engine?.close(now)
    this.#drainEngine(now)
    this.#engine = undefined
    if (key === undefined) return
    this.#engine = new Engine({
      random: this.#config.random,
      wallClock: this.#config.wallClock,
      privateKey: key,
      discoKey: this.#discoKey,
      mtu: this.#config.mtu ?? DEFAULT_MTU,
      allowLoopback: this.#config.allowLoopback === true,
      blockUdp: this.#udpBlocked,
      ...(this.#config.provider === undefined ? {} : { provider: this.#config.provider }),
    })
    this.#engine.plane.filter.setShieldsUp(this.#prefs.shieldsUp)
    this.#tellEndpoints(now)
    if (this.#map !== undefined && this.#prefs.wantRunning && !this.#expired) this.#apply(now, this.#map)
  }

  // Rights go at once: nobody is a peer any more.
  #cut(now: Instant): void {
    this.#map = undefined
    this.#warnings = []
    this.#reapplyAt = undefined
    this.#engine?.close(now)
    this.#drainEngine(now)
    this.#engine = undefined
    this.#home.stop()
    this.#names.clear()
    this.#stack.setLocalAddresses([])
  }

  #apply(now: Instant, map: NetworkMap): void {
    this.#ensureEngine(now)
    const engine = this.#engine
    if (engine === undefined) return
    const wallNow = this.#config.wallClock()
    const applied = applyNetworkMap(map, this.#prefs, wallNow)
    engine.apply(now, applied)
    if (map.relays !== this.#map?.relays || engine.relays.home === 0) engine.setRelayMap(now, map.relays)
    this.#warnings = applied.warnings
    this.#map = map
    this.#names.apply(map)
    this.#home.setMap(now, map.relays)
    this.#stack.setLocalAddresses(map.self.addresses.map((own) => own.ip))
    const expiries = [...map.peers.values()].flatMap((peer) => (peer.keyExpiry !== undefined && peer.keyExpiry > wallNow ? [peer.keyExpiry] : []))
    this.#reapplyAt = expiries.length === 0 ? undefined : after(now, Math.min(MAX_EXPIRY_WAIT_MS, Math.min(...expiries) - wallNow + 1))
  }

  #tellEndpoints(now: Instant): void {
    const usable = this.#udpBlocked ? [] : this.#localEndpoints.filter((endpoint) => this.#config.allowLoopback === true || !isLoopback(endpoint.ip))
    const mapped = this.#udpBlocked ? [] : this.#mappedEndpoints.filter((endpoint) => !usable.some((own) => equalEndpoints(own, endpoint)))
    this.#control.setEndpoints(now, [...mapped.map((endpoint) => ({ endpoint, type: ENDPOINT_STUN })), ...usable.map((endpoint) => ({ endpoint, type: ENDPOINT_LOCAL }))])
    this.#engine?.setSelfEndpoints(now, [...mapped, ...usable])
  }

  #fromTun(now: Instant, bytes: Uint8Array): void {
    if (this.#names.takes(this.#view, bytes)) this.#names.query(now, bytes)
    else this.#engine?.handleInput(now, { type: 'packet', bytes })
  }

  // Children may owe something to one another; until all are quiet.
  #settle(now: Instant): void {
    for (let busy = true; busy; ) {
      busy = false
      for (let output = this.#control.pollOutput(); output !== undefined; output = this.#control.pollOutput()) {
        busy = true
        this.#fromControl(now, output)
      }
      if (this.#drainEngine(now)) busy = true
      for (let output = this.#stack.pollOutput(); output !== undefined; output = this.#stack.pollOutput()) {
        busy = true
        if (output.type !== 'packet') this.#outbox.push({ type: 'flow', output })
        else this.#fromTun(now, output.bytes)
      }
      for (let output = this.#names.pollOutput(); output !== undefined; output = this.#names.pollOutput()) {
        busy = true
        if (output.type === 'reply') this.#deliver(now, output.bytes)
        else this.#outbox.push({ type: 'dnsForward', id: output.id, bytes: output.bytes, upstreams: output.upstreams })
      }
      for (let output = this.#home.pollOutput(); output !== undefined; output = this.#home.pollOutput()) {
        busy = true
        if (output.type === 'stun') {
          if (!this.#udpBlocked) this.#outbox.push({ type: 'datagram', bytes: output.bytes, to: output.to })
        } else {
          this.#mappedEndpoints = output.mapped
          this.#control.setNetInfo(now, output.netInfo)
          this.#engine?.setHome(now, output.region)
          this.#tellEndpoints(now)
        }
      }
    }
    this.#decide(now)
  }

  #drainEngine(now: Instant): boolean {
    const engine = this.#engine
    let busy = false
    for (let output = engine?.pollOutput(); output !== undefined; output = engine?.pollOutput()) {
      busy = true
      this.#fromEngine(now, output)
    }
    return busy
  }

  #fromEngine(now: Instant, output: EngineOutput): void {
    switch (output.type) {
      case 'datagram':
      case 'relayDial':
      case 'relayWrite':
      case 'relayClose':
        this.#outbox.push(output)
        return
      case 'stun':
        this.#home.answered(now, output.bytes, output.from)
        return
      case 'deliver':
        return this.#deliver(now, output.bytes)
      case 'tsmp':
        return this.#tsmp(now, output.bytes, output.peer)
      case 'endpointsWanted':
        this.#home.endpointsWanted(now)
        this.#tellEndpoints(now)
        return
      case 'relayConnected':
        this.#outbox.push({ type: 'log', level: 'info', line: `relay region ${output.region} is connected` })
        this.#outbox.push({ type: 'changed' })
        return
      case 'relayDisconnected':
        this.#outbox.push({ type: 'log', level: 'info', line: `relay region ${output.region} is lost: ${output.reason}` })
        this.#outbox.push({ type: 'changed' })
        return
      case 'changed':
        this.#outbox.push({ type: 'changed' })
        return
      case 'pinged':
      case 'pingFailed':
        return this.#discoPinged(output)
      default:
        assertNever(output)
    }
  }

  #deliver(now: Instant, bytes: Uint8Array): void {
    const ended = this.#view.at(bytes) ? this.#pings.echoReply(now, this.#view) : undefined
    if (ended !== undefined) return this.#tunnelPinged(ended)
    if (this.#config.tun === true) this.#outbox.push({ type: 'deliver', bytes })
    else this.#stack.receive(now, bytes)
  }

  #tsmp(now: Instant, bytes: Uint8Array, peer: NodePublicKey): void {
    const message = this.#view.at(bytes) ? decodeTsmp(this.#view) : undefined
    const from = this.#view.src()
    const to = this.#view.dst()
    if (message === undefined || from === undefined || to === undefined) return
    if (message.type === 'ping') this.#engine?.sendTo(now, peer, encodeTsmpPong(to, from, message.data, this.#peerApiPort))
    else if (message.type === 'discoKey') this.#engine?.setPeerDiscoKey(now, peer, message.key)
    else if (message.type === 'pong') {
      const ended = this.#pings.pong(now, peer, message.data, message.peerApiPort)
      if (ended !== undefined) this.#tunnelPinged(ended)
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
        this.#outbox.push({ type: 'openUrl', url: output.url })
        return
      case 'saveState':
        this.#outbox.push(output)
        this.#ensureEngine(now)
        return
      case 'loginFinished':
        this.#authUrl = undefined
        this.#lastError = undefined
        this.#expired = false
        return
      case 'netmap':
        if (!this.#prefs.wantRunning) return
        if (output.map.self.machineAuthorized && !this.#expired) this.#apply(now, output.map)
        else this.#map = output.map
        this.#outbox.push({ type: 'changed' })
        return
      case 'keyExpired':
        this.#expired = true
        this.#cutTraffic(now)
        return
      case 'keyRenewed':
        this.#expired = false
        if (this.#map !== undefined) this.#apply(now, this.#map)
        return
      case 'loggedOut':
        this.#cut(now)
        this.#outbox.push({ type: 'loggedOut' })
        return
      case 'polling':
        if (output.up) this.#lastError = undefined
        this.#outbox.push({ type: 'changed' })
        return
      case 'problem':
        this.#lastError = output.message
        this.#outbox.push({ type: 'log', level: 'warn', line: output.message })
        this.#outbox.push({ type: 'changed' })
        return
      case 'ping':
        return // control pings other than the plain HEAD, which the client answers itself
      default:
        assertNever(output)
    }
  }

  // The key has expired: no packet passes in either direction, while the poll goes on and may bring the key back.
  #cutTraffic(now: Instant): void {
    this.#engine?.apply(now, { plane: { peers: [], routes: [], rules: [], local: IpSet.empty }, paths: [], warnings: [] })
    this.#stack.setLocalAddresses([])
    this.#reapplyAt = undefined
  }

  #decide(_now: Instant): void {
    const next = this.#stateNow()
    if (next === this.#state) return
    this.#state = next
    this.#outbox.push({ type: 'state', state: next })
  }

  #stateNow(): MeshState {
    const control = this.#control.status().state
    if (control === 'needsApprovalUrl') return 'needs-login'
    if (!this.#prefs.wantRunning) return this.#control.nodeKey === undefined ? 'needs-login' : 'stopped'
    if (this.#expired || control === 'needsLogin') return 'needs-login'
    if (this.#map === undefined) return 'starting'
    if (!this.#map.self.machineAuthorized) return 'needs-machine-auth'
    const relays = this.#map.relays.regions.size
    if (relays > 0 && this.#engine !== undefined && this.#home.region !== 0 && !this.#engine.relays.isConnected(this.#home.region) && this.#state !== 'running') return 'starting'
    return this.#state === 'running' || relays === 0 || this.#home.region !== 0 ? 'running' : 'starting'
  }

  #health(): readonly string[] {
    const warnings = [...this.#warnings, ...(this.#map?.health ?? [])]
    for (const message of this.#map?.displayMessages.values() ?? []) if (message.Text !== undefined && message.Text !== '') warnings.push(message.Text)
    if (this.#lastError !== undefined) warnings.push(this.#lastError)
    const problem = this.#state === 'running' ? this.#engine?.relays.problem(this.#home.region) : undefined
    if (problem !== undefined) warnings.push(`The home relay (region ${this.#home.region}) cannot be reached: ${problem}`)
    if (this.#expired) warnings.push('The node key has expired: log in again with "meshwright up"')
    return warnings
  }

  #tunnelPinged(ended: EndedPing): void {
    const peer = this.#map?.peersByKey.get(ended.ping.peer.text)
    const what = ended.latencyMs === undefined ? { error: 'no answer in time' } : { error: undefined, latencyMs: ended.latencyMs, peerApiPort: ended.peerApiPort }
    this.#pinged(ended.ping.id, ended.ping.ip, peer, what)
  }

  #discoPinged(output: Extract<EngineOutput, { readonly type: 'pinged' | 'pingFailed' }>): void {
    const asked = this.#discoPings.get(output.id)
    if (asked === undefined) return
    this.#discoPings.delete(output.id)
    if (output.type === 'pingFailed') return this.#pinged(output.id, asked.ip, asked.peer, { error: output.code === 'PATH_PING_NO_PATH' ? 'no path to the peer is known' : 'no answer in time' })
    const via = output.via
    this.#pinged(output.id, asked.ip, asked.peer, {
      error: undefined,
      latencyMs: output.latencyMs,
      ...(via.type === 'direct' ? { endpoint: via.endpoint } : { region: via.region }),
    })
  }

  #pinged(id: number, ip: Ip, peer: MapNode | undefined, what: Partial<PingResult> & { readonly error: string | undefined }): void {
    const region = what.region ?? 0
    const result: PingResult = {
      ip,
      peer: peer?.nodeKey,
      nodeName: peer?.name.split('.')[0] ?? '',
      latencyMs: 0,
      endpoint: undefined,
      peerApiPort: undefined,
      ...what,
      region,
      regionCode: this.#map?.relays.regions.get(region)?.code ?? '',
    }
    this.#outbox.push({ type: 'pinged', id, result })
  }
}
