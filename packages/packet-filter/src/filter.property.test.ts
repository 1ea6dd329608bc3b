import { instant } from '@meshwright/core'
import { encodeIcmpPacket, encodeIpPacket, encodeTcpPacket, encodeUdpPacket, Ip, IpSet, PacketView } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { type FilterRule, type NetPortRange, PacketFilter, readAddresses } from './index.ts'

const NOW = instant(0)

interface Packet {
  readonly src: Ip
  readonly dst: Ip
  readonly protocol: number
  readonly port: number
}

/** Few addresses, so that rules and packets meet. */
function randomIp(random: SeededRandom, family: 4 | 6): Ip {
  const bytes = new Uint8Array(family === 4 ? 4 : 16)
  bytes[0] = family === 4 ? 10 : 0xfd
  bytes[bytes.length - 2] = random.below(2)
  bytes[bytes.length - 1] = random.below(4)
  const ip = Ip.fromBytes(bytes)
  if (ip === undefined) throw new Error('an address must be one')
  return ip
}

function randomText(random: SeededRandom): string {
  const a = randomIp(random, random.chance(0.6) ? 4 : 6)
  const b = randomIp(random, a.family)
  switch (random.below(5)) {
    case 0:
      return random.chance(0.3) ? '*' : a.key
    case 1:
      return `${a.key}-${b.key}`
    case 2:
      return `${a.key}/${random.below(a.bits + 1)}`
    case 3:
      return random.pick(['', 'x', '10.0.0.0/33', '10.0.0.1-', 'cap:', 'fd00::1-10.0.0.1'])
    default:
      return a.key
  }
}

function randomRule(random: SeededRandom): FilterRule {
  const list = <T>(most: number, make: () => T): T[] => Array.from({ length: random.below(most + 1) }, make)
  const ports = (): NetPortRange['Ports'] => (random.chance(0.3) ? { First: 0, Last: 65_535 } : { First: random.below(6), Last: random.below(8) })
  return {
    SrcIPs: list(4, () => randomText(random)),
    DstPorts: list(3, () => ({ IP: randomText(random), Ports: ports() })),
    ...(random.chance(0.5) ? { IPProto: list(3, () => random.pick([6, 17, 1, 58, 47, 132, 300])) } : {}),
  }
}

/** The rule of the verdict, read off the specification without any structure. Only for new flows to local addresses. */
function oracle(rules: readonly FilterRule[], local: IpSet, packet: Packet): boolean {
  if (!local.contains(packet.dst)) return false
  const has = (text: string, ip: Ip): boolean => {
    const read = readAddresses(text)
    return read !== undefined && 'addresses' in read && read.addresses.contains(ip)
  }
  const icmp = packet.protocol === (packet.src.family === 4 ? 1 : 58)
  const ported = packet.protocol === 6 || packet.protocol === 17 || packet.protocol === 132
  return rules.some((rule) => {
    if (!rule.SrcIPs.some((text) => has(text, packet.src))) return false
    const protocols = rule.IPProto === undefined || rule.IPProto.length === 0 ? [6, 17, 1, 58] : rule.IPProto
    if (!icmp && !protocols.includes(packet.protocol)) return false
    return (rule.DstPorts ?? []).some(({ IP, Ports }) => {
      if (!has(IP, packet.dst) || Ports.First > Ports.Last) return false
      return icmp || (ported ? packet.port >= Ports.First && packet.port <= Ports.Last : Ports.First === 0 && Ports.Last === 65_535)
    })
  })
}

function encode({ src, dst, protocol, port }: Packet): Uint8Array {
  const ends = { src: { ip: src, port: 999 }, dst: { ip: dst, port } }
  if (protocol === 6) return encodeTcpPacket({ ...ends, sequence: 1, flags: 2 })
  if (protocol === 17) return encodeUdpPacket({ ...ends, payload: new Uint8Array(4) })
  if (protocol === (src.family === 4 ? 1 : 58)) return encodeIcmpPacket({ src, dst, type: src.family === 4 ? 8 : 128, code: 0 })
  const payload = new Uint8Array(16)
  new DataView(payload.buffer).setUint32(0, (999 << 16) | port)
  return encodeIpPacket({ src, dst, protocol, payload })
}

test.each([1, 2, 3, 4])('verdicts for random rules and packets are those of the specification (seed %i)', (seed) => {
  const random = new SeededRandom(seed)
  let accepted = 0
  for (let round = 0; round < 120; round += 1) {
    const rules = Array.from({ length: random.below(12) }, () => randomRule(random))
    const locals = Array.from({ length: 8 }, () => randomIp(random, random.chance(0.5) ? 4 : 6))
    const local = random.chance(0.5) ? IpSet.everything : IpSet.from(locals)
    const filter = new PacketFilter()
    filter.replace(rules, local)
    for (let i = 0; i < 60; i += 1) {
      const family = random.chance(0.5) ? 4 : 6
      const packet: Packet = { src: randomIp(random, family), dst: randomIp(random, family), protocol: random.pick([6, 17, 1, 58, 47, 132]), port: random.below(9) }
      const view = new PacketView()
      expect(view.at(encode(packet))).toBe(true)
      const verdict = filter.checkIn(NOW, view)
      const expected = oracle(rules, local, packet)
      if (verdict.accept !== expected) throw new Error(`${view.toString()} gave ${verdict.reason} under ${JSON.stringify(rules)}`)
      const explanation = filter.explain(view)
      expect(explanation.reason).toBe(verdict.reason)
      if (explanation.rule !== undefined) expect(oracle([rules[explanation.rule] ?? { SrcIPs: [] }], local, packet)).toBe(true)
      accepted += expected ? 1 : 0
    }
  }
  expect(accepted).toBeGreaterThan(200)
})

test('many rules with many sources, so that some are asked by their own set, give the same verdicts', () => {
  const random = new SeededRandom(9)
  const rules: FilterRule[] = Array.from({ length: 400 }, (_, i) => ({
    SrcIPs: Array.from({ length: 3 }, () => `10.${random.below(200)}.${random.below(200)}.${random.below(200)}`).concat(i % 50 === 0 ? ['*'] : []),
    DstPorts: [{ IP: '10.0.0.1', Ports: { First: i, Last: i } }],
  }))
  const filter = new PacketFilter()
  filter.replace(rules, IpSet.everything)
  const view = new PacketView()
  let accepted = 0
  for (let i = 0; i < 400; i += 1) {
    const rule = random.pick(rules)
    const src = readAddresses(random.pick(rule.SrcIPs))
    const ip = src !== undefined && 'addresses' in src ? src.addresses.ranges()[0]?.first : undefined
    const dst = Ip.fromBytes(Uint8Array.of(10, 0, 0, 1))
    if (ip === undefined || dst === undefined || ip.family === 6) continue
    const packet: Packet = { src: ip, dst, protocol: 6, port: random.chance(0.5) ? (rule.DstPorts?.[0]?.Ports.First ?? 0) : random.below(400) }
    view.at(encode(packet))
    const expected = oracle(rules, IpSet.everything, packet)
    expect(filter.checkIn(NOW, view).accept).toBe(expected)
    accepted += expected ? 1 : 0
  }
  expect(accepted).toBeGreaterThan(100)
})

test('no bytes make the filter throw, and what it cannot read it drops', () => {
  const random = new SeededRandom(4)
  const filter = new PacketFilter()
  filter.replace([{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }], IpSet.everything)
  const view = new PacketView()
  for (let i = 0; i < 20_000; i += 1) {
    const bytes = random.bytes(random.below(80))
    if (bytes.length > 0 && random.chance(0.9)) bytes[0] = random.pick([0x45, 0x46, 0x60])
    const readable = view.at(bytes)
    const verdict = random.chance(0.5) ? filter.checkIn(NOW, view) : filter.checkOut(NOW, view)
    if (!readable) expect(verdict.accept).toBe(bytes.length === 0)
  }
})
