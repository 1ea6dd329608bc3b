import { instant } from '@meshwright/core'
import { formatPrefix, type Ip, IpSet, PacketView, parseIp, type Prefix, singleAddress } from '@meshwright/ip'
import { type FilterRule, PacketFilter } from '@meshwright/packet-filter'
import { compilePolicy, parsePolicy } from '@meshwright/policy'
import { SeededRandom } from '@meshwright/testkit'
import { randomPolicy, randomTailnet, some } from '../fuzz/policy-generator.ts'
import { PacketSource } from './policy-packets.ts'

const NOW = instant(0)
const PACKETS_PER_FILTER = 100

/** One state of a node's filter and the packets that meet it. */
export interface FilterQuestion {
  readonly rules: readonly FilterRule[]
  readonly local: readonly Prefix[]
  /** Capabilities of nodes by address, for `cap:` sources. */
  readonly caps: ReadonlyMap<string, readonly string[]>
  readonly shields: boolean
  /** Whether the flows of the filter before are kept. */
  readonly share: boolean
  readonly packets: readonly { readonly out: boolean; readonly bytes: Uint8Array }[]
}

/** Filters of compiled policies, and some that no policy would make, with `packets` packets in all. */
export function filterQuestions(seed: number, packets: number): readonly FilterQuestion[] {
  const random = new SeededRandom(seed)
  const questions: FilterQuestion[] = []
  while (questions.length * PACKETS_PER_FILTER < packets) {
    const tailnet = randomTailnet(random)
    const { policy, diagnostics } = parsePolicy(JSON.stringify(randomPolicy(random)))
    if (policy === undefined) throw new Error(diagnostics[0]?.message)
    const compiled = compilePolicy(policy, tailnet)
    const node = random.pick(tailnet.nodes)
    const addresses = tailnet.nodes.flatMap((each) => each.addresses)
    const local = [...node.addresses.map(singleAddress), ...compiled.routesFor(node.id).served]
    const source = new PacketSource(random, addresses, parseIp)
    const own = [...node.addresses, ...local.map(({ ip }) => ip)]
    const ask = (rules: readonly FilterRule[], share: boolean, shields: boolean = false): FilterQuestion => ({
      rules,
      local,
      caps: new Map(addresses.filter(() => random.chance(0.3)).map((ip) => [ip.key, some(random, ['cap-a', 'cap-b'], 2)])),
      shields,
      share,
      packets: packetsOf(random, source, own),
    })
    questions.push(ask(compiled.filterFor(node.id, 1000), false))
    if (random.chance(0.3)) questions.push(ask(wildRules(random, addresses), true))
    if (random.chance(0.1)) questions.push(ask(compiled.filterFor(node.id, 1000), true, true))
  }
  return questions
}

/** Rules of the same form with what policies never give: capabilities as sources, strange protocols, entries that cannot be read. */
function wildRules(random: SeededRandom, addresses: readonly Ip[]): readonly FilterRule[] {
  const net = (): string =>
    random.pick(['*', '10.0.0.0/16', 'fd00:1::/48', '0.0.0.0/0', '::/0', '10.0.0.1-10.0.3.9', 'fd00:1::1-fd00:1::9', '100.64.0.0/10', 'nonsense', '10.0.0.1/8', '300.1.1.1', ...addresses.map((ip) => ip.key)])
  return Array.from({ length: 1 + random.below(5) }, () => {
    const proto = random.below(4)
    return {
      SrcIPs: Array.from({ length: 1 + random.below(3) }, () => (random.chance(0.15) ? random.pick(['cap:cap-a', 'cap:cap-b', 'cap:']) : net())),
      DstPorts: Array.from({ length: random.below(4) }, () => {
        const First = random.pick([0, 1, 22, 80, 443])
        return { IP: net(), Ports: { First, Last: random.pick([First, 65535, First + 20]) } }
      }),
      ...(proto === 0 ? {} : { IPProto: Array.from({ length: random.below(4) }, () => random.pick([1, 6, 17, 58, 132, 99, 47, 33, 2, 0, 255])) }),
    }
  })
}

function packetsOf(random: SeededRandom, source: PacketSource, own: readonly Ip[]): FilterQuestion['packets'] {
  return Array.from({ length: PACKETS_PER_FILTER }, () => {
    const out = random.chance(0.35)
    return { out, bytes: source.next(out, own) }
  })
}

/** One line for the program. */
export function filterLine({ rules, local, caps, shields, share, packets }: FilterQuestion): string {
  const asked = {
    rules,
    local: local.map(formatPrefix),
    caps: Object.fromEntries(caps),
    shields,
    share,
    packets: packets.map(({ out, bytes }) => ({ out, bytes: Buffer.from(bytes).toString('base64') })),
  }
  return `${JSON.stringify(asked)}\n`
}

/** Judges the questions one after the other, as the program does: a letter for each packet, A or D. */
export class FilterJudge {
  #filter: PacketFilter = new PacketFilter()

  verdicts({ rules, local, caps, shields, share, packets }: FilterQuestion): string {
    if (!share) this.#filter = new PacketFilter()
    const filter = this.#filter
    filter.setShieldsUp(shields)
    const names = new Map([...caps].map(([key, list]) => [key, new Set(list)]))
    filter.replace(rules, IpSet.from(local), (ip) => names.get(ip.key))
    const view = new PacketView()
    return packets
      .map(({ out, bytes }) => {
        view.at(bytes)
        return (out ? filter.checkOut(NOW, view) : filter.checkIn(NOW, view)).accept ? 'A' : 'D'
      })
      .join('')
  }
}

const HEADER_BYTES: Readonly<Record<number, number>> = { 1: 8, 2: 8, 6: 20, 17: 8, 58: 8, 99: 7, 132: 12 }

/**
 * True when a packet's own length does not hold its headers (those of ICMP up to where an error begins), though bytes follow. The real
 * filter reads them from what follows; ours does not, and drops the packet, as every receiver would.
 */
export function headerIsCutOff(packet: Uint8Array): boolean {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  if (packet.length < 20) return false
  if (view.getUint8(0) >>> 4 === 4) {
    const header = (view.getUint8(0) & 15) * 4
    if (header < 20) return true
    return (view.getUint16(6) & 0x1fff) === 0 && view.getUint16(2) - header < (HEADER_BYTES[view.getUint8(9)] ?? 0)
  }
  if (view.getUint8(0) >>> 4 !== 6 || packet.length < 40) return false
  const left = view.getUint16(4)
  if (view.getUint8(6) !== 44) return left < (HEADER_BYTES[view.getUint8(6)] ?? 0)
  if (left < 8 || packet.length < 48) return true
  return view.getUint16(42) >>> 3 === 0 && left - 8 < (HEADER_BYTES[view.getUint8(40)] ?? 0)
}
