import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type RunningNode, startMeshNode } from '@meshwright/runtime-node'
import { afterEach, expect, test } from 'vitest'
import { serveLocalApi } from './local-api.ts'

const cleanups: (() => void | Promise<void>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** The API of a node that reaches nobody, or of what a test makes of it. */
async function api(change: (node: RunningNode) => RunningNode = (node) => node): Promise<string> {
  const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-api-'))
  const node = await startMeshNode({ controlUrl: 'http://127.0.0.1:1', hostname: 'here' })
  const server = await serveLocalApi(path.join(folder, 'sock'), { node: change(node), shutdown: () => undefined })
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }), () => node.close(), () => void server.close())
  return path.join(folder, 'sock')
}

const dial = (port: number, protocol: string = 'ts-dial'): string =>
  `POST /localapi/v0/dial HTTP/1.1\r\nHost: local-tailscaled.sock\r\nUpgrade: ${protocol}\r\nConnection: upgrade\r\nDial-Host: 127.0.0.1\r\nDial-Port: ${port}\r\n\r\n`

test('who gives a connection up before it stands harms nobody, whether it would have come about, been refused, or was asked wrongly', async () => {
  const socketPath = await api()
  const listener = createServer((socket) => socket.on('error', () => undefined).resume()).listen(0, '127.0.0.1')
  await once(listener, 'listening')
  cleanups.push(() => void listener.close())
  for (const request of [dial((listener.address() as AddressInfo).port), dial(1), dial(1, 'nonsense')]) {
    for (let i = 0; i < 5; i += 1) {
      const client = connect(socketPath)
      await once(client, 'connect')
      await new Promise<void>((resolve) => client.write(request, () => resolve()))
      client.destroy()
    }
  }
  // All of them are over at the other end, too.
  await expect.poll(() => new Promise((resolve) => listener.getConnections((_error, count) => resolve(count))), { timeout: 30_000 }).toBe(0)
  const client = connect(socketPath)
  client.write(dial(1))
  const [answer] = (await once(client, 'data')) as [Buffer]
  expect(answer.toString()).toMatch(/^HTTP\/1\.1 502 [^]*connection was refused/)
  client.destroy()
})

function ask(socketPath: string, method: string, verb: string, body?: unknown): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path: `/localapi/v0/${verb}`, headers: { host: 'local-tailscaled.sock' } }, (response) => {
      let text = ''
      response.on('data', (bytes: Buffer) => (text += bytes.toString())).on('end', () => resolve(text.startsWith('{') ? (JSON.parse(text) as Record<string, unknown>) : {}))
    })
    request.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body))
  })
}

test('a logout sets preferences back, but not those of a login that was begun while it waited for the control server', async () => {
  for (const isBegun of [false, true]) {
    let begun = (): void => undefined
    let confirmed = (): void => undefined
    const waiting = new Promise<void>((resolve) => (begun = resolve))
    const confirmation = new Promise<void>((resolve) => (confirmed = resolve))
    const held = (node: RunningNode): RunningNode =>
      new Proxy(node, {
        get(target, name) {
          if (name === 'logout') {
            return () => {
              target.down()
              begun()
              return confirmation
            }
          }
          const value: unknown = Reflect.get(target, name, target)
          return typeof value === 'function' ? value.bind(target) as unknown : value
        },
      })
    const socketPath = await api(held)
    await ask(socketPath, 'PATCH', 'prefs', { ShieldsUp: true, ShieldsUpSet: true })
    const logout = ask(socketPath, 'POST', 'logout')
    await waiting
    if (isBegun) await ask(socketPath, 'POST', 'start', { UpdatePrefs: { WantRunning: true, ShieldsUp: true, ControlURL: 'http://127.0.0.1:1' } })
    confirmed()
    await logout
    expect(await ask(socketPath, 'GET', 'prefs')).toMatchObject({ ShieldsUp: isBegun, WantRunning: isBegun })
  }
})
