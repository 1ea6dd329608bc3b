import { after, type Instant } from '@meshwright/core'
import { type Endpoint, type Ip, parseIp } from '@meshwright/ip'
import { SeededRandom, VirtualClock } from '@meshwright/testkit'
import { type FlowId, Netstack, type NetstackOptions, type NetstackOutput } from '../src/index.ts'

/** What the link does to packets. Probabilities from 0 to 1. */
export interface LinkFaults {
  readonly loss?: number
  readonly duplication?: number
  readonly corruption?: number
  /** Share of packets held back by up to `delayMs` more. */
  readonly reordering?: number
  readonly delayMs?: number
  /** Packets larger than this vanish. */
  readonly mtu?: number
}

export function ip(text: string): Ip {
  const address = parseIp(text)
  if (address === undefined) throw new Error(`not an address: ${text}`)
  return address
}

export function endpoint(text: string, port: number): Endpoint {
  return { ip: ip(text), port }
}

/** One stack and everything it told: received bytes by flow, events in order. Consumes what it gets unless told not to. */
export class Host {
  readonly stack: Netstack
  readonly events: Exclude<NetstackOutput, { type: 'packet' | 'data' }>[] = []
  readonly received: Map<FlowId, Uint8Array[]> = new Map()
  readonly packets: Uint8Array[] = []
  consumes = true
  onEvent: (event: NetstackOutput) => void = () => undefined

  constructor(seed: number, addresses: readonly Ip[], options: NetstackOptions = {}) {
    this.stack = new Netstack(new SeededRandom(seed).bytes, { ...options, addresses })
  }

  bytesOf(flow: FlowId): Uint8Array {
    return Buffer.concat(this.received.get(flow) ?? [])
  }

  event<T extends NetstackOutput['type']>(type: T): Extract<NetstackOutput, { type: T }> | undefined {
    for (const event of this.events) if (event.type === type) return event as Extract<NetstackOutput, { type: T }>
    return undefined
  }

  count(type: NetstackOutput['type']): number {
    return this.events.filter((event) => event.type === type).length
  }
}

/** Two hosts with a lossy line between them, in virtual time. */
export class VirtualLink {
  readonly clock: VirtualClock = new VirtualClock(1_000)
  readonly a: Host
  readonly b: Host
  faults: LinkFaults
  /** Looks at each packet before the line does; false swallows it. */
  tap: (from: Host, packet: Uint8Array) => boolean = () => true
  readonly #random: SeededRandom
  readonly #line: { at: Instant; order: number; to: Host; bytes: Uint8Array }[] = []
  #order = 0

  constructor(seed: number, faults: LinkFaults = {}, a: NetstackOptions = {}, b: NetstackOptions = {}) {
    this.#random = new SeededRandom(seed * 7 + 1)
    this.faults = faults
    this.a = new Host(seed + 1, [ip('100.64.0.1'), ip('fd7a::1')], a)
    this.b = new Host(seed + 2, [ip('100.64.0.2'), ip('fd7a::2')], b)
  }

  get now(): Instant {
    return this.clock.now
  }

  /** Runs until nothing is left to do, or `until` says so, or the time is over; gives whether `until` held. */
  run(ms: number, until: () => boolean = () => false): boolean {
    const end = after(this.now, ms)
    for (;;) {
      this.#drain(this.a)
      this.#drain(this.b)
      if (until()) return true
      const due = Math.min(this.#line[0]?.at ?? Infinity, this.a.stack.pollTimeout() ?? Infinity, this.b.stack.pollTimeout() ?? Infinity)
      if (due > end) {
        this.clock.advanceTo(end)
        return until()
      }
      this.clock.advanceTo(Math.max(due, this.now) as Instant)
      for (let first = this.#line[0]; first !== undefined && first.at <= this.now; first = this.#line[0]) {
        this.#line.shift()
        first.to.stack.handleInput(this.now, { type: 'packet', bytes: first.bytes })
        first.bytes.fill(0xee) // the stack must have copied what it keeps
      }
      this.a.stack.handleTimeout(this.now)
      this.b.stack.handleTimeout(this.now)
    }
  }

  #drain(host: Host): void {
    const { stack } = host
    for (let output = stack.pollOutput(); output !== undefined; output = stack.pollOutput()) {
      if (output.type === 'packet') {
        host.packets.push(output.bytes.slice())
        if (this.tap(host, output.bytes)) this.#send(host, output.bytes)
        continue
      }
      if (output.type === 'data') {
        const parts = host.received.get(output.flow) ?? []
        parts.push(output.bytes)
        host.received.set(output.flow, parts)
        if (host.consumes) stack.consumed(this.now, output.flow, output.bytes.length)
      } else host.events.push(output)
      host.onEvent(output)
    }
  }

  #send(from: Host, bytes: Uint8Array): void {
    const { loss = 0, duplication = 0, corruption = 0, reordering = 0, delayMs = 5, mtu = 65_535 } = this.faults
    if (this.#random.chance(loss) || bytes.length > mtu) return
    const copies = this.#random.chance(duplication) ? 2 : 1
    for (let i = 0; i < copies; i += 1) {
      const copy = bytes.slice()
      if (this.#random.chance(corruption)) {
        const at = this.#random.below(copy.length)
        copy[at] = (copy[at] ?? 0) ^ (1 << this.#random.below(8))
      }
      const late = this.#random.chance(reordering) ? this.#random.below(delayMs * 4) : 0
      this.#insert(after(this.now, delayMs + late), from === this.a ? this.b : this.a, copy)
    }
  }

  #insert(at: Instant, to: Host, bytes: Uint8Array): void {
    this.#order += 1
    const entry = { at, order: this.#order, to, bytes }
    let index = this.#line.length
    while (index > 0 && (this.#line[index - 1]?.at ?? 0) > at) index -= 1
    this.#line.splice(index, 0, entry)
  }
}

/** Writes all bytes to a flow as the stack takes them, then says `done`. */
export class Pump {
  readonly #host: Host
  readonly #flow: FlowId
  readonly #bytes: Uint8Array
  readonly #done: () => void
  #at = 0

  constructor(link: VirtualLink, host: Host, flow: FlowId, bytes: Uint8Array, done: () => void = () => undefined) {
    this.#host = host
    this.#flow = flow
    this.#bytes = bytes
    this.#done = done
    const before = host.onEvent
    host.onEvent = (event) => {
      before(event)
      if (event.type === 'writable' && event.flow === flow) this.#push(link)
    }
    this.#push(link)
  }

  #push(link: VirtualLink): void {
    this.#at += this.#host.stack.write(link.now, this.#flow, this.#bytes.subarray(this.#at))
    if (this.#at === this.#bytes.length) this.#done()
  }
}

/** Repeatable bytes. */
export function noise(seed: number, length: number): Uint8Array {
  return new SeededRandom(seed).bytes(length)
}
