import { instant } from '@meshwright/core'
import { encodeIcmpEcho, encodeIcmpPacket, encodeIpPacket, encodeTcpPacket, encodeUdpPacket, type Ip, IpSet, PacketView, parseEndpoint, parseIp, parsePrefix } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { type FilterRule, PacketFilter, parseFilterRules } from './index.ts'

const NOW = instant(0)
const some = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('unreadable text in a test')
  return value
}
const ip = (text: string): Ip => some(parseIp(text))
const viewOf = (bytes: Uint8Array): PacketView => {
  const view = new PacketView()
  view.at(bytes)
  return view
}
const tcp = (src: string, dst: string, flags = 2): PacketView => viewOf(encodeTcpPacket({ src: some(parseEndpoint(src)), dst: some(parseEndpoint(dst)), sequence: 1, flags }))
const udp = (src: string, dst: string): PacketView => viewOf(encodeUdpPacket({ src: some(parseEndpoint(src)), dst: some(parseEndpoint(dst)), payload: new Uint8Array(1) }))
const local = IpSet.of(ip('100.64.0.1'), ip('fd7a:115c:a1e0::1'))
const web: FilterRule = { SrcIPs: ['100.64.0.2'], DstPorts: [{ IP: '100.64.0.1', Ports: { First: 80, Last: 80 } }] }

test('a fresh filter lets no new flow in', () => {
  const filter = new PacketFilter()
  expect(filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80'))).toEqual({ accept: false, reason: 'not_local' })
  filter.replace([], local)
  expect(filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80'))).toEqual({ accept: false, reason: 'acl' })
})

test('new rules hold for the next packet; flows stay known', () => {
  const filter = new PacketFilter()
  filter.replace([web], local)
  expect(filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80')).accept).toBe(true)
  filter.checkOut(NOW, udp('100.64.0.1:53', '100.64.0.9:700'))
  filter.replace([], local)
  expect(filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80')).accept).toBe(false)
  expect(filter.checkIn(NOW, udp('100.64.0.9:700', '100.64.0.1:53')).reason).toBe('reply')
})

test('shields up lets only replies in and forgets older flows', () => {
  const filter = new PacketFilter()
  filter.replace([web], local)
  filter.checkOut(NOW, udp('100.64.0.1:53', '100.64.0.9:700'))
  filter.setShieldsUp(true)
  expect(filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80')).accept).toBe(false)
  expect(filter.checkIn(NOW, udp('100.64.0.9:700', '100.64.0.1:53')).accept).toBe(false)
  filter.checkOut(NOW, udp('100.64.0.1:53', '100.64.0.9:700'))
  expect(filter.checkIn(NOW, udp('100.64.0.9:700', '100.64.0.1:53')).reason).toBe('reply')
  expect(filter.checkIn(NOW, tcp('100.64.0.2:80', '100.64.0.1:5', 0x12)).reason).toBe('tcp_established')
  expect(filter.explain(tcp('100.64.0.2:5', '100.64.0.1:80')).message).toContain('shields are up')
  filter.setShieldsUp(false)
  expect(filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80')).accept).toBe(true)
})

test('only so many flows are remembered: the one unused for longest goes first', () => {
  const filter = new PacketFilter({ flows: 3 })
  filter.replace([], local)
  const out = (port: number): void => void filter.checkOut(NOW, udp('100.64.0.1:53', `100.64.0.9:${port}`))
  const back = (port: number): boolean => filter.checkIn(NOW, udp(`100.64.0.9:${port}`, '100.64.0.1:53')).accept
  for (const port of [1, 2, 3]) out(port)
  expect(back(1)).toBe(true)
  out(4)
  expect([1, 2, 3, 4].map(back)).toEqual([true, false, true, true])
  for (let port = 10; port < 5000; port += 1) out(port)
  expect(filter.flowCount).toBe(3)
  expect([4996, 4997, 4998, 4999].map(back)).toEqual([false, true, true, true])
})

test('explaining names the rule, or what is missing, and changes nothing', () => {
  const filter = new PacketFilter()
  filter.replace([{ SrcIPs: ['100.64.0.7'] }, web], local)
  expect(filter.explain(tcp('100.64.0.2:5', '100.64.0.1:80'))).toMatchObject({ accept: true, reason: 'rule', rule: 1 })
  expect(filter.explain(tcp('100.64.0.2:5', '100.64.0.1:81')).message).toBe(
    'tcp 100.64.0.2:5 > 100.64.0.1:81 (40 bytes): dropped, rule 1 names its source, but no rule gives it this destination, protocol and port',
  )
  expect(filter.explain(tcp('100.64.0.3:5', '100.64.0.1:80')).message).toContain('no rule names its source')
  expect(filter.explain(viewOf(encodeIcmpEcho({ src: ip('100.64.0.2'), dst: ip('100.64.0.1'), kind: 'request', identifier: 1, sequence: 1 })))).toMatchObject({ rule: 1 })
  expect(filter.explain(viewOf(new Uint8Array(7))).message).toContain('7 bytes are no IP packet')
  expect(filter.counters().inbound).toEqual(new PacketFilter().counters().inbound)
})

test('every packet is counted once, under its reason and direction', () => {
  const filter = new PacketFilter()
  filter.replace([web], local)
  filter.checkIn(NOW, tcp('100.64.0.2:5', '100.64.0.1:80'))
  filter.checkIn(NOW, tcp('100.64.0.3:5', '100.64.0.1:80'))
  filter.checkIn(NOW, viewOf(new Uint8Array(0)))
  filter.checkOut(NOW, tcp('100.64.0.1:80', '100.64.0.2:5', 0x12))
  filter.checkOut(NOW, udp('100.64.0.1:5353', '224.0.0.251:5353'))
  const { inbound, outbound } = filter.counters()
  expect(inbound).toMatchObject({ rule: 1, acl: 1, keepalive: 1, tcp_established: 0 })
  expect(outbound).toMatchObject({ outbound: 1, multicast: 1 })
})

test('capabilities are those of the source towards the destination, values joined in order', () => {
  const filter = new PacketFilter()
  filter.replace(
    [
      { SrcIPs: ['100.64.0.2'], CapGrant: [{ Dsts: ['100.64.0.1/32'], CapMap: { 'x.org/a': [1, { b: 2 }], 'x.org/none': null } }] },
      { SrcIPs: ['*'], CapGrant: [{ Dsts: ['0.0.0.0/0'], Caps: ['plain'], CapMap: { 'x.org/a': [3] } }] },
    ],
    local,
  )
  expect(filter.capsFor(ip('100.64.0.2'), ip('100.64.0.1'))).toEqual(new Map<string, unknown[]>([['x.org/a', [1, { b: 2 }, 3]], ['x.org/none', []], ['plain', []]]))
  expect(filter.capsFor(ip('100.64.0.3'), ip('100.64.0.1'))).toEqual(new Map<string, unknown[]>([['plain', []], ['x.org/a', [3]]]))
  expect(filter.capsFor(ip('fd7a:115c:a1e0::2'), ip('fd7a:115c:a1e0::1')).size).toBe(0)
})

test('a source capability counts for ports only at the destination that the rule gives', () => {
  const filter = new PacketFilter()
  filter.replace([{ SrcIPs: ['cap:admin'], DstPorts: [{ IP: '100.64.0.1', Ports: { First: 22, Last: 22 } }] }], local, (source) => (source.key === '100.64.0.5' ? new Set(['admin']) : undefined))
  expect(filter.checkIn(NOW, tcp('100.64.0.5:1', '100.64.0.1:22')).accept).toBe(true)
  expect(filter.checkIn(NOW, tcp('100.64.0.5:1', '100.64.0.1:23')).accept).toBe(false)
  expect(filter.checkIn(NOW, tcp('100.64.0.6:1', '100.64.0.1:22')).accept).toBe(false)
})

test('TCP questions without a packet get the answer of a SYN; two families never', () => {
  const filter = new PacketFilter()
  filter.replace([{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 53, Last: 53 } }] }], IpSet.everything)
  expect(filter.wouldAcceptTcp(ip('100.64.0.2'), ip('0.0.0.0'), 53)).toBe(true)
  expect(filter.wouldAcceptTcp(ip('100.64.0.2'), ip('0.0.0.0'), 54)).toBe(false)
  expect(filter.wouldAcceptTcp(ip('100.64.0.2'), ip('2000::'), 53)).toBe(false)
  expect(filter.wouldAcceptTcp(ip('2000::'), ip('100.64.0.2'), 53)).toBe(false)
})

test('whether a filter trusts some addresses at all is told for sources of rules with destinations alone', () => {
  const filter = new PacketFilter()
  filter.replace([web, { SrcIPs: ['100.64.0.8'], CapGrant: [{ Dsts: ['100.64.0.1'], Caps: ['x'] }] }], local)
  expect(filter.admitsAny(IpSet.of(some(parsePrefix('100.64.0.0/29'))))).toBe(true)
  expect(filter.admitsAny(IpSet.of(ip('100.64.0.8')))).toBe(false)
})

test.each([
  ['not a list', { a: 1 }, [], 1],
  ['null is no rules', null, [], 0],
  ['a rule that is not an object', [7, web], [web], 1],
  ['an unreadable source goes, the others stay', [{ ...web, SrcIPs: ['100.64.0.2', '10.0.0.1/8', 5] }], [web], 2],
  ['a rule of which no source is left goes', [{ ...web, SrcIPs: ['nobody'] }], [], 1],
  ['an unreadable destination goes', [{ ...web, DstPorts: [...(web.DstPorts ?? []), { IP: 'x', Ports: { First: 0, Last: 1 } }, { IP: '1.2.3.4' }, { IP: '1.2.3.4', Ports: { First: 9, Last: 8 } }] }], [web], 3],
  ['a rule of which no destination is left goes', [{ ...web, DstPorts: [{ IP: '1.2.3.4', Ports: { First: 0, Last: 65_536 } }] }], [], 1],
  ['only unreadable protocols mean none, not the default', [{ ...web, IPProto: [256, 'tcp'] }], [], 2],
  ['sources that are not a list', [{ ...web, SrcIPs: '*' }], [], 1],
  ['null lists are absent', [{ ...web, IPProto: null, CapGrant: null, SrcBits: null }], [web], 0],
  ['the old prefix lengths are read', [{ ...web, SrcIPs: ['100.64.0.0'], SrcBits: [10] }], [{ ...web, SrcIPs: ['100.64.0.0/10'] }], 0],
  ['an old prefix length that is none', [{ ...web, SrcBits: [64] }], [], 1],
  ['destinations are never capabilities', [{ ...web, DstPorts: [{ IP: 'cap:x', Ports: { First: 0, Last: 1 } }] }], [], 1],
  ['grants lose what cannot be read', [{ SrcIPs: ['*'], CapGrant: [{ Dsts: ['x', '1.2.3.4/32'], Caps: [1, 'c'], CapMap: { a: 1, b: [2] } }] }], [{ SrcIPs: ['*'], CapGrant: [{ Dsts: ['1.2.3.4/32'], Caps: ['c'], CapMap: { b: [2] } }] }], 3],
])('reading rules: %s', (_name, json, rules, problems) => {
  const parsed = parseFilterRules(json)
  expect(parsed.rules).toEqual(rules)
  expect(parsed.problems).toHaveLength(problems)
})

test('link-local addresses stay outside, but for the one metadata service; neighbours of the range are judged by rules', () => {
  const filter = new PacketFilter()
  filter.replace([{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }], IpSet.everything)
  const reason = (dst: string): string => filter.checkIn(NOW, tcp(dst.startsWith('[') ? '[fd00::2]:5' : '100.64.0.2:5', `${dst}:80`)).reason
  for (const dst of ['169.254.0.0', '169.254.169.253', '169.254.169.255', '169.254.255.255', '[fe80::1]', '[febf::1]']) expect([dst, reason(dst)]).toEqual([dst, 'link_local_unicast'])
  for (const dst of ['169.254.169.254', '169.253.255.255', '169.255.0.0', '[fec0::1]', '[fe7f::1]']) expect([dst, reason(dst)]).toEqual([dst, 'rule'])
  for (const dst of ['224.0.0.1', '239.255.255.255', '[ff02::1]']) expect([dst, reason(dst)]).toEqual([dst, 'multicast'])
  for (const dst of ['223.255.255.255', '240.0.0.1']) expect([dst, reason(dst)]).toEqual([dst, 'rule'])
})

test.each([
  ['echo reply', 4, 0, 0, true],
  ['echo reply of a code that there is not', 4, 0, 1, false],
  ['echo request', 4, 8, 0, false],
  ['destination unreachable', 4, 3, 4, true],
  ['time exceeded', 4, 11, 0, true],
  ['parameter problem', 4, 12, 0, false],
  ['redirect', 4, 5, 0, false],
  ['timestamp request', 4, 13, 0, false],
  ['echo reply', 6, 129, 0, true],
  ['echo reply of a code that there is not', 6, 129, 1, false],
  ['echo request', 6, 128, 0, false],
  ['packet too big', 6, 2, 0, true],
  ['parameter problem', 6, 4, 0, true],
  ['router advertisement', 6, 134, 0, false],
  ['neighbour solicitation', 6, 135, 0, false],
] as const)('without rules, ICMP answers and errors alone come in: %s (IPv%i)', (_name, family, type, code, passes) => {
  const filter = new PacketFilter()
  filter.replace([], local)
  const ends = family === 4 ? { src: ip('100.64.0.2'), dst: ip('100.64.0.1') } : { src: ip('fd7a:115c:a1e0::2'), dst: ip('fd7a:115c:a1e0::1') }
  expect(filter.checkIn(NOW, viewOf(encodeIcmpPacket({ ...ends, type, code }))).reason).toBe(passes ? 'icmp_response' : 'acl')
})

test('an ICMP answer that is cut short is none', () => {
  const filter = new PacketFilter()
  filter.replace([], local)
  const reply = (bytes: number): boolean => filter.checkIn(NOW, viewOf(encodeIpPacket({ src: ip('100.64.0.2'), dst: ip('100.64.0.1'), protocol: 1, payload: new Uint8Array(bytes) }))).accept
  expect([0, 4, 7, 8, 64].map(reply)).toEqual([false, false, false, true, true])
})
