import { earlier, type Instant, type Machine, Outbox, type RandomSource, type UnixMillis, type WallClock } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { parseIp } from '@meshwright/ip'
import { type Hostinfo, type MapRequest, mapRequestKind, MIN_CAPABILITY_VERSION, type RegisterRequest, releaseOfCapabilityVersion, ZERO_DISCO_KEY } from '@meshwright/control-protocol'
import { AddressAllocator } from './addresses.ts'
import { Admin } from './admin.ts'
import type { AdminCommand } from './admin-commands.ts'
import type { AuditEvent } from './audit.ts'
import type { ControlServerConfig } from './config.ts'
import type { Context, RequestId } from './context.ts'
import { Enrolment } from './enrolment.ts'
import { ControlServerError } from './errors.ts'
import { usableEndpoints, withHostinfo } from './host-facts.ts'
import type { ControlServerFigures } from './figures.ts'
import { FullMapAllowance } from './full-map-allowance.ts'
import { Lifetimes } from './lifetimes.ts'
import { MapComposer } from './map-composer.ts'
import { type Compressor, MapSessions } from './map-sessions.ts'
import { PendingLogins } from './pending-logins.ts'
import { Presence } from './presence.ts'
import type { Change, NodeRecord, ServerState } from './records.ts'
import { isExpired, Registration } from './registration.ts'
import { RouteProbes } from './route-probes.ts'
import { PrimaryRoutes } from './routes.ts'
import { soundHostinfo } from './sound-hostinfo.ts'
import { type SshActionInput, SshChecks } from './ssh-checks.ts'
import { State } from './state.ts'
import { TailnetPolicy } from './tailnet-policy.ts'

/** What a server is fed. Requests are decoded already; `machineKey` is the `mkey:` text that the Noise session proved. */
export type ControlServerInput =
  | { readonly type: 'register'; readonly request: RequestId; readonly machineKey: string; readonly source: string; readonly body: RegisterRequest }
  | { readonly type: 'map'; readonly request: RequestId; readonly machineKey: string; readonly body: MapRequest }
  | { readonly type: 'admin'; readonly request: RequestId; readonly command: AdminCommand }
  /** A node asks about an SSH session: `GET /machine/ssh/action/SOURCE/to/DESTINATION`, held while a person decides. */
  | ({ readonly type: 'sshAction' } & SshActionInput)
  /** A node answers a ping of the map stream: `HEAD /machine/ping-response?id=ID`. */
  | { readonly type: 'pong'; readonly request: RequestId; readonly machineKey: string; readonly id: string }
  /** Nobody waits for the answer, or reads the stream, any more. */
  | { readonly type: 'closed'; readonly request: RequestId }
  /** The writer of a stream is full; later: it has drained. */
  | { readonly type: 'blocked' | 'drained'; readonly request: RequestId }
  /** The changes of a commit are on disk, or could not be written. */
  | { readonly type: 'committed'; readonly commit: number }
  | { readonly type: 'commitFailed'; readonly commit: number; readonly reason: string }

/** What a server owes. */
export type ControlServerOutput =
  /** The answer to a request: a JSON value, a text, or nothing. Requests that were closed may still be answered: ignore that. */
  | { readonly type: 'respond'; readonly request: RequestId; readonly status: number; readonly body: unknown; readonly retryAfterSeconds: number | undefined }
  /** Bytes of the body of a map request, status 200. */
  | { readonly type: 'mapChunk'; readonly request: RequestId; readonly bytes: Uint8Array }
  /** The body ends. */
  | { readonly type: 'endMap'; readonly request: RequestId }
  /** Write these changes, all or none, then feed `committed` or `commitFailed`. There is one at a time. */
  | { readonly type: 'commit'; readonly commit: number; readonly changes: readonly Change[] }
  | { readonly type: 'audit'; readonly event: AuditEvent }

/** What a server starts from. */
export interface ControlServerOptions {
  readonly config: ControlServerConfig
  /** What the store gave back. */
  readonly state: ServerState
  readonly random: RandomSource
  readonly wallClock: WallClock
  readonly provider?: CryptoProvider
  readonly compress?: Compressor
  /** Tell loopback endpoints to peers: for demonstrations on one machine. */
  readonly allowLoopbackEndpoints?: boolean
}

/** Inputs that wait while a commit is on its way; beyond it requests are turned away with 503. */
const MAX_WAITING_INPUTS = 65_536

/** How long nodes that were connected before a restart count as online: clients try again at least every 30 s. */
const RECONNECT_MS = 40_000

/** When a node that asks for whole maps without end may ask again. */
const MAP_RETRY_SECONDS = 5

type Staged = { readonly output: ControlServerOutput } | { readonly run: () => void; readonly request: RequestId | undefined }

/**
 * A coordination server: who is in the mesh, what each may know, and telling them.
 *
 * Inputs are worked on in batches. A batch changes the state in memory, and everything that follows from it (answers, streams, audit
 * events) is *staged*. If the batch changed records, a `commit` leaves first and nothing else until `committed` comes back; what arrives
 * in between waits and becomes the next batch, so one slow disk write serves many requests. `commitFailed` undoes the batch as if it had
 * never been and answers its requests with 500. So nobody ever sees what a power cut could take back.
 *
 * | state | edge | to |
 * |---|---|---|
 * | idle | a batch that changed records | committing |
 * | committing | `committed`: staged effects leave, waiting inputs become a batch | idle or committing |
 * | committing | `commitFailed`: undone, requests get 500, the same for the waiting inputs | idle or committing |
 */
export class ControlServer implements Machine<ControlServerInput, ControlServerOutput> {
  readonly #outbox: Outbox<ControlServerOutput> = new Outbox()
  readonly #state: State
  readonly #context: Context
  readonly #presence = new Presence()
  readonly #fullMaps = new FullMapAllowance()
  readonly #primaries = new PrimaryRoutes()
  readonly #probes: RouteProbes
  readonly #sshChecks: SshChecks
  readonly #pending: PendingLogins
  readonly #policy: TailnetPolicy
  readonly #registration: Registration
  readonly #admin: Admin
  readonly #sessions: MapSessions
  readonly #lifetimes: Lifetimes
  readonly #wallClock: WallClock
  readonly #allowLoopback: boolean
  #config: ControlServerConfig
  #now: Instant
  #staged: Staged[] = []
  /** Requests that something is staged for to be done later than now. */
  readonly #stagedRequests = new Set<RequestId>()
  #waiting: ControlServerInput[] = []
  #committing: { readonly commit: number; readonly staged: readonly Staged[] } | undefined
  #commits = 0

  /** @throws CONTROL_SERVER_CONFIG when the settings name no prefix or no server URL */
  constructor(now: Instant, options: ControlServerOptions) {
    const { config } = options
    if (config.prefixV4 === undefined && config.prefixV6 === undefined) {
      throw new ControlServerError('CONTROL_SERVER_CONFIG', 'no address prefix is set', { remedy: 'set prefixV4 or prefixV6' })
    }
    if (config.serverUrl === '' || config.baseDomain === '') {
      throw new ControlServerError('CONTROL_SERVER_CONFIG', 'serverUrl and baseDomain must be set', { remedy: 'set both: login URLs and names are made of them' })
    }
    this.#now = now
    this.#config = config
    this.#wallClock = options.wallClock
    this.#allowLoopback = options.allowLoopbackEndpoints ?? false
    this.#state = new State(options.state)
    this.#pending = new PendingLogins(options.random)
    this.#probes = new RouteProbes(options.random, () => ({ intervalMs: this.#config.routeProbeMs, timeoutMs: this.#config.routeProbeTimeoutMs }))
    this.#policy = new TailnetPolicy(this.#state, {
      wallNow: () => this.#wallClock(),
      isOnline: (id) => this.#presence.isOnline(id) && !this.#probes.isSilent(id),
      serverUrl: () => this.#config.serverUrl,
    })
    this.#context = this.#makeContext(options)
    const v4 = config.prefixV4 && new AddressAllocator(config.prefixV4, config.allocation, options.random)
    const v6 = config.prefixV6 && new AddressAllocator(config.prefixV6, config.allocation, options.random)
    for (const node of this.#state.nodes()) {
      for (const text of [node.ipv4, node.ipv6]) {
        const ip = text === undefined ? undefined : parseIp(text)
        if (ip !== undefined) (ip.family === 4 ? v4 : v6)?.occupied(ip)
      }
    }
    this.#registration = new Registration(this.#context, new Enrolment(this.#context, v4, v6), this.#pending)
    this.#sshChecks = new SshChecks(this.#context, this.#policy)
    this.#admin = new Admin(this.#context, this.#registration, this.#pending, this.#primaries, this.#policy, this.#sshChecks)
    const composer = new MapComposer({
      state: this.#state,
      policyActive: () => this.#policy.active,
      accessOf: (id) => this.#policy.accessOf(id),
      peersOf: (id) => this.#policy.peersOf(id),
      peerOf: (id, peer) => this.#policy.peerOf(id, peer),
      config: () => this.#config,
      wallNow: () => this.#wallClock(),
      isOnline: (id) => this.#presence.isOnline(id),
    })
    const sink = {
      chunk: (request: RequestId, bytes: Uint8Array): void => this.#outbox.push({ type: 'mapChunk', request, bytes }),
      end: (request: RequestId): void => this.#outbox.push({ type: 'endMap', request }),
    }
    this.#sessions = new MapSessions(composer, options.random, sink, options.compress)
    this.#lifetimes = new Lifetimes(this.#context)
    // Who was connected when the last run ended keeps its place until it had time to come back: a restart changes nothing for others.
    for (const node of this.#state.nodes()) {
      const connected = node.lastSeen === undefined && node.discoKey !== undefined
      if (connected) this.#presence.assume(now, node.id, RECONNECT_MS)
      this.#lifetimes.watch(node, connected)
    }
    this.#updateRouters()
  }

  /** `idle` or `committing`: see the table above. */
  get phase(): 'idle' | 'committing' {
    return this.#committing === undefined ? 'idle' : 'committing'
  }

  /** How much it holds, and how much its frames cost: for metrics. */
  get figures(): ControlServerFigures {
    return {
      nodes: this.#state.nodeCount,
      online: this.#presence.size,
      polls: this.#sessions.size,
      pendingLogins: this.#pending.size,
      sshChecks: this.#sshChecks.size,
      waiting: this.#waiting.length,
      peersCompared: this.#sessions.peersCompared,
      peersWritten: this.#sessions.peersWritten,
      filterSourcesWritten: this.#sessions.sourcesWritten,
    }
  }

  /** True when a node key belongs to the mesh: what relays ask before they let somebody in. Expired nodes may not. */
  knowsNodeKey(nodeKey: string): boolean {
    const node = this.#state.nodeByKey(nodeKey)
    return node !== undefined && (node.expiry === undefined || this.#wallClock() < node.expiry)
  }

  /** True when the device holds the node: what other requests of nodes must be checked with. */
  ownsNodeKey(machineKey: string, nodeKey: string): boolean {
    return this.#state.nodeByKey(nodeKey)?.machineKey === machineKey
  }

  /** True when the device holds a node: whoever accepts connections treats others as strangers. */
  knowsMachine(machineKey: string): boolean {
    return this.#state.hasMachine(machineKey)
  }

  /** Takes new settings: relay map, DNS, lifetimes. The prefixes stay as they were. */
  configure(now: Instant, config: ControlServerConfig): void {
    this.#now = now
    this.#config = { ...config, prefixV4: this.#config.prefixV4, prefixV6: this.#config.prefixV6, allocation: this.#config.allocation }
    this.#policy.recompile()
    this.#sessions.allChanged()
    this.#sessions.stir(now, this.#config.batchMs)
  }

  handleInput(now: Instant, input: ControlServerInput): void {
    this.#now = now
    switch (input.type) {
      case 'committed':
        return this.#finish(input.commit, undefined)
      case 'commitFailed':
        return this.#finish(input.commit, input.reason)
      case 'blocked':
      case 'drained':
        return this.#sessions.setBlocked(now, input.request, input.type === 'blocked')
      default:
    }
    if (this.#committing === undefined) return this.#batch([input])
    if (this.#waiting.length < MAX_WAITING_INPUTS || input.type === 'closed') this.#waiting.push(input)
    else this.#outbox.push({ type: 'respond', request: input.request, status: 503, body: 'the server is busy: try again', retryAfterSeconds: 5 })
  }

  handleTimeout(now: Instant): void {
    this.#now = now
    const keepalive = this.#sessions.keepaliveDue
    if (keepalive !== undefined && now >= keepalive) for (const nodeId of this.#sessions.keepalive(now)) this.#pollEnded(nodeId)
    // While a commit is on its way memory is ahead of the disk: nothing of it may be seen, so time waits with it.
    if (this.#committing !== undefined) return
    if (this.#stateDue(now)) this.#batch([])
    const tick = this.#sessions.tickDue
    if (this.#committing === undefined && tick !== undefined && now >= tick) this.#tick()
  }

  pollOutput(): ControlServerOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    const keepalive = this.#sessions.keepaliveDue
    if (this.#committing !== undefined) return keepalive
    return this.#stateDues().reduce(earlier, earlier(keepalive, this.#sessions.tickDue))
  }

  #tick(): void {
    const effect = this.#policy.takeAffected()
    if (effect === 'everybody') this.#sessions.allAffected()
    else this.#sessions.affected(effect.affected, effect.moved)
    this.#sessions.tick(this.#now)
  }

  #stateDue(now: Instant): boolean {
    return this.#stateDues().some((due) => due !== undefined && now >= due)
  }

  #stateDues(): readonly (Instant | undefined)[] {
    return [this.#presence.due, this.#pending.due, this.#lifetimes.due, this.#sshChecks.due, this.#probes.due]
  }

  #batch(inputs: readonly ControlServerInput[]): void {
    for (const input of inputs) this.#dispatch(input)
    this.#passTime()
    const staged = this.#staged
    this.#staged = []
    this.#stagedRequests.clear()
    if (!this.#state.changed) return this.#release(staged)
    this.#commits += 1
    this.#committing = { commit: this.#commits, staged }
    this.#outbox.push({ type: 'commit', commit: this.#commits, changes: this.#state.changes() })
  }

  /** What falls due by time alone. Part of every batch, so that no batch sees yesterday's world. */
  #passTime(): void {
    this.#registration.expireLogins()
    this.#sshChecks.expire()
    const { ask, silent } = this.#probes.expire(this.#now)
    for (const { nodeId, id } of ask) this.#sessions.ping(nodeId, `${this.#config.serverUrl}/machine/ping-response?id=${id}`)
    for (const id of silent) this.#context.audit('server', 'route.silent', `node:${id}`, `${this.#state.node(id)?.givenName ?? 'a router'} does not answer: another router takes its routes`)
    const gone = this.#presence.expire(this.#now)
    for (const id of gone) {
      const node = this.#state.node(id)
      if (node !== undefined) this.#state.putNode({ ...node, lastSeen: this.#wallClock() })
    }
    const expired = this.#lifetimes.expire()
    // A key is good again because the clock was set back. Clients judge keys by the time here, too, and take it up beside the frame that it comes
    // with (seen with 1.92 to 1.102): so they hear of the time now, and of the nodes with the next tick.
    if (expired.some((id) => this.#isGood(id))) this.#sessions.tellTime(this.#wallClock())
    if (this.#lifetimes.remind()) this.#sessions.tellTime(this.#wallClock(), this.#config.baseDomain)
    // Presence and time are not stored: these changes hold whatever becomes of the commit. Frames wait for it all the same.
    if (gone.length + expired.length + silent.length > 0) this.#changed([...gone, ...expired, ...silent])
  }

  #isGood(nodeId: number): boolean {
    const node = this.#state.node(nodeId)
    return node !== undefined && !isExpired(node, this.#wallClock())
  }

  #finish(commit: number, failure: string | undefined): void {
    const done = this.#committing
    if (done?.commit !== commit) throw new ControlServerError('CONTROL_SERVER_COMMIT', `commit ${commit} is not the one on its way`)
    this.#committing = undefined
    if (failure === undefined) {
      const touched = this.#state.committed()
      this.#release(done.staged, touched)
    } else {
      this.#policy.nodesChanged(this.#state.rollback())
      this.#policy.recompile()
      this.#fail(done.staged, failure)
    }
    const waiting = this.#waiting
    this.#waiting = []
    if (waiting.length > 0) this.#batch(waiting)
  }

  #release(staged: readonly Staged[], touched: ReadonlySet<number> = NOTHING): void {
    for (const id of touched) {
      const node = this.#state.node(id)
      if (node === undefined) {
        this.#presence.forget(id)
        this.#fullMaps.forget(id)
        this.#sessions.endNode(id)
        this.#lifetimes.forget(id)
      } else {
        if (isExpired(node, this.#wallClock())) this.#presence.leaveNow(id)
        this.#lifetimes.watch(node, this.#presence.isOnline(id))
      }
    }
    if (touched.size > 0) this.#changed(touched)
    if (this.#policy.unsettled) this.#sessions.stir(this.#now, this.#config.batchMs)
    for (const item of staged) {
      if ('output' in item) this.#outbox.push(item.output)
      else item.run()
    }
  }

  #fail(staged: readonly Staged[], reason: string): void {
    for (const item of staged) {
      const request = 'run' in item ? item.request : item.output.type === 'respond' ? item.output.request : undefined
      if (request === undefined) continue
      const body = { message: `the change could not be stored: ${reason}`, remedy: 'nothing has changed; check the disk of the control server' }
      this.#outbox.push({ type: 'respond', request, status: 500, body, retryAfterSeconds: undefined })
    }
  }

  /** Nodes look different now: whoever sees them is told, and what the policy makes of them is made anew. */
  #changed(ids: Iterable<number>): void {
    const all = new Set(ids)
    const routers = this.#updateRouters()
    for (const id of routers) all.add(id)
    this.#policy.nodesChanged(all)
    this.#sessions.changed(this.#now, all, this.#config.batchMs)
  }

  /** Chooses anew who carries which route; gives the nodes that this may concern. */
  #updateRouters(): number[] {
    const wallNow = this.#wallClock()
    const connected = (node: NodeRecord): boolean => this.#presence.isOnline(node.id) && !isExpired(node, wallNow)
    const choose = (): number[] => this.#primaries.update(this.#state.nodes(), connected, (id) => this.#probes.isSilent(id))
    const changed = choose()
    const revived = this.#probes.watch(this.#now, this.#primaries.rivals)
    return revived.length === 0 ? changed : [...changed, ...revived, ...choose()]
  }

  #dispatch(input: ControlServerInput): void {
    switch (input.type) {
      case 'register': {
        const old = this.#oldClient(input.body.Version)
        return old === undefined ? this.#registration.register({ ...input, body: withSoundHostinfo(input.body) }) : this.#context.respond(input.request, 400, old)
      }
      case 'map':
        return this.#map(input)
      case 'admin': {
        const { status, body } = this.#admin.execute(input.command)
        return this.#context.respond(input.request, status, body)
      }
      case 'sshAction':
        return this.#sshChecks.ask(input)
      case 'pong': {
        const nodeId = this.#probes.askedWith(input.id)
        if (nodeId === undefined || this.#state.node(nodeId)?.machineKey !== input.machineKey) return this.#context.respond(input.request, 404, 'not found')
        if (this.#probes.connected(this.#now, nodeId)) this.#answersAgain(nodeId)
        return this.#context.respond(input.request, 200)
      }
      case 'closed': {
        this.#pending.release(input.request)
        this.#sshChecks.release(input.request)
        // Asked and gone in one batch: what was staged for it must not open a poll that nobody will ever close.
        if (this.#stagedRequests.delete(input.request)) this.#staged = this.#staged.filter((item) => !('run' in item) || item.request !== input.request)
        const nodeId = this.#sessions.close(input.request)
        if (nodeId !== undefined) this.#pollEnded(nodeId)
        return
      }
      default:
    }
  }

  #answersAgain(nodeId: number): void {
    this.#context.audit('server', 'route.answers', `node:${nodeId}`, `${this.#state.node(nodeId)?.givenName ?? 'a router'} answers again`)
    this.#changed([nodeId])
  }

  #pollEnded(nodeId: number): void {
    this.#presence.closed(this.#now, nodeId, this.#config.offlineGraceMs)
  }

  #oldClient(version: number): string | undefined {
    return version >= MIN_CAPABILITY_VERSION ? undefined : `unsupported client version: ${releaseOfCapabilityVersion(version)} (${version})`
  }

  #map(input: Extract<ControlServerInput, { type: 'map' }>): void {
    const { request } = input
    const body = withSoundHostinfo(input.body)
    const old = this.#oldClient(body.Version)
    if (old !== undefined) return this.#context.respond(request, 400, old)
    const node = this.#state.nodeByKey(body.NodeKey)
    // The same answer for a stranger's node: whether a key is known is nobody's business.
    if (node === undefined || node.machineKey !== input.machineKey) return this.#context.respond(request, 404, 'node not found')
    const kind = mapRequestKind(body)
    if (kind !== 'lite' && !this.#fullMaps.allows(this.#now, node.id)) return this.#context.respond(request, 429, 'too many map requests: try again later', MAP_RETRY_SECONDS)
    const reported = this.#reported(node, body, kind === 'lite')
    const next = kind === 'stream' && reported.lastSeen !== undefined ? { ...reported, lastSeen: undefined } : reported
    if (next !== node) this.#state.putNode(next)
    const zstd = body.Compress === 'zstd'
    if (kind === 'lite') return this.#context.respond(request, 200)
    if (kind === 'fetch') {
      return this.#context.afterCommit(() => this.#sessions.answerOnce(request, node.id, body.Version, zstd, body.OmitPeers === true), request)
    }
    this.#context.afterCommit(() => {
      if (this.#state.node(node.id) === undefined) return void this.#outbox.push({ type: 'endMap', request })
      const appeared = this.#presence.opened(node.id)
      if (this.#probes.connected(this.#now, node.id)) this.#changed([node.id])
      this.#lifetimes.watch(this.#state.node(node.id) ?? node, true)
      if (appeared) this.#changed([node.id])
      const ended = this.#sessions.open(this.#now, request, node.id, body.Version, zstd)
      if (ended !== undefined) this.#pollEnded(node.id)
    }, request)
  }

  /** A node with what its map request reports. Streams report the disco key and the version alone: the rest may be older than a lite update. */
  #reported(node: NodeRecord, body: MapRequest, lite: boolean): NodeRecord {
    const discoKey = body.DiscoKey === undefined || body.DiscoKey === ZERO_DISCO_KEY ? node.discoKey : body.DiscoKey
    let next = discoKey === node.discoKey && body.Version === node.capVersion ? node : { ...node, discoKey, capVersion: body.Version }
    if (!lite) return next
    next = withHostinfo(this.#context, next, body.Hostinfo)
    const endpoints = usableEndpoints(body.Endpoints ?? [], this.#allowLoopback)
    return endpoints.join() === next.endpoints.join() ? next : { ...next, endpoints }
  }

  #makeContext(options: ControlServerOptions): Context {
    const stage = (item: Staged): void => void this.#staged.push(item)
    return {
      state: this.#state,
      crypto: options.provider ?? nobleProvider,
      random: options.random,
      rules: this.#policy,
      config: () => this.#config,
      isOnline: (id) => this.#presence.isOnline(id),
      now: () => this.#now,
      wallNow: (): UnixMillis => this.#wallClock(),
      respond: (request, status, body, retryAfterSeconds) => stage({ output: { type: 'respond', request, status, body, retryAfterSeconds } }),
      afterCommit: (run, request) => {
        if (request !== undefined) this.#stagedRequests.add(request)
        stage({ run, request })
      },
      audit: (actor, action, target, detail) => stage({ output: { type: 'audit', event: { at: this.#wallClock(), actor, action, target, detail } } }),
    }
  }
}

const NOTHING: ReadonlySet<number> = new Set()

function withSoundHostinfo<T extends { readonly Hostinfo?: Hostinfo }>(body: T): T {
  const { Hostinfo: given } = body
  const sound = given === undefined ? undefined : soundHostinfo(given)
  return sound === undefined || sound === given ? body : { ...body, Hostinfo: sound }
}
