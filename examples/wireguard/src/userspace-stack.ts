import { lookup } from 'node:dns/promises'
import type { Server } from 'node:net'
import { Duplex } from 'node:stream'
import type { Instant } from '@meshwright/core'
import { type Ip, parseIp } from '@meshwright/ip'
import { type CloseReason, type FlowId, Netstack, type NetstackOutput } from '@meshwright/netstack'
import { createSocks5Server, suspendAwareClock, systemRandom, type TunStats } from '@meshwright/runtime-node'
import { UsageError } from './usage-error.ts'

/** What stands in the place of a TUN device. */
export interface UserspaceOptions {
  /** Own addresses in the tunnel. */
  readonly addresses: readonly Ip[]
  /** Where the SOCKS5 proxy listens: loopback, since whoever reaches it speaks with this host's rights. */
  readonly socks5: { readonly host: string; readonly port: number }
  readonly mtu: number
  /** Takes an inner packet that is to be sent. */
  readonly send: (packet: Uint8Array) => void
}

const ERRORS: Readonly<Record<CloseReason, string>> = {
  finished: 'ECONNRESET', reset: 'ECONNRESET', refused: 'ECONNREFUSED', timeout: 'ETIMEDOUT', unreachable: 'EHOSTUNREACH', aborted: 'ECONNABORTED',
}

/** The way into the tunnel without a TUN device: a TCP/IP stack in user space behind a SOCKS5 proxy. It answers pings. */
export class UserspaceStack {
  readonly #options: UserspaceOptions
  readonly #stack: Netstack
  readonly #clock: () => Instant = suspendAwareClock()
  readonly #flows: Map<FlowId, StackSocket> = new Map()
  readonly #proxy: Server
  #timer: NodeJS.Timeout | undefined
  #sent = 0
  #received = 0

  constructor(options: UserspaceOptions) {
    this.#options = options
    this.#stack = new Netstack(systemRandom, { mtu: options.mtu, addresses: options.addresses })
    this.#proxy = createSocks5Server(async (host, port, signal) => this.#dial(await this.#resolve(host), port, signal))
  }

  /** Begins to listen. @throws UsageError when the port cannot be had */
  listen(): Promise<void> {
    const { host, port } = this.#options.socks5
    return new Promise((resolve, reject) => {
      this.#proxy.once('error', (error) => reject(new UsageError(`SOCKS5 cannot listen at ${host}:${port}: ${error.message}`, 1)))
      this.#proxy.listen(port, host, resolve)
    })
  }

  /** An inner packet has come. */
  write(packet: Uint8Array): void {
    this.#received += 1
    this.#stack.receive(this.#clock(), packet)
    this.#settle()
  }

  /** What went through it, as a TUN device in its place would count it. */
  stats(): TunStats {
    return { read: this.#sent, written: this.#received, refused: 0, lost: 0 }
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    for (const socket of this.#flows.values()) socket.destroy()
    await new Promise((resolve) => this.#proxy.close(resolve))
    clearTimeout(this.#timer)
  }

  async #resolve(host: string): Promise<Ip> {
    const literal = parseIp(host)
    if (literal !== undefined) return literal
    const found = parseIp((await lookup(host)).address)
    if (found === undefined) throw Object.assign(new Error(`${host} has no address`), { code: 'EHOSTUNREACH' })
    return found
  }

  #dial(ip: Ip, port: number, signal: AbortSignal): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      let flow: FlowId
      try {
        flow = this.#stack.connectTcp(this.#clock(), { ip, port })
      } catch {
        // No own address of that family: there is no way from here.
        return reject(Object.assign(new Error('no way there'), { code: 'ENETUNREACH' }))
      }
      const socket = new StackSocket({
        opened: resolve,
        failed: reject,
        write: (bytes) => this.#act(() => this.#stack.write(this.#clock(), flow, bytes)),
        consumed: (bytes) => this.#act(() => this.#stack.consumed(this.#clock(), flow, bytes)),
        end: () => this.#act(() => this.#stack.shutdownWrite(this.#clock(), flow)),
        close: () => this.#act(() => this.#stack.close(this.#clock(), flow)),
        abort: () => this.#act(() => this.#stack.abort(this.#clock(), flow)),
      })
      signal.addEventListener('abort', () => socket.destroy(), { once: true })
      this.#flows.set(flow, socket)
      this.#settle()
    })
  }

  #act<Result>(work: () => Result): Result {
    const result = work()
    // Not at once: what several calls cause together goes out together.
    queueMicrotask(() => this.#settle())
    return result
  }

  #settle(): void {
    for (let output = this.#stack.pollOutput(); output !== undefined; output = this.#stack.pollOutput()) this.#perform(output)
    clearTimeout(this.#timer)
    const due = this.#stack.pollTimeout()
    if (due === undefined) return
    this.#timer = setTimeout(
      () => {
        this.#stack.handleTimeout(this.#clock())
        this.#settle()
      },
      Math.max(0, Math.ceil(due - this.#clock())),
    )
  }

  #perform(output: NetstackOutput): void {
    if (output.type === 'packet') {
      this.#sent += 1
      return this.#options.send(output.bytes)
    }
    const socket = 'flow' in output ? this.#flows.get(output.flow) : undefined
    if (socket === undefined) return
    if (output.type === 'closed') this.#flows.delete(output.flow)
    socket.handle(output)
  }
}

interface StackSocketActs {
  opened(socket: Duplex): void
  failed(error: Error): void
  /** Gives how many bytes were taken. */
  write(bytes: Uint8Array): number
  consumed(bytes: number): void
  end(): void
  /** Lets go of it: what was written is delivered. */
  close(): void
  abort(): void
}

/** A flow of the stack as a Node stream. */
class StackSocket extends Duplex {
  readonly #acts: StackSocketActs
  #opened = false
  #closed = false
  #ended = false
  /** Bytes that were pushed while the reader was full: they open the window once it reads on. */
  #unread = 0
  #waiting: { readonly bytes: Uint8Array; readonly done: () => void } | undefined

  constructor(acts: StackSocketActs) {
    super({ allowHalfOpen: true })
    this.#acts = acts
  }

  handle(output: NetstackOutput): void {
    switch (output.type) {
      case 'opened':
        this.#opened = true
        return this.#acts.opened(this)
      case 'data':
        if (this.push(output.bytes)) this.#acts.consumed(output.bytes.length)
        else this.#unread += output.bytes.length
        return
      case 'ended':
        return this.#end()
      case 'writable':
        return this.#goOn()
      case 'closed': {
        this.#closed = true
        const error = output.reason === 'finished' ? undefined : Object.assign(new Error(`the connection ended: ${output.reason}`), { code: ERRORS[output.reason] })
        if (!this.#opened) this.#acts.failed(error ?? new Error('closed'))
        // What came is still to be read by whoever is slow: the stream ends by itself behind it.
        if (this.#opened && error === undefined) return this.#end()
        // A flow that nobody has been given yet has nobody who hears its error.
        this.destroy(this.#opened ? error : undefined)
      }
    }
  }

  #end(): void {
    if (!this.#ended) this.push(null)
    this.#ended = true
  }

  override _read(): void {
    if (this.#unread === 0) return
    this.#acts.consumed(this.#unread)
    this.#unread = 0
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error) => void): void {
    if (this.#closed) return done(Object.assign(new Error('the connection has ended'), { code: 'EPIPE' }))
    this.#waiting = { bytes: chunk, done }
    this.#goOn()
  }

  override _final(done: () => void): void {
    if (!this.#closed) this.#acts.end()
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    if (!this.#closed && error === null) this.#acts.close()
    else if (!this.#closed) this.#acts.abort()
    done(error)
  }

  #goOn(): void {
    const waiting = this.#waiting
    if (waiting === undefined) return
    const rest = waiting.bytes.subarray(this.#acts.write(waiting.bytes))
    this.#waiting = rest.length === 0 ? undefined : { bytes: rest, done: waiting.done }
    if (rest.length === 0) waiting.done()
  }
}
