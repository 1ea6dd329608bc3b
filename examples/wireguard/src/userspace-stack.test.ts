import net from 'node:net'
import { type Instant, instant } from '@meshwright/core'
import { type Ip, parseIp } from '@meshwright/ip'
import { type FlowId, Netstack } from '@meshwright/netstack'
import { systemRandom } from '@meshwright/runtime-node'
import { expect, test } from 'vitest'
import { freePort } from '../../demo/src/free-port.ts'
import { UserspaceStack } from './userspace-stack.ts'

const SIZE = 6_000_000

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

/** A host behind the tunnel that sends what it has to whoever connects, and ends. */
class Sender {
  readonly stack: Netstack = new Netstack(systemRandom, { mtu: 1420, addresses: [ip('10.0.0.2')] })
  readonly #left: Map<FlowId, number> = new Map()
  readonly #out: (packet: Uint8Array) => void
  readonly #ticker: NodeJS.Timeout

  constructor(out: (packet: Uint8Array) => void) {
    this.#out = out
    this.stack.listenTcp(80)
    this.#ticker = setInterval(() => {
      this.stack.handleTimeout(now())
      this.settle()
    }, 5)
  }

  receive(packet: Uint8Array): void {
    this.stack.receive(now(), packet)
    this.settle()
  }

  settle(): void {
    for (let output = this.stack.pollOutput(); output !== undefined; output = this.stack.pollOutput()) {
      const effect = output
      if (effect.type === 'packet') setImmediate(() => this.#out(effect.bytes))
      if (effect.type === 'opened') this.#left.set(effect.flow, SIZE)
      if (effect.type === 'opened' || effect.type === 'writable') this.#push(effect.flow)
    }
  }

  close(): void {
    clearInterval(this.#ticker)
  }

  #push(flow: FlowId): void {
    for (let left = this.#left.get(flow) ?? 0; left > 0; ) {
      const taken = this.stack.write(now(), flow, new Uint8Array(Math.min(left, 65_536)).fill(7))
      left -= taken
      this.#left.set(flow, left)
      if (left === 0) this.stack.shutdownWrite(now(), flow)
      if (taken === 0) return
    }
  }
}

function now(): Instant {
  return instant(performance.now())
}

test('who reads slowly behind the SOCKS5 proxy gets all that was sent before the end', async () => {
  const port = await freePort()
  const sender = new Sender((packet) => stack.write(packet))
  const stack = new UserspaceStack({ addresses: [ip('10.0.0.1')], mtu: 1420, socks5: { host: '127.0.0.1', port }, send: (packet) => setImmediate(() => sender.receive(packet)) })
  await stack.listen()
  try {
    const socket = net.connect(port, '127.0.0.1')
    const next = (): Promise<Buffer> => new Promise((resolve) => socket.once('data', resolve))
    socket.write(Uint8Array.of(5, 1, 0))
    await next()
    socket.write(Uint8Array.of(5, 1, 0, 1, 10, 0, 0, 2, 0, 80))
    const reply = await next()
    expect(reply[1]).toBe(0)
    socket.end() // our half ends first, so that the last byte that comes ends the connection too
    let bytes = reply.length - 10
    socket.pause()
    await new Promise((resolve) => setTimeout(resolve, 300))
    for await (const chunk of socket) {
      bytes += chunk.length
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(bytes).toBe(SIZE)
  } finally {
    sender.close()
    await stack.close()
  }
})
