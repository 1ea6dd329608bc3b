// A WireGuard tunnel by hand: two UDP sockets of this process, a WireGuard machine behind each, and a ping between them.
import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { encodeIcmpEcho, type Endpoint, formatEndpoint, PacketView, parseIp, replyEcho } from '@meshwright/ip'
import { type Driver, drive, nodeCryptoProvider, openUdp, suspendAwareClock, systemRandom, type UdpSocket } from '@meshwright/runtime-node'
import { WireGuardDevice, type WireGuardInput, type WireGuardPath } from '@meshwright/wireguard'

/** A path is an address here. `id` tells paths apart; cookies, which a busy peer asks for, are bound to the bytes. */
interface UdpPath extends WireGuardPath {
  readonly endpoint: Endpoint
}

const pathTo = (endpoint: Endpoint): UdpPath => ({ id: formatEndpoint(endpoint), cookieBytes: new TextEncoder().encode(formatEndpoint(endpoint)), endpoint })
const loopback = parseIp('127.0.0.1')
const [addressA, addressB] = [parseIp('10.0.0.1'), parseIp('10.0.0.2')]
if (loopback === undefined || addressA === undefined || addressB === undefined) throw new Error('unreachable: these are addresses')

/** One end: a device, its socket, and the driver that gives it time and carries out what it owes. */
interface End {
  readonly device: WireGuardDevice<UdpPath>
  readonly driver: Driver<WireGuardInput<UdpPath>>
  readonly socket: UdpSocket
}

async function open(name: string, privateKey: NodePrivateKey, onPacket: (bytes: Uint8Array, from: NodePublicKey) => void): Promise<End> {
  const device = new WireGuardDevice<UdpPath>({ privateKey, random: systemRandom, wallClock: Date.now, provider: nodeCryptoProvider })
  const socket = await openUdp({ ipv4: '127.0.0.1', ipv6: false, onDatagram: (bytes, from) => driver.feed({ type: 'datagram', bytes, from: pathTo(from) }) })
  const driver: Driver<WireGuardInput<UdpPath>> = drive(device, suspendAwareClock(), (output) => {
    if (output.type === 'transmit') {
      console.log(`${name} sends a ${output.kind} message of ${output.bytes.length} bytes`)
      if (output.to !== undefined) socket.send(output.to.endpoint, output.bytes)
    } else if (output.type === 'packet') onPacket(output.bytes, output.peer)
    else console.log(`${name}: ${output.type}`)
  })
  return { device, driver, socket }
}

const [keyA, keyB] = [NodePrivateKey.generate(systemRandom), NodePrivateKey.generate(systemRandom)]
let answered: () => void = () => undefined
const answer = new Promise<void>((resolve) => (answered = resolve))

const a = await open('A', keyA, (bytes) => {
  const view = new PacketView()
  if (view.at(bytes)) console.log(`A has its answer: ${bytes.length} bytes from ${view.src()?.key ?? ''}`)
  answered()
})
const b = await open('B', keyB, (bytes, from) => {
  const view = new PacketView()
  const reply = view.at(bytes) ? replyEcho(view) : undefined
  console.log(`B is pinged by ${view.src()?.key ?? 'nobody'}`)
  if (reply !== undefined) b.driver.feed({ type: 'packet', peer: from, bytes: reply })
})
// A knows where B is; B learns where A is from A's first message.
a.driver.act((now) => a.device.setPeer(now, { publicKey: keyB.publicKey(), path: pathTo({ ip: loopback, port: b.socket.portIpv4 ?? 0 }) }))
b.driver.act((now) => b.device.setPeer(now, { publicKey: keyA.publicKey() }))

// The first packet makes the tunnel: it waits in A until the handshake is done.
a.driver.feed({ type: 'packet', peer: keyB.publicKey(), bytes: encodeIcmpEcho({ kind: 'request', src: addressA, dst: addressB, identifier: 1, sequence: 1, payload: new Uint8Array(56) }) })
const timer = setTimeout(() => process.exit(1), 5_000)
await answer
clearTimeout(timer)
for (const end of [a, b]) {
  end.driver.stop()
  await end.socket.close()
}
