import { PacketBatch } from '@meshwright/core'
import { expect, test } from 'vitest'
import {
  checksum,
  encodeIcmpEcho,
  encodeIpPacket,
  encodeTcpPacket,
  encodeUdpPacket,
  type Endpoint,
  type Ip,
  packetView,
  PacketView,
  parseEndpoint,
  parseIp,
  PROTOCOL_IPV6_FRAGMENT,
  PROTOCOL_SCTP,
  PROTOCOL_TCP,
  PROTOCOL_TSMP,
  PROTOCOL_UDP,
  replyEcho,
  replyPacketTooBig,
  replyTcpReset,
  replyUnreachable,
  TCP_ACK,
  TCP_FIN,
  TCP_RST,
  TCP_SYN,
  updateChecksum,
} from './index.ts'

const some = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('missing in a test')
  return value
}
const ip = (text: string): Ip => some(parseIp(text))
const at = (text: string): Endpoint => some(parseEndpoint(text))
const view = (bytes: Uint8Array | undefined): PacketView => {
  const result = new PacketView()
  expect(result.at(some(bytes))).toBe(true)
  return result
}
const payload = Uint8Array.of(1, 2, 3)

test.each([
  ['10.0.0.1:5000', '10.0.0.2:53'],
  ['[fd00::1]:5000', '[fd00::2]:53'],
])('a datagram from %s is read as it was written, checksums right', (src, dst) => {
  const udp = view(encodeUdpPacket({ src: at(src), dst: at(dst), payload, hopLimit: 9 }))
  expect(udp.toString()).toBe(`udp ${src} > ${dst} (${udp.totalLength} bytes)`)
  expect([...udp.payload()]).toEqual([1, 2, 3])
  expect([udp.hopLimit, udp.srcPort, udp.dstPort, udp.headerChecksumOk, udp.transportChecksumOk]).toEqual([9, 5000, 53, true, true])
  expect(udp.srcEndpoint()).toEqual(at(src))
  const tcp = view(encodeTcpPacket({ src: at(src), dst: at(dst), sequence: 0xfffffff0, flags: TCP_SYN, options: Uint8Array.of(1, 1, 1, 1, 0), payload }))
  expect([tcp.isTcpSyn, tcp.payloadLength, tcp.transportChecksumOk, tcp.protocol]).toEqual([true, 3, true, PROTOCOL_TCP])
})

test('a header of RFC 1071 fame has the checksum that others compute', () => {
  const header = Uint8Array.of(0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7)
  expect(checksum(header)).toBe(0xb861)
  header.set([0xb8, 0x61], 10)
  expect(checksum(header)).toBe(0)
  expect(updateChecksum(0xb861, 0x4011, 0x3f11)).toBe(0xb961)
})

test('one flipped bit behind the version, or in IPv6 behind the fixed fields, is seen by one of the checksums', () => {
  for (const [src, dst] of [['10.0.0.1:1', '10.0.0.2:2'], ['[fd00::1]:1', '[fd00::2]:2']] as const) {
    const bytes = encodeTcpPacket({ src: at(src), dst: at(dst), sequence: 1, flags: TCP_ACK, payload })
    for (let bit = bytes[0] === 0x45 ? 8 : 64; bit < bytes.length * 8; bit += 1) {
      const changed = Uint8Array.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7))
      const each = new PacketView()
      expect(each.at(changed) && each.headerChecksumOk && each.transportChecksumOk).toBe(false)
    }
  }
})

test('padding behind the packet is not part of it, a cut packet is none', () => {
  const bytes = encodeUdpPacket({ src: at('10.0.0.1:1'), dst: at('10.0.0.2:2'), payload })
  expect(view(Uint8Array.from([...bytes, 9, 9])).packet()).toEqual(bytes)
  for (let length = 0; length < bytes.length; length += 1) expect(new PacketView().at(bytes.subarray(0, length))).toBe(false)
  expect(new PacketView().at(bytes, 1)).toBe(false)
  expect(new PacketView().at(bytes, -1, 30)).toBe(false)
  expect(new PacketView().at(bytes, 0, bytes.length + 1)).toBe(false)
})

test('a view is pointed elsewhere without remembering', () => {
  const batch = PacketBatch.slab(2, 100)
  batch.addCopy(encodeTcpPacket({ src: at('10.0.0.1:1'), dst: at('10.0.0.2:2'), sequence: 1, flags: TCP_SYN }))
  batch.addCopy(encodeIcmpEcho({ src: ip('fd00::1'), dst: ip('fd00::2'), kind: 'request', identifier: 1, sequence: 2, payload }))
  const first = packetView(batch, 0)
  expect(first.isTcpSyn).toBe(true)
  expect(first.atSlot(batch, 1)).toBe(true)
  expect([first.family, first.isTcpSyn, first.tcpFlags, first.srcPort, first.icmpType]).toEqual([6, false, 0, 0, 128])
  expect(first.atSlot(batch, 7)).toBe(false)
  expect([first.valid, first.family, first.src()]).toEqual([false, 0, undefined])
})

const ipv4With = (protocol: number, flags: number, body: number): Uint8Array => {
  const bytes = encodeIpPacket({ src: ip('10.0.0.1'), dst: ip('10.0.0.2'), protocol, payload: new Uint8Array(body) })
  new DataView(bytes.buffer).setUint16(6, flags)
  return bytes
}
const readable = (bytes: Uint8Array): boolean => new PacketView().at(bytes)

test.each([
  ['TCP needs 20 bytes', PROTOCOL_TCP, 20],
  ['UDP needs 8', PROTOCOL_UDP, 8],
  ['SCTP needs 12', PROTOCOL_SCTP, 12],
  ['ICMP needs 4', 1, 4],
  ['IGMP needs 8', 2, 8],
  ['TSMP needs 7', PROTOCOL_TSMP, 7],
  ['others need none', 47, 0],
])('%s', (_rule, protocol, bytes) => {
  expect(readable(ipv4With(protocol, 0, bytes))).toBe(true)
  if (bytes > 0) expect(readable(ipv4With(protocol, 0, bytes - 1))).toBe(false)
})

test('a later fragment has no ports and must not begin where it could rewrite the first one', () => {
  expect(readable(ipv4With(PROTOCOL_UDP, 9, 8))).toBe(false)
  const later = view(ipv4With(PROTOCOL_UDP, 0x2000 | 10, 8))
  expect([later.isLaterFragment, later.moreFragments, later.fragmentOffset, later.dstPort, later.transportChecksumOk]).toEqual([true, true, 80, 0, false])
  expect(readable(ipv4With(PROTOCOL_TSMP, 0x2000, 8))).toBe(false)
  expect(view(ipv4With(PROTOCOL_UDP, 0x2000, 8)).isFragment).toBe(true)
  // Whatever protocol it names: 0 and 255 stand for nothing only where a header should follow.
  for (const protocol of [0, 255]) expect([readable(ipv4With(protocol, 10, 8)), readable(ipv4With(protocol, 0, 8))]).toEqual([true, false])
})

test('IPv6 lets the first of several TSMP fragments be read, as the real node does', () => {
  const fragment = (next: number, offset: number): boolean =>
    readable(encodeIpPacket({ src: ip('fd00::1'), dst: ip('fd00::2'), protocol: PROTOCOL_IPV6_FRAGMENT, payload: Uint8Array.from([next, 0, 0, offset, 0, 0, 0, 1, ...new Uint8Array(8)]) }))
  expect([fragment(PROTOCOL_TSMP, 1), fragment(0, 1), fragment(0, 80), fragment(255, 81)]).toEqual([true, false, true, true])
})

test('of the IPv6 extension headers only a Fragment header is stepped over', () => {
  const behind = (first: number, header: number[], body: Uint8Array): Uint8Array =>
    encodeIpPacket({ src: ip('fd00::1'), dst: ip('fd00::2'), protocol: first, payload: Uint8Array.from([...header, ...body]) })
  const udp = encodeUdpPacket({ src: at('[fd00::1]:7'), dst: at('[fd00::2]:8'), payload }).subarray(40)
  const fragment = view(behind(PROTOCOL_IPV6_FRAGMENT, [17, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef], udp))
  expect([fragment.protocol, fragment.dstPort, fragment.fragmentId, fragment.moreFragments, fragment.headerLength]).toEqual([17, 8, 0xdeadbeef, true, 48])
  expect(readable(behind(0, [17, 0, 1, 4, 0, 0, 0, 0], udp))).toBe(false)
  const options = view(behind(60, [17, 0, 1, 4, 0, 0, 0, 0], udp))
  expect([options.protocol, options.dstPort]).toEqual([60, 0])
})

test('lengths that contradict each other are refused', () => {
  const bytes = ipv4With(PROTOCOL_UDP, 0, 8)
  for (const [offset, value] of [[0, 0x44], [0, 0x4f], [0, 0x55], [3, 19], [3, 200]] as const) {
    const changed = Uint8Array.from(bytes)
    changed[offset] = value
    expect(readable(changed)).toBe(false)
  }
})

test('replies say what the RFCs ask for', () => {
  const syn = view(encodeTcpPacket({ src: at('10.0.0.1:5'), dst: at('10.0.0.2:80'), sequence: 100, flags: TCP_SYN | TCP_FIN, payload }))
  const reset = view(replyTcpReset(syn))
  expect(reset.toString()).toBe('tcp 10.0.0.2:80 > 10.0.0.1:5 (40 bytes)')
  expect([reset.tcpFlags, new DataView(reset.memory.buffer).getUint32(28), reset.transportChecksumOk]).toEqual([TCP_RST | TCP_ACK, 105, true])
  const ack = view(encodeTcpPacket({ src: at('10.0.0.1:5'), dst: at('10.0.0.2:80'), sequence: 1, acknowledgment: 77, flags: TCP_ACK }))
  expect(new DataView(some(replyTcpReset(ack)).buffer).getUint32(24)).toBe(77)
  expect(replyTcpReset(reset)).toBeUndefined()
  const big = view(replyPacketTooBig(view(encodeUdpPacket({ src: at('[fd00::1]:5'), dst: at('[fd00::2]:80'), payload: new Uint8Array(3000) })), 1280))
  expect([big.icmpType, big.totalLength, new DataView(big.memory.buffer).getUint32(44), big.transportChecksumOk]).toEqual([2, 1280, 1280, true])
  const unreachable = view(replyUnreachable(syn, 'prohibited', ip('10.9.9.9')))
  expect([unreachable.src()?.key, unreachable.icmpType, unreachable.icmpCode, unreachable.transportChecksumOk]).toEqual(['10.9.9.9', 3, 13, true])
})

test('errors are never answered with errors, nor is what went to many', () => {
  const udp = (src: string, dst: string): PacketView => view(encodeUdpPacket({ src: at(src), dst: at(dst), payload }))
  const error = view(replyUnreachable(udp('10.0.0.1:1', '10.0.0.2:2'), 'port'))
  expect(replyUnreachable(error, 'host')).toBeUndefined()
  expect(replyUnreachable(udp('10.0.0.1:1', '224.0.0.1:2'), 'port')).toBeUndefined()
  expect(replyUnreachable(udp('[::]:1', '[fd00::1]:2'), 'port')).toBeUndefined()
  expect(replyUnreachable(view(ipv4With(PROTOCOL_UDP, 100, 8)), 'host')).toBeUndefined()
  expect(replyUnreachable(udp('10.0.0.1:1', '10.0.0.2:2'), 'port', ip('fd00::1'))).toBeUndefined()
})

test.each([['10.0.0.1', '10.0.0.2'], ['fd00::1', 'fd00::2']])('an echo request from %s is answered with its own data', (src, dst) => {
  const request = view(encodeIcmpEcho({ src: ip(src), dst: ip(dst), kind: 'request', identifier: 0xabcd, sequence: 7, payload }))
  expect(some(replyEcho(request))).toEqual(encodeIcmpEcho({ src: ip(dst), dst: ip(src), kind: 'reply', identifier: 0xabcd, sequence: 7, payload }))
  expect(replyEcho(view(replyEcho(request)))).toBeUndefined()
})

test('a packet that cannot be is refused when it is built', () => {
  const wrong = expect.objectContaining({ code: 'IP_PACKET' })
  expect(() => encodeIpPacket({ src: ip('10.0.0.1'), dst: ip('fd00::1'), protocol: 17, payload })).toThrow(wrong)
  expect(() => encodeUdpPacket({ src: at('10.0.0.1:1'), dst: at('10.0.0.2:2'), payload: new Uint8Array(65_508) })).toThrow(wrong)
  expect(() => encodeTcpPacket({ src: at('10.0.0.1:1'), dst: at('10.0.0.2:2'), sequence: 0, flags: 0, options: new Uint8Array(41) })).toThrow(wrong)
})
