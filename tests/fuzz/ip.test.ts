import {
  encodeIcmpEcho,
  encodeTcpPacket,
  encodeUdpPacket,
  Ip,
  PacketView,
  replyEcho,
  replyPacketTooBig,
  replyTcpReset,
  replyUnreachable,
} from '@meshwright/ip'
import { fuzzDecoder } from './fuzz-decoder.ts'

const ipv4 = (last: number): Ip => Ip.fromOwnedBytes(Uint8Array.of(100, 64, 0, last))
const ipv6 = (last: number): Ip => Ip.fromOwnedBytes(Uint8Array.of(0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last))
const payload = Uint8Array.of(1, 2, 3, 4, 5, 6, 7)
const samples = [ipv4, ipv6].flatMap((ip) => {
  const [src, dst] = [ip(1), ip(2)]
  const ends = { src: { ip: src, port: 5000 }, dst: { ip: dst, port: 22 } }
  return [
    encodeUdpPacket({ ...ends, payload }),
    encodeTcpPacket({ ...ends, sequence: 7, flags: 2, options: Uint8Array.of(2, 4, 5, 0xb4), payload }),
    encodeIcmpEcho({ src, dst, kind: 'request', identifier: 1, sequence: 2, payload }),
  ]
})
const [datagram = payload, , , datagram6 = payload] = samples
const fragment = Uint8Array.from(datagram)
fragment[6] = 0x20
const ipv6Fragment = Uint8Array.from([...datagram6.subarray(0, 40), 17, 0, 0, 1, 0, 0, 0, 9, ...datagram6.subarray(40)])
ipv6Fragment[5] = ipv6Fragment.length - 40
ipv6Fragment[6] = 44

fuzzDecoder('PacketView', [...samples, fragment, ipv6Fragment], (bytes) => {
  const view = new PacketView()
  if (!view.at(bytes)) return [view.toString(), view.valid]
  return {
    text: view.toString(),
    lengths: [view.totalLength, view.headerLength, view.transportLength, view.payloadLength],
    icmp: [view.icmpType, view.icmpCode],
    fragment: [view.fragmentOffset, view.fragmentId, view.moreFragments],
    flags: [view.tcpFlags, view.hopLimit],
    sums: [view.headerChecksumOk, view.transportChecksumOk],
    payload: view.payload(),
    packet: view.packet(),
    replies: [replyUnreachable(view, 'port'), replyPacketTooBig(view, 1280), replyTcpReset(view), replyEcho(view)],
  }
})
