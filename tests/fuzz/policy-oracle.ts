import { formatIpRange, formatPrefix, type Ip, IpSet, isExitRoute, parsePrefix, type Prefix, prefixRange, TAILNET_ADDRESSES } from '@meshwright/ip'
import type { FilterRule, NetPortRange, PortRange } from '@meshwright/packet-filter'
import type { TailnetNode, TailnetView } from '@meshwright/policy'
import type { PolicyJson } from './policy-generator.ts'

// The rules of a tailnet in the plainest way, from the written rules of the language alone and from a policy as JSON: every statement for every
// node, in texts and sets of addresses. Slow, and knows no postures.

interface Statement {
  readonly grant: boolean
  readonly src: readonly string[]
  /** Without `autogroup:self`. */
  readonly dst: readonly { readonly name: string; readonly ports: ReadonlyMap<string, readonly PortRange[]> }[]
  readonly self: { readonly ports: ReadonlyMap<string, readonly PortRange[]>; readonly first: boolean } | undefined
  readonly protocols: readonly string[]
  readonly app: PolicyJson
  readonly via: readonly string[]
}

interface Peer {
  readonly id: number
  readonly routes: readonly string[]
}

const ANY_PORTS: PortRange = { First: 0, Last: 65535 }
const NUMBERS: Readonly<Record<string, number>> = { icmp: 1, igmp: 2, tcp: 6, udp: 17, gre: 47, esp: 50, 'ipv6-icmp': 58, sctp: 132 }
const INTERNET = setOf('0.0.0.0/0', '2000::/3').remove(setOf('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '169.254.0.0/16'))
const COMPANIONS = [['tailscale.com/cap/drive', 'tailscale.com/cap/drive-sharer'], ['tailscale.com/cap/relay', 'tailscale.com/cap/relay-target']] as const

/** What every node is told, made naively. */
export class Oracle {
  readonly #policy: PolicyJson
  readonly #view: TailnetView
  readonly #statements: readonly Statement[]

  constructor(policy: PolicyJson, view: TailnetView) {
    this.#policy = policy
    this.#view = view
    this.#statements = [...list(policy.grants).map((each) => readGrant(each as PolicyJson)), ...list(policy.acls).map((each) => readAcl(each as PolicyJson))]
  }

  /** The packet filter of a node, in the order of delivery. */
  rulesFor(node: TailnetNode): FilterRule[] {
    const ports = new Map<string, { order: readonly number[]; readonly rule: FilterRule & { readonly DstPorts: NetPortRange[] } }>()
    const others: { readonly order: readonly number[]; readonly rule: FilterRule }[] = []
    for (const [i, statement] of this.#statements.entries()) {
      const { src, self, via, protocols, app } = statement
      if (src.length === 0) continue
      const add = (SrcIPs: readonly string[], p: number, order: readonly number[], entries: readonly NetPortRange[]): void => {
        if (SrcIPs.length === 0 || entries.length === 0) return
        const protocol = protocols[p] ?? ''
        const key = keyOf(SrcIPs, protocol)
        const first = this.#firstPlace(key)
        const place = first !== undefined && compare(first, order) < 0 ? first : order
        const known = ports.get(key)
        if (known === undefined) ports.set(key, { order: place, rule: { SrcIPs, DstPorts: [...entries], ...(protocol === '' ? {} : { IPProto: [numberOf(protocol)] }) } })
        else {
          known.rule.DstPorts.push(...entries)
          if (compare(place, known.order) < 0) known.order = place
        }
      }
      const sources = this.sourceTexts(src)
      const own = self === undefined || via.length > 0 ? undefined : this.#ownSources(statement, node)
      for (const p of protocols.keys())
        add(sources, p, [i, p, 1], statement.dst.flatMap(({ name, ports: each }) => entriesOf(via.length > 0 ? this.#viaTexts(via, name, node) : this.#texts(name, node), each.get(protocols[p] ?? '') ?? [])))
      if (own !== undefined && self !== undefined) for (const p of protocols.keys()) add(own, p, [i, p, self.first ? 0 : 2], entriesOf(addressTexts(node), self.ports.get(protocols[p] ?? '') ?? []))
      if (via.length === 0 && Object.keys(app).length > 0) for (const [n, rule] of this.#capabilities(statement, node, sources, own).entries()) others.push({ order: [i, 1000, n], rule })
    }
    return [...ports.values(), ...others].sort((a, b) => compare(a.order, b.order)).map(({ rule }) => rule)
  }

  /** The peers of a node with the routes over them. */
  peersFor(node: TailnetNode): Peer[] {
    return this.#view.nodes
      .filter((peer) => peer !== node && (this.#opens(node, peer) || this.#opens(peer, node) || this.#steers(node, peer) || this.#steers(peer, node)))
      .map((peer) => ({ id: peer.id, routes: [...this.#routesOver(peer, node), ...(this.#mayExit(node, peer) ? exitRoutes(peer) : [])].map(formatPrefix).sort() }))
  }

  /** Whether some rule of the first node has the second among its sources, by an address or by what is behind it. */
  #opens(node: TailnetNode, source: TailnetNode): boolean {
    return this.rulesFor(node).some(({ SrcIPs }) => coversNode(setOfTexts(SrcIPs), source))
  }

  #steers(router: TailnetNode, source: TailnetNode): boolean {
    return this.#statements.some((each) => this.#isRouterOf(each, router) && coversNode(this.#sourceSet(each.src), source))
  }

  #isRouterOf({ via, dst }: Statement, router: TailnetNode): boolean {
    return via.some((tag) => router.tags.includes(tag)) && dst.some(({ name }) => this.#serves(router, name))
  }

  #serves(router: TailnetNode, name: string): boolean {
    if (name === 'autogroup:internet') return exitRoutes(router).length > 0
    const literal = this.#literal(name)
    return literal !== undefined && subnetSet(router).overlaps(literal)
  }

  #routesOver(peer: TailnetNode, viewer: TailnetNode): readonly Prefix[] {
    return subnetRoutes(peer).filter((route) => {
      const key = formatPrefix(route)
      const servers = this.#view.nodes.filter((each) => each.online !== false && subnetRoutes(each).some((other) => formatPrefix(other) === key)).sort((a, b) => a.created - b.created || a.id - b.id)
      const primary = servers[0] === peer
      if (subnetRoutes(viewer).some((other) => formatPrefix(other) === key)) return primary
      const reaching = this.#statements.filter(({ src, dst, via }) => src.length > 0 && coversNode(this.#sourceSet(src), viewer) && dst.some(({ name }) => (name === '*' && via.length === 0) || this.#literal(name)?.overlaps(route) === true))
      if (reaching.some(({ via }) => via.length === 0)) return primary
      const steered = reaching.flatMap(({ via }) => servers.find((server) => via.some((tag) => server.tags.includes(tag))) ?? [])
      if (steered.length > 0) return steered.includes(peer)
      // What is behind the router may reach the viewer.
      return primary && this.#statements.some((each) => each.via.length === 0 && this.#reaches(each.src, route) && this.#receives(each, viewer))
    })
  }

  #reaches(src: readonly string[], route: Prefix): boolean {
    return src.includes('*') || src.includes('autogroup:danger-all') || src.some((name) => this.#literal(name)?.overlaps(route) === true)
  }

  #receives({ dst }: Statement, node: TailnetNode): boolean {
    return dst.some(({ name }) => this.#texts(name, node).length > 0)
  }

  #mayExit(viewer: TailnetNode, peer: TailnetNode): boolean {
    return this.#statements.some((each) => {
      if (each.src.length === 0 || !coversNode(this.#sourceSet(each.src), viewer)) return false
      if (each.via.length === 0) return each.dst.some(({ name }) => name === '*' || name === 'autogroup:internet')
      return each.via.some((tag) => peer.tags.includes(tag)) && each.dst.some(({ name }) => name === 'autogroup:internet') && exitRoutes(peer).length > 0
    })
  }

  /** The list of sources as rules carry it. */
  sourceTexts(src: readonly string[]): string[] {
    if (src.includes('autogroup:danger-all')) return ['*']
    const own = this.#namedSet(src).ranges().map(formatIpRange)
    const routes = this.#view.nodes.flatMap(subnetRoutes).map((route) => formatIpRange(prefixRange(route)))
    return [...new Set(src.includes('*') ? [...TAILNET_ADDRESSES.ranges().map(formatIpRange), ...routes, ...own] : own)].sort()
  }

  #sourceSet(src: readonly string[]): IpSet {
    return setOfTexts(this.sourceTexts(src))
  }

  #namedSet(names: readonly string[]): IpSet {
    return IpSet.from(names.map((name) => this.#literal(name) ?? IpSet.from(this.#nodes(name).flatMap(({ addresses }) => addresses))))
  }

  /** The place of the first statement of the tailnet with such rules. */
  #firstPlace(key: string): readonly number[] | undefined {
    for (const [i, { src, dst, protocols }] of this.#statements.entries()) {
      if (dst.length === 0 || src.length === 0) continue
      const texts = this.sourceTexts(src)
      const p = protocols.findIndex((protocol) => keyOf(texts, protocol) === key)
      if (p >= 0 && texts.length > 0) return [i, p, 1]
    }
    return undefined
  }

  /** The addresses of the user's untagged nodes that the sources contain; undefined for a tagged node. */
  #ownSources({ src }: Statement, node: TailnetNode): string[] | undefined {
    if (node.tags.length > 0 || this.#userOf(node) === undefined) return undefined
    const own = this.#view.nodes.filter((each) => each.tags.length === 0 && each.user === node.user)
    const names = src.includes('*') ? TAILNET_ADDRESSES.union(IpSet.from(this.#view.nodes.flatMap(subnetRoutes))) : IpSet.empty
    const sources = this.#namedSet(src).union(names)
    return IpSet.from(own.filter(({ addresses }) => addresses.some((ip) => sources.contains(ip))).flatMap(({ addresses }) => addresses)).ranges().map(formatIpRange).sort()
  }

  #capabilities({ src, dst, self, app }: Statement, node: TailnetNode, sources: readonly string[], own: readonly string[] | undefined): FilterRule[] {
    const rules: FilterRule[] = []
    const add = (SrcIPs: readonly string[], Dsts: readonly string[], CapMap: PolicyJson): void => {
      if (Dsts.length > 0) rules.push({ SrcIPs, CapGrant: [{ Dsts, CapMap: CapMap as Record<string, readonly unknown[] | null> }] })
    }
    const companions = COMPANIONS.filter(([name]) => name in app).map(([, name]) => ({ [name]: null }))
    const within = (set: IpSet): string[] => node.addresses.filter((ip) => set.contains(ip)).map(hostPrefix).sort()
    const destinations = dst.flatMap(({ name }) => {
      if (name === '*') return addressTexts(node).map(textPrefix)
      const literal = this.#literal(name)
      if (literal === undefined) return this.#nodes(name).includes(node) ? addressTexts(node).map(textPrefix) : []
      return [...within(literal), ...literal.prefixes().filter((prefix) => subnetSet(node).overlaps(prefix)).map(formatPrefix)]
    })
    add(sources, [...new Set(destinations)], app)
    const inside = within(this.#sourceSet(src))
    if (dst.length > 0) for (const companion of companions) add(this.sourceTexts(dst.map(({ name }) => name)), inside, companion)
    if (self !== undefined && own !== undefined) {
      if (own.length > 0) add(own, addressTexts(node).map(textPrefix), app)
      const all = this.#view.nodes.filter((each) => each.tags.length === 0 && each.user === node.user)
      if (inside.length > 0) for (const companion of companions) add(IpSet.from(all.flatMap(({ addresses }) => addresses)).ranges().map(formatIpRange).sort(), addressTexts(node).map(textPrefix), companion)
    }
    return rules
  }

  /** What of a destination a node is told. */
  #texts(name: string, node: TailnetNode): readonly string[] {
    if (name === '*') return ['*']
    if (name === 'autogroup:internet') return exitRoutes(node).length > 0 ? INTERNET.ranges().map(({ first, last }) => `${first.key}-${last.key}`) : []
    const literal = this.#literal(name)
    if (literal === undefined) return this.#nodes(name).includes(node) ? addressTexts(node) : []
    const concerns = (set: IpSet): boolean => set.overlaps(IpSet.from(node.addresses)) || set.overlaps(subnetSet(node))
    return literal.ranges().filter((range) => concerns(IpSet.of(range))).map(formatIpRange)
  }

  #viaTexts(via: readonly string[], name: string, node: TailnetNode): readonly string[] {
    if (!via.some((tag) => node.tags.includes(tag)) || !this.#serves(node, name)) return []
    if (name === 'autogroup:internet') return this.#texts(name, node)
    return (this.#literal(name)?.prefixes() ?? []).filter((prefix) => subnetSet(node).overlaps(prefix)).map(formatPrefix)
  }

  /** The addresses that a name stands for as such; undefined for names of nodes. */
  #literal(name: string): IpSet | undefined {
    const { hosts, ipsets } = this.#policy as { readonly hosts: Record<string, string>; readonly ipsets: Record<string, readonly string[]> }
    const host = name.startsWith('host:') ? name.slice(5) : name
    if (Object.hasOwn(hosts, host)) return setOf(hosts[host] ?? '')
    if (!name.startsWith('ipset:')) return parsePrefix(name) === undefined ? undefined : setOf(name)
    let set = IpSet.empty
    for (const line of ipsets[name] ?? []) {
      const words = line.split(' ')
      const target = words.at(-1) ?? ''
      const item = this.#literal(target) ?? setOfTexts([target])
      set = words[0] === 'remove' ? set.remove(item) : set.union(item)
    }
    return set
  }

  #nodes(name: string): readonly TailnetNode[] {
    const { groups } = this.#policy as { readonly groups: Record<string, readonly string[]> }
    const named = (login: string, member: string): boolean => login === member || (member.endsWith('@') && login === member.slice(0, -1))
    return this.#view.nodes.filter((node) => {
      if (name.startsWith('tag:')) return node.tags.includes(name)
      if (name === 'autogroup:tagged') return node.tags.length > 0
      const user = this.#userOf(node)
      if (user === undefined) return false
      if (name.startsWith('group:')) return (groups[name] ?? []).some((member) => named(user.login, member))
      if (name === 'autogroup:member') return true
      if (name === 'autogroup:admin') return user.role === 'admin' || user.role === 'owner'
      if (name.startsWith('autogroup:')) return name === `autogroup:${user.role}`
      return name.startsWith('user:*@') ? user.login.split('@')[1] === name.slice(7) : named(user.login, name)
    })
  }

  #userOf(node: TailnetNode): TailnetView['users'][number] | undefined {
    return node.tags.length > 0 ? undefined : this.#view.users.find(({ id }) => id === node.user)
  }
}

function readGrant(each: PolicyJson): Statement {
  const ports = new Map<string, PortRange[]>()
  for (const text of list(each.ip) as readonly string[]) {
    const colon = text.lastIndexOf(':')
    const protocol = colon < 0 || text.slice(0, colon) === '*' ? '' : String(numberOf(text.slice(0, colon)))
    ports.set(protocol, [...(ports.get(protocol) ?? []), ...portsOf(text.slice(colon + 1))])
  }
  const names = [...new Set(list(each.dst) as readonly string[])]
  // A name that stands there twice gives its ports twice.
  const portsFor = (name: string): ReadonlyMap<string, readonly PortRange[]> => repeated(ports, list(each.dst).filter((other) => other === name).length)
  return {
    grant: true,
    src: list(each.src) as readonly string[],
    dst: ordered(names.filter((name) => name !== 'autogroup:self')).map((name) => ({ name, ports: portsFor(name) })),
    self: names.includes('autogroup:self') ? { ports: portsFor('autogroup:self'), first: false } : undefined,
    protocols: [...ports.keys()],
    app: (each.app ?? {}) as PolicyJson,
    via: list(each.via) as readonly string[],
  }
}

function readAcl(each: PolicyJson): Statement {
  const protocol = each.proto === undefined ? '' : String(numberOf(String(each.proto)))
  const byName = new Map<string, PortRange[]>()
  for (const text of list(each.dst) as readonly string[]) {
    const colon = text.lastIndexOf(':')
    const name = text.slice(0, colon).replace(/[[\]]/g, '')
    byName.set(name, [...(byName.get(name) ?? []), ...portsOf(text.slice(colon + 1))])
  }
  const names = [...byName.keys()]
  const portsFor = (name: string): ReadonlyMap<string, readonly PortRange[]> => new Map([[protocol, byName.get(name) ?? []]])
  const sorted = ordered(names)
  return {
    grant: false,
    src: list(each.src) as readonly string[],
    dst: sorted.filter((name) => name !== 'autogroup:self').map((name) => ({ name, ports: portsFor(name) })),
    self: byName.has('autogroup:self') ? { ports: portsFor('autogroup:self'), first: sorted[0] === 'autogroup:self' && names.every((name) => name.startsWith('autogroup:')) } : undefined,
    protocols: [protocol],
    app: {},
    via: [],
  }
}

/** `*` before all others; groups not before users. */
function ordered(names: readonly string[]): readonly string[] {
  const rest = names.filter((name) => name !== '*')
  const lastUser = rest.findLastIndex((name) => name.includes('@') && !name.startsWith('user:'))
  const early = rest.slice(0, lastUser + 1)
  const isGroup = (name: string): boolean => name.startsWith('group:')
  return [...names.filter((name) => name === '*'), ...early.filter((name) => !isGroup(name)), ...early.filter(isGroup), ...rest.slice(lastUser + 1)]
}

function repeated(ports: ReadonlyMap<string, readonly PortRange[]>, times: number): ReadonlyMap<string, readonly PortRange[]> {
  return new Map([...ports].map(([protocol, ranges]) => [protocol, Array.from({ length: times }, () => ranges).flat()]))
}

function portsOf(text: string): PortRange[] {
  return text.split(',').map((part) => {
    const [first = 0, last = first] = part.split('-').map(Number)
    return part === '*' ? ANY_PORTS : { First: first, Last: last }
  })
}

function entriesOf(texts: readonly string[], ports: readonly PortRange[]): NetPortRange[] {
  return texts.flatMap((IP) => ports.map((Ports) => ({ IP, Ports })))
}

function numberOf(protocol: string): number {
  return NUMBERS[protocol] ?? Number(protocol)
}

function keyOf(texts: readonly string[], protocol: string): string {
  return `${texts.join()} ${protocol}`
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (const [i, value] of a.entries()) if (value !== (b[i] ?? 0)) return value - (b[i] ?? 0)
  return 0
}

function coversNode(set: IpSet, node: TailnetNode): boolean {
  return node.addresses.some((ip) => set.contains(ip)) || set.overlaps(subnetSet(node))
}

function served(node: TailnetNode): readonly Prefix[] {
  return node.advertisedRoutes.filter((route) => node.approvedRoutes.some((other) => formatPrefix(other) === formatPrefix(route)))
}

function subnetRoutes(node: TailnetNode): readonly Prefix[] {
  return served(node).filter((route) => !isExitRoute(route))
}

function exitRoutes(node: TailnetNode): readonly Prefix[] {
  return served(node).filter(isExitRoute)
}

function subnetSet(node: TailnetNode): IpSet {
  return IpSet.from(subnetRoutes(node))
}

function addressTexts(node: TailnetNode): readonly string[] {
  return node.addresses.map(({ key }) => key).sort()
}

function hostPrefix(ip: Ip): string {
  return `${ip.key}/${ip.bits}`
}

function textPrefix(text: string): string {
  return `${text}/${text.includes(':') ? 128 : 32}`
}

function setOf(...prefixes: readonly string[]): IpSet {
  return IpSet.from(prefixes.flatMap((text) => parsePrefix(text) ?? []))
}

function setOfTexts(texts: readonly string[]): IpSet {
  return IpSet.from(texts.map((text) => (text === '*' ? IpSet.everything : rangeOf(text))))
}

function rangeOf(text: string): IpSet {
  const [first, last] = text.split('-').map((part) => parsePrefix(part))
  if (first === undefined) throw new Error(`not an address: ${text}`)
  return last === undefined ? IpSet.of(first) : IpSet.of({ first: first.ip, last: last.ip })
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}
