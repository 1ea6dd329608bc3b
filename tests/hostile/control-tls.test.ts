import net from 'node:net'
import path from 'node:path'
import tls from 'node:tls'
import { MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { dialControl, fastCryptoProvider, fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { keepCertificate } from '../../examples/control-server/src/own-certificate.ts'
import { Lab } from '../interop/lab-process.ts'
import { registerNode, RelayClient } from '../interop/lab-relay.ts'
import { loadPolicy } from '../load/policies.ts'
import { until } from '../load/process.ts'
import { type LoadServer, startServer } from '../load/servers.ts'
import { expectBounded, expectLetGo } from './control-held.ts'
import { ask } from './control-liars.ts'
import { talkByRelay } from './talk-by-relay.ts'
import { tlsLies } from './tls-liars.ts'
import { Crowd, DERP_HEAD, LIAR_ADDRESS, LIAR_ADDRESSES } from './wire.ts'

// The control server program under liars that hold TLS handshakes open: with certificate files of its own, and with plain HTTP and the relay in
// it, which has a certificate of its own making at the same port.
const linux = process.platform === 'linux' // liars have addresses of their own on loopback
const HALF_OPEN = Number(process.env['MESHWRIGHT_HALF_OPEN'] ?? 10_000)
/** What liars may add to the memory of the server, all together: 2,048 connections, 512 handshakes of them, and garbage. */
const GROWTH_BYTES = 256 * 1_048_576

interface Site {
  readonly server: LoadServer
  readonly rss: number
  /** What an honest client must be able to do. */
  honest(): Promise<void>
}

const port = ({ server }: Site): number => Number(new URL(server.url).port)

/** A device that nobody knows gets through to the control server, and is answered. */
async function reachesControl(server: LoadServer, key: MachinePublicKey, ca?: string): Promise<void> {
  const connection = await dialControl({ url: server.url, ...(ca !== undefined && { ca }), serverKey: key, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, provider: fastCryptoProvider(), timeoutMs: 20_000 })
  expect(await ask(connection, '/machine/whoami', undefined, 'GET')).toMatchObject({ status: 200 })
  connection.close()
}

async function withFiles(): Promise<Site> {
  const { cert: ca, key } = selfSignedCertificate(['127.0.0.1'])
  const server = await startServer('ours', loadPolicy('allow-all'), { tls: { cert: ca, key } })
  const serverKey = await fetchControlKey({ url: server.url, ca })
  return { server, rss: server.process.rssBytes, honest: () => reachesControl(server, serverKey, ca) }
}

async function withRelay(): Promise<Site> {
  const server = await startServer('ours', loadPolicy('allow-all'), { relay: true })
  const serverKey = await fetchControlKey({ url: server.url })
  const { pin } = keepCertificate(path.join(server.folder, 'relay-certificate.pem'), ['127.0.0.1'], Date.now())
  const relay = { port: Number(new URL(server.url).port), pin }
  const keys = [await registerNode(server.url, server.authKey(0), 'one'), await registerNode(server.url, server.authKey(0), 'two')]
  const honest = async (): Promise<void> => {
    await reachesControl(server, serverKey)
    await talkByRelay(relay, keys)
  }
  await honest()
  return { server, rss: server.process.rssBytes, honest }
}

/** TLS handshakes that are completed, and heads inside them that drip. */
function dripInside(site: Site): Promise<readonly tls.TLSSocket[]> {
  return Promise.all(
    Array.from({ length: 50 }, () =>
      new Promise<tls.TLSSocket>((resolve) => {
        const socket = tls.connect({ socket: net.connect({ port: port(site), host: '127.0.0.1', localAddress: LIAR_ADDRESS }), host: '127.0.0.1', rejectUnauthorized: false }, () => {
          socket.write('GET /key?v=142 HTTP/1.1\r\nHost: liar\r\n')
          resolve(socket)
        })
        socket.on('error', () => socket.destroy())
        socket.once('close', () => resolve(socket))
      }),
    ),
  )
}

for (const [name, start] of [['with certificate files', withFiles], ['with plain HTTP, and its relay by TLS at the same port', withRelay]] as const) {
  describe.runIf(linux)(`the control server ${name}`, () => {
    let site: Site
    const withRelayIn = start === withRelay

    beforeAll(async () => {
      site = await start()
    })

    // Of each visit, before the next.
    afterEach(() => expectLetGo(site.server, 0))

    afterAll(() => site?.server.stop())

    async function unharmed(): Promise<void> {
      await site.honest()
      expect(site.server.process.alive, site.server.process.log).toBe(true)
      await expectBounded(site.server, withRelayIn)
      expect(site.server.process.rssBytes - site.rss).toBeLessThan(GROWTH_BYTES)
    }

    test('is there for honest clients', unharmed)

    test(`${HALF_OPEN} TLS handshakes that stand still, drip, lie about their length or name, or are none, and heads that drip inside TLS, keep nobody out and end`, async () => {
      const lies = await tlsLies()
      const crowds = lies.map(() => new Crowd())
      await Promise.all(crowds.map((crowd, i) => crowd.open(port(site), Math.ceil(HALF_OPEN / lies.length), lies[i]?.[1] ?? '', 25, LIAR_ADDRESSES)))
      const inside = await dripInside(site)
      const drip = setInterval(() => {
        for (const [i, crowd] of crowds.entries()) if (lies[i]?.[0].startsWith('half') === true) crowd.say(Buffer.from([0]))
        for (const socket of inside) if (!socket.destroyed) socket.write('X-A: b\r\n')
      }, 500)
      await unharmed()
      const over = (): boolean => crowds.every((crowd) => crowd.closed === crowd.size) && inside.every((socket) => socket.destroyed)
      expect(await until(over, 60_000)).toBeDefined()
      clearInterval(drip)
      await unharmed()
    })

    // From one address, as one liar has it; it takes all places that an address may have.
    test.each(['one that says it has 128 KiB', 'one that is complete'] as const)('3,000 ClientHellos of one address: %s', async (kind) => {
      const lie = (await tlsLies()).find(([each]) => (kind === 'one that is complete' ? each.startsWith('a ClientHello, and') : each.startsWith('the same')))
      const crowd = new Crowd()
      await crowd.open(port(site), 3_000, lie?.[1] ?? '')
      await unharmed()
      crowd.close()
    })

    test.runIf(withRelayIn)('a stranger is not let in by the relay, and introductions that do not end keep nobody out and hold little', async () => {
      const { pin } = keepCertificate(path.join(site.server.folder, 'relay-certificate.pem'), ['127.0.0.1'], Date.now())
      const lab = new Lab()
      const stranger = await RelayClient.dial(lab, { port: port(site), pin })
      expect(await stranger.until('connected', 'failed')).toEqual({ type: 'failed', code: 'closed' })
      await lab.stop()
      // Plainly, which is cheap for liars: the relay's frames begin behind the head. A ClientInfo of 16 KiB but for its last bytes.
      const unfinished = Buffer.concat([Buffer.from(DERP_HEAD), Buffer.from([2, 0, 0, 0x40, 0]), Buffer.alloc(16_000)])
      const tooLong = Buffer.concat([Buffer.from(DERP_HEAD), Buffer.from([2, 0, 4, 0, 0]), Buffer.alloc(60_000)])
      const [crowd, cut] = [new Crowd(), new Crowd()]
      await crowd.open(port(site), HALF_OPEN / 2, unfinished, 250, LIAR_ADDRESSES)
      await cut.open(port(site), 500, tooLong, 250, LIAR_ADDRESSES)
      await unharmed()
      expect(await site.server.metric('derp_current_connections')).toBeLessThanOrEqual(2_048)
      expect(await until(() => crowd.closed === crowd.size && cut.closed === cut.size, 60_000)).toBeDefined()
      await unharmed()
    })
  })
}
