import type http from 'node:http'
import os from 'node:os'
import type { ControlState, NetworkMap } from '@meshwright/control-client'
import type { PacketBatch, RelayRegion } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import { type Endpoint, formatIp, parseIp, type Prefix } from '@meshwright/ip'
import { type MeshInput, type MeshNode, type MeshOutput, type MeshStatus, type PathStory, type PingKind, type PingResult, type Prefs, tellStory, type WhoIs } from '@meshwright/mesh'
import { suspendAwareClock } from './clock.ts'
import type { ControlTransport } from './control-dial.ts'
import { refuseAborted } from './dial-abort.ts'
import { dialSystem } from './dial-system.ts'
import { DnsUpstreams } from './dns-upstream.ts'
import type { Driver } from './drive.ts'
import type { JsonObject } from './go-prefs.ts'
import { LastMap } from './last-map.ts'
import { fastCryptoProvider } from './fast-crypto.ts'
import { MeshAgent, meshFetch } from './mesh-http.ts'
import { deviceOf, type NodeUdp, type OpenedPlane, reportOf, socketsOf } from './mesh-lane/open-plane.ts'
import { type MeshDaemonOptions, MeshRuntimeError } from './mesh-runtime.ts'
import { MeshFlows } from './mesh-socket.ts'
import { NetworkWatch } from './network-watch.ts'
import { firstPrefs, makeParts, type NodeParts } from './node-parts.ts'
import type { Outside } from './outside.ts'
import { OutsideFlows } from './outside-flows.ts'
import { pingPeerApi } from './peer-api-ping.ts'
import { PendingLogout } from './pending-logout.ts'
import { PendingPings } from './pending-pings.ts'
import { portableCounters, userspaceReport } from './portable-counters.ts'
import { measureRelay, relayAddresses, type RelayDriver } from './relay-driver.ts'
import type { DataPlaneReport, HasRemote, HasSocket, LoginOptions, MeshListener, MeshSocket, MeshUdpSocket, ReadyOptions, RunningNode } from './running-node.ts'
import { StateFileError } from './state-file.ts'
import { NodeStore, ownerOf } from './stored-node.ts'
import { TunLink } from './tun-link.ts'
import { localNetworks, planFor, systemHints } from './tun-plan.ts'
import { NO_UDP_STATS, openUdp, type UdpOptions, type UdpSocket, type UdpStats } from './udp.ts'
import { openRowUdp, type RowUdpSocket } from './udp-rows.ts'
import { type Awaited, untilReady } from './until-ready.ts'
import { addressesOf, farAddress } from './who-is-meant.ts'

const DIAL_TIMEOUT_MS = 60_000
/** When a state file that could not be written is tried again. */
const KEEP_AGAIN_MS = 30_000

/** A node and all that it needs of this computer: sockets, files, clocks, a TUN device. Made and opened by `startMeshNode`. */
export class NodeRunner implements RunningNode {
  readonly #options: MeshDaemonOptions
  readonly #store: NodeStore
  readonly #lastMap: LastMap | undefined
  readonly #clock = suspendAwareClock(undefined, undefined, (ms) => {
    this.log('info', `slept for ${Math.round(ms / 1000)} s`)
    setImmediate(() => this.#networkChanged()) // the machine may be at work
  })
  readonly #network: NetworkWatch
  readonly #listeners: Set<() => void> = new Set()
  readonly #pings: PendingPings = new PendingPings()
  readonly #flows: MeshFlows
  readonly #dns: DnsUpstreams
  readonly #crypto: CryptoProvider = fastCryptoProvider()
  readonly #systemName: string = os.hostname().split('.')[0] || 'node'
  #tun: TunLink | undefined
  readonly #outside: Outside
  readonly #opened: OpenedPlane
  #plannedFor: unknown
  #agent: http.Agent | undefined
  #controlUrl: string
  #node: MeshNode
  #driver: Driver<MeshInput>
  #transport: ControlTransport
  #relays: RelayDriver
  #udp: NodeUdp | undefined
  #rows: RowUdpSocket | undefined
  /** Those of the event loop. */
  #sockets: UdpSocket | undefined
  readonly #logouts: PendingLogout = new PendingLogout()
  #closed = false
  #closing: Promise<void> | undefined
  readonly #end: AbortController = new AbortController()
  #changeQueued = false
  #keepingLater: NodeJS.Timeout | undefined

  constructor(options: MeshDaemonOptions, routes: readonly Prefix[], store: NodeStore, outside: Outside, opened: OpenedPlane) {
    this.#options = options
    this.#opened = opened
    this.#outside = outside
    this.#store = store
    this.#network = new NetworkWatch({
      ports: () => ({ ipv4: this.#udp?.portIpv4, ipv6: this.#udp?.portIpv6 }),
      allowLoopback: options.allowLoopback === true,
      device: () => this.#tun?.name,
      inUse: () => [this.#transport.localAddress ?? [], this.#relays.localAddresses].flat(),
      onEndpoints: (endpoints) => this.#driver.feed({ type: 'localEndpoints', endpoints }),
      onConnections: () => this.#networkChanged(),
    })
    const { stored } = store
    this.#controlUrl = options.controlUrl === '' ? (stored.controlUrl ?? '') : options.controlUrl
    const carrier = new OutsideFlows({
      isOwn: (ip) => this.#node.map?.self.addresses.some((own) => own.ip.equals(ip)) === true,
      isBehind: (ip) => this.#node.isBehind(ip),
      unclaimed: options.forwardUnclaimed,
      unclaimedDatagrams: options.forwardUnclaimedDatagrams,
    })
    this.#flows = new MeshFlows((use) => this.#driver.act((now) => this.#node.withStack(now, (stack) => use(stack, now))), carrier)
    this.#dns = new DnsUpstreams((answer) => this.#driver.feed({ type: 'dnsAnswer', ...answer }), this.#outside)
    // A node of one control server is nobody at another: its keys are not shown around.
    const sameServer = stored.controlUrl === undefined || stored.controlUrl === this.#controlUrl
    if (options.stateFile !== undefined) this.#lastMap = new LastMap(options.stateFile, () => ({ control: this.#store.stored.control, controlUrl: this.#controlUrl }), (line) => this.log('warn', line))
    const made = this.#make(sameServer ? stored.control : undefined, firstPrefs(stored.prefs, options, routes, this.#systemName), options.blockUdp === true)
    this.#node = made.node
    this.#driver = made.driver
    this.#transport = made.transport
    this.#relays = made.relays
  }

  /** Opens the socket and starts. */
  async open(): Promise<void> {
    this.log('info', `cryptography: ${this.#crypto.name}`)
    const { tun } = this.#options
    if (tun !== undefined) {
      const { plane, reason } = this.#opened
      this.log('info', plane === undefined ? `packets are carried by the event loop: ${reason ?? ''}` : 'packets are carried by a thread of their own')
      this.#tun = await TunLink.open({ name: tun, device: plane && deviceOf(plane), dns: this.#options.systemDns ?? 'off', onPacket: (bytes) => this.#driver.feed({ type: 'packet', bytes }), onProblem: (line) => this.log('warn', line) })
    }
    const sockets: UdpOptions = {
      outside: this.#outside,
      port: this.#options.port ?? 0,
      onDatagram: (bytes, from) => this.#driver.feed({ type: 'datagram', bytes, from }),
      onError: (error) => this.log('debug', `UDP: ${error.message}`),
    }
    const onRow = (from: Endpoint, batch: PacketBatch): void => this.#driver.act((now) => this.#node.packets.receive(now, from, batch))
    if (tun === undefined) this.#rows = await openRowUdp({ ...sockets, provider: this.#crypto, lane: this.#options.dataPlane, onRow })
    if (this.#opened.plane === undefined) this.#sockets = this.#rows ?? await openUdp(sockets)
    this.#udp = this.#opened.plane !== undefined ? socketsOf(this.#opened.plane) : this.#sockets
    this.#network.start()
    this.#savePrefs(this.#node.prefs)
    const login = { ...(this.#options.authKey === undefined ? {} : { authKey: this.#options.authKey }) }
    this.#driver.act((now) => this.#node.start(now, login))
  }

  status(): MeshStatus {
    const status = this.#node.status(this.#clock())
    const hints = this.#tun === undefined ? [] : [...systemHints(this.#node.prefs), this.#opened.plane?.trouble].filter((hint) => hint !== undefined)
    // Control servers do not send a node its own endpoints.
    const self = status.self && status.self.endpoints.length === 0 ? { ...status.self, endpoints: this.#network.endpoints } : status.self
    return { ...status, self, health: [...status.health, ...hints] }
  }

  get tunName(): string | undefined {
    return this.#tun?.name
  }

  get crypto(): string {
    return this.#crypto.name
  }

  networkMap(): NetworkMap | undefined {
    return this.#node.map
  }

  foreignPrefs(): Readonly<JsonObject> {
    return this.#store.stored.foreign
  }

  setForeignPrefs(change: Readonly<JsonObject>): void {
    this.#store.saveForeign(change)
    this.#changed()
  }

  agent(options: http.AgentOptions = {}): http.Agent {
    return new MeshAgent((host, port, dial) => this.dialTcp(host, port, dial), options)
  }

  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response> {
    this.#agent ??= this.agent({ keepAlive: true })
    return meshFetch(this.#agent, input, init)
  }

  prefs(): Prefs {
    return this.#node.prefs
  }

  ready(wait: AbortSignal | ReadyOptions = {}): Promise<void> {
    const node: Awaited = {
      waitsFor: () => this.#node.waitsFor,
      isClosed: () => this.#closed,
      status: () => this.status(),
      probe: (address, options) => this.ping(address, 'TSMP', options),
      onChange: (listener) => this.onChange(listener),
    }
    return untilReady(node, wait instanceof AbortSignal ? { signal: wait } : wait)
  }

  setPrefs(wish: Partial<Prefs>): void {
    this.#mustBeOpen()
    const change = wish.hostname === '' ? { ...wish, hostname: this.#systemName } : wish
    this.#savePrefs({ ...this.#node.prefs, ...change })
    this.#driver.act((now) => this.#node.setPrefs(now, change))
    this.#changed()
  }

  up(login: LoginOptions = {}): void {
    this.#mustBeOpen()
    if (login.controlUrl !== undefined && login.controlUrl !== this.#controlUrl) this.#moveTo(login.controlUrl)
    this.#savePrefs({ ...this.#node.prefs, wantRunning: true })
    this.#driver.act((now) =>
      this.#node.up(now, {
        ...(login.authKey === undefined ? {} : { authKey: login.authKey }),
        ...(login.forceReauth === true ? { forceNewKey: true } : {}),
      }),
    )
    this.#changed() // the error of an earlier login is gone: the same one again is news
  }

  down(): void {
    this.#savePrefs({ ...this.#node.prefs, wantRunning: false })
    this.#driver.act((now) => this.#node.down(now))
  }

  async logout(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    this.#mustBeOpen()
    return this.#logouts.begin(() => {
      this.#savePrefs({ ...this.#node.prefs, wantRunning: false })
      this.#driver.act((now) => this.#node.logout(now))
    }, options.signal)
  }

  async dialTcp(host: string, port: number, options: { readonly signal?: AbortSignal; readonly timeoutMs?: number } = {}): Promise<MeshSocket> {
    this.#mustBeOpen()
    refuseAborted(options.signal, `${host}:${port}: the dial was aborted`)
    const own = parseIp(host)
    const addresses = own === undefined ? this.#node.resolve(host) : [own]
    const ip = addresses.find((each) => each.family === 4) ?? addresses[0]
    if (ip === undefined) throw Object.assign(new MeshRuntimeError('RUNTIME_NAME_UNKNOWN', `no node of the mesh is called '${host}'`), { code: 'ENOTFOUND' })
    if (this.#tun !== undefined) return dialSystem(formatIp(ip), port, options.signal, options.timeoutMs ?? DIAL_TIMEOUT_MS)
    return this.#flows.connect({ ip, port }, options.signal, options.timeoutMs ?? DIAL_TIMEOUT_MS)
  }

  listenTcp(port: number, onConnection: (socket: MeshSocket) => void): MeshListener {
    this.#needStack()
    return this.#flows.listen(port, onConnection)
  }

  listenUdp(port: number, onMessage: (bytes: Uint8Array, from: { readonly address: string; readonly port: number }) => void): MeshUdpSocket {
    this.#needStack()
    return this.#flows.listenUdp(port, onMessage)
  }

  async resolve(name: string, options: { readonly signal?: AbortSignal } = {}): Promise<readonly string[]> {
    refuseAborted(options.signal, `the look-up of '${name}' was aborted`)
    return addressesOf(name, this.#node.resolve(name), options.signal)
  }

  async ping(address: string, kind: PingKind, options: { readonly timeoutMs?: number; readonly sizeBytes?: number; readonly signal?: AbortSignal } = {}): Promise<PingResult> {
    this.#mustBeOpen()
    const ip = parseIp(address) ?? this.#node.resolve(address)[0]
    if (ip === undefined) throw new MeshRuntimeError('RUNTIME_NAME_UNKNOWN', `no node of the mesh is called '${address}'`)
    if (kind === 'peerapi') return pingPeerApi(this, ip, options)
    return this.#pings.begin((id) => this.#driver.act((now) => this.#node.ping(now, id, ip, kind, options.timeoutMs, options.sizeBytes)), options.signal)
  }

  whois(from: string | HasRemote | HasSocket): WhoIs | undefined {
    const ip = farAddress(from)
    return ip && this.#node.whois(ip)
  }

  setUdpBlocked(blocked: boolean): void {
    this.#driver.act((now) => this.#node.setUdpBlocked(now, blocked))
    this.#changed()
  }

  explainPath(address: string): readonly string[] {
    const story = this.pathStory(address)
    return story === undefined ? [`no other node of the mesh is called or has the address '${address}'`] : tellStory(story)
  }

  pathStory(address: string): PathStory | undefined {
    const ip = parseIp(address) ?? this.#node.resolve(address)[0]
    return ip && this.#node.pathStory(this.#clock(), ip)
  }

  refresh(): Promise<void> {
    return this.#opened.plane?.fresh() ?? Promise.resolve()
  }

  dataPlane(): Promise<DataPlaneReport> {
    const udp = (): UdpStats => this.#sockets?.stats() ?? NO_UDP_STATS
    const tun = this.#tun
    return tun === undefined ? Promise.resolve(userspaceReport(this.#node.status(this.#clock()), udp(), this.#rows)) : reportOf(this.#opened, () => portableCounters(tun.stats(), udp()))
  }

  /** Feeds the machine that is in force. */
  feed(input: MeshInput): void {
    this.#driver.feed(input)
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    // Also one that has not come as far as to take part: the control server knows it since its login.
    if (this.#options.ephemeral === true && this.status().nodeKey !== undefined) await this.logout().catch((error: unknown) => this.log('warn', `it could not log out: ${error instanceof Error ? error.message : String(error)}`))
    this.#closed = true
    this.#end.abort()
    this.#network.stop()
    this.#lastMap?.flush()
    this.#keepAgain()
    this.#agent?.destroy()
    this.#flows.closeAll()
    this.#stopNode()
    this.#pings.giveUp()
    this.#logouts.giveUp()
    this.#dns.close()
    await this.#tun?.close()
    await this.#udp?.close()
    this.#store.release()
    this.#changed()
  }

  #make(state: ControlState | undefined, prefs: Prefs, blockUdp: boolean): NodeParts {
    return makeParts({
      options: this.#options,
      clock: this.#clock,
      crypto: this.#crypto,
      outside: this.#outside,
      controlUrl: this.#controlUrl,
      state,
      prefs,
      lastMap: state === undefined ? undefined : this.#lastMap?.read(Date.now()),
      blockUdp,
      plane: this.#opened.plane,
      rows: this.#options.tun === undefined ? () => this.#rows : undefined,
      perform: (output, transport, relays) => this.#perform(output, transport, relays),
      feed: (input) => this.#driver.feed(input),
    })
  }

  #moveTo(controlUrl: string): void {
    this.log('info', `turning to the control server ${controlUrl}`)
    this.#flows.resetConnections()
    this.#stopNode()
    this.#lastMap?.forget()
    this.#controlUrl = controlUrl
    const made = this.#make(undefined, this.#node.prefs, this.#node.status(this.#clock()).udpBlocked)
    this.#node = made.node
    this.#driver = made.driver
    this.#transport = made.transport
    this.#relays = made.relays
    this.#flows.bindAgain()
    this.#network.forget()
    this.#network.look()
  }

  #stopNode(): void {
    this.#driver.act((now) => this.#node.down(now))
    this.#driver.stop()
    this.#transport.close()
    this.#relays.close()
  }

  #perform(output: MeshOutput, transport: ControlTransport, relays: RelayDriver): void {
    switch (output.type) {
      case 'datagram':
        this.#udp?.send(output.to, output.bytes)
        return
      case 'relayDial':
      case 'relayWrite':
      case 'relayClose':
        relays.perform(output)
        return
      case 'control':
        transport.perform(output.output)
        return
      case 'flow':
        this.#flows.perform(output.output)
        return
      case 'saveState':
        this.#keep(() => this.#store.saveControl(output.state))
        return
      case 'openUrl':
        this.#options.onAuthUrl?.(output.url)
        this.#changed()
        return
      case 'state':
        this.log('info', `state: ${output.state}`)
        this.#changed()
        return
      case 'changed':
        this.#changed()
        return
      case 'pinged':
        this.#pings.ended(output.id, output.result)
        return
      case 'loggedOut':
        this.#lastMap?.forget()
        this.#logouts.confirmed()
        this.#changed()
        return
      case 'log':
        this.log(output.level, output.line)
        return
      case 'resolveRelay':
        void this.#resolveRelay(output.hostName)
        return
      case 'measureRelay':
        void this.#measureRelay(output.region)
        return
      case 'deliver':
        this.#tun?.deliver(output.bytes)
        return
      case 'dnsForward':
        this.#dns.ask(output.token, output.bytes, output.upstreams, output.transport)
        return
      case 'dnsCancel':
        this.#dns.cancel(output.token)
        return
    }
  }

  async #resolveRelay(hostName: string): Promise<void> {
    const { ips, problem } = await relayAddresses(hostName)
    if (problem !== undefined) this.log('debug', `the relay's name ${hostName} cannot be looked up: ${problem}`)
    this.#driver.feed({ type: 'relayResolved', hostName, ips })
  }

  async #measureRelay(region: RelayRegion): Promise<void> {
    this.#driver.feed({ type: 'relayMeasured', region: region.id, latencyMs: await measureRelay(region, this.#outside, this.#end.signal) })
  }

  // Connections may be dead without knowing it: those with relays and the control server are made anew, paths are looked for again.
  #networkChanged(): void {
    if (this.#closed) return
    this.#transport.reset()
    this.#driver.feed({ type: 'linkChanged' })
  }

  // Listeners hear of many changes at once, after all of them.
  #changed(): void {
    if (this.#changeQueued) return
    this.#changeQueued = true
    queueMicrotask(() => {
      this.#changeQueued = false
      this.#follow()
      for (const listener of [...this.#listeners]) listener()
    })
  }

  // What others on this computer are to know of the map: the device's addresses and routes, the owner in the state file.
  #follow(): void {
    const { map, prefs, state } = this.#node
    if (map !== undefined && state === 'running' && !this.#closed) {
      this.#keep(() => this.#store.saveOwner(ownerOf(map)))
      if (this.#node.isMapFresh) this.#lastMap?.keep(map)
    }
    const plannedFor = state === 'running' || state === 'starting' ? map : undefined
    if (this.#tun === undefined || this.#closed || (plannedFor === this.#plannedFor && plannedFor === undefined)) return
    this.#plannedFor = plannedFor
    const { NoSNAT: keepSources, ExitNodeAllowLANAccess: local } = this.#store.stored.foreign
    this.#tun.apply(planFor(plannedFor, prefs, { keepSources: keepSources === true, localNetworks: local === true ? localNetworks(this.#tun.name) : [] }))
  }

  // What a node learns by itself is worth more than its file: when no file can be written, on a full disk say, it goes on, says so, and tries again.
  #keep(write: () => void): void {
    try {
      write()
    } catch (error) {
      if (!(error instanceof StateFileError)) throw error
      this.log('warn', `${error.message}. ${error.remedy ?? ''}`)
      if (!this.#closed) this.#keepingLater ??= setTimeout(() => this.#keepAgain(), KEEP_AGAIN_MS).unref()
    }
  }

  #keepAgain(): void {
    clearTimeout(this.#keepingLater)
    this.#keepingLater = undefined
    this.#keep(() => this.#store.catchUp())
  }

  #savePrefs(prefs: Prefs): void {
    this.#store.savePrefs(prefs.hostname === this.#systemName ? { ...prefs, hostname: '' } : prefs, this.#controlUrl)
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new MeshRuntimeError('RUNTIME_CLOSED', 'the node is closed')
  }

  #needStack(): void {
    this.#mustBeOpen()
    if (this.#tun !== undefined) throw new MeshRuntimeError('RUNTIME_TUN', 'with a TUN device programs listen on the sockets of the system', { remedy: 'Listen with node:net on an address of the node, or leave the TUN device out.' })
  }

  log(level: 'debug' | 'info' | 'warn', line: string): void {
    this.#options.log?.(level, line)
  }
}
