import { instant } from '@meshwright/core'
import { encodeTcpPacket, encodeUdpPacket, IpSet, PacketView, parseIp, parsePrefix } from '@meshwright/ip'
import { PacketFilter } from '@meshwright/packet-filter'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  compilePolicy,
  type CompiledPolicy,
  explainAccess,
  parsePolicy,
  type TailnetChange,
  type TailnetNode,
  type TailnetUser,
  type TailnetView,
} from './index.ts'

const USERS: readonly TailnetUser[] = [
  { id: 1, login: 'alice@example.com', role: 'owner' },
  { id: 2, login: 'bob@example.com', role: 'member' },
  { id: 3, login: 'carol@other.org', role: 'admin' },
]
// The last but two holds addresses of nodes, which a router may well announce.
const NETWORKS = ['10.0.0.0/16', '10.0.1.0/24', '192.168.0.0/24', '100.64.2.0/24', '0.0.0.0/0', '::/0']
const RUNS = { numRuns: 50 }
const RUNS_UPDATES = 40

const nodeArbitrary = (id: number): fc.Arbitrary<TailnetNode> =>
  fc
    .record({
      owner: fc.oneof(
        fc.constantFrom(1, 2, 3).map((user) => ({ user, tags: [] })),
        fc.subarray(['tag:web', 'tag:db', 'tag:router'], { minLength: 1 }).map((tags) => ({ tags })),
      ),
      routes: fc.oneof({ weight: 3, arbitrary: fc.constant<string[]>([]) }, { weight: 1, arbitrary: fc.subarray(NETWORKS) }),
      online: fc.boolean(),
      low: fc.integer({ min: 1, max: 250 }),
    })
    .map(({ owner, routes, online, low }) => {
      const prefixes = routes.flatMap((text) => parsePrefix(text) ?? [])
      const addresses = [`100.64.${id}.${low}`, `fd7a:115c:a1e0::${id}:${low}`].flatMap((text) => parseIp(text) ?? [])
      return { id, name: `n${id}`, ...owner, addresses, advertisedRoutes: prefixes, approvedRoutes: prefixes, created: id, online }
    })

const tailnetArbitrary: fc.Arbitrary<TailnetView> = fc
  .integer({ min: 1, max: 7 })
  .chain((count) => fc.tuple(...Array.from({ length: count }, (_, i) => nodeArbitrary(i + 1))))
  .map((nodes) => ({ users: USERS, nodes, domains: ['example.com'] }))

const identity = fc.constantFrom(
  'alice@example.com',
  'bob@example.com',
  'group:ops',
  'tag:web',
  'tag:db',
  'autogroup:member',
  'autogroup:tagged',
  'autogroup:admin',
  'user:*@example.com',
)
const literal = fc.constantFrom('10.0.0.0/16', '10.0.1.7', '100.64.2.0/24', '192.168.0.0/16', 'lan')
const source = fc.oneof(identity, literal, fc.constant('*'))
const destination = fc.oneof(identity, literal, fc.constantFrom('*', 'autogroup:internet'))
const ports = fc.constantFrom('*', '22', '80-443', '443')
const protocol = fc.constantFrom(undefined, 'tcp', 'udp')

/** A statement in both forms: as an acl and as a grant. */
const statement = fc
  .record({
    src: fc.array(source, { minLength: 1, maxLength: 3 }),
    dst: fc.array(destination, { minLength: 1, maxLength: 3 }),
    ports,
    protocol,
  })
  .map((each) => ({
    acl: {
      action: 'accept',
      src: each.src,
      dst: each.dst.map((alias) => `${alias}:${each.ports}`),
      ...(each.protocol === undefined ? {} : { proto: each.protocol }),
    },
    grant: { src: each.src, dst: each.dst, ip: [each.protocol === undefined ? each.ports : `${each.protocol}:${each.ports}`] },
  }))
const statements = fc.array(statement, { maxLength: 5 })

const DEFINITIONS = {
  groups: { 'group:ops': ['bob@example.com', 'carol@other.org'] },
  hosts: { lan: '10.0.0.0/8' },
  tagOwners: { 'tag:web': [], 'tag:db': [], 'tag:router': [] },
}

function compile(body: object, tailnet: TailnetView): CompiledPolicy {
  const { policy, diagnostics } = parsePolicy(JSON.stringify({ ...DEFINITIONS, ...body }))
  if (policy === undefined) throw new Error(JSON.stringify(diagnostics))
  return compilePolicy(policy, tailnet)
}

/** Verdicts of some connections between all nodes and into networks, as one text. */
function verdicts(compiled: CompiledPolicy): readonly boolean[] {
  const { nodes } = compiled.tailnet
  const targets = [
    ...nodes.flatMap((node) => node.addresses),
    ...['10.0.1.7', '10.0.9.9', '192.168.0.1', '8.8.8.8'].flatMap((text) => parseIp(text) ?? []),
  ]
  return nodes.flatMap((node) =>
    node.addresses.flatMap((from) =>
      targets.flatMap((to) =>
        [22, 443].flatMap((port) =>
          [6, 17].map((proto) => explainAccess(compiled, { source: from, destination: to, protocol: proto, port }).allowed),
        ),
      ),
    ),
  )
}

/** Everything that a node receives, as one text. */
function answers(compiled: CompiledPolicy, id: number): string {
  const peers = compiled
    .peersFor(id)
    .map((peer) => ({ ...peer, node: peer.node.id }))
    .sort((a, b) => a.node - b.node)
  return JSON.stringify([compiled.filterFor(id), peers, compiled.sshFor(id), [...compiled.attrsFor(id)], compiled.routesFor(id)])
}

/** How each node sees each other, as one text for each pair, asked one by one. */
function pairs(compiled: CompiledPolicy): ReadonlyMap<string, string> {
  const { nodes } = compiled.tailnet
  const found = new Map<string, string>()
  for (const { id } of nodes) {
    const whole = new Map(compiled.peersFor(id).map((peer) => [peer.node.id, peer]))
    for (const other of nodes) {
      const peer = compiled.peerFor(id, other.id)
      expect(peer).toEqual(whole.get(other.id))
      if (peer !== undefined) found.set(`${id}-${other.id}`, JSON.stringify({ ...peer, node: peer.node.id }))
    }
  }
  return found
}

test('the order of acls and of grants never changes a verdict', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, (tailnet, list) => {
      const reversed = [...list].reverse()
      expect(verdicts(compile({ acls: reversed.map(({ acl }) => acl) }, tailnet))).toEqual(
        verdicts(compile({ acls: list.map(({ acl }) => acl) }, tailnet)),
      )
      expect(verdicts(compile({ grants: reversed.map(({ grant }) => grant) }, tailnet))).toEqual(
        verdicts(compile({ grants: list.map(({ grant }) => grant) }, tailnet)),
      )
    }),
    RUNS,
  )
})

test('an acl and the grant that says the same agree on every verdict and every peer', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, (tailnet, list) => {
      const acls = compile({ acls: list.map(({ acl }) => acl) }, tailnet)
      const grants = compile({ grants: list.map(({ grant }) => grant) }, tailnet)
      expect(verdicts(grants)).toEqual(verdicts(acls))
      for (const { id } of tailnet.nodes) expect(answers(grants, id)).toBe(answers(acls, id))
    }),
    RUNS,
  )
})

test('one more statement never takes a verdict away', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, statement, fc.boolean(), (tailnet, list, more, asGrant) => {
      const acls = list.map(({ acl }) => acl)
      const before = verdicts(compile({ acls }, tailnet))
      const after = verdicts(compile(asGrant ? { acls, grants: [more.grant] } : { acls: [...acls, more.acl] }, tailnet))
      expect(before.every((allowed, i) => !allowed || after[i] === true)).toBe(true)
    }),
    RUNS,
  )
})

test('visibility is mutual, and only sources and destinations of rules see each other', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, (tailnet, list) => {
      const compiled = compile({ acls: list.map(({ acl }) => acl) }, tailnet)
      const pairs = new Set(tailnet.nodes.flatMap(({ id }) => compiled.peersFor(id).map((peer) => `${id}-${peer.node.id}`)))
      for (const pair of pairs) expect(pairs.has(pair.split('-').reverse().join('-'))).toBe(true)
    }),
    RUNS,
  )
})

test('other names for users, groups, tags and hosts change nothing but names', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, (tailnet, list) => {
      const rename = (text: string): string =>
        text.replaceAll('alice@', 'zoe@').replaceAll('group:ops', 'group:zz').replaceAll('tag:web', 'tag:q').replaceAll('"lan', '"aaa')
      const text = JSON.stringify({ ...DEFINITIONS, acls: list.map(({ acl }) => acl) })
      const [old, now] = [parsePolicy(text).policy, parsePolicy(rename(text)).policy]
      if (old === undefined || now === undefined) throw new Error('refused')
      const renamed = {
        ...tailnet,
        users: USERS.map((user) => ({ ...user, login: rename(user.login) })),
        nodes: tailnet.nodes.map((node) => ({ ...node, tags: node.tags.map(rename) })),
      }
      expect(verdicts(compilePolicy(now, renamed))).toEqual(verdicts(compilePolicy(old, tailnet)))
    }),
    RUNS,
  )
})

const change: fc.Arbitrary<TailnetChange> = fc.oneof(
  fc.integer({ min: 1, max: 9 }).chain((id) => nodeArbitrary(id).map((node): TailnetChange => ({ type: 'nodeSet', node }))),
  fc.integer({ min: 1, max: 9 }).map((id): TailnetChange => ({ type: 'nodeRemoved', id })),
  fc.constantFrom<TailnetChange>(
    { type: 'userSet', user: { id: 2, login: 'bob@example.com', role: 'admin' } },
    { type: 'userRemoved', id: 3 },
    { type: 'userSet', user: { id: 3, login: 'carol@other.org', role: 'admin' } },
  ),
)

test('any sequence of updates equals a full compile, tells every node that is affected and where it began, and leaves the old policy valid', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, fc.array(change, { minLength: 1, maxLength: 6 }), (tailnet, list, changes) => {
      const app = { src: ['group:ops'], dst: ['tag:web', '10.0.0.0/16'], app: { 'tailscale.com/cap/drive': [{ shares: ['*'] }] } }
      const via = { src: ['autogroup:member'], dst: ['10.0.1.0/24'], ip: ['*'], via: ['tag:router'] }
      const self = { action: 'accept', src: ['autogroup:member'], dst: ['autogroup:self:*'] }
      const body = {
        grants: [...list.slice(0, 2).map(({ grant }) => grant), app, via],
        acls: [...list.slice(2).map(({ acl }) => acl), self],
        ssh: [
          { action: 'accept', src: ['group:ops'], dst: ['tag:web'], users: ['root'] },
          { action: 'check', src: ['autogroup:member'], dst: ['autogroup:self'], users: ['autogroup:nonroot'] },
          { action: 'accept', src: ['autogroup:admin'], dst: ['tag:db'], users: ['localpart:*@example.com'], recorder: ['tag:router'] },
        ],
        nodeAttrs: [{ target: ['tag:web'], attr: ['x', 'disable-ipv4'] }],
      }
      let compiled = compile(body, tailnet)
      for (const each of changes) {
        const before = new Map(compiled.tailnet.nodes.map(({ id }) => [id, answers(compiled, id)]))
        const [old, seen] = [compiled, pairs(compiled)]
        const { policy, affected, moved } = compiled.update(each)
        const seenNow = pairs(policy)
        for (const pair of new Set([...seen.keys(), ...seenNow.keys()]))
          if (seen.get(pair) !== seenNow.get(pair)) expect(pair.split('-').some((id) => moved.has(Number(id)))).toBe(true)
        const full = compile(body, policy.tailnet)
        for (const { id } of policy.tailnet.nodes) {
          const now = answers(policy, id)
          expect(now).toBe(answers(full, id))
          if (now !== before.get(id)) expect(affected.has(id)).toBe(true)
        }
        for (const [id, answer] of before) expect(answers(old, id)).toBe(answer)
        compiled = policy
      }
    }),
    { numRuns: RUNS_UPDATES },
  )
})

test('the packet filter of every node, fed with the compiled rules, gives the verdicts that are explained', () => {
  fc.assert(
    fc.property(tailnetArbitrary, statements, (tailnet, list) => {
      const self = { action: 'accept', src: ['autogroup:member'], dst: ['autogroup:self:*'] }
      const compiled = compile(
        { grants: list.slice(0, 2).map(({ grant }) => grant), acls: [...list.slice(2).map(({ acl }) => acl), self] },
        tailnet,
      )
      const view = new PacketView()
      for (const node of tailnet.nodes) {
        const filter = new PacketFilter()
        filter.replace(compiled.filterFor(node.id), IpSet.from(node.addresses))
        for (const source of tailnet.nodes.flatMap(({ addresses }) => addresses)) {
          for (const destination of node.addresses.filter(({ family }) => family === source.family)) {
            for (const port of [22, 443]) {
              const ends = { src: { ip: source, port: 999 }, dst: { ip: destination, port } }
              view.at(encodeTcpPacket({ ...ends, sequence: 1, flags: 2 }))
              const tcp = filter.checkIn(instant(0), view).accept
              view.at(encodeUdpPacket({ ...ends, payload: new Uint8Array(4) }))
              const udp = filter.checkIn(instant(0), view).accept
              const explained = [6, 17].map((proto) => explainAccess(compiled, { source, destination, protocol: proto, port }).allowed)
              expect([tcp, udp]).toEqual(explained)
            }
          }
        }
      }
    }),
    RUNS,
  )
})
