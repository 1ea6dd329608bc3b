import { formatIpRange, parseIpRange, parsePrefix, type Prefix, prefixContains, prefixCovers, rangePrefixes } from '@meshwright/ip'
import type { TailnetNode, TailnetView } from '@meshwright/policy'

/** One source address, one destination, one port range. */
export interface NaiveRule {
  readonly source: string
  readonly destination: string
  readonly port: string
  readonly protocol: string
}

interface NaiveGrant {
  readonly src: readonly string[]
  readonly dst: readonly string[]
  readonly ip: readonly string[]
}

/** A policy read with `JSON.parse`, and the tailnet as lists: nothing is looked up twice because nothing is kept. */
export class NaivePolicy {
  readonly #groups: Readonly<Record<string, readonly string[]>>
  readonly #hosts: Readonly<Record<string, string>>
  readonly #tailnet: TailnetView
  readonly grants: readonly NaiveGrant[]
  seen: number = 0

  constructor(text: string, tailnet: TailnetView) {
    const { groups, hosts, grants } = JSON.parse(text) as { readonly groups: Record<string, string[]>; readonly hosts: Record<string, string>; readonly grants: NaiveGrant[] }
    this.#groups = groups
    this.#hosts = hosts
    this.#tailnet = tailnet
    this.grants = grants
  }

  /** Whether a name of users or tags means the node. */
  selects(name: string, node: TailnetNode): boolean {
    if (name.startsWith('tag:')) return node.tags.includes(name)
    const login = node.tags.length > 0 ? undefined : this.#tailnet.users.find(({ id }) => id === node.user)?.login
    if (login === undefined) return false
    return name === 'autogroup:member' || name === login || this.#groups[name]?.includes(login) === true
  }

  /** The network that a name means, if it is one. */
  network(name: string): Prefix | undefined {
    return parsePrefix(this.#hosts[name] ?? name)
  }

  sourcesOf(names: readonly string[], only: (node: TailnetNode) => boolean = () => true): string[] {
    return this.#tailnet.nodes.filter((node) => only(node) && names.some((name) => this.selects(name, node))).flatMap(({ addresses }) => addresses.map(({ key }) => key))
  }

  /** What a node lets in by a grant: texts of destinations. */
  destinationsOn(names: readonly string[], node: TailnetNode): string[] {
    return names.flatMap((name) => {
      if (this.selects(name, node)) return node.addresses.map(({ key }) => key)
      const network = name === 'autogroup:self' ? undefined : this.network(name)
      const concerned = network !== undefined && (node.addresses.some((ip) => prefixContains(network, ip)) || node.approvedRoutes.some((route) => prefixCovers(route, network) || prefixCovers(network, route)))
      return concerned ? [formatIpRange(rangeOf(network))] : []
    })
  }

  sees(a: TailnetNode, b: TailnetNode): boolean {
    const one = (from: TailnetNode, to: TailnetNode): boolean =>
      this.grants.some(({ src, dst }) => {
        if (!src.some((name) => this.selects(name, from))) return false
        return this.destinationsOn(dst, to).length > 0 || (dst.includes('autogroup:self') && to.tags.length === 0 && from.user === to.user)
      })
    return one(a, b) || one(b, a)
  }

  /** Texts of source lists as single addresses: ranges are those of neighbouring nodes. */
  expand(texts: readonly string[]): string[] {
    return texts.flatMap((text) => {
      const range = parseIpRange(text) ?? (text.includes('/') ? rangeOf(parsePrefix(text)) : undefined)
      if (range === undefined) return [text]
      const prefixes = rangePrefixes(range)
      return this.#tailnet.nodes.flatMap(({ addresses }) => addresses.filter((ip) => prefixes.some((prefix) => prefixContains(prefix, ip))).map(({ key }) => key))
    })
  }
}

function rangeOf(prefix: Prefix | undefined): ReturnType<typeof parseIpRange> & object {
  const range = prefix === undefined ? undefined : parseIpRange(`${prefix.ip.key}-${prefix.ip.key}`)
  if (prefix === undefined || range === undefined) throw new Error('no network')
  const last = Uint8Array.from(prefix.ip.bytes)
  for (let bit = prefix.bits; bit < last.length * 8; bit += 1) last[bit >> 3] = (last[bit >> 3] ?? 0) | (128 >> (bit & 7))
  const text = prefix.ip.family === 4 ? last.join('.') : [0, 2, 4, 6, 8, 10, 12, 14].map((i) => (((last[i] ?? 0) << 8) | (last[i + 1] ?? 0)).toString(16)).join(':')
  return parseIpRange(`${prefix.ip.key}-${text}`) ?? range
}

/** Reads a policy the naive way. */
export function compileNaively(text: string, tailnet: TailnetView): NaivePolicy {
  return new NaivePolicy(text, tailnet)
}

/** The rules of one node, one by one, by going through all grants and all nodes. */
export function rulesNaively(policy: NaivePolicy, node: TailnetNode): NaiveRule[] {
  const rules: NaiveRule[] = []
  for (const { src, dst, ip } of policy.grants) {
    const destinations = policy.destinationsOn(dst, node)
    const own = dst.includes('autogroup:self') && node.tags.length === 0
    const sources = destinations.length === 0 ? [] : policy.sourcesOf(src)
    const ownSources = own ? policy.sourcesOf(src, (other) => other.tags.length === 0 && other.user === node.user) : []
    for (const written of ip) {
      const colon = written.indexOf(':')
      const protocol = colon < 0 ? '' : written.startsWith('tcp') ? '6' : '17'
      for (const part of written.slice(colon + 1).split(',')) {
        const [first = '', last = first] = part === '*' ? ['0', '65535'] : part.split('-')
        const add = (source: string, destination: string): void => void rules.push({ source, destination, port: `${first}-${last}`, protocol })
        for (const source of sources) for (const destination of destinations) add(source, destination)
        for (const source of ownSources) for (const { key } of node.addresses) add(source, key)
      }
    }
  }
  return rules
}
