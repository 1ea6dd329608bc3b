import dgram from 'node:dgram'
import net, { type AddressInfo } from 'node:net'
import type { Instant } from '@meshwright/core'
import { type Ip, parseIp } from '@meshwright/ip'
import { Netstack } from '@meshwright/netstack'
import { afterEach, expect, test } from 'vitest'
import { suspendAwareClock } from './clock.ts'
import { type Driver, drive } from './drive.ts'
import { MeshFlows } from './mesh-socket.ts'
import type { FlowCarrier } from './flow-carrier.ts'
import { OutsideFlows } from './outside-flows.ts'
import { systemRandom } from './random.ts'

const ip = (text: string): Ip => parseIp(text) ?? expect.fail(text)
const [PEER, ROUTER, BEHIND] = [ip('100.64.0.1'), ip('100.64.0.2'), ip('10.1.2.3')]
const clock = suspendAwareClock()
const cleanups: (() => void)[] = []

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup()
})

interface Side {
  readonly stack: Netstack
  readonly driver: Driver<{ readonly type: 'packet'; readonly bytes: Uint8Array }>
  readonly flows: MeshFlows
}

/** A peer, and a router with a carrier, joined in memory. */
function pair(carrier: FlowCarrier): readonly [Side, Side] {
  const sides: Side[] = []
  const make = (index: number, own: Ip): Side => {
    const stack = new Netstack(systemRandom, { addresses: [own], offerUnclaimed: true, promiscuous: index === 1 })
    const flows: MeshFlows = new MeshFlows(<Result>(use: (stack: Netstack, now: Instant) => Result) => driver.act((now) => use(stack, now)), index === 1 ? carrier : undefined)
    const driver = drive(stack, clock, (output) => {
      if (output.type !== 'packet') return flows.perform(output)
      const bytes = Uint8Array.from(output.bytes)
      setImmediate(() => sides[1 - index]?.driver.feed({ type: 'packet', bytes }))
    })
    cleanups.push(() => {
      flows.closeAll()
      driver.stop()
    })
    return { stack, driver, flows }
  }
  sides.push(make(0, PEER), make(1, ROUTER))
  const [peer, router] = sides
  if (peer === undefined || router === undefined) throw new Error('no sides')
  return [peer, router]
}

const isOwn = (address: Ip): boolean => address.equals(ROUTER)

/** A UDP echo on loopback, or what a real one is reached by. */
async function echoPort(): Promise<number> {
  const echo = dgram.createSocket('udp4')
  echo.on('message', (bytes, from) => echo.send(bytes, from.port, from.address))
  await new Promise<void>((resolve) => echo.bind(0, '127.0.0.1', resolve))
  cleanups.push(() => echo.close())
  return echo.address().port
}

test('datagrams to the node itself that no socket claims go where the daemon says, and their answers come back', async () => {
  const port = await echoPort()
  const [peer] = pair(new OutsideFlows({ isOwn, isBehind: () => false, unclaimedDatagrams: (local) => ({ ip: ip('127.0.0.1'), port: local.port }) }))
  const answer = await new Promise<string>((resolve) => {
    const socket = peer.flows.listenUdp(0, (bytes, from) => resolve(`${Buffer.from(bytes).toString()} from ${from.address}:${from.port}`))
    socket.send(Buffer.from('hello'), port, '100.64.0.2')
  })
  expect(answer).toBe(`hello from 100.64.0.2:${port}`)
})

test('loopback is never behind a node, whatever a route says; nor is what no offered route holds', async () => {
  const web = net.createServer((socket) => socket.end('secret'))
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => web.close())
  const { port } = web.address() as AddressInfo
  const flows = new OutsideFlows({ isOwn, isBehind: (address) => !address.equals(BEHIND) })
  const remote = { ip: PEER, port: 1 }
  for (const text of ['127.0.0.1', '127.9.9.9', '::1', '10.1.2.3']) {
    const local = { ip: ip(text), port }
    expect(await flows.connect(local, remote)).toBeUndefined()
    expect(flows.datagrams(local, remote, () => undefined)).toBeUndefined()
    expect(await flows.echo(local.ip)).toBe(false)
  }
  const [peer] = pair(flows)
  await expect(peer.flows.connect({ ip: BEHIND, port })).rejects.toMatchObject({ code: 'ECONNREFUSED' })
})

test('a ping of a machine behind the node is answered in its name when it answers, and not else', async () => {
  const asked: string[] = []
  const carrier: FlowCarrier = {
    connect: () => Promise.resolve(undefined),
    datagrams: () => undefined,
    echo: (to) => {
      asked.push(to.key)
      return Promise.resolve(to.equals(BEHIND))
    },
  }
  const [peer] = pair(carrier)
  const ended = (to: Ip, timeoutMs: number): Promise<string> =>
    new Promise((resolve) => {
      const { perform } = peer.flows
      peer.flows.perform = (output) => {
        if (output.type === 'echoReply') resolve(`reply from ${output.from.key}`)
        if (output.type === 'echoFailed') resolve(output.reason)
        perform.call(peer.flows, output)
      }
      peer.driver.act((now) => peer.stack.ping(now, to, { timeoutMs }))
    })
  expect(await ended(BEHIND, 30_000)).toBe('reply from 10.1.2.3')
  expect(await ended(ip('10.1.2.4'), 300)).toBe('timeout')
  expect(asked).toEqual(['10.1.2.3', '10.1.2.4'])
})
