// Many WireGuard peers in one process, over sockets at some addresses (one address may begin few handshakes a second), for an interface in another network namespace. Told apart by the indices of their sessions.
import dgram from 'node:dgram'
import readline from 'node:readline'
import { instant } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { encodeUdpPacket, type Ip, PacketView, parseIp } from '@meshwright/ip'
import { fastCryptoProvider, systemRandom } from '@meshwright/runtime-node'
import { WireGuardDevice, type WireGuardPath } from '@meshwright/wireguard'

/** What it says at the end. */
export interface ManyPeersResult {
  readonly established: number
  /** Peers that had every question answered. */
  readonly answered: number
  /** Packets that came to a peer that they were not for, or that it had not asked for. */
  readonly wrong: number
}

const QUESTIONS = 3
const [host = '', port = '0', keyHex = '', count = '0', places = ''] = process.argv.slice(2)
const provider = fastCryptoProvider()
const sockets = places.split(',').map((address) => ({ address, socket: dgram.createSocket({ type: 'udp4', recvBufferSize: 4 << 20, sendBufferSize: 4 << 20 }) }))
const path: WireGuardPath = { id: 'node', cookieBytes: new Uint8Array(6) }
const node = NodePublicKey.fromBytes(Buffer.from(keyHex, 'hex'))
const target = ip('10.88.0.1')

interface Peer {
  readonly device: WireGuardDevice
  readonly key: NodePrivateKey
  readonly address: Ip
  readonly socket: dgram.Socket | undefined
  established: boolean
  /** Questions that were answered. */
  readonly got: Set<number>
}

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

const now = (): ReturnType<typeof instant> => instant(performance.now())
const view = new PacketView()
const byIndex = new Map<number, Peer>()
let wrong = 0

const peers: readonly Peer[] = Array.from({ length: Number(count) }, (_, i) => {
  const key = NodePrivateKey.generate(systemRandom)
  const device = new WireGuardDevice({ random: systemRandom, wallClock: () => Date.now(), provider, privateKey: key })
  if (node !== undefined) device.setPeer(now(), { publicKey: node, path })
  return { device, key, address: ip(`10.88.${4 + (i >> 8)}.${i & 255}`), socket: sockets[i % sockets.length]?.socket, established: false, got: new Set() }
})

function drain(peer: Peer): void {
  for (let output = peer.device.pollOutput(); output !== undefined; output = peer.device.pollOutput()) {
    if (output.type === 'transmit') {
      // The sender's index of an initiation: what comes back names it.
      if (output.bytes[0] === 1) byIndex.set(Buffer.from(output.bytes).readUInt32LE(4), peer)
      peer.socket?.send(output.bytes, Number(port), host)
    } else if (output.type === 'established') peer.established = true
    else if (output.type === 'packet') take(peer, output.bytes)
  }
}

function take(peer: Peer, packet: Uint8Array): void {
  const question = packet[28]
  if (!view.at(packet, 0, packet.length) || view.dst()?.toString() !== peer.address.toString() || question === undefined || question >= QUESTIONS || Buffer.from(packet.subarray(29)).toString() !== peer.address.toString()) wrong += 1
  else peer.got.add(question)
}

function receive(bytes: Buffer): void {
  const type = bytes[0] ?? 0
  const peer = type < 2 || type > 4 || bytes.length < 12 ? undefined : byIndex.get(bytes.readUInt32LE(type === 2 ? 8 : 4))
  if (peer === undefined) return
  peer.device.handleInput(now(), { type: 'datagram', bytes, from: path })
  drain(peer)
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function main(): Promise<void> {
  for (const { address, socket } of sockets) {
    socket.on('message', receive)
    await new Promise<void>((resolve) => socket.bind(6_000, address, resolve))
  }
  process.stdout.write(`${JSON.stringify(peers.map(({ key, address }) => [Buffer.from(key.publicKey().bytes).toString('hex'), address.toString()]))}\n`)
  for await (const _line of readline.createInterface({ input: process.stdin })) break
  setInterval(() => {
    for (const peer of peers) {
      peer.device.handleTimeout(now())
      drain(peer)
    }
  }, 100)
  const until = performance.now() + 90_000
  if (node !== undefined) {
    for (const [i, peer] of peers.entries()) {
      peer.device.connect(now(), node)
      drain(peer)
      if (i % 50 === 49) await pause(20)
    }
  }
  while (performance.now() < until && peers.some(({ established }) => !established)) await pause(50)
  // All at once, mixed; what a full queue took away is asked again.
  const done = ({ got }: Peer): boolean => got.size === QUESTIONS
  while (performance.now() < until && !peers.every(done)) {
    for (let question = 0; question < QUESTIONS; question += 1) {
      for (const peer of peers) {
        if (node === undefined || peer.got.has(question)) continue
        const payload = Buffer.concat([Uint8Array.of(question), Buffer.from(peer.address.toString())])
        peer.device.handleInput(now(), { type: 'packet', peer: node, bytes: encodeUdpPacket({ src: { ip: peer.address, port: 9 }, dst: { ip: target, port: 7 }, payload }) })
        drain(peer)
      }
    }
    for (let i = 0; i < 40 && !peers.every(done); i += 1) await pause(50)
  }
  const result: ManyPeersResult = { established: peers.filter(({ established }) => established).length, answered: peers.filter(done).length, wrong }
  process.stdout.write(`${JSON.stringify(result)}\n`)
  process.exit(0)
}

void main()
