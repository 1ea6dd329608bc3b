import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { finished } from 'node:stream/promises'
import type { Instant } from '@meshwright/core'
import { parseEndpoint } from '@meshwright/ip'
import { Netstack } from '@meshwright/netstack'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { suspendAwareClock } from './clock.ts'
import { type Driver, drive } from './drive.ts'
import type { ForwardUnclaimed } from './flow-carrier.ts'
import { join, MeshFlows } from './mesh-socket.ts'
import { systemRandom } from './random.ts'
import type { MeshSocket } from './running-node.ts'

const at = (text: string): NonNullable<ReturnType<typeof parseEndpoint>> => parseEndpoint(text) ?? expect.fail(text)
const [HERE, THERE] = [at('100.64.0.1:0').ip, at('100.64.0.2:0').ip]
const to = (port: number): ReturnType<typeof at> => ({ ip: THERE, port })

/** Two stacks of two nodes, joined in memory. */
class Pair {
  readonly a: MeshFlows
  readonly b: MeshFlows
  /** Packets to b go nowhere. */
  deaf = false
  readonly #clock = suspendAwareClock()
  readonly #sides: { readonly stack: Netstack; readonly driver: Driver<{ readonly type: 'packet'; readonly bytes: Uint8Array }> }[] = []

  constructor(forward?: ForwardUnclaimed) {
    const make = (index: number): MeshFlows => {
      const flows = new MeshFlows(<Result>(use: (stack: Netstack, now: Instant) => Result) => {
        const side = this.#sides[index] ?? expect.fail('no stack')
        return side.driver.act((now) => use(side.stack, now))
      }, index === 1 && forward !== undefined ? { connect: forward, datagrams: () => undefined, echo: () => Promise.resolve(false) } : undefined)
      this.#start(index, flows, index === 1 && forward !== undefined)
      return flows
    }
    this.a = make(0)
    this.b = make(1)
  }

  /** The second node gets another stack, as a node does that turns to another control server. */
  replaceSecond(): void {
    this.b.resetConnections()
    this.#sides[1]?.driver.stop()
    this.#start(1, this.b, false)
    this.b.bindAgain()
  }

  #start(index: number, flows: MeshFlows, offerUnclaimed: boolean): void {
    const stack = new Netstack(systemRandom, { addresses: [index === 0 ? HERE : THERE], offerUnclaimed })
    const driver = drive(stack, this.#clock, (output) => {
      if (output.type !== 'packet') return flows.perform(output)
      if (this.deaf && index === 0) return
      const bytes = Uint8Array.from(output.bytes)
      setImmediate(() => this.#sides[1 - index]?.driver.feed({ type: 'packet', bytes }))
    })
    this.#sides[index] = { stack, driver }
  }

  /** A connection and its other end. */
  async connected(port = 80): Promise<{ readonly near: MeshSocket; readonly far: MeshSocket }> {
    const accepted = new Promise<MeshSocket>((resolve) => this.b.listen(port, resolve))
    const near = await this.a.connect(to(port))
    return { near, far: await accepted }
  }

  stop(): void {
    for (const flows of [this.a, this.b]) flows.closeAll()
    for (const { driver } of this.#sides) driver.stop()
  }
}

// Not by `for await`: at the end of the readable side that destroys the writable one, of this Duplex as of every other.
function textOf(stream: Duplex): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    stream.on('data', (chunk) => (text += String(chunk)))
    stream.on('end', () => resolve(text))
    stream.on('error', reject)
  })
}

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair.stop())

describe('a connection', () => {
  test('carries bytes both ways and knows both ends', async () => {
    const { near, far } = await pair.connected()
    expect([near.remoteAddress, near.remotePort, far.remoteAddress, far.localPort]).toEqual(['100.64.0.2', 80, '100.64.0.1', 80])
    expect(far.remotePort).toBe(near.localPort)
    near.end('question')
    expect(await textOf(far)).toBe('question')
    far.end('answer')
    expect(await textOf(near)).toBe('answer')
    await Promise.all([finished(near), finished(far)])
  })

  test('is half-closed: who has ended can still be answered', async () => {
    const { near, far } = await pair.connected()
    near.end('that is all')
    expect(await textOf(far)).toBe('that is all')
    for (const part of ['one ', 'two ', 'three']) {
      far.write(part)
      await new Promise((resolve) => setImmediate(resolve))
    }
    far.end()
    expect(await textOf(near)).toBe('one two three')
  })

  test('that is destroyed when all was read and written ends in good order at the other end, as with node:net', async () => {
    const { near, far } = await pair.connected()
    near.end('all of it')
    far.write('thanks')
    expect(await textOf(far)).toBe('all of it')
    far.destroy()
    expect(await textOf(near)).toBe('thanks')
  })

  test('that is destroyed as soon as all is written loses nothing, as with node:net: not even what the other end has yet to read', async () => {
    const { near, far } = await pair.connected()
    const size = 3_000_000
    near.end(Buffer.alloc(size, 7))
    near.once('finish', () => near.destroy())
    let bytes = 0
    for await (const piece of far) bytes += (piece as Buffer).length
    expect(bytes).toBe(size)
    far.destroy()
  })

  test('that is destroyed without a word ends in good order at the other end, which is told once it writes', async () => {
    const { near, far } = await pair.connected()
    near.destroy()
    expect(await textOf(far)).toBe('')
    const broken = finished(far).then(() => 'clean', (error: NodeJS.ErrnoException) => error.code)
    far.write('is anybody there?')
    expect(await broken).toBe('ECONNRESET')
  })

  test.each([
    ['with bytes that nobody has read', async ({ near, far }: { near: MeshSocket; far: MeshSocket }) => {
      far.write('unread')
      await once(near, 'readable')
      near.destroy()
    }],
    ['with bytes that were not taken yet', ({ near }: { near: MeshSocket }) => {
      near.write(Buffer.alloc(30_000_000))
      near.destroy()
    }],
    ['by an error', ({ near }: { near: MeshSocket }) => near.on('error', () => undefined).destroy(new Error('it broke'))],
    ['on purpose', ({ near }: { near: MeshSocket }) => near.resetAndDestroy()],
  ] as const)('that is broken %s breaks at the other end', async (_how, breakIt) => {
    const { near, far } = await pair.connected()
    await breakIt({ near, far })
    await expect(textOf(far)).rejects.toMatchObject({ code: 'ECONNRESET' })
    await expect(new Promise((_resolve, reject) => far.write('x', (error) => reject(error ?? new Error('written'))))).rejects.toThrow()
  })

  test('closed with the node ends with an error here and there', async () => {
    const { near, far } = await pair.connected()
    const nearEnd = finished(near).then(() => 'clean', (error: NodeJS.ErrnoException) => error.code)
    const farEnd = finished(far).then(() => 'clean', (error: NodeJS.ErrnoException) => error.code)
    pair.a.closeAll()
    expect([await nearEnd, await farEnd]).toEqual(['ERR_STREAM_PREMATURE_CLOSE', 'ECONNRESET'])
  })
})

describe('a dial', () => {
  const code = (dial: Promise<unknown>): Promise<string | undefined> => dial.then(() => 'connected', (error: NodeJS.ErrnoException) => error.code)

  test('to a port where nobody listens is refused', async () => {
    await expect(pair.a.connect(to(81))).rejects.toMatchObject({ code: 'ECONNREFUSED', message: expect.stringContaining('100.64.0.2:81') })
  })

  test('that nobody answers ends at its time limit, with a hint', async () => {
    pair.deaf = true
    await expect(pair.a.connect(to(80), undefined, 30)).rejects.toMatchObject({ code: 'ETIMEDOUT', message: expect.stringContaining('policy') })
  })

  test('is aborted by its signal, before and while it waits; afterwards the signal means nothing', async () => {
    expect(await code(pair.a.connect(to(80), AbortSignal.abort()))).toBe('ABORT_ERR')
    pair.deaf = true
    const abort = new AbortController()
    const dial = code(pair.a.connect(to(80), abort.signal))
    abort.abort()
    expect(await dial).toBe('ABORT_ERR')
    const [stop, reason] = [new AbortController(), new Error('enough')]
    const told = pair.a.connect(to(80), stop.signal).catch((error: unknown) => error)
    stop.abort(reason)
    expect(await told).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: reason, message: expect.stringContaining('100.64.0.2:80') as string })
    pair.deaf = false
    const later = new AbortController()
    pair.b.listen(80, (socket) => socket.end('still here'))
    const socket = await pair.a.connect(to(80), later.signal, 60_000)
    later.abort()
    expect(await textOf(socket)).toBe('still here')
  })

  test('to an address that the node cannot speak to says so', async () => {
    expect(await code(pair.a.connect(at('[fd7a::2]:80')))).toBe('EHOSTUNREACH')
  })

  test('that is under way when the node closes does not hang', async () => {
    pair.deaf = true
    const dial = code(pair.a.connect(to(80)))
    pair.a.closeAll()
    expect(await dial).toBe('ECONNABORTED')
  })
})

describe('a listener', () => {
  test('on port 0 has a port; closed, it accepts no more, and open connections stay', async () => {
    let accept = (_socket: MeshSocket): void => undefined
    const accepted = new Promise<MeshSocket>((resolve) => (accept = resolve))
    const listener = pair.b.listen(0, (socket) => accept(socket))
    const near = await pair.a.connect(to(listener.port))
    const far = await accepted
    listener.close()
    listener.close()
    await expect(pair.a.connect(to(listener.port))).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    near.end('late')
    expect(await textOf(far)).toBe('late')
  })

  test('on a port that is taken is misuse', () => {
    pair.b.listen(80, () => undefined)
    expect(() => pair.b.listen(80, () => undefined)).toThrow(/80/)
  })
})

test('listeners and UDP sockets outlive the stack, connections do not', async () => {
  const { near, far } = await pair.connected()
  const broken = Promise.all([near, far].map((socket) => finished(socket).then(() => 'clean', () => 'broken')))
  const server = pair.b.listenUdp(53, (bytes, from) => server.send(bytes, from.port, from.address))
  pair.replaceSecond()
  expect(await broken).toEqual(['broken', 'broken'])
  const accepted = new Promise<MeshSocket>((resolve) => pair.b.listen(81, resolve))
  for (const port of [80, 81]) (await pair.a.connect(to(port))).end('again')
  expect(await textOf(await accepted)).toBe('again')
  const echoed = new Promise<string>((resolve) => {
    const client = pair.a.listenUdp(0, (bytes) => resolve(Buffer.from(bytes).toString()))
    client.send(Buffer.from('udp'), 53, '100.64.0.2')
  })
  expect(await echoed).toBe('udp')
  server.close()
})

test('UDP goes both ways, with the address of the sender', async () => {
  const got = new Promise<string>((resolve) => {
    const client = pair.a.listenUdp(0, (bytes, from) => resolve(`${Buffer.from(bytes).toString()} from ${from.address}:${from.port}`))
    const server = pair.b.listenUdp(53, (bytes, from) => server.send(Buffer.from(`re: ${Buffer.from(bytes).toString()}`), from.port, from.address))
    client.send(Buffer.from('hi'), 53, '100.64.0.2')
  })
  expect(await got).toBe('re: hi from 100.64.0.2:53')
})

describe('back-pressure', () => {
  const BYTES = 20 * 1024 * 1024
  const CHUNK = Buffer.alloc(64 * 1024, 'abcdefghijklmnopqrstuvwxyz0123456789')

  function* source(): Generator<Buffer> {
    for (let sent = 0; sent < BYTES; sent += CHUNK.length) yield CHUNK
  }

  function digest(stream: Duplex): Promise<string> {
    return new Promise((resolve, reject) => {
      const hash = createHash('sha256')
      let bytes = 0
      stream.on('data', (chunk: Buffer) => {
        hash.update(chunk)
        bytes += chunk.length
      })
      stream.on('end', () => resolve(`${bytes} ${hash.digest('hex')}`))
      stream.on('error', reject)
    })
  }

  const expected = (): string => {
    const hash = createHash('sha256')
    for (const chunk of source()) hash.update(chunk)
    return `${BYTES} ${hash.digest('hex')}`
  }

  test('a writer waits for a reader who does not read, within a bound, and nothing is lost when he does', async () => {
    const { near, far } = await pair.connected()
    let accepted = 0
    let stalled = false
    for (const chunk of source()) {
      accepted += chunk.length
      if (near.write(chunk)) continue
      // A second without a drain, of a connection in memory, is a stand-still.
      stalled = await Promise.race([new Promise<boolean>((resolve) => near.once('drain', () => resolve(false))), new Promise<boolean>((resolve) => setTimeout(resolve, 1_000, true))])
      if (stalled) break
    }
    expect(stalled).toBe(true)
    expect(accepted).toBeLessThan(BYTES / 2)
    near.end()
    const [hash] = await Promise.all([digest(far), finished(near, { readable: false })])
    expect(hash.split(' ')[0]).toBe(String(accepted))
  })

  test('20 MB both ways at once arrive whole', async () => {
    const { near, far } = await pair.connected()
    const send = async (socket: Duplex): Promise<void> => {
      for (const chunk of source()) if (!socket.write(chunk)) await new Promise((resolve) => socket.once('drain', resolve))
      socket.end()
    }
    const [, , atFar, atNear] = await Promise.all([send(near), send(far), digest(far), digest(near)])
    expect([atNear, atFar]).toEqual([expected(), expected()])
  })
})

describe('connections that no listener claims', () => {
  test('go where the daemon says, and the dialler is connected only when that is', async () => {
    pair.stop()
    pair = new Pair((local) => Promise.resolve(local.port === 22 ? echo() : undefined))
    const socket = await pair.a.connect(to(22))
    socket.end('ssh?')
    expect(await textOf(socket)).toBe('ssh?')
    await expect(pair.a.connect(to(23))).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })

  test('that the daemon cannot forward are refused', async () => {
    pair.stop()
    pair = new Pair(() => Promise.reject(new Error('nobody there')))
    await expect(pair.a.connect(to(22))).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })
})

test('joined streams end together and break together', async () => {
  const { near, far } = await pair.connected()
  const backend = echo()
  join(far, backend)
  near.end('through')
  expect(await textOf(near)).toBe('through')
  const second = await pair.connected(81)
  const broken = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done() })
  join(second.far, broken)
  broken.destroy(new Error('gone'))
  await expect(textOf(second.near)).rejects.toMatchObject({ code: 'ECONNRESET' })
})

/** Sends back what it is given, and ends when it is ended. */
function echo(): Duplex {
  return Duplex.from(async function* (chunks: AsyncIterable<Buffer>) {
    for await (const chunk of chunks) yield chunk
  })
}
