import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { RelayNode } from '@meshwright/core'
import { dialDerp } from '@meshwright/runtime-node/relay'
import { freePort } from '../../demo/src/free-port.ts'
import { writeConfigForTests } from './config-for-tests.ts'
import { keepCertificate } from './own-certificate.ts'
import { type RunningServer, startServer } from './serve.ts'

let folder = ''
let server: RunningServer
let node: RelayNode
let metricsPort = 0

beforeEach(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-relay-'))
  const [port, other] = [await freePort(), await freePort()]
  metricsPort = other
  const config = writeConfigForTests(folder, port, { lines: `metrics_listen_addr: 127.0.0.1:${other}\nderp: {server: {enabled: true, private_key_path: ${folder}/derp.key, stun_listen_addr: ""}}\n` })
  server = await startServer(config, { allowLoopbackEndpoints: false })
  const { pin } = keepCertificate(path.join(folder, 'relay-certificate.pem'), ['127.0.0.1'], Date.now())
  node = { name: '999', regionId: 999, hostName: '127.0.0.1', ipv4: '127.0.0.1', ipv6: 'none', certName: pin, derpPort: port }
})

afterEach(async () => {
  await server.stop()
  rmSync(folder, { recursive: true, force: true })
})

test('at one port there are the control server by plain HTTP and the relay by TLS, with the certificate that the map pins', async () => {
  expect((await fetch(`http://127.0.0.1:${String(node.derpPort)}/health`)).status).toBe(200)
  for (const options of [{}, { fastStart: false }, { webSocket: true }]) {
    const connection = await dialDerp({ node, ...options })
    const first = await new Promise<Uint8Array>((resolve) => connection.start({ bytes: resolve, writable: () => undefined, closed: () => undefined }))
    // The server's key comes first: a frame of type 1 (its magic, then the key). Under fast start the certificate has told it already.
    expect([connection.tlsVersion, first[0]]).toEqual(['TLSv1.3', 1])
    expect(connection.serverKey !== undefined).toBe(Object.keys(options).length === 0)
    connection.close()
  }
})

test('who speaks to the relay is counted by the relay alone: no newcomer of the web server, whose patience would end it', async () => {
  const connection = await dialDerp({ node })
  const closed: unknown[] = []
  await new Promise<Uint8Array>((resolve) => connection.start({ bytes: resolve, writable: () => undefined, closed: (why) => closed.push(why) }))
  const figures = async (): Promise<readonly (string | undefined)[]> => {
    const text = await (await fetch(`http://127.0.0.1:${String(metricsPort)}/metrics`)).text()
    return ['meshwright_newcomers', 'meshwright_connections'].map((name) => new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1])
  }
  expect(await figures()).toEqual(['0', '1'])
  expect(closed).toEqual([])
  connection.close()
})

test('another pin is refused, and says so', async () => {
  await expect(dialDerp({ node: { ...node, certName: `sha256-raw:${'11'.repeat(32)}` } })).rejects.toMatchObject({ code: 'DERP_DIAL_CERTIFICATE', message: expect.stringContaining('is not the one that the relay map names') as string })
  await expect(dialDerp({ node: { ...node, certName: 'sha256-raw:abc' } })).rejects.toMatchObject({ code: 'DERP_DIAL_CERTIFICATE' })
})
