import { MachinePrivateKey, MachinePublicKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { LightClient } from '../load/light-client.ts'
import { loadPolicy } from '../load/policies.ts'
import { pause, until } from '../load/process.ts'
import { type LoadServer, startServer } from '../load/servers.ts'
import { expectBounded, expectLetGo } from './control-held.ts'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, endlessBody, RECORDED_SERVER_KEY, replay, stranger } from './control-liars.ts'
import { Crowd, talk, upgradeHead } from './wire.ts'

// The control server program, with the server key of the recordings, under scripted liars; an honest node watches what it is told.
const linux = process.platform === 'linux' // liars have addresses of their own on loopback
/** Fewer than a real attack has, so that it is quick: MESHWRIGHT_HALF_OPEN=10000 for the whole of it. */
const HALF_OPEN = Number(process.env['MESHWRIGHT_HALF_OPEN'] ?? 2_000)

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

/** The server lives, holds no more than it says, and takes what an honest node says and tells it to another. */
async function unharmed(): Promise<void> {
  expect(server.process.alive, server.process.log).toBe(true)
  const endpoint = `198.51.100.7:${20_000 + Math.floor(Math.random() * 40_000)}`
  await honest.update([endpoint])
  expect(await until(() => heard.includes(endpoint), 5_000)).toBeDefined()
  await expectBounded(server)
}

describe.runIf(linux)('the control server among liars', () => {
  test.each(BAD_HANDSHAKES)('a handshake is refused: %s', async (_name, bytes) => {
    const { received, closed } = await talk(port(), [bytes], 15_000)
    expect(closed).toBe(true)
    // 101 stands before the handshake is looked at; what follows it is an error frame, never a response.
    expect(received.toString('latin1')).toMatch(/^HTTP\/1\.1 (400|405|426|431|101)|^$/)
    expect(received.includes(Buffer.from([2, 0, 48]))).toBe(false)
    await unharmed()
  })

  test.each(BAD_RECORDS)('a replayed handshake opens nothing: %s', async (_name, bytes) => {
    const { closed } = await replay(port(), [bytes])
    expect(closed).toBe(true)
    await unharmed()
  })

  test('another server key is noticed before anything is said', async () => {
    const other = MachinePrivateKey.generate(systemRandom).publicKey()
    await expect(stranger(server.url, other)).rejects.toMatchObject({ code: 'RUNTIME_CONTROL_CHANNEL' })
    await unharmed()
  })

  test('no body that means nothing is believed, changes anybody, or ends the connection', async () => {
    const connection = await stranger(server.url, key)
    for (const [name, target, body] of badBodies(honest.nodeKey)) {
      const { status, text } = await ask(connection, target, body)
      expect(status, `${name}: ${status} ${text.slice(0, 200)}`).toBeGreaterThanOrEqual(200)
      expect(status, name).not.toBe(500)
      if (status === 200) expect(text, name).toMatch(/"Error":"[^"]|"AuthURL":"http|"NodeKeyExpired":true/)
    }
    expect((await ask(connection, '/machine/whoami', undefined, 'GET')).status).toBe(200)
    connection.close()
    expect(heard).not.toContain('127.0.0.1:1"')
    await unharmed()
  })

  test('unknown members and loopback endpoints of a node that is in the mesh do not reach others', async () => {
    heard = ''
    await honest.update(['127.0.0.1:7', '[::1]:7', '0.0.0.0:7', '169.254.1.1:7', '224.0.0.1:7', '[fe80::1]:7', '198.51.100.9:0', 'nonsense', '198.51.100.9:99999', '198.51.100.8:4242'])
    expect(await until(() => heard.includes('"Endpoints":["198.51.100.8:4242"]'), 5_000)).toBeDefined()
    await unharmed()
  })

  test.each(['/machine/map', '/machine/register'])('a body without end is cut off at 1 MiB: %s', async (target) => {
    expect([413, 0]).toContain(await endlessBody(server.url, key, target)) // 0: reset while the client still wrote
    await unharmed()
  })

  test('strangers who open a channel and ask nothing are thrown out', async () => {
    const idle = await Promise.all(Array.from({ length: 50 }, () => stranger(server.url, key)))
    await unharmed()
    expect(await until(() => idle.every((connection) => !connection.usable), 30_000)).toBeDefined()
    await unharmed()
  })

  test(`${HALF_OPEN} half-open handshakes and connections that say nothing keep nobody out, and are thrown out again`, async () => {
    const crowd = new Crowd()
    const half = upgradeHead(Buffer.alloc(101, 1)).slice(0, 120)
    await crowd.open(port(), HALF_OPEN / 2, half)
    await crowd.open(port(), HALF_OPEN / 2, '')
    const joined = new LightClient(3, { frame: () => undefined, lost: () => undefined })
    await joined.join(server.url, key, server.authKey(0))
    await joined.poll()
    expect(await until(() => joined.peers.size >= 2, 10_000)).toBeDefined()
    await unharmed()
    expect(await until(() => crowd.closed === crowd.size, 40_000)).toBeDefined()
    crowd.close()
    joined.drop()
    await pause(200)
    await unharmed()
  })
})
