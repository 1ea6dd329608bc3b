// Both ends of the traffic, each inside a network namespace: `send LANE` and `answer LANE`. They tell what they have seen, a line a second.
import dgram from 'node:dgram'
import { type Channel, CHANNELS, endsOf, type FireLane, GUEST, INNER, microseconds, PORTS, type Seen, type Sent } from './words.ts'

/** Datagrams on the way at any moment: fewer than any queue between the ends holds. */
const WINDOW = 48
const BYTES = 1_100
const LOST_US = 10_000_000
/** Number, time; the rest follows from the number. */
const HEAD_BYTES = 16
const TELL_MS = 1_000

function fill(number: number): Buffer {
  const bytes = Buffer.alloc(BYTES)
  bytes.writeDoubleLE(number, 0)
  bytes.writeDoubleLE(microseconds(), 8)
  for (let at = HEAD_BYTES; at < BYTES; at += 4) bytes.writeUInt32LE((number ^ Math.imul(at, 2_654_435_761)) >>> 0, at)
  return bytes
}

function isWhole(bytes: Buffer): boolean {
  if (bytes.length !== BYTES) return false
  const number = bytes.readDoubleLE(0)
  for (let at = HEAD_BYTES; at < BYTES; at += 4) if (bytes.readUInt32LE(at) !== ((number ^ Math.imul(at, 2_654_435_761)) >>> 0)) return false
  return true
}

function open(port: number, address: string): Promise<dgram.Socket> {
  const socket = dgram.createSocket({ type: 'udp4', recvBufferSize: 4 << 20, sendBufferSize: 4 << 20 })
  socket.on('error', () => undefined) // what the network reports is seen as loss
  return new Promise((resolve) => socket.bind(port, address, () => resolve(socket)))
}

async function send(lane: FireLane): Promise<void> {
  const sent: Record<Channel, number> = { always: 0, odd: 0, even: 0, never: 0 }
  const waiting = new Map<number, number>()
  let [whole, changed, twice, lost, number, reached, stopping] = [0, 0, 0, 0, 0, false, false]
  let toGuest = 0
  const sockets = new Map<Channel, dgram.Socket>()
  for (const channel of CHANNELS) sockets.set(channel, await open(0, endsOf(lane, channel).source))
  const put = (channel: Channel, bytes: Buffer): void => {
    const { target, port } = endsOf(lane, channel)
    sent[channel] += 1
    sockets.get(channel)?.send(bytes, port, target)
  }
  const more = (): void => {
    while (reached && !stopping && waiting.size < WINDOW) {
      number += 1
      waiting.set(number, microseconds())
      put('always', fill(number))
    }
  }
  sockets.get('always')?.on('message', (bytes) => {
    // What waited for the first session is no part of the count.
    if (isWhole(bytes) && bytes.readDoubleLE(0) === 0) reached = true
    else if (!isWhole(bytes)) changed += 1
    else if (waiting.delete(bytes.readDoubleLE(0))) whole += 1
    else twice += 1
  })
  setInterval(() => {
    const now = microseconds()
    for (const [each, at] of waiting) {
      if (now - at < LOST_US) break
      waiting.delete(each)
      lost += 1
    }
    more()
  }, 2)
  const knocking = setInterval(() => {
    const { target, port } = endsOf(lane, 'always')
    if (reached) clearInterval(knocking)
    else sockets.get('always')?.send(fill(0), port, target)
  }, 200)
  setInterval(() => {
    if (!reached || stopping) return
    for (const channel of ['odd', 'even', 'never'] as const) put(channel, fill(sent[channel]))
    sockets.get('always')?.send(fill(0), PORTS.always, GUEST.inner[lane])
    toGuest += 1
  }, 5)
  const tell = (): void => {
    const told: Sent = { sent, toGuest, whole, changed, twice, lost, waiting: waiting.size }
    process.stdout.write(`${JSON.stringify(told)}\n`)
  }
  setInterval(tell, TELL_MS)
  process.stdin.once('data', () => (stopping = true))
}

async function answer(lane: FireLane): Promise<void> {
  let got: [Channel, number, number][] = []
  let answered = 0
  const take = (channel: Channel, bytes: Buffer): void => void got.push([channel, bytes.readDoubleLE(8), microseconds()])
  const channelFrom = (address: string): Channel | undefined => CHANNELS.find((channel) => endsOf('engine', channel).source === address)
  for (const port of lane === 'mesh' ? CHANNELS.map((channel) => PORTS[channel]) : [PORTS.always]) {
    const socket = await open(port, INNER[lane][1])
    socket.on('message', (bytes, from) => {
      if (bytes.length < HEAD_BYTES) return
      const channel = lane === 'mesh' ? CHANNELS.find((each) => PORTS[each] === port) : channelFrom(from.address)
      if (channel === undefined) return
      if (channel !== 'always') return take(channel, bytes)
      answered += 1
      socket.send(bytes, from.port, from.address)
    })
  }
  setInterval(() => {
    const told: Seen = { got, answered }
    got = []
    process.stdout.write(`${JSON.stringify(told)}\n`)
  }, TELL_MS)
  process.stdin.resume()
}

process.stdin.once('end', () => process.exit(0))
const lane: FireLane = process.argv[3] === 'engine' ? 'engine' : 'mesh'
void (process.argv[2] === 'send' ? send(lane) : answer(lane))
