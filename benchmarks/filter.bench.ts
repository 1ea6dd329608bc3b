import { instant } from '@meshwright/core'
import { encodeTcpPacket, Ip, IpSet, ipv4ToNumber, PacketView, parsePrefix, type Prefix, PROTOCOL_TCP, TCP_SYN } from '@meshwright/ip'
import { type FilterRule, PacketFilter } from '@meshwright/packet-filter'
import { SeededRandom } from '@meshwright/testkit'
import type { Arms, Question } from './measure.ts'

const RULES = [10, 100, 1000]
const PACKETS = 256
const NOW = instant(0)

/** How many verdicts on packets that need a rule, against asking every rule in turn? */
export function questions(): readonly Question[] {
  return RULES.map((rules) => ({ name: `filter/${rules}-rules`, unit: 'packets', setup: (): Arms => arms(rules) }))
}

function arms(count: number): Arms {
  const random = new SeededRandom(count)
  const hosts = Array.from({ length: count }, () => `100.64.${random.below(256)}.${random.below(256)}`)
  const rules = hosts.map((host, i): FilterRule => ({
    SrcIPs: [host, `10.${i & 255}.0.0/16`],
    DstPorts: [{ IP: '100.100.0.1/32', Ports: { First: 1000 + i, Last: 1010 + i } }, { IP: '192.168.0.0/16', Ports: { First: 22, Last: 22 } }],
    IPProto: [PROTOCOL_TCP],
  }))
  const local = IpSet.of(prefix('100.100.0.1'), prefix('192.168.0.0/16'))
  const filter = new PacketFilter()
  filter.replace(rules, local)
  const naive = new EveryRule(rules)
  const views = Array.from({ length: PACKETS }, (_, i) => syn(random, i % 2 === 0 ? random.pick(hosts) : `10.${random.below(256)}.1.2`, 1000 + random.below(count + 20)))
  for (const view of views) if (filter.checkIn(NOW, view).accept !== naive.accepts(view)) throw new Error('the two ways disagree')
  const timed = (name: string, accepts: (view: PacketView) => boolean): Arms['baseline'] => ({
    name,
    count: PACKETS,
    run(): void {
      let accepted = 0
      for (const view of views) if (accepts(view)) accepted += 1
      if (accepted > PACKETS) throw new Error('more verdicts than packets')
    },
  })
  return {
    baseline: timed('every rule in turn', (view) => naive.accepts(view)),
    contenders: [timed('PacketFilter', (view) => filter.checkIn(NOW, view).accept)],
  }
}

interface Range {
  readonly base: number
  readonly mask: number
}

/** The naive way: IPv4 and TCP only, without local addresses, replies or anything else that a filter must know. */
class EveryRule {
  readonly #rules: readonly { readonly sources: readonly Range[]; readonly destinations: readonly (Range & { readonly first: number; readonly last: number })[] }[]

  constructor(rules: readonly FilterRule[]) {
    this.#rules = rules.map((rule) => ({
      sources: rule.SrcIPs.map(range),
      destinations: (rule.DstPorts ?? []).map(({ IP, Ports }) => ({ ...range(IP), first: Ports.First, last: Ports.Last })),
    }))
  }

  accepts(view: PacketView): boolean {
    const [src, dst, port] = [view.srcIpv4, view.dstIpv4, view.dstPort]
    for (const { sources, destinations } of this.#rules) {
      if (!sources.some(({ base, mask }) => (src & mask) === base)) continue
      if (destinations.some(({ base, mask, first, last }) => (dst & mask) === base && port >= first && port <= last)) return true
    }
    return false
  }
}

function range(text: string): Range {
  const [address = '', bits = '32'] = text.split('/')
  const mask = -1 << (32 - Number(bits))
  return { base: ipv4ToNumber(Uint8Array.from(address.split('.').map(Number)), 0) & mask, mask }
}

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(`${text} is no prefix`)
  return parsed
}

function syn(random: SeededRandom, from: string, port: number): PacketView {
  const ip = (text: string): Ip => Ip.fromOwnedBytes(Uint8Array.from(text.split('.').map(Number)))
  const view = new PacketView()
  view.at(encodeTcpPacket({ src: { ip: ip(from), port: 40_000 }, dst: { ip: ip('100.100.0.1'), port }, sequence: random.u32(), flags: TCP_SYN }))
  return view
}
