import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { selfSignedCertificate } from '@meshwright/runtime-node/relay'
import { afterEach, expect, test } from 'vitest'
import { freePort } from '../../demo/src/free-port.ts'
import { writeConfigForTests } from './config-for-tests.ts'
import { startServer } from './serve.ts'

// Upgrades that this server does not know, or refuses: an HTTP server hands the socket over with them, and looks after it no more.
const cleanups: (() => void | Promise<void>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

interface Site {
  readonly port: number
  /** A connection on which a request can be written, and the socket under it. */
  open(): Promise<{ readonly stream: net.Socket; readonly raw: net.Socket }>
  health(): Promise<number>
}

async function site(kind: string): Promise<Site> {
  const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-upgrades-'))
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }))
  const port = await freePort()
  const { cert: ca, key } = selfSignedCertificate(['127.0.0.1'])
  writeFileSync(path.join(folder, 'cert.pem'), ca)
  writeFileSync(path.join(folder, 'key.pem'), key)
  const config = writeConfigForTests(folder, port, kind === 'TLS' ? { scheme: 'https', lines: `tls_cert_path: ${folder}/cert.pem\ntls_key_path: ${folder}/key.pem\n` } : {})
  const server = await startServer(config, { allowLoopbackEndpoints: false })
  cleanups.push(() => server.stop())
  return {
    port,
    async open() {
      const raw = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
      raw.on('error', () => undefined) // a reset is an end too
      const stream = kind === 'TLS' ? tls.connect({ socket: raw, ca, host: '127.0.0.1' }) : raw
      stream.on('error', () => undefined)
      cleanups.push(() => void raw.destroy())
      await once(stream, kind === 'TLS' ? 'secureConnect' : 'connect')
      return { stream, raw }
    },
    health: () =>
      new Promise((resolve, reject) => {
        if (kind !== 'TLS') return void fetch(`http://127.0.0.1:${port}/health`).then((response) => resolve(response.status), reject)
        https.get({ port, host: '127.0.0.1', path: '/health', ca, agent: false }, (response) => resolve(response.resume().statusCode ?? 0)).once('error', reject)
      }),
  }
}

const head = (target: string): string => `GET ${target} HTTP/1.1\r\nHost: x\r\nUpgrade: something\r\nConnection: upgrade\r\n\r\n`

test.each(['plain', 'TLS'])('an upgrade that is refused, and reset before it is, harms nobody: %s', async (kind) => {
  const here = await site(kind)
  for (const target of ['/elsewhere', '/derp', '/ts2021']) {
    for (let i = 0; i < 10; i += 1) {
      const { stream, raw } = await here.open()
      await new Promise<void>((resolve) => stream.write(head(target), () => resolve()))
      raw.resetAndDestroy()
    }
  }
  expect(await here.health()).toBe(200)
})

test.each(['plain', 'TLS'])('who asks for an upgrade to nowhere is told so, and does not stay: %s', async (kind) => {
  const here = await site(kind)
  const { stream, raw } = await here.open()
  const parts: Buffer[] = []
  stream.on('data', (bytes: Buffer) => parts.push(bytes))
  const closed = new Promise<void>((resolve) => raw.once('close', () => resolve()))
  stream.write(head('/elsewhere'))
  const writing = setInterval(() => stream.write('more'), 50)
  cleanups.push(() => clearInterval(writing))
  await closed
  expect(Buffer.concat(parts).toString()).toMatch(/^HTTP\/1\.1 404 /)
})
