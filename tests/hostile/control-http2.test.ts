import type { MachinePublicKey } from '@meshwright/crypto'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { LightClient } from '../load/light-client.ts'
import { loadPolicy } from '../load/policies.ts'
import { pause, until } from '../load/process.ts'
import { type LoadServer, startServer } from '../load/servers.ts'
import { ask, RECORDED_SERVER_KEY, stranger } from './control-liars.ts'
import { FLOODS, rawHttp2 } from './http2-liars.ts'
import { Crowd } from './wire.ts'

// The control server program under liars that have shaken hands: floods inside HTTP/2, slow heads and bodies, crowds of strangers.
const linux = process.platform === 'linux' // memory is read from /proc
const FRAMES = 20_000
/** What may stay of all these visits together: garbage that the engine has not collected. */
const GROWTH_BYTES = 160 * 1_048_576

let server: LoadServer
let key: MachinePublicKey
let honest: LightClient
let watcher: LightClient
let heard = ''
let rss = 0

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
  rss = server.process.rssBytes
})

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
  expect(server.process.rssBytes - rss).toBeLessThan(GROWTH_BYTES)
}

describe.runIf(linux)('the control server among liars that have shaken hands', () => {
  test.each(FLOODS)('a flood inside the channel: %s', async (_name, ends, flood) => {
    const raw = await rawHttp2(server.url, key)
    await flood(raw, FRAMES)
    if (ends) expect(await until(() => raw.closed, 20_000)).toBeDefined()
    await unharmed()
    raw.close()
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
})
