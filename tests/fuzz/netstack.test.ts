import { instant } from '@meshwright/core'
import { parseIp } from '@meshwright/ip'
import { Netstack } from '@meshwright/netstack'
import { SeededRandom } from '@meshwright/testkit'
import { decodeIpPacket, IpPacket, PacketBuilder } from '../../packages/netstack/src/ip-packet.ts'
import { decodeTcpSegment, TcpSegment } from '../../packages/netstack/src/tcp-segment.ts'
import { fuzzDecoder } from './fuzz-decoder.ts'

const ours = [parseIp('100.64.0.2'), parseIp('fd7a::2')].filter((ip) => ip !== undefined)
const theirs = [parseIp('100.64.0.1'), parseIp('fd7a::1')].filter((ip) => ip !== undefined)

/** Packets of a real exchange: handshakes, data, datagrams in fragments, pings, refusals. */
function samples(): Uint8Array[] {
  const stack = new Netstack(new SeededRandom(1).bytes, { addresses: theirs })
  const packets: Uint8Array[] = []
  for (const ip of ours) {
    stack.connectTcp(instant(0), { ip, port: 80 })
    stack.ping(instant(0), ip, { bytes: new Uint8Array(40) })
    stack.sendUdp(instant(0), stack.bindUdp(), { ip, port: 9 }, new Uint8Array(1_500))
  }
  for (let output = stack.pollOutput(); output !== undefined; output = stack.pollOutput())
    if (output.type === 'packet') packets.push(output.bytes.slice())
  return packets
}

fuzzDecoder('IP header', samples(), (bytes) => {
  const packet = new IpPacket()
  if (!decodeIpPacket(bytes, packet)) return undefined
  return [
    packet.protocol,
    packet.payloadAt,
    packet.end,
    packet.fragment,
    packet.fragmentOffset,
    [...packet.source()],
    [...packet.destination()],
  ]
})

fuzzDecoder(
  'TCP segment',
  samples().flatMap((bytes) => (bytes[9] === 6 ? [bytes.slice(20)] : [])),
  (bytes) => {
    const segment = new TcpSegment()
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    // The checksum would hide the rest from random bytes: the pseudo-sum is set so that it always fits.
    let sum = 0
    for (let i = 0; i < bytes.length; i += 1) sum += (bytes[i] ?? 0) << (i % 2 === 0 ? 8 : 0)
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
    if (!decodeTcpSegment(view, 0, bytes.length, 0xffff - sum, segment)) return undefined
    return [
      segment.flags,
      segment.sequence,
      segment.payloadAt,
      segment.payloadEnd,
      segment.windowShift,
      segment.maximumSegmentSize,
      [...segment.sackEdges.subarray(0, segment.sackEdgeCount)],
    ]
  },
)

const shared = new Netstack(new SeededRandom(2).bytes, { addresses: ours, promiscuous: true, offerUnclaimed: true })
shared.listenTcp(80)
let fed = 0
fuzzDecoder('whole stack', samples(), (bytes) => {
  // One stack for all inputs: whatever state it is led into, it neither throws nor grows. Its answers depend on what came before.
  fed += 1
  shared.receive(instant(fed), bytes)
  shared.handleTimeout(instant(fed))
  for (let output = shared.pollOutput(); output !== undefined; output = shared.pollOutput())
    if (output.type === 'packet') decodeIpPacket(output.bytes, new IpPacket())
  return new PacketBuilder(1).memory.length
})
