import net from 'node:net'
import tls from 'node:tls'
import { MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { dialControl, fastCryptoProvider, fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { loadPolicy } from '../load/policies.ts'
import { until } from '../load/process.ts'
import { type LoadServer, startServer } from '../load/servers.ts'
import { expectBounded, expectLetGo } from './control-held.ts'
import { ask } from './control-liars.ts'
import { Crowd, LIAR_ADDRESS } from './wire.ts'

// The control server program with certificate files of its own, under liars that hold TLS handshakes open.
const linux = process.platform === 'linux' // liars have addresses of their own on loopback
const CROWD = 1_200

let server: LoadServer
let key: MachinePublicKey
let ca = ''

beforeAll(async () => {
  if (!linux) return
  const certificate = selfSignedCertificate(['127.0.0.1'])
  ca = certificate.cert
  server = await startServer('ours', loadPolicy('allow-all'), { tls: { cert: certificate.cert, key: certificate.key } })
  key = await fetchControlKey({ url: server.url, ca })
})

// Of each visit, before the next.
afterEach(() => expectLetGo(server, 0))

afterAll(() => server?.stop())

const port = (): number => Number(new URL(server.url).port)

/** A device that nobody knows gets through TLS and Noise, and is answered. */
async function unharmed(): Promise<void> {
  const connection = await dialControl({ url: server.url, ca, serverKey: key, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, provider: fastCryptoProvider(), timeoutMs: 20_000 })
  expect(await ask(connection, '/machine/whoami', undefined, 'GET')).toMatchObject({ status: 200 })
  connection.close()
  expect(server.process.alive, server.process.log).toBe(true)
  await expectBounded(server)
}

describe.runIf(linux)('the control server with TLS of its own', () => {
  test('speaks the control protocol with the certificate of its files', unharmed)

  test('TLS handshakes that stand still, drip, or are none, and heads that drip inside TLS, keep nobody out and end', async () => {
    const [silent, partial, garbage] = [new Crowd(), new Crowd(), new Crowd()]
    await silent.open(port(), CROWD, '')
    await partial.open(port(), 200, Buffer.from('16030100c8010000c403', 'hex')) // the beginning of a ClientHello
    await garbage.open(port(), 200, Buffer.alloc(600, 0x41))
    const inside = await Promise.all(
      Array.from({ length: 50 }, () =>
        new Promise<tls.TLSSocket>((resolve) => {
          const socket = tls.connect({ socket: net.connect({ port: port(), host: '127.0.0.1', localAddress: LIAR_ADDRESS }), host: '127.0.0.1', ca }, () => {
            socket.write('GET /key?v=142 HTTP/1.1\r\nHost: liar\r\n')
            resolve(socket)
          })
          socket.on('error', () => socket.destroy())
          socket.once('close', () => resolve(socket))
        }),
      ),
    )
    const drip = setInterval(() => {
      partial.say(Buffer.from([0]))
      for (const socket of inside) if (!socket.destroyed) socket.write('X-A: b\r\n')
    }, 500)
    await unharmed()
    const over = (): boolean => [silent, partial, garbage].every((crowd) => crowd.closed === crowd.size) && inside.every((socket) => socket.destroyed)
    expect(await until(over, 40_000)).toBeDefined()
    clearInterval(drip)
    for (const crowd of [silent, partial, garbage]) crowd.close()
    await unharmed()
  })
})
