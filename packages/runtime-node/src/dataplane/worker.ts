import { getHeapStatistics } from 'node:v8'
import { isMainThread, MessagePort, workerData } from 'node:worker_threads'
import type { Instant } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import type { WasmProvider } from '@meshwright/crypto/wasm'
import { formatUapi, parseUapi, UAPI_EADDRINUSE, UAPI_EIO, type UapiChange } from '@meshwright/wireguard/text'
import { suspendAwareClock } from '../clock.ts'
import { CountedPosts } from './counted-posts.ts'
import { linuxBorder } from './kernel-border.ts'
import { Lane } from './lane.ts'
import { laneNeeds } from './lane-needs.ts'
import { LaneLoop, obeyTest } from './lane-loop.ts'
import { arenaIn, type LaneContext, noLaneCounters } from './lane-context.ts'
import { type UdpPath, udpPathTo } from './socket-address.ts'
import { optimizeSooner } from './tier-up.ts'
import { gsoMaxBytes, setGsoMaxBytes } from './tun-descriptor.ts'
import { TunnelEngine } from './tunnel-engine.ts'
import { TunnelLane } from './tunnel-lane.ts'
import { TunnelNews } from './tunnel-news.ts'
import { markSockets, openUdpPair } from './udp-pair.ts'
import { type FromWorker, type LaneStatus, packStatus, placesPeer, type ToWorker, type WorkerStart } from './worker-messages.ts'

/** So late that no device bears it. */
const LOAD_MS = 10_000

type Start = WorkerStart & { readonly port: MessagePort; readonly pulse: Int32Array }

/** Whether this thread was started as a data plane. */
export function isDataPlaneWorker(): boolean {
  return !isMainThread && isStart(workerData)
}

/** Runs the data plane that this thread was started for. Programs that are bundled into one file call it when `isDataPlaneWorker()`. */
export function runDataPlaneWorker(): void {
  const start: unknown = workerData
  if (isMainThread || !isStart(start)) throw new TypeError('this thread was not started as a data plane')
  optimizeSooner()
  const post = (message: FromWorker): void => start.port.postMessage(message)
  const needs = laneNeeds()
  if ('reason' in needs) {
    post({ type: 'unavailable', reason: needs.reason })
    return start.port.close()
  }
  new DataPlaneThread(start, needs.koffi, needs.provider, post).run()
}

class DataPlaneThread {
  readonly #start: Start
  readonly #post: (message: FromWorker) => void
  readonly #news: TunnelNews
  readonly #clock: () => Instant = suspendAwareClock()
  readonly #provider: WasmProvider
  readonly #context: LaneContext
  readonly #engine: TunnelEngine<UdpPath>
  readonly #lane: Lane
  readonly #loop: LaneLoop
  #mark = 0
  /** Whether the port was not asked for by its number. */
  #isAnyPort = false

  constructor(start: Start, koffi: unknown, provider: WasmProvider, post: (message: FromWorker) => void) {
    this.#start = start
    const posts = new CountedPosts(start.pulse, post)
    this.#post = (message) => posts.post(message)
    this.#news = new TunnelNews(posts)
    this.#provider = provider
    const memory = arenaIn(provider)
    this.#engine = new TunnelEngine<UdpPath>({ name: start.name, pathTo: udpPathTo, provider, mtu: start.mtu, log: (level, line) => this.#news.log(level, line) })
    this.#context = {
      ...memory,
      border: linuxBorder(koffi, memory.bytes),
      engine: new TunnelLane(this.#engine, (output) => this.#news.note(output, this.#engine.device.pathOf(output.peer)?.id)),
      offloads: { ...start.offloads },
      counters: noLaneCounters(),
      tun: start.tun,
      sockets: undefined,
      mtu: start.mtu,
    }
    this.#lane = new Lane(this.#context, start.wake, this.#clock, { prompt: true, onClosing: () => this.#post({ type: 'closing' }) })
    this.#loop = new LaneLoop(this.#lane, start.wake, start.port, start.pulse, start.priority, {
      onMessage: (message) => void (isToWorker(message) && this.#handle(message)),
      onGone: (errno) => this.#post({ type: 'gone', errno }),
      onTurn: () => this.#news.tellMoved(),
    })
    if (start.sockets !== undefined) this.#lane.useSockets(this.#clock(), start.sockets)
  }

  run(): void {
    const start = this.#start
    this.#fitRows()
    const config = parseUapi(start.config.trimEnd().split('\n'))
    if (config.type === 'set') this.#apply(config.changes)
    for (const bytes of start.reconnect) {
      const key = NodePublicKey.fromBytes(bytes)
      if (key !== undefined) this.#engine.device.connect(this.#clock(), key)
    }
    this.#lane.settle(this.#clock())
    this.#post({ type: 'ready' })
    this.#loop.run()
  }

  #handle(message: ToWorker): void {
    const engine = this.#engine
    const now = this.#clock()
    switch (message.type) {
      case 'set': {
        const request = parseUapi(message.text.trimEnd().split('\n'))
        const errno = request.type === 'set' ? this.#apply(request.changes) : UAPI_EIO
        this.#lane.settle(this.#clock())
        return this.#post({ type: 'answer', id: message.id, errno })
      }
      case 'get':
        return this.#post({ type: 'answer', id: message.id, errno: 0, text: formatUapi(engine.shown(now, this.#context.sockets?.port ?? 0, this.#mark)) })
      case 'status':
        return this.#post({ type: 'answer', id: message.id, errno: 0, status: packStatus(engine.status(now), engine.drops, this.#laneStatus()) })
      case 'mtu':
        engine.device.setMtu(message.mtu)
        this.#context.mtu = message.mtu
        return this.#fitRows()
      case 'close':
        engine.destroy(now)
        this.#lane.settle(now)
        this.#lane.close()
        this.#post({ type: 'answer', id: message.id, errno: 0 })
        return this.#loop.end()
      case 'test':
        if (message.what === 'load') return engine.device.noteLag(now, LOAD_MS)
        if (message.what !== 'rekey') return obeyTest(message.what)
        for (const { publicKey, state } of engine.status(now).peers) if (state === 'established') engine.device.rekey(now, publicKey)
        return this.#lane.settle(now)
    }
  }

  /** Makes the changes in order; gives 0 or the negative errno of the one that failed, where it stopped. */
  #apply(changes: readonly UapiChange[]): number {
    for (const [i, change] of changes.entries()) {
      const errno = this.#change(change, changes.slice(i + 1))
      if (errno !== 0) return errno
    }
    // A device with a key wants to be reachable and to send, even if nobody chose a port.
    return this.#engine.hasKey && this.#context.sockets === undefined ? this.#listen(0) : 0
  }

  #change(change: UapiChange, later: readonly UapiChange[]): number {
    const { border } = this.#context
    const engine = this.#engine
    switch (change.type) {
      case 'replacePeers':
        engine.replacePeers(this.#clock(), later)
        return 0
      case 'listenPort':
        return this.#listen(change.port)
      case 'fwmark':
        if (this.#context.sockets !== undefined && change.mark !== this.#mark && !markSockets(border, this.#scratch(), this.#context.sockets, change.mark)) return UAPI_EADDRINUSE
        this.#mark = change.mark
        return 0
      case 'privateKey':
      case 'peer': {
        if (change.type === 'peer' && placesPeer(change)) this.#news.forgetPlace(change.publicKey)
        const errno = engine.change(this.#clock(), change)
        this.#lane.settle(this.#clock())
        return errno
      }
    }
  }

  /** Moves to another port, 0 for any; a port that cannot be had changes nothing. No datagram is lost on the way. */
  #listen(port: number): number {
    const { sockets, border, offloads } = this.#context
    const engine = this.#engine
    if (sockets !== undefined && (port === sockets.port || (port === 0 && this.#isAnyPort))) {
      this.#isAnyPort = port === 0
      return 0
    }
    const pair = openUdpPair(border, this.#scratch(), { port, mark: this.#mark, gro: this.#start.offloads.gro })
    if (typeof pair === 'number') {
      this.#news.log('error', `UDP port ${port} cannot be had (errno ${-pair})`)
      return UAPI_EADDRINUSE
    }
    this.#isAnyPort = port === 0
    offloads.gro = pair.gro
    offloads.gso = offloads.gso && pair.gso
    const now = this.#clock()
    this.#lane.useSockets(now, { ipv4: pair.ipv4, ipv6: pair.ipv6, port: pair.port })
    this.#post({ type: 'sockets', pair: { ipv4: pair.ipv4, ipv6: pair.ipv6, port: pair.port } })
    this.#news.log('verbose', `UDP port ${pair.port}`)
    if (sockets !== undefined) for (const { publicKey, state } of engine.status(now).peers) if (state === 'established') engine.device.sendKeepalive(now, publicKey)
    return 0
  }

  #fitRows(): void {
    const { border, tun, mtu } = this.#context
    if (!tun.hasVnetHeader || !this.#context.offloads.tso) return
    const bytes = gsoMaxBytes(mtu)
    if (!setGsoMaxBytes(border, this.#scratch(), this.#start.name, bytes)) this.#news.log('verbose', `the kernel does not limit rows to ${bytes} bytes`)
  }

  #laneStatus(): LaneStatus {
    const { offloads, counters, sockets } = this.#context
    return { provider: this.#provider.name, offloads: { ...offloads }, counters: { ...counters }, joined: this.#lane.joined, port: sockets?.port ?? 0, heapBytes: getHeapStatistics().used_heap_size }
  }

  #scratch(): { readonly view: DataView; readonly at: number } {
    return { view: this.#context.view, at: this.#context.map.scratch }
  }
}

function isStart(data: unknown): data is Start {
  return typeof data === 'object' && data !== null && 'meshwrightDataPlane' in data && 'port' in data && data.port instanceof MessagePort && 'pulse' in data && data.pulse instanceof Int32Array
}

function isToWorker(message: unknown): message is ToWorker {
  return typeof message === 'object' && message !== null && 'type' in message
}
