import { formatPrefix, type Ip, parseIp, parseIpRange, parsePrefix, type Prefix, prefixRange, rangePrefixes } from '@meshwright/ip'
import type { FilterRule } from '@meshwright/packet-filter'
import {
  checkPolicy,
  type CompiledPolicy,
  compilePolicy,
  parsePolicy,
  type TailnetNode,
  type TailnetView,
  type UserRole,
} from '@meshwright/policy'
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

const FORM = 'lines of {id, category, policy, apiResponseCode, users, nodes}'
const CHECK_URL = 'https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER'
const RENUMBERED = '100.64.0.'

type Json = Readonly<Record<string, unknown>>

interface Case {
  readonly id: string
  readonly category: string
  readonly policy: string
  readonly apiResponseCode: number
  readonly apiErrorMessage?: string
  readonly caveats?: readonly string[]
  readonly users: readonly { readonly id: number; readonly name: string; readonly email: string; readonly role: UserRole }[]
  readonly nodes: readonly {
    readonly id: number
    readonly name: string
    readonly ips: readonly string[]
    readonly user?: string
    readonly tags: readonly string[]
    readonly routable: readonly string[]
    readonly approved: readonly string[]
    readonly created: string
  }[]
  readonly commonCaps?: Json
  readonly expected?: Readonly<Record<string, Expected>>
}

interface Expected {
  readonly rules: readonly FilterRule[]
  readonly matches: readonly { readonly Caps: readonly Json[]; readonly [name: string]: unknown }[]
  readonly peers: Readonly<
    Record<
      string,
      {
        readonly routes?: readonly string[]
        readonly primaryRoutes?: readonly string[]
        readonly addresses?: readonly string[]
        readonly capMap?: Json
      }
    >
  >
  readonly selfRoutes?: readonly string[]
  readonly selfPrimaryRoutes?: readonly string[]
  readonly selfAddresses?: readonly string[]
  readonly caps: Json
  readonly ssh?: readonly { readonly principals: readonly { readonly nodeIP: string }[]; readonly [name: string]: unknown }[]
  readonly whoisCaps?: Readonly<Record<string, Json>>
}

/** Policies and what the hosted control plane made of them. */
export const kind: Kind = {
  name: 'policy',
  defaultPath: 'conformance/policy',
  copied: false,
  async run(target) {
    const files = (await stat(target)).isDirectory()
      ? (await readdir(target)).filter((name) => name.endsWith('.jsonl')).map((name) => path.join(target, name))
      : [target]
    const results: CaseResult[] = []
    for (const file of files.sort()) {
      for (const line of (await readFile(file, 'utf8')).split('\n')) if (line.trim() !== '') results.push(judge(readCase(file, line)))
    }
    return results
  },
}

function readCase(file: string, line: string): Case {
  const value = readJson(file, line)
  const fits =
    typeof value === 'object' && value !== null && 'policy' in value && 'apiResponseCode' in value && 'nodes' in value && 'users' in value
  if (!fits) throw new UnknownForm(file, FORM)
  return value as Case
}

function readJson(file: string, line: string): unknown {
  try {
    return JSON.parse(line)
  } catch (error) {
    throw new UnknownForm(`${file} (${String(error)})`, FORM)
  }
}

function judge(item: Case): CaseResult {
  const group = `${item.category}/${item.apiResponseCode === 200 ? 'accepted' : 'refused'}`
  const detail = differenceOf(item)
  return { group, id: item.id, passed: detail === undefined, ...(detail === undefined ? {} : { detail }) }
}

function differenceOf(item: Case): string | undefined {
  const tailnet = tailnetOf(item)
  const { policy, diagnostics } = parsePolicy(item.policy)
  const problems = policy === undefined ? diagnostics : checkPolicy(policy, tailnet)
  const message = problems[0]?.message
  if (item.apiResponseCode !== 200) {
    // An internal error of the service says nothing but that it did not accept.
    if (item.apiResponseCode === 500) return message === undefined ? 'accepted' : undefined
    if (item.caveats?.some((caveat) => caveat.startsWith('verdict may be'))) return undefined
    return message === item.apiErrorMessage
      ? undefined
      : `message ${JSON.stringify(message)} instead of ${JSON.stringify(item.apiErrorMessage)}`
  }
  if (policy === undefined || message !== undefined) return `refused: ${message ?? ''}`
  const compiled = compilePolicy(policy, tailnet, { sshCheckUrl: CHECK_URL })
  for (const node of tailnet.nodes) {
    const expected = item.expected?.[node.name]
    const difference = expected === undefined ? undefined : differenceAt(item, compiled, node, expected)
    if (difference !== undefined) return `${node.name}: ${difference}`
  }
  return undefined
}

function tailnetOf(item: Case): TailnetView {
  return {
    users: item.users.map(({ id, email, role }) => ({ id, login: email, role })),
    domains: ['example.com'],
    nodes: item.nodes.map((node) => {
      const user = item.users.find(({ name }) => name === node.user)
      return {
        id: node.id,
        name: node.name,
        ...(user === undefined ? {} : { user: user.id }),
        tags: node.tags,
        addresses: node.ips.map(toIp),
        advertisedRoutes: node.routable.map(toPrefix),
        approvedRoutes: node.approved.map(toPrefix),
        created: Date.parse(node.created),
      }
    }),
  }
}

function differenceAt(item: Case, compiled: CompiledPolicy, node: TailnetNode, expected: Expected): string | undefined {
  const skips = (text: string): boolean => item.caveats?.some((caveat) => caveat.startsWith(text)) ?? false
  const checks: (string | undefined)[] = []
  const rules = plain(compiled.filterFor(node.id))
  if (!skips('filters not comparable')) {
    checks.push(
      differ('rules', rules, expected.rules),
      differ('matches', toMatches(compiled.filterFor(node.id)), sortCaps(expected.matches)),
    )
  }
  if (!skips('filters not comparable')) checks.push(...peerDifferences(compiled, node, expected, !skips('peer routes')))
  const { served, primary } = compiled.routesFor(node.id)
  checks.push(
    differ('selfRoutes', texts(served), sorted(expected.selfRoutes)),
    differ('selfPrimaryRoutes', texts(primary), sorted(expected.selfPrimaryRoutes)),
  )
  const own = compiled.addressesFor(node.id)
  checks.push(
    differ(
      'selfAddresses',
      own.length === node.addresses.length ? undefined : own.map((ip) => formatPrefix({ ip, bits: ip.bits })),
      expected.selfAddresses,
    ),
  )
  const caps = Object.fromEntries(
    [...compiled.attrsFor(node.id), ...compiled.roleCapabilitiesFor(node.id)].filter(([name]) => !(name in (item.commonCaps ?? {}))),
  )
  checks.push(differ('caps', caps, expected.caps))
  const renumbered = item.nodes.some(({ ips }) => ips.some((ip) => ip.startsWith(RENUMBERED)))
  const ssh = compiled.sshFor(node.id).map((rule) => ({ ...rule, action: unhosted(rule.action) }))
  checks.push(differ('ssh', sshForm(ssh, renumbered), sshForm(expected.ssh ?? [], renumbered)))
  if (!skips('peer routes')) {
    const approved = compiled.approvedRoutes(node.id, node.advertisedRoutes)
    if (!skips('approved routes')) checks.push(differ('approved', texts(approved), texts(node.approvedRoutes)))
  }
  if (expected.whoisCaps !== undefined) checks.push(differ('whoisCaps', whois(compiled, node), expected.whoisCaps))
  return checks.find((difference) => difference !== undefined)
}

function peerDifferences(compiled: CompiledPolicy, node: TailnetNode, expected: Expected, withRoutes: boolean): (string | undefined)[] {
  const peers = compiled.peersFor(node.id)
  const names = differ('peers', peers.map((peer) => peer.node.name).sort(), Object.keys(expected.peers).sort())
  if (names !== undefined) return [names]
  return peers.map((peer) => {
    const theirs = expected.peers[peer.node.name]
    const capMap = peer.capabilities.length === 0 ? undefined : Object.fromEntries(peer.capabilities.map((name) => [name, null]))
    const addresses =
      peer.addresses.length === peer.node.addresses.length ? undefined : peer.addresses.map((ip) => formatPrefix({ ip, bits: ip.bits }))
    const routes = withRoutes
      ? differ(`routes of ${peer.node.name}`, texts([...peer.subnetRoutes, ...peer.exitRoutes]), sorted(theirs?.routes)) ??
        differ(`primaryRoutes of ${peer.node.name}`, texts(peer.subnetRoutes), sorted(theirs?.primaryRoutes))
      : undefined
    return (
      routes ??
      differ(`capMap of ${peer.node.name}`, capMap, theirs?.capMap) ??
      differ(`addresses of ${peer.node.name}`, addresses, theirs?.addresses)
    )
  })
}

/** What the client makes of a rule: prefixes instead of ranges, the default protocols. */
function toMatches(rules: readonly FilterRule[]): unknown[] {
  return sortCaps(
    rules.map((rule) => ({
      IPProto: rule.IPProto ?? [6, 17, 1, 58],
      Srcs: rule.SrcIPs.flatMap(toNets),
      SrcCaps: null,
      Dsts: (rule.DstPorts ?? []).flatMap(({ IP, Ports }) => toNets(IP).map((Net) => ({ Net, Ports }))),
      Caps: (rule.CapGrant ?? []).flatMap((grant) =>
        grant.Dsts.flatMap((Dst) => Object.entries(grant.CapMap ?? {}).map(([Cap, Values]) => ({ Dst, Cap, Values }))),
      ),
    })),
  )
}

function sortCaps(matches: readonly { readonly Caps: readonly Json[]; readonly [name: string]: unknown }[]): unknown[] {
  return matches.map((match) => ({ ...match, Caps: match.Caps.map((cap) => JSON.stringify(cap, Object.keys(flatten(cap)).sort())).sort() }))
}

function flatten(value: unknown, into: Record<string, true> = {}): Record<string, true> {
  if (typeof value !== 'object' || value === null) return into
  for (const [name, inner] of Object.entries(value)) {
    into[name] = true
    flatten(inner, into)
  }
  return into
}

function toNets(text: string): string[] {
  if (text === '*') return ['0.0.0.0/0', '::/0']
  const range = parseIpRange(text)
  if (range !== undefined) return rangePrefixes(range).map(formatPrefix)
  return [formatPrefix(toPrefix(text))]
}

/** Capabilities that a node reports for connections from each peer. */
function whois(compiled: CompiledPolicy, node: TailnetNode): Record<string, Record<string, unknown[] | null>> {
  const found: Record<string, Record<string, unknown[] | null>> = {}
  for (const { node: peer } of compiled.peersFor(node.id)) {
    for (const rule of compiled.filterFor(node.id)) {
      for (const grant of rule.CapGrant ?? []) {
        const applies = peer.addresses.some(
          (ip) =>
            rule.SrcIPs.some((text) => covers(text, ip)) &&
            grant.Dsts.some((text) => node.addresses.some((own) => own.family === ip.family && covers(text, own))),
        )
        if (!applies) continue
        const caps = (found[peer.name] ??= {})
        for (const [name, values] of Object.entries(grant.CapMap ?? {}))
          caps[name] = values === null ? caps[name] ?? null : [...(caps[name] ?? []), ...values]
      }
    }
  }
  return found
}

function covers(text: string, ip: Ip): boolean {
  if (text === '*') return true
  const range = parseIpRange(text) ?? prefixRange(toPrefix(text))
  return (
    range.first.family === ip.family && Buffer.compare(range.first.bytes, ip.bytes) <= 0 && Buffer.compare(ip.bytes, range.last.bytes) <= 0
  )
}

/** The captured host of the check URL was replaced; only the path counts. */
function unhosted(action: object): Json {
  const { holdAndDelegate, ...rest } = plain(action) as Record<string, unknown>
  return typeof holdAndDelegate === 'string' ? { ...rest, holdAndDelegate: holdAndDelegate.replace(/^https:\/\/[^/]*/, '') } : rest
}

function sshForm(
  rules: readonly { readonly principals: readonly { readonly nodeIP: string }[]; readonly [name: string]: unknown }[],
  renumbered: boolean,
): unknown {
  return rules.map(({ principals, action, ...rest }) => {
    const addresses = principals.map(({ nodeIP }) => nodeIP)
    return {
      ...rest,
      action: typeof action === 'object' && action !== null ? unhosted(action) : action,
      principals: renumbered ? addresses.sort() : addresses,
    }
  })
}

function differ(name: string, ours: unknown, theirs: unknown): string | undefined {
  const left = plain(ours)
  const right = plain(theirs)
  return isDeepStrictEqual(left, right) ? undefined : `${name}: ${JSON.stringify(left)} instead of ${JSON.stringify(right)}`
}

function plain(value: unknown): unknown {
  return value === undefined ? undefined : (JSON.parse(JSON.stringify(value)) as unknown)
}

function texts(prefixes: readonly Prefix[]): readonly string[] {
  return prefixes.map(formatPrefix).sort()
}

function sorted(list: readonly string[] | undefined): readonly string[] {
  return [...(list ?? [])].sort()
}

function toIp(text: string): Ip {
  const ip = parseIp(text)
  if (ip === undefined) throw new Error(`not an address: ${text}`)
  return ip
}

function toPrefix(text: string): Prefix {
  const prefix = parsePrefix(text)
  if (prefix === undefined) throw new Error(`not a prefix: ${text}`)
  return prefix
}
