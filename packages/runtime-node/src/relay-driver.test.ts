import http from 'node:http'
import { createServer, type Server } from 'node:net'
import type { Duplex } from 'node:stream'
import type { RelayNode, RelayRegion } from '@meshwright/core'
import type { RelayLinksInput } from '@meshwright/mesh'
import { afterEach, expect, test, vi } from 'vitest'
import { systemOutside } from './outside.ts'
import { measureRelay, RelayDriver } from './relay-driver.ts'

async function listening(): Promise<{ readonly server: Server; readonly port: number }> {
  const server = createServer((socket) => socket.on('error', () => undefined).destroy())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  return { server, port: typeof address === 'object' && address !== null ? address.port : expect.fail('no port') }
}

/** A signal that never aborts. */
const never = new AbortController().signal

/** A port where nobody listens, and that the system gives to nobody. */
const DEAD_PORT = 1

const relay = (port: number): RelayNode => ({ name: '1a', regionId: 1, hostName: '127.0.0.1', ipv4: '127.0.0.1', derpPort: port, insecureForTests: true })
const region = (...nodes: readonly RelayNode[]): RelayRegion => ({ id: 1, code: 'one', name: 'One', nodes })

test('a relay that takes connections has a latency, one that refuses them or is none has not', async () => {
  const { server, port } = await listening()
  expect(await measureRelay(region(relay(port)), systemOutside, never)).toBeGreaterThan(0)
  await new Promise((resolve) => server.close(resolve))
  expect(await measureRelay(region(relay(DEAD_PORT)), systemOutside, never)).toBeUndefined()
  expect(await measureRelay(region({ ...relay(port), stunOnly: true }), systemOutside, never)).toBeUndefined()
})

test('a measure that is given up ends at once, and leaves no connection', async () => {
  const { server, port } = await listening()
  expect(await measureRelay(region(relay(port)), systemOutside, AbortSignal.abort())).toBeUndefined()
  expect(await new Promise((resolve) => server.close(resolve))).toBeUndefined()
})

test('a dial that fails is told as closed, with its reason, once', async () => {
  const inputs: RelayLinksInput[] = []
  await new Promise<void>((resolve) => {
    const driver = new RelayDriver((input) => {
      inputs.push(input)
      resolve()
    }, true, systemOutside)
    driver.perform({ type: 'relayDial', link: 7, region: region(relay(DEAD_PORT)), node: relay(DEAD_PORT) })
  })
  expect(inputs).toMatchObject([{ type: 'closed', link: 7, reason: expect.stringMatching(/./) }])
})

test('after close nothing is told any more', async () => {
  const inputs: RelayLinksInput[] = []
  const driver = new RelayDriver((input) => inputs.push(input), true, systemOutside)
  driver.perform({ type: 'relayDial', link: 1, region: region(relay(DEAD_PORT)), node: relay(DEAD_PORT) })
  driver.close()
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(inputs).toEqual([])
})

const cleanup: (() => void)[] = []
afterEach(() => {
  for (const each of cleanup.splice(0).reverse()) each()
})

/** A driver whose link 1 is open, what it was told since, and the other end. */
async function opened(isBehind: () => boolean = () => false): Promise<{ readonly driver: RelayDriver; readonly inputs: RelayLinksInput[]; readonly far: Duplex }> {
  const server = http.createServer()
  const far = new Promise<Duplex>((resolve) => {
    server.on('upgrade', (_request, socket) => {
      socket.on('error', () => undefined).write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n')
      resolve(socket)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const inputs: RelayLinksInput[] = []
  const driver = new RelayDriver((input) => inputs.push(input), true, systemOutside, isBehind)
  cleanup.push(() => {
    driver.close()
    server.closeAllConnections()
    server.close()
  })
  const port = typeof address === 'object' && address !== null ? address.port : expect.fail('no port')
  driver.perform({ type: 'relayDial', link: 1, region: region(relay(port)), node: relay(port) })
  await expect.poll(() => inputs.length).toBe(1)
  expect(inputs.splice(0)).toMatchObject([{ type: 'opened', link: 1 }])
  const socket = await far
  cleanup.push(() => socket.destroy())
  return { driver, inputs, far: socket }
}

test('that all is taken is told when it was much, not for each small write', async () => {
  const { driver, inputs, far } = await opened()
  let arrived = 0
  far.on('data', (bytes: Uint8Array) => (arrived += bytes.length))
  for (let i = 1; i <= 20; i += 1) {
    driver.perform({ type: 'relayWrite', link: 1, bytes: new Uint8Array(1_000) })
    await expect.poll(() => arrived).toBe(i * 1_000)
  }
  expect(inputs).toEqual([])
  driver.perform({ type: 'relayWrite', link: 1, bytes: new Uint8Array(60_000) })
  await expect.poll(() => inputs).toEqual([{ type: 'writable', link: 1 }])
})

test('while whoever is fed is behind, a relay has to wait, and all comes once it is not', async () => {
  const BYTES = 64 * 1024 * 1024
  let behind = true
  const { inputs, far } = await opened(() => behind)
  const brought = (): number => inputs.reduce((sum, input) => sum + (input.type === 'bytes' ? input.bytes.length : 0), 0)
  const sent = vi.fn()
  far.write(new Uint8Array(BYTES), sent)
  await expect.poll(brought).toBeGreaterThan(0)
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(brought()).toBeLessThan(BYTES / 4)
  expect(sent).not.toHaveBeenCalled()
  behind = false
  await expect.poll(brought).toBe(BYTES)
})
