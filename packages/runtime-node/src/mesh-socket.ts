import { Duplex } from 'node:stream'
import { type Instant, isMeshwrightError } from '@meshwright/core'
import { type Endpoint, formatIp, parseIp } from '@meshwright/ip'
import type { CloseReason, FlowId, ListenerId, Netstack, NetstackOutput, UdpId } from '@meshwright/netstack'
import { abortError } from './dial-abort.ts'
import type { DatagramWay, FlowCarrier } from './flow-carrier.ts'
import type { MeshListener, MeshSocket, MeshUdpSocket } from './running-node.ts'

/** Calls methods of the stack at the current time, and performs what they cause. */
export type StackDoor = <Result>(use: (stack: Netstack, now: Instant) => Result) => Result

const ERRORS: Readonly<Record<CloseReason, readonly [string, string]>> = {
  finished: ['ECONNRESET', 'the connection was closed'],
  reset: ['ECONNRESET', 'the peer reset the connection'],
  refused: ['ECONNREFUSED', 'the peer refused the connection'],
  timeout: ['ETIMEDOUT', 'the peer did not answer in time (is the port allowed by the policy?)'],
  unreachable: ['EHOSTUNREACH', 'the peer cannot be reached'],
  aborted: ['ECONNABORTED', 'the connection was given up'],
}

/** Pieces are joined up to here: a reader that writes them on makes a system call of each. */
const JOINED_BYTES = 65_536

/** What a program has bound: it keeps its port when the stack behind it is replaced. */
interface Bound<Id, Handler> {
  id: Id
  readonly port: number
  readonly handler: Handler
}

type OnConnection = (socket: MeshSocket) => void
type OnMessage = (bytes: Uint8Array, from: { readonly address: string; readonly port: number }) => void

/** TCP connections, listeners and UDP sockets of a node's own stack, as Node knows them. */
export class MeshFlows {
  readonly #door: StackDoor
  readonly #carrier: FlowCarrier | undefined
  readonly #flows: Map<FlowId, Flow> = new Map()
  readonly #listeners: Map<ListenerId, Bound<ListenerId, OnConnection>> = new Map()
  readonly #udp: Map<UdpId, Bound<UdpId, OnMessage>> = new Map()
  readonly #forwarding: Map<FlowId, Duplex> = new Map()
  readonly #datagrams: Map<FlowId, DatagramWay> = new Map()

  /** @param carrier takes what no listener and no socket claims; without one it is refused */
  constructor(door: StackDoor, carrier?: FlowCarrier) {
    this.#door = door
    this.#carrier = carrier
  }

  /** Connects; rejects with an error whose `code` is Node's. */
  connect(to: Endpoint, signal?: AbortSignal, timeoutMs?: number): Promise<MeshSocket> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      let onAbort = (): void => undefined
      const settle = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
      }
      let flow: Flow
      try {
        // Known before anything can come of it: the node's own service address answers within this very call.
        flow = this.#door((stack, now) => {
          const made = new Flow(stack.connectTcp(now, to), this.#door, to)
          made.onOpen = () => {
            settle()
            resolve(made)
          }
          made.onRefused = (reason) => {
            settle()
            reject(failure(...ERRORS[reason], to))
          }
          this.#flows.set(made.id, made)
          return made
        })
      } catch (error) {
        reject(isMeshwrightError(error, 'NETSTACK_PORT_INVALID') ? error : failure('EHOSTUNREACH', error instanceof Error ? error.message : String(error), to))
        return
      }
      if (flow.opened || flow.destroyed) return
      const giveUp = (error: Error): void => {
        if (flow.opened) return
        this.#flows.delete(flow.id)
        this.#door((stack, now) => stack.abort(now, flow.id))
        settle()
        reject(error)
      }
      onAbort = () => giveUp(abortError(`${formatIp(to.ip)}:${to.port}: the dial was aborted`, signal))
      if (timeoutMs !== undefined) timer = setTimeout(() => giveUp(failure('ETIMEDOUT', `no answer within ${timeoutMs} ms (is the port allowed by the policy?)`, to)), timeoutMs)
      signal?.addEventListener('abort', onAbort, { once: true })
      if (signal?.aborted === true) onAbort()
    })
  }

  listen(port: number, onConnection: OnConnection): MeshListener {
    const id = this.#door((stack) => stack.listenTcp(port === 0 ? 'any' : port))
    const bound: Bound<ListenerId, OnConnection> = { id, port: this.#door((stack) => stack.listenerAddress(id)?.port ?? port), handler: onConnection }
    this.#listeners.set(id, bound)
    return {
      port: bound.port,
      close: () => {
        if (this.#listeners.get(bound.id) !== bound) return
        this.#listeners.delete(bound.id)
        this.#door((stack) => stack.closeListener(bound.id))
      },
    }
  }

  listenUdp(port: number, onMessage: OnMessage): MeshUdpSocket {
    const id = this.#door((stack) => stack.bindUdp(port === 0 ? 'any' : port))
    const bound: Bound<UdpId, OnMessage> = { id, port: this.#door((stack) => stack.udpAddress(id)?.port ?? port), handler: onMessage }
    this.#udp.set(id, bound)
    return {
      port: bound.port,
      send: (bytes, toPort, address) => {
        const ip = parseIp(address)
        if (ip === undefined) throw new TypeError(`not an IP address: ${address}`)
        if (this.#udp.get(bound.id) !== bound) return false
        try {
          this.#door((stack, now) => stack.sendUdp(now, bound.id, { ip, port: toPort }, bytes))
        } catch (error) {
          if (isMeshwrightError(error, 'NETSTACK_NO_SOURCE')) return false // down, logged out, expired, or without that family
          throw error
        }
        return true
      },
      close: () => {
        if (this.#udp.get(bound.id) !== bound) return
        this.#udp.delete(bound.id)
        this.#door((stack) => stack.closeUdp(bound.id))
      },
    }
  }

  /** Performs what the stack tells. */
  perform(output: Exclude<NetstackOutput, { readonly type: 'packet' }>): void {
    switch (output.type) {
      case 'opened':
        return this.#opened(output)
      case 'data':
        this.#flows.get(output.flow)?.received(output.bytes)
        return
      case 'ended':
        this.#flows.get(output.flow)?.ended()
        return
      case 'writable':
        this.#flows.get(output.flow)?.writeMore()
        return
      case 'closed': {
        const flow = this.#flows.get(output.flow)
        this.#flows.delete(output.flow)
        this.#forwarding.get(output.flow)?.destroy()
        this.#forwarding.delete(output.flow)
        this.#datagrams.get(output.flow)?.close()
        this.#datagrams.delete(output.flow)
        flow?.finish(output.reason)
        return
      }
      case 'incoming':
        if (output.protocol === 'tcp') this.#incoming(output.flow, output.local, output.remote)
        else this.#incomingDatagrams(output.flow, output.local, output.remote)
        return
      case 'datagram':
        this.#datagrams.get(output.flow)?.send(output.bytes)
        return
      case 'echoRequest':
        void this.#carrier?.echo(output.to).then((answered) => {
          if (answered) this.#door((stack) => stack.answerEcho(output))
        })
        return
      case 'udp':
        this.#udp.get(output.socket)?.handler(output.bytes, { address: formatIp(output.from.ip), port: output.from.port })
        return
      case 'refused':
      case 'echoReply':
      case 'echoFailed':
        return
    }
  }

  /** Resets every connection; listeners and UDP sockets stay. For the old stack, before it is replaced. */
  resetConnections(): void {
    for (const flow of [...this.#flows.values()]) flow.resetAndDestroy()
    for (const stream of this.#forwarding.values()) stream.destroy()
    this.#forwarding.clear()
    for (const way of this.#datagrams.values()) way.close()
    this.#datagrams.clear()
  }

  /** Binds every listener and UDP socket anew, on the port that it had: the door leads to another stack now. */
  bindAgain(): void {
    const listeners = [...this.#listeners.values()]
    this.#listeners.clear()
    for (const bound of listeners) {
      bound.id = this.#door((stack) => stack.listenTcp(bound.port))
      this.#listeners.set(bound.id, bound)
    }
    const sockets = [...this.#udp.values()]
    this.#udp.clear()
    for (const bound of sockets) {
      bound.id = this.#door((stack) => stack.bindUdp(bound.port))
      this.#udp.set(bound.id, bound)
    }
  }

  /** Resets every connection and forgets every listener. */
  closeAll(): void {
    this.resetConnections()
    this.#listeners.clear()
    this.#udp.clear()
  }

  #opened(output: Extract<NetstackOutput, { readonly type: 'opened' }>): void {
    const known = this.#flows.get(output.flow)
    if (known !== undefined) {
      known.open(output.local, output.remote)
      return
    }
    const flow = new Flow(output.flow, this.#door, output.remote)
    const backend = this.#forwarding.get(output.flow)
    const onConnection = output.listener === undefined ? undefined : this.#listeners.get(output.listener)?.handler
    if (backend === undefined && onConnection === undefined) {
      this.#door((stack, now) => stack.abort(now, output.flow))
      return
    }
    this.#flows.set(output.flow, flow)
    flow.open(output.local, output.remote)
    if (backend === undefined) {
      onConnection?.(flow)
      return
    }
    this.#forwarding.delete(output.flow)
    join(flow, backend)
  }

  // The far side hears that it is connected only once the backend is: a refused backend is a refused connection.
  #incoming(id: FlowId, local: Endpoint, remote: Endpoint): void {
    const refuse = (): void => this.#door((stack, now) => stack.refuse(now, id))
    if (this.#carrier === undefined) return refuse()
    this.#carrier.connect(local, remote).then(
      (backend) => {
        if (backend === undefined) return refuse()
        this.#forwarding.set(id, backend)
        this.#door((stack, now) => stack.accept(now, id))
      },
      () => refuse(),
    )
  }

  #incomingDatagrams(id: FlowId, local: Endpoint, remote: Endpoint): void {
    const way = this.#carrier?.datagrams(local, remote, (bytes) => void this.#door((stack, now) => stack.sendDatagram(now, id, bytes)))
    if (way === undefined) this.#door((stack, now) => stack.refuse(now, id))
    else this.#datagrams.set(id, way)
  }
}

/** One TCP connection of the stack as a Duplex. Back-pressure works both ways: the receive window opens as the reader reads. */
class Flow extends Duplex implements MeshSocket {
  remoteAddress: string
  remotePort: number
  localAddress = ''
  localPort = 0
  opened = false
  onOpen: () => void = () => undefined
  onRefused: (reason: CloseReason) => void = () => undefined
  readonly #id: FlowId
  readonly #door: StackDoor
  #waiting: { readonly bytes: Uint8Array; readonly done: (error?: Error | null) => void } | undefined
  #unread = 0
  readonly #arrived: Uint8Array[] = []
  #handOverSoon: NodeJS.Immediate | undefined
  #over = false
  #broken = false
  #idleMs = 0
  #idle: NodeJS.Timeout | undefined

  constructor(id: FlowId, door: StackDoor, remote: Endpoint) {
    super({ allowHalfOpen: true })
    this.#id = id
    this.#door = door
    this.remoteAddress = formatIp(remote.ip)
    this.remotePort = remote.port
  }

  get id(): FlowId {
    return this.#id
  }

  open(local: Endpoint, remote: Endpoint): void {
    this.opened = true
    this.localAddress = formatIp(local.ip)
    this.localPort = local.port
    this.remoteAddress = formatIp(remote.ip)
    this.remotePort = remote.port
    this.onOpen()
    this.emit('connect')
  }

  // `setTimeout`, `setNoDelay`, `setKeepAlive`, `ref` and `unref`: Node's HTTP client and server call them on whatever they are given.
  setTimeout(ms: number, listener?: () => void): this {
    this.#idleMs = ms
    clearTimeout(this.#idle)
    this.#idle = undefined
    if (listener !== undefined) ms === 0 ? this.removeListener('timeout', listener) : this.once('timeout', listener)
    this.#stir()
    return this
  }

  setNoDelay(): this {
    return this
  }

  setKeepAlive(): this {
    return this
  }

  ref(): this {
    return this
  }

  unref(): this {
    return this
  }

  #stir(): void {
    if (this.#idleMs === 0 || this.destroyed) return
    if (this.#idle === undefined) this.#idle = setTimeout(() => this.emit('timeout'), this.#idleMs).unref()
    else this.#idle.refresh()
  }

  // Handed to the reader once for all packets that were waiting: a reader that writes it on makes a system call of each piece.
  received(bytes: Uint8Array): void {
    this.#stir()
    if (this.#arrived.push(bytes) === 1) this.#handOverSoon = setImmediate(() => this.#handOver())
  }

  ended(): void {
    this.#handOver()
    this.push(null)
  }

  #handOver(): void {
    if (this.#handOverSoon !== undefined) clearImmediate(this.#handOverSoon)
    this.#handOverSoon = undefined
    const arrived = this.#arrived.splice(0)
    for (let from = 0; from < arrived.length && !this.destroyed; ) {
      let to = from + 1
      let length = arrived[from]?.length ?? 0
      for (; to < arrived.length && length + (arrived[to]?.length ?? 0) <= JOINED_BYTES; to += 1) length += arrived[to]?.length ?? 0
      const bytes = (to === from + 1 ? arrived[from] : undefined) ?? Buffer.concat(arrived.slice(from, to), length)
      from = to
      if (!this.push(bytes)) this.#unread += bytes.length
      else if (!this.#over) this.#door((stack, now) => stack.consumed(now, this.#id, bytes.length))
    }
  }

  /** The stack has room again for what waits to be written. */
  writeMore(): void {
    const waiting = this.#waiting
    if (waiting === undefined) return
    this.#waiting = undefined
    this.#offer(waiting.bytes, waiting.done)
  }

  finish(reason: CloseReason): void {
    this.#over = true
    this.#handOver()
    if (!this.opened) {
      this.onRefused(reason)
      this.destroy()
      return
    }
    if (reason === 'finished') {
      if (!this.readableEnded) this.push(null)
      if (this.#waiting === undefined) return
    }
    this.#waiting?.done(failure(...ERRORS[reason]))
    this.#waiting = undefined
    this.destroy(reason === 'finished' || reason === 'aborted' ? undefined : failure(...ERRORS[reason]))
  }

  override _read(): void {
    const bytes = this.#unread
    if (bytes === 0 || this.#over) return
    this.#unread = 0
    this.#door((stack, now) => stack.consumed(now, this.#id, bytes))
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#offer(chunk, done)
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#over) this.#door((stack, now) => stack.shutdownWrite(now, this.#id))
    done()
  }

  /** Breaks the connection: the other end is told by a reset that this is no orderly end. */
  resetAndDestroy(): this {
    this.#broken = true
    return this.destroy()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#idle)
    if (!this.#over) {
      this.#over = true
      // As the kernel closes a socket: what was written arrives, and the other end sees an orderly one. Where bytes are lost, unread here or
      // not yet taken from the writer, it is told.
      const clean = error === null && !this.#broken && this.writableLength === 0 && this.readableLength === 0 && this.#arrived.length === 0
      this.#door((stack, now) => (clean ? stack.close(now, this.#id) : stack.abort(now, this.#id)))
    }
    done(error)
  }

  #offer(bytes: Uint8Array, done: (error?: Error | null) => void): void {
    if (this.#over) return done(failure('EPIPE', 'the connection is closed'))
    this.#stir()
    const taken = this.#door((stack, now) => stack.write(now, this.#id, bytes))
    if (taken === bytes.length) done()
    else this.#waiting = { bytes: bytes.subarray(taken), done }
  }
}

/** Joins two streams for good: what one ends, the other ends; what breaks one, breaks both. */
export function join(a: Duplex, b: Duplex): void {
  const breakIt = (stream: Duplex): void => void (stream instanceof Flow ? stream.resetAndDestroy() : stream.destroy())
  for (const [from, to] of [[a, b], [b, a]] as const) {
    from.on('error', () => breakIt(to))
    from.on('close', () => {
      if (!from.readableEnded || !from.writableFinished) breakIt(to)
    })
  }
  a.pipe(b)
  b.pipe(a)
}

function failure(code: string, message: string, to?: Endpoint): Error & { readonly code: string } {
  const where = to === undefined ? '' : `${formatIp(to.ip)}:${to.port}: `
  return Object.assign(new Error(`${where}${message}`), { code })
}
