import { parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import type { TailnetNode, TailnetUser, TailnetView, UserRole } from '@meshwright/policy'
import type { SeededRandom } from '@meshwright/testkit'

/** A policy as JSON has it. */
export type PolicyJson = Record<string, unknown>

const LOGINS = ['alice@example.com', 'bob@example.com', 'carol@other.org', 'dave@example.com', 'erin@github', 'frank@'] as const
const ROLES: readonly UserRole[] = ['owner', 'admin', 'member', 'network-admin', 'it-admin', 'auditor']
const TAGS = ['tag:web', 'tag:db', 'tag:router', 'tag:exit', 'tag:ci'] as const
const GROUPS = ['group:ops', 'group:dev', 'group:none'] as const
const ROUTES = ['10.0.0.0/16', '10.0.1.0/24', '192.168.0.0/24', '203.0.113.0/24', 'fd00:1::/48', '2001:db8:5::/64', 'fd7a:115c:a1e0:b1a:0:7:a00:0/104', '0.0.0.0/0', '::/0'] as const
const HOSTS: Readonly<Record<string, string>> = { lan: '10.0.0.0/8', one: '10.0.1.7', six: 'fd00:1::/48', node: '100.64.1.1', public: '203.0.113.9' }
const LITERALS = ['10.0.0.0/16', '10.0.1.7', '100.64.2.0/24', '100.64.1.1', '192.168.0.0/16', '203.0.113.0/28', 'fd00:1::7', 'fd7a:115c:a1e0::2:0/112', '8.8.8.8', '2001:db8::/32'] as const
const PORTS = ['*', '22', '80-443', '443', '53', '1-65535', '8000-8100'] as const
const PROTOCOLS = ['tcp', 'udp', 'icmp', 'sctp', 'gre', 'ipv6-icmp', '6', '17', '33', '99', 'igmp', 'esp'] as const
const POSTURES: Readonly<Record<string, readonly string[]>> = { 'posture:mac': ["node:os == 'macos'"], 'posture:new': ["node:tsVersion >= '1.60'", "node:os IN ['linux', 'macos']"] }
const OSES = ['linux', 'macos', 'windows'] as const
const CAPABILITIES = ['example.com/cap/a', 'tailscale.com/cap/drive', 'tailscale.com/cap/relay', 'tailscale.com/cap/kubernetes', 'other.org/x'] as const

/** A tailnet of a few users and nodes with addresses, tags, routes and attributes. */
export function randomTailnet(random: SeededRandom, most: number = 8): TailnetView {
  const users = LOGINS.map((login, i): TailnetUser => ({ id: i + 1, login: login === 'frank@' ? 'frank' : login, role: i === 0 ? 'owner' : random.pick(ROLES.slice(1)) }))
  const nodes = Array.from({ length: 1 + random.below(most) }, (_, i) => randomNode(random, i + 1))
  return { users, nodes, domains: ['example.com'] }
}

/** A node with an id; the same id gives other tags, routes and attributes each time, and mostly the same addresses. */
export function randomNode(random: SeededRandom, id: number): TailnetNode {
  const low = random.chance(0.8) ? 1 : 1 + random.below(250)
  const advertised = random.chance(0.4) ? some(random, ROUTES, 3) : []
  const approved = advertised.filter(() => random.chance(0.8))
  return {
    id,
    name: `n${id}`,
    ...(random.chance(0.5) ? { user: 1 + random.below(LOGINS.length), tags: [] } : { tags: some(random, TAGS, 2) }),
    addresses: [`100.64.${id}.${low}`, `fd7a:115c:a1e0::${id}:${low}`].flatMap((text) => parseIp(text) ?? []),
    advertisedRoutes: prefixes(advertised),
    approvedRoutes: prefixes(approved),
    created: random.below(1000),
    online: random.chance(0.9),
    attributes: new Map([
      ['node:os', { value: random.pick(OSES), ...(random.chance(0.2) ? { expires: random.below(3000) } : {}) }],
      ['node:tsVersion', { value: `1.${50 + random.below(20)}.0` }],
    ]),
  }
}

/** A policy that is read without a problem, with statements of all kinds. */
export function randomPolicy(random: SeededRandom): PolicyJson {
  return {
    ...definitions(),
    ...(random.chance(0.2) ? { defaultSrcPosture: ['posture:new'] } : {}),
    grants: Array.from({ length: random.below(5) }, () => randomGrant(random)),
    acls: Array.from({ length: random.below(5) }, () => randomAcl(random)),
    ssh: Array.from({ length: random.below(4) }, () => randomSsh(random)),
    nodeAttrs: Array.from({ length: random.below(3) }, () => ({ target: some(random, [...identities(), '*', 'lan'], 2), attr: some(random, ['funnel', 'disable-ipv4', 'suggest-exit-node', 'x'], 2) })),
    autoApprovers: { routes: { '10.0.0.0/8': some(random, [...TAGS, 'group:ops', 'alice@example.com'], 2), '::/0': ['tag:router'] }, exitNode: some(random, ['tag:exit', 'autogroup:member', 'group:dev'], 2) },
  }
}

/** The sections that define the names that the statements use. */
export function definitions(): PolicyJson {
  return {
    groups: { 'group:ops': ['bob@example.com', 'carol@other.org'], 'group:dev': ['alice@example.com', 'bob@example.com', 'frank@'], 'group:none': [] },
    hosts: { ...HOSTS },
    tagOwners: Object.fromEntries(TAGS.map((tag) => [tag, tag === 'tag:db' ? ['tag:web', 'group:ops'] : []])),
    ipsets: { 'ipset:inner': ['10.0.0.0/16', 'host:one', '192.168.0.3-192.168.0.200'], 'ipset:outer': ['add 10.0.0.0/8', 'remove ipset:inner', 'add 100.64.2.0/24', 'remove 10.0.1.0/25'] },
    postures: POSTURES,
  }
}

/** An entry of acls. */
export function randomAcl(random: SeededRandom): PolicyJson {
  const proto = random.chance(0.4) ? random.pick(PROTOCOLS) : undefined
  const self = random.chance(0.15)
  const src = self ? some(random, people(), 3, 1) : some(random, sources(), 3, 1)
  const ports = (): string => (proto === undefined || ['tcp', 'udp', 'sctp', '6', '17'].includes(proto) ? (random.chance(0.2) ? '22,80-90,443' : random.pick(PORTS)) : '*')
  const dst = some(random, destinations(), 3, self ? 0 : 1).map((name) => `${name.includes(':') && parsePrefix(name) !== undefined ? `[${name.replace('/', ']/')}${name.includes('/') ? '' : ']'}` : name}:${ports()}`)
  return {
    action: 'accept',
    src,
    dst: self ? [...dst, `autogroup:self:${ports()}`] : dst,
    ...(proto === undefined ? {} : { proto }),
    ...(random.chance(0.15) ? { srcPosture: some(random, Object.keys(POSTURES), 2) } : {}),
  }
}

/** A grant: addresses, applications, via, or mixtures. */
export function randomGrant(random: SeededRandom, via: boolean = random.chance(0.2)): PolicyJson {
  const self = random.chance(0.15)
  const app = random.chance(0.3) ? Object.fromEntries(some(random, CAPABILITIES, 2, 1).map((name) => [name, [{ n: random.below(3) }]])) : undefined
  const dst = some(random, destinations(), 3, self ? 0 : 1).filter((name) => app === undefined || name !== 'autogroup:internet')
  const ip = Array.from({ length: app === undefined ? 1 + random.below(3) : random.below(2) }, () => {
    const proto = random.chance(0.5) ? `${random.pick(PROTOCOLS)}` : undefined
    const port = proto === undefined || ['tcp', 'udp', 'sctp', '6', '17'].includes(proto) ? random.pick(PORTS) : '*'
    return proto === undefined ? port : `${proto}:${port}`
  })
  return {
    src: self ? some(random, people().filter((name) => name !== '*'), 3, 1) : some(random, sources(), 3, 1),
    dst: self ? [...dst, 'autogroup:self'] : dst,
    ...(ip.length > 0 ? { ip } : {}),
    ...(app === undefined ? {} : { app }),
    ...(via ? { via: some(random, TAGS, 2, 1) } : {}),
    ...(random.chance(0.15) ? { srcPosture: some(random, Object.keys(POSTURES), 2) } : {}),
  }
}

/** An entry of ssh. */
export function randomSsh(random: SeededRandom): PolicyJson {
  const action = random.pick(['accept', 'check'])
  const self = random.chance(0.3)
  const src = some(random, ['alice@example.com', 'group:ops', 'group:dev', 'autogroup:member', ...(action === 'accept' && !self ? ['tag:ci', 'autogroup:tagged'] : [])], 3, 1)
  return { action, src, dst: self ? ['autogroup:self'] : some(random, TAGS, 2, 1), users: some(random, ['root', 'ubuntu', 'autogroup:nonroot', 'localpart:*@example.com'], 3, 1) }
}

/** Some of the items, in their order. */
export function some<T>(random: SeededRandom, items: readonly T[], most: number, least: number = 0): T[] {
  const chosen = new Set<T>()
  for (let wanted = least + random.below(most - least + 1); wanted > 0; wanted -= 1) chosen.add(random.pick(items))
  return items.filter((item) => chosen.has(item))
}

function identities(): readonly string[] {
  return ['alice@example.com', 'bob@example.com', 'erin@github', 'frank@', ...GROUPS, ...TAGS, 'autogroup:member', 'autogroup:tagged', 'autogroup:admin', 'autogroup:auditor', 'user:*@example.com']
}

function people(): readonly string[] {
  return ['alice@example.com', 'frank@', 'group:ops', 'group:dev', 'autogroup:member', 'autogroup:admin', '*']
}

function sources(): readonly string[] {
  return [...identities(), ...LITERALS, ...Object.keys(HOSTS), '*', 'ipset:outer', 'ipset:inner', 'autogroup:danger-all', 'host:lan']
}

function destinations(): readonly string[] {
  return [...identities(), ...LITERALS, ...Object.keys(HOSTS), '*', 'ipset:outer', 'ipset:inner', 'autogroup:internet', 'host:one']
}

function prefixes(texts: readonly string[]): readonly Prefix[] {
  return texts.flatMap((text) => parsePrefix(text) ?? [])
}
