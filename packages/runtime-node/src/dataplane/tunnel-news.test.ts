import { NodePrivateKey } from '@meshwright/crypto'
import { encodeIcmpEcho, parsePrefix } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { CountedPosts } from './counted-posts.ts'
import { ipv4Address } from './memory-kernel.ts'
import { ip, must, roomForTwo } from './lanes-for-tests.ts'
import { MemoryLane } from './memory-lane.ts'
import { PULSE_BYTES, PULSE_TAKEN } from './pulse.ts'
import { MAX_UNTAKEN_NEWS, TunnelNews } from './tunnel-news.ts'
import { VNET_HEADER_BYTES } from './vnet-header.ts'
import type { FromWorker } from './worker-messages.ts'

// What an interface tells of its peers is bounded by what the other thread takes, however much a peer does.
const { provider, arenas } = roomForTwo()

/** News, and a thread that takes them when it is told to. */
function news(): { readonly news: TunnelNews; readonly posted: FromWorker[]; readonly take: () => FromWorker[] } {
  const pulse = new Int32Array(new SharedArrayBuffer(PULSE_BYTES))
  const posted: FromWorker[] = []
  const posts = new CountedPosts<FromWorker>(pulse, (message) => posted.push(message))
  const take = (): FromWorker[] => {
    Atomics.add(pulse, PULSE_TAKEN, posted.length)
    return posted.splice(0)
  }
  return { news: new TunnelNews(posts), posted, take }
}

/** Two peers on the lane; the second sends from the port that it is told to. */
function roamer(onOutput: TunnelNews): { readonly sendFrom: (port: number) => void; readonly arrived: () => number } {
  const keys = [1, 2].map((host) => NodePrivateKey.generate(new SeededRandom(host).bytes))
  const options = { provider, gso: false, wallClock: () => 1_767_225_600_000 }
  const here: MemoryLane = new MemoryLane({ ...options, arena: must(arenas[0]), key: must(keys[0]), random: new SeededRandom(7).bytes, onOutput: (output) => onOutput.note(output, here.engine.device.pathOf(output.peer)?.id) })
  const there = new MemoryLane({ ...options, arena: must(arenas[1]), key: must(keys[1]), random: new SeededRandom(8).bytes })
  let port = 5000
  here.kernel.onSend = (_to, row) => void there.kernel.udpIn.push({ from: ipv4Address(1, 5000), ...row })
  there.kernel.onSend = (_to, row) => void here.kernel.udpIn.push({ from: ipv4Address(2, port), ...row })
  for (const [lane, other, host] of [[here, 1, 2], [there, 0, 1]] as const) {
    lane.change({ type: 'peer', publicKey: must(keys[other]).publicKey(), remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [{ prefix: must(parsePrefix(`10.0.0.${host}/32`)), remove: false }], endpoint: { ip: ip(`10.87.0.${host}`), port: 5000 } })
  }
  const sendFrom = (from: number): void => {
    port = from
    const packet = encodeIcmpEcho({ src: ip('10.0.0.2'), dst: ip('10.0.0.1'), kind: 'request', identifier: 1, sequence: from & 0xffff, payload: new Uint8Array(8) })
    there.kernel.tunIn.push(new Uint8Array([...new Uint8Array(VNET_HEADER_BYTES), ...packet]))
    for (let i = 0; i < 3; i += 1) for (const lane of [there, here]) lane.run()
  }
  sendFrom(port)
  return { sendFrom, arrived: () => must(here.kernel.tunOut).length }
}

const places = (messages: readonly FromWorker[]): string[] => messages.flatMap((message) => (message.type === 'roamed' ? [message.endpoint] : []))

test('a peer whose address changes with every packet: what waits for the other thread is bounded, packets pass, and its last place is told in the end', () => {
  const { news: told, posted, take } = news()
  const { sendFrom, arrived } = roamer(told)
  take()
  for (let port = 10_001; port <= 12_000; port += 1) sendFrom(port)
  expect([posted.length, arrived()]).toEqual([MAX_UNTAKEN_NEWS, 2_001])
  expect(places(take())).not.toContain('10.87.0.2:12000')
  told.tellMoved()
  expect(places(take())).toEqual(['10.87.0.2:12000'])
  told.tellMoved()
  expect(posted).toEqual([])
  // Taken in time, each is told with its line.
  sendFrom(12_001)
  expect(take().map(({ type }) => type)).toEqual(['roamed', 'log'])
})

test('a place that was not told yet is no news once the peer was given another by order', () => {
  const { news: told, take } = news()
  const { sendFrom } = roamer(told)
  take()
  for (let port = 10_001; port <= 10_500; port += 1) sendFrom(port)
  take()
  told.forgetPlace(NodePrivateKey.generate(new SeededRandom(2).bytes).publicKey())
  told.tellMoved()
  expect(places(take())).toEqual([])
})

test('attempts and lines are left out while nobody takes them; errors and a peer that is given up are told', () => {
  const { news: told, posted, take } = news()
  const peer = NodePrivateKey.generate(new SeededRandom(3).bytes).publicKey()
  for (let attempt = 0; attempt < 1_000; attempt += 1) told.note({ type: 'handshakeRetry', peer, attempt }, '192.0.2.1:1')
  expect(posted.length).toBe(MAX_UNTAKEN_NEWS)
  told.log('verbose', 'left out')
  told.log('error', 'told')
  told.note({ type: 'handshakeFailed', peer }, undefined)
  expect(take().slice(MAX_UNTAKEN_NEWS)).toEqual([{ type: 'log', level: 'error', line: 'told' }, { type: 'unanswered', peer: peer.bytes, endpoint: undefined }])
  told.log('verbose', 'again')
  expect(take()).toEqual([{ type: 'log', level: 'verbose', line: 'again' }])
})
