import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { instant, type Instant } from '@meshwright/core'
import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice, type WireGuardInput, type WireGuardOutput, type WireGuardPath } from '@meshwright/wireguard'
import { chooseCryptoProvider } from '../packages/runtime-node/src/fast-crypto.ts'
import { systemRandom } from '../packages/runtime-node/src/random.ts'
import { CookieJar } from '../packages/wireguard/src/cookie.ts'
import { mac1KeyOf } from '../packages/wireguard/src/identity.ts'
import { encodeInitiation } from '../packages/wireguard/src/messages.ts'

/** Who a process of flood.bench.ts is: the flooded end, the one with a session, the flooder. */
export type FloodRole = 'bob' | 'alice' | 'mallory'

export type FloodOrder =
  | { readonly type: 'count' }
  | { readonly type: 'pace'; readonly mbit: number; readonly ms: number }
  | { readonly type: 'flood'; readonly perSecond: number; readonly ms: number }

/** What was done of what was wanted. */
export interface Counts {
  readonly done: number
  readonly wanted: number
  readonly told: string
}

const PACKET_BYTES = 1_420
const BUFFER_BYTES = 8 * 1024 * 1024
const TICK_MS = 1
const FORGED_MESSAGES = 20_000
const FORGED_SOURCES = 250
const LOOPBACK = '127.0.0.1'

const random = new SeededRandom(11)
const keys = { alice: NodePrivateKey.generate(random.bytes), bob: NodePrivateKey.generate(random.bytes) }
const provider = chooseCryptoProvider()
const [role = 'bob', port = '0'] = process.argv.slice(2)
if (role === 'alice') await alice()
else if (role === 'mallory') await mallory()
else await bob()
process.once('disconnect', () => process.exit(0))

/** Takes what comes and counts inner packets. */
async function bob(): Promise<void> {
  const socket = createSocket({ type: 'udp4', recvBufferSize: BUFFER_BYTES })
  let packets = 0
  const device = tunnel(keys.bob, keys.alice.publicKey(), socket, () => (packets += 1))
  let cpu = process.cpuUsage()
  process.on('message', () => {
    const { drops, cookieRepliesSent, tables } = device.status()
    const { user, system } = process.cpuUsage(cpu)
    cpu = process.cpuUsage()
    const counted = Array.from(drops, ([reason, count]) => `${reason} ${count}`).join(', ')
    say({ done: packets, wanted: packets, told: `${((user + system) / 1000).toFixed(0)} ms CPU; cookie replies ${cookieRepliesSent}, ${counted}; indices ${tables.indices}, sources ${tables.sources}` })
  })
  await bound(socket, LOOPBACK)
  process.send?.(socket.address().port)
}

/** Has a session with Bob and sends at a pace. */
async function alice(): Promise<void> {
  const socket = createSocket({ type: 'udp4', sendBufferSize: BUFFER_BYTES })
  let established = false
  await bound(socket, LOOPBACK)
  const device = tunnel(keys.alice, keys.bob.publicKey(), socket, () => undefined, () => (established = true), Number(port))
  const packet = new Uint8Array(PACKET_BYTES)
  packet.set([0x45, 0, PACKET_BYTES >> 8, PACKET_BYTES & 255])
  const send = (): void => device.feed({ type: 'packet', peer: keys.bob.publicKey(), bytes: packet })
  process.on('message', (order: FloodOrder) => {
    if (order.type === 'pace') paced((order.mbit * 1e6) / 8 / PACKET_BYTES, order.ms, send)
  })
  send()
  while (!established) await new Promise((resolve) => setTimeout(resolve, 5))
  process.send?.('ready')
}

/** Sends initiations that only Bob's public key was needed for, each from the next of many addresses. */
async function mallory(): Promise<void> {
  const mac1Key = mac1KeyOf(provider, keys.bob.publicKey().bytes)
  const forged = Array.from({ length: FORGED_MESSAGES }, (_, sender) => {
    const message = encodeInitiation({ sender, ephemeral: random.bytes(32), sealedStatic: random.bytes(48), sealedTimestamp: random.bytes(28) })
    new CookieJar().stamp(instant(0), provider, mac1Key, message)
    return message
  })
  const sockets: Socket[] = []
  for (let i = 0; i < FORGED_SOURCES; i += 1) {
    const socket = createSocket('udp4')
    await bound(socket, `127.0.${1 + (i >> 6)}.${1 + (i & 63)}`)
    sockets.push(socket)
  }
  let next = 0
  process.on('message', (order: FloodOrder) => {
    if (order.type !== 'flood') return
    paced(order.perSecond, order.ms, () => {
      sockets[next % sockets.length]?.send(forged[next % forged.length] ?? new Uint8Array(0), Number(port), LOOPBACK)
      next += 1
    })
  })
  process.send?.('ready')
}

/** A device at a socket, driven as a program would: by datagrams, packets and time. */
function tunnel(privateKey: NodePrivateKey, peer: NodePublicKey, socket: Socket, delivered: () => void, established: () => void = () => undefined, peerPort?: number): {
  feed(input: WireGuardInput): void
  status(): ReturnType<WireGuardDevice['status']>
} {
  const device = new WireGuardDevice({ random: systemRandom, wallClock: () => Date.now(), stopwatch: () => performance.now(), privateKey, provider })
  const perform = (output: WireGuardOutput): void => {
    if (output.type === 'packet') delivered()
    else if (output.type === 'established') established()
    else if (output.type === 'transmit' && output.to !== undefined) {
      const [host = '', port = ''] = output.to.id.split(':')
      socket.send(output.bytes, Number(port), host)
    }
  }
  const drain = (): void => {
    for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) perform(output)
  }
  const feed = (input: WireGuardInput): void => {
    device.handleInput(now(), input)
    drain()
  }
  device.setPeer(now(), { publicKey: peer, ...(peerPort !== undefined && { path: pathOf(LOOPBACK, peerPort) }) })
  socket.on('message', (bytes, { address, port }) => feed({ type: 'datagram', bytes, from: pathOf(address, port) }))
  setInterval(() => {
    const due = device.pollTimeout()
    if (due === undefined || due > now()) return
    device.handleTimeout(now())
    drain()
  }, 50)
  return { feed, status: () => device.status(now()) }
}

/** Does something at a rate for a time, and tells how often. */
function paced(perSecond: number, ms: number, act: () => void): void {
  const begun = performance.now()
  const wanted = Math.floor((perSecond * ms) / 1000)
  let done = 0
  const timer = setInterval(() => {
    const elapsed = Math.min(ms, performance.now() - begun)
    for (const due = Math.floor((perSecond * elapsed) / 1000); done < due; done += 1) act()
    if (elapsed < ms) return
    clearInterval(timer)
    say({ done, wanted, told: '' })
  }, TICK_MS)
}

async function bound(socket: Socket, address: string): Promise<void> {
  socket.bind(0, address)
  await once(socket, 'listening')
}

function pathOf(address: string, port: number): WireGuardPath {
  return { id: `${address}:${port}`, cookieBytes: Uint8Array.from([...address.split('.').map(Number), port >> 8, port & 255]) }
}

function say(counts: Counts): void {
  process.send?.(counts)
}

function now(): Instant {
  return instant(performance.now())
}
