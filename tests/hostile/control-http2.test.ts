import { MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { LightClient } from '../load/light-client.ts'
import { loadPolicy } from '../load/policies.ts'
import { pause, until } from '../load/process.ts'
import { type LoadServer, startServer } from '../load/servers.ts'
import { expectBounded, expectLetGo } from './control-held.ts'
import { ask, RECORDED_SERVER_KEY, stranger } from './control-liars.ts'
import { bodyBegun, FLOODS, type RawHttp2, rawHttp2, whoami } from './http2-liars.ts'
import { Crowd, LIAR_ADDRESS } from './wire.ts'

// The control server program under liars that have shaken hands: floods inside HTTP/2, slow heads and bodies, crowds of strangers.
const linux = process.platform === 'linux' // liars have addresses of their own on loopback
const FRAMES = 20_000

let server: LoadServer
let key: MachinePublicKey
let honest: LightClient
let watcher: LightClient
let heard = ''

beforeAll(async () => {
  if (!linux) return
  server = await startServer('ours', loadPolicy('allow-all'), { noiseKey: RECORDED_SERVER_KEY })
  key = await fetchControlKey({ url: server.url })
  const events = { frame: (client: LightClient, text: string): void => void (heard += client === watcher ? text : ''), lost: (): void => undefined }
  ;[honest, watcher] = [new LightClient(1, events), new LightClient(2, events)]
  for (const client of [honest, watcher]) {
    await client.join(server.url, key, server.authKey(0))
    await client.poll()
  }
  await until(() => watcher.peers.size === 1 && honest.peers.size === 1, 10_000)
})

// Of each visit, before the next.
afterEach(() => expectLetGo(server, 2))

afterAll(async () => {
  honest?.drop()
  watcher?.drop()
  await server?.stop()
})

const port = (): number => Number(new URL(server.url).port)

async function unharmed(): Promise<void> {
  expect(server.process.alive, server.process.log).toBe(true)
  const endpoint = `198.51.100.7:${20_000 + Math.floor(Math.random() * 40_000)}`
  heard = ''
  await honest.update([endpoint])
  expect(await until(() => heard.includes(endpoint), 10_000)).toBeDefined()
  await expectBounded(server)
}

describe.runIf(linux)('the control server among liars that have shaken hands', () => {
  test.each(FLOODS)('a flood inside the channel: %s', async (_name, ends, flood) => {
    const raw = await rawHttp2(server.url, key)
    await flood(raw, FRAMES)
    // At once: long before a channel on which nothing is asked would be closed.
    if (ends) expect(await until(() => raw.closed, 10_000)).toBeDefined()
    await unharmed()
    raw.close()
  })

  // Each is a record that was right once, or nearly: of this very channel, or of another one that stands beside it.
  test.each<readonly [string, (last: Uint8Array, first: Uint8Array, ofAnother: Uint8Array) => Uint8Array]>([
    ['the last one again', (last) => last],
    ['the first one again', (_last, first) => first],
    ['the last one again, with a flipped bit', (last) => Uint8Array.from(last, (byte, i) => (i === last.length - 1 ? byte ^ 1 : byte))],
    ['one of another channel', (_last, _first, ofAnother) => ofAnother],
  ])('a record that somebody puts into a channel that works ends it, and asks nothing: %s', async (_name, made) => {
    const [raw, other] = [await rawHttp2(server.url, key), await rawHttp2(server.url, key)]
    for (const each of [raw, other]) {
      await each.write(whoami(1))
      expect(await until(() => each.ended.has(1), 10_000)).toBeDefined()
    }
    const [first, last, ofAnother] = [raw.records[0], raw.records.at(-1), other.records.at(-1)]
    if (first === undefined || last === undefined || ofAnother === undefined) throw new Error('no records')
    const received = raw.receivedBytes
    raw.inject(made(last, first, ofAnother))
    expect(await until(() => raw.closed, 10_000)).toBeDefined()
    expect(raw.receivedBytes).toBe(received)
    await other.write(whoami(3))
    expect(await until(() => other.ended.has(3), 10_000)).toBeDefined()
    other.close()
    await unharmed()
  })

  test('strangers beyond 1,024 of one address make place for each other, heads that drip are not waited for, and no node loses its connection', async () => {
    const slow = new Crowd()
    await slow.open(port(), 100, 'GET /key?v=142 HTTP/1.1\r\nHost: liar\r\n')
    const drip = setInterval(() => slow.say('X-A: b\r\n'), 500)
    const crowd = await Promise.all(Array.from({ length: 40 }, async () => Promise.all(Array.from({ length: 30 }, () => rawHttp2(server.url, key).catch(() => undefined)))))
    const all = crowd.flat()
    expect(all.length).toBe(1_200)
    await unharmed()
    expect(await until(() => all.every((raw) => raw === undefined || raw.closed) && slow.closed === slow.size, 40_000)).toBeDefined() // they never ask anything
    clearInterval(drip)
    slow.close()
    await unharmed()
  })

  test('a head of thousands of fields, or longer than 16 kB, is refused or read without them', async () => {
    const crowd = new Crowd()
    await crowd.open(port(), 20, `GET /key?v=142 HTTP/1.1\r\nHost: liar\r\n${'X-A: b\r\n'.repeat(4_000)}\r\n`)
    await crowd.open(port(), 20, `GET /key?v=142 HTTP/1.1\r\nHost: liar\r\n${'X: y\r\n'.repeat(2_000)}\r\n`)
    await crowd.open(port(), 20, `GET /${'a'.repeat(60_000)} HTTP/1.1\r\n`)
    await unharmed()
    crowd.close()
  })

  test('requests without end on one connection are answered with 429', async () => {
    const connection = await stranger(server.url, key)
    const statuses: number[] = []
    for (let round = 0; round < 30; round += 1) statuses.push(...(await Promise.all(Array.from({ length: 80 }, async () => (await ask(connection, '/machine/whoami', undefined, 'GET')).status))))
    expect(new Set(statuses)).toEqual(new Set([200, 429]))
    connection.close()
    await unharmed()
  })

  test('polls without end of one node are answered with 429, and the node can still be reached', async () => {
    const member = new LightClient(9, { frame: () => undefined, lost: () => undefined })
    await member.join(server.url, key, server.authKey(0))
    await member.poll()
    const statuses = await member.polls(2_000)
    expect(statuses.filter((status) => status === 200).length).toBeLessThan(100)
    expect(statuses.filter((status) => status === 429).length).toBeGreaterThan(1_500)
    await unharmed()
    member.drop()
    await pause(100)
    await unharmed()
  })

  test('registrations with keys that are none fill neither the log nor the memory', async () => {
    const before = server.process.log.length
    const connection = await stranger(server.url, key)
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(Array.from({ length: 40 }, (_, i) => ask(connection, '/machine/register', Buffer.from(JSON.stringify({ Version: 142, NodeKey: `nodekey:${(round * 40 + i).toString(16).padStart(64, '1')}`, Hostinfo: { Hostname: 'x\n'.repeat(20_000) }, Auth: { AuthKey: 'hskey-auth-x' } })))))
    }
    connection.close()
    expect(server.process.log.length - before).toBeLessThan(20_000)
    await unharmed()
  })

  /** A 503, the end of its stream, and RST_STREAM without an error; the connection goes on. */
  async function expectRefused(raw: RawHttp2, stream: number): Promise<void> {
    expect(await until(() => raw.resets.get(stream) !== undefined, 20_000)).toBeDefined()
    expect([raw.ended.has(stream), raw.resets.get(stream)]).toEqual([true, 0])
    await raw.write(whoami(stream + 100))
    expect(await until(() => raw.ended.has(stream + 100), 20_000)).toBeDefined()
  }

  test('a registered machine past its 4 MiB of bodies is refused that body alone: its stream ends at once, the others and the connection go on', async () => {
    const machineKey = MachinePrivateKey.generate(systemRandom)
    const member = await stranger(server.url, key, LIAR_ADDRESS, machineKey)
    const body = JSON.stringify({ Version: 142, NodeKey: `nodekey:${'5a'.repeat(32)}`, Auth: { AuthKey: server.authKey(0) }, Hostinfo: { Hostname: 'long', OS: 'linux' } })
    expect((await ask(member, '/machine/register', Buffer.from(body))).text).toContain('"MachineAuthorized":true')
    member.close()
    const raw = await rawHttp2(server.url, key, machineKey)
    for (const stream of [1, 3, 5, 7, 9]) await raw.write(bodyBegun(stream, 900_000))
    await expectRefused(raw, 9)
    expect([1, 3, 5, 7].some((stream) => raw.resets.has(stream) || raw.ended.has(stream))).toBe(false)
    expect(await server.metric('meshwright_reading_bytes')).toBe(4 * 900_000)
    await unharmed()
    raw.close()
  })

  test('strangers share 2 MiB for long bodies: who comes too late is refused, its stream ends at once, and its connection soon', async () => {
    const raws = await Promise.all([1, 2, 3].map(() => rawHttp2(server.url, key)))
    for (const raw of raws) await raw.write(bodyBegun(1, 900_000))
    expect(await until(() => raws.some((raw) => raw.resets.has(1)), 20_000)).toBeDefined()
    const refused = raws.filter((raw) => raw.resets.has(1))
    expect(refused.map((raw) => [raw.ended.has(1), raw.resets.get(1)])).toEqual([[true, 0]])
    expect(await until(() => refused.every((raw) => raw.closed), 20_000)).toBeDefined()
    expect(raws.filter((raw) => raw.closed)).toHaveLength(1)
    await unharmed()
    for (const raw of raws) raw.close()
  })
})
