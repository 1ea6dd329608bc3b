import { MachinePrivateKey, MachinePublicKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { LightClient } from '../load/light-client.ts'
import { loadPolicy } from '../load/policies.ts'
import { pause, until } from '../load/process.ts'
import { type LoadServer, startServer } from '../load/servers.ts'
import { expectBounded, expectLetGo } from './control-held.ts'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, endlessBody, RECORDED_SERVER_KEY, replay, stranger } from './control-liars.ts'
import { Crowd, LIAR_ADDRESS, talk, upgradeHead } from './wire.ts'

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
  expect(await until(() => heard.includes(endpoint), 30_000)).toBeDefined()
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

  test('endpoints that can be nobody\'s are not told to others', async () => {
    heard = ''
    await honest.update(['127.0.0.1:7', '127.9.9.9:7', '[::1]:7', '[::ffff:127.0.0.1]:7', '0.0.0.0:7', '[::]:7', '169.254.1.1:7', '224.0.0.1:7', '[fe80::1]:7', '[ff02::1]:7', '198.51.100.9:0', 'nonsense', '198.51.100.9:99999', '198.51.100.8:4242'])
    expect(await until(() => heard.includes('"Endpoints":["198.51.100.8:4242"]'), 30_000)).toBeDefined()
    await unharmed()
  })

  test('unknown members, and numbers above 2^53, of a node that is in the mesh do not reach others and change nothing', async () => {
    const machineKey = MachinePrivateKey.generate(systemRandom)
    const member = await stranger(server.url, key, LIAR_ADDRESS, machineKey)
    const NodeKey = `nodekey:${'5b'.repeat(32)}`
    const tell = (target: string, json: string): ReturnType<typeof ask> => ask(member, target, Buffer.from(json))
    const hostinfo = '"Hostinfo":{"Hostname":"odd","OS":"linux","Planted":"planted-1","NetInfo":{"PreferredDERP":900,"Planted":"planted-2"},"Services":[{"Proto":"peerapi4","Port":80,"Planted":"planted-3"}]}'
    const registered = await tell('/machine/register', `{"Version":142,"NodeKey":"${NodeKey}","Auth":{"AuthKey":"${server.authKey(0)}","Planted":"planted-4"},"Planted":{"a":["planted-5"]},${hostinfo}}`)
    expect(registered.text).toContain('"MachineAuthorized":true')
    heard = ''
    const update = (more: string): ReturnType<typeof ask> => tell('/machine/map', `{"Version":142,"NodeKey":"${NodeKey}","OmitPeers":true,${more}}`)
    expect((await update(`"DiscoKey":"discokey:${'6c'.repeat(32)}","Endpoints":["198.51.100.77:77"],"EndpointTypes":[1],"Planted":"planted-6",${hostinfo}`)).status).toBe(200)
    expect(await until(() => heard.includes('198.51.100.77:77'), 30_000)).toBeDefined()
    const before = heard
    const odd: readonly string[] = [
      '"Hostinfo":{"NetInfo":{"PreferredDERP":9007199254740993}}',
      '"Hostinfo":{"NetInfo":{"PreferredDERP":-9007199254740993}}',
      '"Hostinfo":{"NetInfo":{"PreferredDERP":1.5}}',
      '"Hostinfo":{"NetInfo":{"DERPLatency":{"900-v4":1e400}}}',
      '"Hostinfo":{"Services":[{"Proto":"tcp","Port":9007199254740993}]}',
      '"Endpoints":["198.51.100.78:78"],"EndpointTypes":[9007199254740993]',
      '"MapSessionHandle":"x","MapSessionSeq":9007199254740993',
      '"Version":9007199254740993',
      '"DiscoKey":""',
      '"DiscoKey":7',
      '"Endpoints":"198.51.100.79:79"',
      '"Hostinfo":[]',
      '"Hostinfo":{"Hostname":{}}',
      '"Hostinfo":{"RoutableIPs":["10.0.0.0/99","::/-1",7]}',
    ]
    for (const more of odd) expect([200, 400], more).toContain((await update(more)).status)
    await unharmed()
    for (const planted of ['planted', '9007199254740993', '9007199254740992', '198.51.100.79']) expect(heard, planted).not.toContain(planted)
    expect(before).not.toContain('planted')
    member.close()
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
