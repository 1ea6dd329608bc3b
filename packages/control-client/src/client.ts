import { after, earlier, type Instant, type Machine, Outbox, type RandomSource, type UnixMillis, type WallClock } from '@meshwright/core'
import {
  CAPABILITY_VERSION,
  type Hostinfo,
  type MapChunkReaderOptions,
  type MapRequest,
  type MapResponse,
  type NetInfo,
  parseOptionalTime,
  type PingRequest,
  type RegisterResponse,
  ZERO_NODE_KEY,
} from '@meshwright/control-protocol'
import { type DiscoPublicKey, MachinePrivateKey, type NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint } from '@meshwright/ip'
import type { ControlState } from './control-state.ts'
import { applyMapResponse } from './delta.ts'
import type { ControlClientInput, ControlClientOutput } from './events.ts'
import { HostUpdates } from './host-updates.ts'
import { LoginFlow, type LoginHow } from './login.ts'
import { isKeyExpired } from './map-node.ts'
import { MapSession } from './map-session.ts'
import type { NetworkMap } from './network-map.ts'
import { isWebAddress } from './plain-text.ts'
import { Requests } from './requests.ts'
import { shareUnchanged } from './share.ts'

/** An address of this node and how it was learnt: the `ENDPOINT_…` numbers of `@meshwright/control-protocol`. */
export interface HostEndpoint {
  readonly endpoint: Endpoint
  readonly type: number
}

/** What a control client starts from. */
export interface ControlClientOptions {
  readonly random: RandomSource
  readonly wallClock: WallClock
  /** What the node says of itself; `NetInfo` is given by `setNetInfo`. */
  readonly hostinfo: Hostinfo
  /** What was saved by the last run; absent: a new device, whose machine key is made now and owed as `saveState`. */
  readonly state?: ControlState
  /**
   * The map of an earlier run, of {@link mapResponseOf}, for this node key: in force from the first time that the server cannot be reached
   * until it answers. A map that names another key is not taken.
   */
  readonly lastMap?: MapResponse
  /** Bounds and decoder of the map stream. */
  readonly mapReader?: MapChunkReaderOptions
}

/** Where a client stands, for people and decisions. */
export type ControlClientState =
  /** Never logged in, logged out, or stopped before that. */
  | 'needsLogin'
  /** A registration is under way or will be tried again. */
  | 'loggingIn'
  /** A person must visit the URL of `status`. */
  | 'needsApprovalUrl'
  /** Registered, no map yet. */
  | 'starting'
  /** Registered; an admin must approve the machine. */
  | 'needsMachineApproval'
  /** Registered and mapped. */
  | 'running'
  /** The node key has expired. */
  | 'keyExpired'
  | 'loggingOut'

/** Answers about a client; asking changes nothing. */
export interface ControlClientStatus {
  readonly state: ControlClientState
  readonly authUrl: string | undefined
  readonly nodeKey: NodePublicKey | undefined
  /** The map stream is open and has given a map. */
  readonly polling: boolean
  readonly map: NetworkMap | undefined
}

const PING_TIMEOUT_MS = 15_000
const ANSWER_TIMEOUT_MS = 60_000
/** Pings that the server asks for while so many requests wait for their answers are not sent. */
const MAX_OPEN_REQUESTS = 32
/** Deadlines far away are looked at again after this: wall clocks are set, and laptops sleep. */
const MAX_EXPIRY_WAIT_MS = 3_600_000
const SKEW_MS = 60_000
/** How often a key that was registered just now, and that the server does not know after all, is registered again. */
const MAX_REGISTERED_AGAIN = 2
/** Before this date, 2023-01-01, a server's clock is taken for broken. */
const PLAUSIBLE_TIME: UnixMillis = 1_672_531_200_000

/**
 * Registers one node at a control server and keeps its network map true. It knows no sockets: it owes `request` outputs and eats what
 * became of them, whatever connection carries them. Three loops run beside each other: login, map poll, updates of this node's facts.
 *
 * | state | edge | to |
 * |---|---|---|
 * | needsLogin | login | loggingIn |
 * | loggingIn | accepted / a URL | starting / needsApprovalUrl |
 * | needsApprovalUrl | approved | starting |
 * | starting | first frame | running, needsMachineApproval or keyExpired |
 * | starting | the key is unknown after all, twice at most | loggingIn |
 * | running | expiry passes / login with a new key / logout | keyExpired / loggingIn (the map stays) / loggingOut |
 * | loggingOut | confirmed or given up | needsLogin |
 */
export class ControlClient implements Machine<ControlClientInput, ControlClientOutput> {
  readonly #outbox: Outbox<ControlClientOutput> = new Outbox()
  readonly #requests: Requests = new Requests(this.#outbox)
  readonly #wallClock: WallClock
  readonly #login: LoginFlow
  readonly #session: MapSession
  readonly #updates: HostUpdates
  readonly #machineKey: MachinePrivateKey
  #nodeKey: NodePrivateKey | undefined
  #hostinfo: Hostinfo
  #netInfo: NetInfo | undefined
  #endpoints: readonly HostEndpoint[] = []
  #discoKey: DiscoPublicKey | undefined
  #map: NetworkMap | undefined
  #lastMap: MapResponse | undefined
  /** The map in force is that of an earlier run. */
  #remembered = false
  #skewMs = 0
  #expired = false
  #expiryDue: Instant | undefined
  #lastPingUrl: string | undefined
  #lastPopUrl: string | undefined
  /** Registered, and no map has come for the key yet: how it was done, and how often again. */
  #unproven: { readonly how: LoginHow; again: number } | undefined

  constructor(options: ControlClientOptions) {
    this.#wallClock = options.wallClock
    this.#hostinfo = options.hostinfo
    this.#machineKey = options.state?.machineKey ?? MachinePrivateKey.generate(options.random)
    this.#nodeKey = options.state?.nodeKey
    this.#lastMap = options.lastMap
    const around = { outbox: this.#outbox, requests: this.#requests, random: options.random }
    this.#login = new LoginFlow({
      ...around,
      hostinfo: () => this.#wholeHostinfo(),
      nodeKey: () => this.#nodeKey,
      refused: () => this.#forget(),
      succeeded: (now, key, response, how) => this.#loginSucceeded(now, key, response, how),
      loggedOut: (now) => this.#loggedOut(now),
    })
    this.#session = new MapSession({
      ...around,
      request: () => this.#mapRequest(true),
      frame: (now, response, first) => this.#frame(now, response, first),
      unknown: (now) => this.#registerAgain(now),
      reader: options.mapReader ?? {},
    })
    this.#updates = new HostUpdates({ ...around, request: () => this.#mapRequest(false) })
    if (options.state === undefined) this.#save()
  }

  /** The device's identity, for the Noise channel. */
  get machineKey(): MachinePrivateKey {
    return this.#machineKey
  }

  /** How many requests wait for an answer: a few at most, however the server behaves. */
  get openRequests(): number {
    return this.#requests.size
  }

  /** True when there is a map, and it came from the server in this run. */
  get isMapFresh(): boolean {
    return this.#map !== undefined && !this.#remembered
  }

  /** True when the server has answered that it took what this node says of itself now: host facts, endpoints, disco key, home relay. */
  get isTold(): boolean {
    return this.#updates.isDone
  }

  /** The registered node key: the private key of WireGuard and relays; `undefined` before login. */
  get nodeKey(): NodePrivateKey | undefined {
    return this.#nodeKey
  }

  /**
   * Logs in: by `authKey`, with the known node key, or by a URL that is owed as `openUrl`. A login under way is given up. The running map
   * stays in force until the new registration succeeds.
   */
  login(now: Instant, how: LoginHow = {}): void {
    this.#unproven = undefined
    this.#login.login(now, how)
  }

  /** Expires the node key at the server, forgets it here, and owes `loggedOut`. */
  logout(now: Instant): void {
    this.#session.stop()
    this.#updates.stop()
    this.#login.logout(now)
  }

  /** Closes everything without telling the server; `login` starts again. */
  stop(): void {
    this.#login.stop()
    this.#session.stop()
    this.#updates.stop()
    this.#expiryDue = undefined
  }

  /** Sets what the node says of itself. Its `NetInfo` is ignored: see `setNetInfo`. */
  setHostinfo(now: Instant, hostinfo: Hostinfo): void {
    this.#hostinfo = hostinfo
    this.#updates.changed(now)
  }

  /** Sets what the node knows of its network; `PreferredDERP` is the home relay. */
  setNetInfo(now: Instant, netInfo: NetInfo): void {
    this.#netInfo = netInfo
    this.#updates.changed(now)
  }

  /** Sets the addresses at which peers may find this node. */
  setEndpoints(now: Instant, endpoints: readonly HostEndpoint[]): void {
    this.#endpoints = endpoints
    this.#updates.changed(now)
  }

  /** Sets the disco key: without one, peers cannot reach this node. */
  setDiscoKey(now: Instant, key: DiscoPublicKey): void {
    this.#discoKey = key
    this.#updates.changed(now)
  }

  /** The network has changed, or its computer slept: what waits for the server to be reachable tries at once. */
  networkChanged(now: Instant): void {
    this.#login.networkChanged(now)
    this.#session.networkChanged(now)
  }

  /**
   * This node gives its connection with the server up, such as when the address is gone that it was made from: what was asked on it is asked
   * again at once, and no problem is told. Close the connection first, so that the requests which follow open a new one.
   */
  reconnect(now: Instant): void {
    this.#login.reconnect(now)
    this.#session.reconnect(now)
    this.#updates.reconnect(now)
  }

  /** Posts the answer to a `ping` output: a `PingResponse` as JSON, or the HTTP response of a c2n request. */
  answerPing(now: Instant, request: PingRequest, body: Uint8Array): void {
    const path = pathOf(request.URL)
    if (path !== undefined) this.#requests.tell(now, 'POST', path, body, ANSWER_TIMEOUT_MS)
  }

  status(): ControlClientStatus {
    return {
      state: this.#state(),
      authUrl: this.#login.pendingUrl,
      nodeKey: this.#nodeKey?.publicKey(),
      polling: this.#session.up,
      map: this.#map,
    }
  }

  handleInput(now: Instant, input: ControlClientInput): void {
    this.#requests.take(now, input)
    if (input.type === 'failed') this.#fallBack(now)
  }

  handleTimeout(now: Instant): void {
    this.#requests.handleTimeout(now)
    this.#login.handleTimeout(now)
    this.#session.handleTimeout(now)
    this.#updates.handleTimeout(now)
    if (this.#expiryDue !== undefined && now >= this.#expiryDue) this.#watchExpiry(now)
  }

  pollOutput(): ControlClientOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return [this.#login.due, this.#session.due, this.#updates.due, this.#expiryDue].reduce(earlier, this.#requests.due)
  }

  #state(): ControlClientState {
    const login = this.#login.state
    if (login === 'loggingOut' || login === 'logoutWaiting') return 'loggingOut'
    if (login !== 'idle') return this.#login.pendingUrl === undefined ? 'loggingIn' : 'needsApprovalUrl'
    if (this.#session.state === 'stopped') return 'needsLogin'
    if (this.#map === undefined) return 'starting'
    if (this.#expired) return 'keyExpired'
    return this.#map.self.machineAuthorized ? 'running' : 'needsMachineApproval'
  }

  #loginSucceeded(now: Instant, key: NodePrivateKey, response: RegisterResponse, how: LoginHow): void {
    this.#nodeKey = key
    this.#unproven = { how, again: this.#unproven?.again ?? 0 }
    this.#save()
    this.#outbox.push({ type: 'loginFinished', user: response.User, login: response.Login })
    this.#session.start(now)
    this.#updates.enable(now)
  }

  // headscale 0.29.3 loses a new key when it writes something else of the same node within half a second: it says yes and then knows nothing of it.
  #registerAgain(now: Instant): boolean {
    const unproven = this.#unproven
    if (unproven === undefined || unproven.again >= MAX_REGISTERED_AGAIN) return false
    unproven.again += 1
    this.#session.stop()
    this.#updates.stop()
    this.#login.login(now, unproven.how)
    return true
  }

  // The server cannot be reached: what it said last holds.
  #fallBack(now: Instant): void {
    const last = this.#lastMap
    if (last === undefined || this.#map !== undefined || this.#nodeKey === undefined) return
    this.#lastMap = undefined
    const map = applyMapResponse(undefined, last, this.#wallClock())
    if (map === undefined || !map.self.nodeKey.equals(this.#nodeKey.publicKey())) return
    this.#remembered = true
    this.#map = map
    this.#outbox.push({ type: 'netmap', map })
    this.#watchExpiry(now)
  }

  // The server can be reached and does not know this node as the remembered map does: nothing of that map holds any more.
  #forget(): void {
    this.#lastMap = undefined
    if (!this.#remembered) return
    this.#remembered = false
    this.#map = undefined
    this.#expiryDue = undefined
    this.#outbox.push({ type: 'keyExpired' })
  }

  #loggedOut(_now: Instant): void {
    this.#lastMap = undefined
    this.#remembered = false
    const had = this.#nodeKey !== undefined
    this.#nodeKey = undefined
    this.#map = undefined
    this.#expired = false
    this.#expiryDue = undefined
    if (had) this.#save()
    this.#outbox.push({ type: 'loggedOut' })
  }

  #save(): void {
    this.#outbox.push({ type: 'saveState', state: { machineKey: this.#machineKey, nodeKey: this.#nodeKey } })
  }

  #wholeHostinfo(): Hostinfo {
    return this.#netInfo === undefined ? this.#hostinfo : { ...this.#hostinfo, NetInfo: this.#netInfo }
  }

  // No `Compress`: frames come as plain JSON, which needs no decoder. Streams carry the host's facts too, as real clients' do.
  #mapRequest(stream: boolean): MapRequest {
    return {
      Version: CAPABILITY_VERSION,
      KeepAlive: true,
      NodeKey: this.#nodeKey?.publicKey().text ?? ZERO_NODE_KEY,
      ...(this.#discoKey !== undefined && { DiscoKey: this.#discoKey.text }),
      ...(stream ? { Stream: true } : { OmitPeers: true }),
      Hostinfo: this.#wholeHostinfo(),
      ...(this.#endpoints.length > 0 && {
        Endpoints: this.#endpoints.map(({ endpoint }) => formatEndpoint(endpoint)),
        EndpointTypes: this.#endpoints.map(({ type }) => type),
      }),
    }
  }

  #frame(now: Instant, response: MapResponse, first: boolean): boolean {
    this.#takeOrders(now, response)
    if (response.KeepAlive === true) return true
    const applied = applyMapResponse(first ? undefined : this.#map, response, this.#wallClock())
    if (applied === undefined) return false
    this.#unproven = undefined
    this.#lastMap = undefined
    this.#remembered = false
    const map = first ? shareUnchanged(this.#map, applied) : applied
    if (map !== this.#map) this.#outbox.push({ type: 'netmap', map })
    else if (!first) return true
    this.#map = map
    this.#watchExpiry(now)
    return true
  }

  // Members that count in keepalives too.
  #takeOrders(now: Instant, response: MapResponse): void {
    const time = parseOptionalTime(response.ControlTime)
    if (time !== undefined) {
      const skew = time - this.#wallClock()
      this.#skewMs = time >= PLAUSIBLE_TIME && Math.abs(skew) > SKEW_MS ? skew : 0
    }
    if (response.PopBrowserURL !== undefined && isWebAddress(response.PopBrowserURL) && response.PopBrowserURL !== this.#lastPopUrl) {
      this.#lastPopUrl = response.PopBrowserURL
      this.#outbox.push({ type: 'openUrl', url: response.PopBrowserURL })
    }
    const ping = response.PingRequest
    if (ping === undefined || ping.URL === this.#lastPingUrl) return
    this.#lastPingUrl = ping.URL
    const path = pathOf(ping.URL)
    if ((ping.Types ?? '') !== '' || ping.URLIsNoise !== true) this.#outbox.push({ type: 'ping', request: ping })
    else if (path !== undefined && this.#requests.size < MAX_OPEN_REQUESTS) this.#requests.tell(now, 'HEAD', path, undefined, PING_TIMEOUT_MS)
  }

  #watchExpiry(now: Instant): void {
    this.#expiryDue = undefined
    const self = this.#map?.self
    if (self === undefined) return
    const wallNow = this.#wallClock() + this.#skewMs
    // The self node's `Expired` alone means nothing: real clients go by the time.
    const expired = isKeyExpired({ ...self, expired: false }, wallNow)
    if (expired !== this.#expired) {
      this.#expired = expired
      this.#outbox.push({ type: expired ? 'keyExpired' : 'keyRenewed' })
    }
    if (!expired && self.keyExpiry !== undefined) this.#expiryDue = after(now, Math.min(Math.max(self.keyExpiry - wallNow, 1), MAX_EXPIRY_WAIT_MS))
  }
}

// Inside the Noise channel the host of a URL means nothing.
function pathOf(url: string): string | undefined {
  const match = /^https?:\/\/[^/?#]*(\/[^#\s]*)?(?:#.*)?$/.exec(url)
  return match === null ? undefined : (match[1] ?? '/')
}
