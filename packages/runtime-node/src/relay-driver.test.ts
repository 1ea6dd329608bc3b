import { createServer, type Server } from 'node:net'
import type { RelayNode, RelayRegion } from '@meshwright/core'
import type { RelayLinksInput } from '@meshwright/mesh'
import { expect, test } from 'vitest'
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

test('what a relay brings stays with the relay while nobody comes after it, and comes in full then', async () => {
  const bytes = 64 << 20
  const server = createServer((socket) => {
    socket.on('error', () => undefined).once('data', () => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n')
      const piece = Buffer.alloc(1 << 20, 7)
      for (let sent = 0; sent < bytes; sent += piece.length) socket.write(piece)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  let [behind, got] = [true, 0]
  let heard: () => void = () => undefined
  const driver = new RelayDriver((input) => {
    if (input.type === 'bytes') got += input.bytes.length
    heard()
  }, true, systemOutside, () => behind)
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>((resolve) => (heard = resolve))
  }
  driver.perform({ type: 'relayDial', link: 1, region: region(relay(typeof address === 'object' && address !== null ? address.port : 0)), node: relay(typeof address === 'object' && address !== null ? address.port : 0) })
  await until(() => got > 0)
  // More than enough time for all of it.
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(got).toBeLessThan(bytes / 16)
  behind = false
  await until(() => got === bytes)
  // A connection that is held is closed like any other.
  behind = true
  driver.close()
  await new Promise((resolve) => server.close(resolve))
})
