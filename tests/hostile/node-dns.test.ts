import { randomBytes } from 'node:crypto'
import dgram from 'node:dgram'
import net from 'node:net'
import { parseIp } from '@meshwright/ip'
import { decodeDns, DNS_TYPE_A, encodeDns } from '@meshwright/magicdns'
import { type RunningNode, startMeshNode } from '@meshwright/runtime-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from '../interop/lab-process.ts'
import { type Json, LiarControl, wireNode } from './liar-control.ts'

// The names of our node under DNS servers that lie, and a control server that sends it to them. Real sockets; the node is asked at
// 100.100.100.100 as its programs do.
const lab = new Lab()
const control = new LiarControl()
const FRIEND_KEY = `nodekey:${randomBytes(32).toString('hex')}`
const FRIEND_IP = '100.64.0.2'
const SERVICE = '100.100.100.100'
let node: RunningNode

/** A DNS server that says what its script says: by the first label of the name that it is asked for. */
class LiarDns {
  readonly udp: dgram.Socket = dgram.createSocket('udp4')
  readonly tcp: net.Server = net.createServer()
  /** Questions by first label and transport. */
  readonly asked: Map<string, number> = new Map()
  /** Questions that it gives back to the node. */
  echo: (bytes: Uint8Array) => void = () => undefined
  port = 0

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.tcp.listen(0, '127.0.0.1', resolve))
    const address = this.tcp.address()
    this.port = typeof address === 'object' && address !== null ? address.port : 0
    await new Promise<void>((resolve) => this.udp.bind(this.port, '127.0.0.1', resolve))
    this.udp.on('message', (bytes, from) => this.#answer(bytes, 'udp', (answer) => this.udp.send(answer, from.port, from.address)))
    this.tcp.on('connection', (socket) => {
      socket.on('error', () => socket.destroy())
      socket.once('data', (bytes: Buffer) => this.#answer(bytes.subarray(2), 'tcp', (answer) => socket.write(Buffer.concat([Buffer.from([answer.length >> 8, answer.length & 255]), answer])), socket))
    })
  }

  stop(): void {
    this.udp.close()
    this.tcp.close()
  }

  #answer(bytes: Buffer, way: 'udp' | 'tcp', send: (answer: Uint8Array) => void, socket?: net.Socket): void {
    const query = decodeDns(bytes)
    const name = query?.questions[0]?.name ?? ''
    const what = name.split('.')[0] ?? ''
    this.asked.set(`${what} ${way}`, (this.asked.get(`${what} ${way}`) ?? 0) + 1)
    if (query === undefined) return
    const right = encodeDns({ ...query, response: true, answers: [{ name, class: 1, ttl: 60, data: { type: 'A', address: ADDRESS } }] }, 4_000)
    const other = (change: (copy: Buffer) => void): Buffer => {
      const copy = Buffer.from(right)
      change(copy)
      return copy
    }
    const lies: Readonly<Record<string, () => void>> = {
      'other-id': () => send(other((copy) => void copy.writeUInt16BE(query.id ^ 0x5555, 0))),
      'other-question': () => send(other((copy) => void (copy[13] = (copy[13] ?? 0) ^ 1))),
      'no-answer': () => send(other((copy) => void (copy[2] = 0))),
      pointer: () => send(Buffer.concat([Buffer.from(right.subarray(0, 12)), Buffer.from([0xc0, 0x0c, 0, 1, 0, 1])])),
      truncated: () => send(other((copy) => void (copy[2] = (copy[2] ?? 0) | 2))),
      circle: () => send(encodeDns({ ...query, response: true, answers: [{ name, class: 1, ttl: 60, data: { type: 'CNAME', target: name } }] }, 4_000)),
      'first-lies': () => {
        send(other((copy) => void copy.writeUInt16BE(query.id ^ 1, 0)))
        for (let index = 0; index < 5; index += 1) send(randomBytes(40))
        send(right)
      },
      endless: () => {
        if (socket === undefined) return
        socket.write(Buffer.from([0xff, 0xff]))
        const drip = setInterval(() => (socket.destroyed ? clearInterval(drip) : socket.write(randomBytes(100))), 20)
      },
      hasty: () => void (socket === undefined ? undefined : socket.end(Buffer.from([0xff]))),
      returned: () => {
        this.echo(bytes)
        setTimeout(() => send(right), 1_000)
      },
      silent: () => undefined,
    }
    ;(lies[what] ?? (() => send(right)))()
  }
}

const liar = new LiarDns()
const ADDRESS = parseIp('203.0.113.5') ?? expect.fail('no address')

/** Tells the node its names. */
function tell(dns: Json): void {
  control.pollOf('victim')?.send({ DNSConfig: { Proxied: true, Domains: ['liar.test'], ...dns } })
}

beforeAll(async () => {
  await liar.start()
  await control.start()
  control.map = (poll) => poll.send({ Node: wireNode(1, 'victim', poll.request.NodeKey), Peers: [wireNode(2, 'friend', FRIEND_KEY)], PacketFilters: { '*': null }, Domain: 'liar.test', DERPMap: { Regions: {} }, DNSConfig: { Proxied: true, Domains: ['liar.test'], Routes: { 'lies.test': [{ Addr: `127.0.0.1:${liar.port}` }] } } })
  node = await startMeshNode({ controlUrl: control.url, hostname: 'victim', authKey: 'any' })
  await node.ready()
})

afterAll(async () => {
  await node?.close()
  liar.stop()
  await lab.stop()
  await control.stop()
})

/** What the node answers: the code and the addresses or names; `undefined` when nothing comes. */
async function ask(name: string, transport: 'udp' | 'tcp' = 'udp'): Promise<{ readonly rcode: number; readonly truncated: boolean; readonly texts: readonly string[] } | undefined> {
  const id = randomBytes(2).readUInt16BE(0)
  const bytes = encodeDns({ id, response: false, opcode: 0, recursionDesired: true, rcode: 0, questions: [{ name, type: DNS_TYPE_A, class: 1 }] })
  const answer = await (transport === 'udp' ? askUdp(bytes) : askTcp(bytes))
  const message = answer && decodeDns(answer)
  if (answer !== undefined && message === undefined) throw new Error('the node has answered what is no DNS')
  if (message === undefined) return undefined
  expect(message.id).toBe(id)
  return { rcode: message.rcode, truncated: message.truncated === true, texts: (message.answers ?? []).map(({ data }) => ('address' in data ? data.address.key : 'target' in data ? data.target : data.type)) }
}

function askUdp(bytes: Uint8Array): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => finish(undefined), 15_000)
    const socket = node.listenUdp(0, (answer) => finish(answer))
    const finish = (answer: Uint8Array | undefined): void => {
      clearTimeout(timer)
      socket.close()
      resolve(answer && Uint8Array.from(answer))
    }
    socket.send(bytes, 53, SERVICE)
  })
}

async function askTcp(bytes: Uint8Array): Promise<Uint8Array | undefined> {
  const socket = await node.dialTcp(SERVICE, 53)
  return new Promise((resolve) => {
    const timer = setTimeout(() => finish(undefined), 15_000)
    const parts: Buffer[] = []
    const finish = (answer: Uint8Array | undefined): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve(answer)
    }
    socket.on('error', () => finish(undefined))
    socket.on('data', (part: Buffer) => {
      parts.push(part)
      const all = Buffer.concat(parts)
      if (all.length >= 2 && all.length >= 2 + all.readUInt16BE(0)) finish(all.subarray(2, 2 + all.readUInt16BE(0)))
    })
    socket.write(Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]))
  })
}

const drops = (reason: string): number => node.status().drops[reason] ?? 0
const FAILED = { rcode: 2, truncated: false, texts: [] }
const RIGHT = { rcode: 0, truncated: false, texts: ['203.0.113.5'] }

describe('names of our node under DNS servers that lie', () => {
  test('an honest answer comes through, by both ways: else the rest would prove nothing', async () => {
    expect(await ask('honest.lies.test')).toEqual(RIGHT)
    expect(await ask('honest.lies.test', 'tcp')).toEqual(RIGHT)
    expect(await ask('friend.liar.test')).toEqual({ rcode: 0, truncated: false, texts: [FRIEND_IP] })
  })

  test('lies that come first do not keep the honest answer out', async () => {
    const before = drops('dns-stray-reply')
    expect(await ask('first-lies.lies.test')).toEqual(RIGHT)
    expect(drops('dns-stray-reply')).toBeGreaterThanOrEqual(before + 6)
  })

  test('answers under another number, to another question, that are none, with pointers in a circle, without end: none is believed, all end', async () => {
    const before = drops('dns-stray-reply')
    const lies = ['other-id', 'other-question', 'no-answer', 'pointer', 'endless', 'hasty', 'silent']
    const answers = await Promise.all(lies.flatMap((lie) => [ask(`${lie}.lies.test`), ask(`${lie}.lies.test`, 'tcp')]))
    expect(answers).toEqual(lies.flatMap(() => [FAILED, FAILED]))
    expect(drops('dns-stray-reply')).toBeGreaterThanOrEqual(before + 4)
    for (const lie of lies) expect([lie, (liar.asked.get(`${lie} udp`) ?? 0) + (liar.asked.get(`${lie} tcp`) ?? 0)]).toEqual([lie, expect.toSatisfy((count: number) => count >= 2 && count <= 4)])
    expect(node.status().held['dns-questions']).toBe(0)
  }, 30_000)

  test('cut off for ever: whoever asks by UDP is told so, by TCP it is asked once; a name that leads to itself is handed on and not followed', async () => {
    const counts = (what: string): readonly (number | undefined)[] => [liar.asked.get(`${what} udp`), liar.asked.get(`${what} tcp`)]
    expect((await ask('truncated.lies.test'))?.truncated).toBe(true)
    expect((await ask('truncated.lies.test', 'tcp'))?.rcode).toBe(0)
    expect(counts('truncated')).toEqual([2, 1])
    expect(await ask('circle.lies.test')).toMatchObject({ rcode: 0, texts: ['circle.lies.test.'] })
    expect(counts('circle')).toEqual([1, undefined])
  })

  test('a server that asks the node what the node has asked it: the circle ends at once, is counted, and the honest answer is waited for', async () => {
    const before = drops('dns-loop')
    liar.echo = (bytes) => {
      const socket = node.listenUdp(0, () => undefined)
      socket.send(bytes, 53, SERVICE)
      setTimeout(() => socket.close(), 1_000)
    }
    const asked = ask('returned.lies.test')
    await lab.until('the circle is seen', () => drops('dns-loop') > before)
    expect(liar.asked.get('returned udp')).toBe(1)
    liar.echo = () => undefined
    expect(await asked).toEqual(RIGHT)
  }, 30_000)

  test('split DNS to 100.100.100.100, which is the node itself: not asked, failed at once, counted, and the health says what to change', async () => {
    tell({ Routes: { 'loop.test': [{ Addr: SERVICE }], 'half.test': [{ Addr: `${SERVICE}:53` }, { Addr: `127.0.0.1:${liar.port}` }] }, Resolvers: [{ Addr: 'fd7a:115c:a1e0::53' }] })
    const line = await lab.until('the health says so', () => node.status().health.find((each) => each.includes(SERVICE)))
    expect(line).toMatch(/^The control server names 100\.100\.100\.100 as the server for "loop\.test", "half\.test", everything else: that is this node itself, .* The nameservers in its DNS settings are to be changed$/)
    const before = drops('dns-loop')
    expect(await Promise.all([ask('a.loop.test'), ask('elsewhere.test'), ask('a.half.test')])).toEqual([FAILED, FAILED, RIGHT])
    expect([drops('dns-loop') - before, node.status().held['dns-questions']]).toEqual([3, 0])
    tell({ Routes: { 'lies.test': [{ Addr: `127.0.0.1:${liar.port}` }] } })
    await lab.until('and no more once it is right', () => !node.status().health.some((each) => each.includes(SERVICE)))
  })

  test('extra records that contradict each other, the map, and DNS itself: a node keeps its address, the first of two holds', async () => {
    const records = [['friend.liar.test', '203.0.113.66'], ['two.other.test', '203.0.113.1'], ['two.other.test', '203.0.113.2'], ['two.other.test', 'not an address'], ['text.other.test', '203.0.113.3', 'TXT'], ['a.lies.test', '203.0.113.4', 'CNAME']] as const
    tell({ Routes: { 'lies.test': [{ Addr: `127.0.0.1:${liar.port}` }] }, ExtraRecords: records.map(([Name, Value, Type]) => ({ Name, Value, ...(Type !== undefined && { Type }) })) })
    await lab.until('the records are there', async () => (await ask('two.other.test'))?.texts[0] === '203.0.113.1')
    expect(await ask('friend.liar.test')).toMatchObject({ texts: [FRIEND_IP] })
    expect((await node.resolve('friend.liar.test'))[0]).toBe(FRIEND_IP)
    expect(await ask('a.lies.test')).toEqual(RIGHT)
    expect(await ask('text.other.test')).toMatchObject({ rcode: 2, texts: [] })
  })

  test('questions by the thousand to a server that is silent: 256 at a time, the rest fail at once, and names of the mesh are answered beside them', async () => {
    const socket = node.listenUdp(0, () => undefined)
    const before = drops('dns-full')
    for (let index = 0; index < 2_000; index += 1) socket.send(encodeDns({ id: index, response: false, opcode: 0, recursionDesired: true, rcode: 0, questions: [{ name: `silent.x${index}.lies.test`, type: DNS_TYPE_A, class: 1 }] }), 53, SERVICE)
    await lab.until('the rest is refused', () => drops('dns-full') > before)
    const { held } = node.status()
    expect(held['dns-questions']).toBeLessThanOrEqual(256)
    expect(held['dns-waiting']).toBeLessThanOrEqual(512)
    expect(await ask('friend.liar.test')).toEqual({ rcode: 0, truncated: false, texts: [FRIEND_IP] })
    socket.close()
  })
})
