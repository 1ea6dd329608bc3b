import { parseIp, parsePrefix } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { compilePolicy, type CompiledPolicy, parsePolicy, type TailnetChange, type TailnetNode } from './index.ts'

const NODES = 150
const TEXT = JSON.stringify({
  groups: { 'group:a': ['u0@example.com', 'u1@example.com', 'u2@example.com'], 'group:b': ['u3@example.com'] },
  tagOwners: { 'tag:x': [], 'tag:y': [], 'tag:r': [] },
  grants: [
    { src: ['group:a'], dst: ['tag:x'], ip: ['tcp:443'] },
    { src: ['tag:x', 'group:b'], dst: ['tag:y', '10.7.0.0/16'], ip: ['*'] },
    { src: ['autogroup:member'], dst: ['autogroup:self'], ip: ['*'] },
    { src: ['tag:y'], dst: ['10.7.0.0/16'], ip: ['udp:53'], via: ['tag:r'] },
    { src: ['group:b'], dst: ['tag:x'], ip: ['udp:1'], app: { 'tailscale.com/cap/drive': [{ shares: ['*'] }] } },
  ],
})

function node(id: number, more: Partial<TailnetNode> = {}): TailnetNode {
  const addresses = [`100.64.${id >> 8}.${id & 255}`, `fd7a:115c:a1e0::${id.toString(16)}`].flatMap((text) => parseIp(text) ?? [])
  const owner = id % 3 === 0 ? { tags: [['tag:x', 'tag:y', 'tag:r'][id % 9 / 3] ?? 'tag:x'] } : { user: (id % 10) + 1, tags: [] }
  return { id, name: `n${id}`, ...owner, addresses, advertisedRoutes: [], approvedRoutes: [], created: id, ...more }
}

function answers(compiled: CompiledPolicy, id: number): string {
  const peers = compiled.peersFor(id).map((peer) => ({ ...peer, node: peer.node.id }))
  return JSON.stringify([compiled.filterFor(id), peers.sort((a, b) => a.node - b.node), compiled.routesFor(id)])
}

/** A tailnet so large that what is made for its nodes is kept and handed on. */
function tailnet(nodes: number = NODES): CompiledPolicy {
  const { policy } = parsePolicy(TEXT)
  if (policy === undefined) throw new Error('refused')
  const users = Array.from({ length: 10 }, (_, i) => ({ id: i + 1, login: `u${i}@example.com`, role: 'member' as const }))
  return compilePolicy(policy, { users, nodes: Array.from({ length: nodes }, (_, i) => node(i + 1)), domains: ['example.com'] })
}

const routes = (...texts: readonly string[]): Partial<TailnetNode> => {
  const prefixes = texts.flatMap((text) => parsePrefix(text) ?? [])
  return { advertisedRoutes: prefixes, approvedRoutes: prefixes }
}
const CHANGES: readonly TailnetChange[] = [
  { type: 'nodeSet', node: node(200) },
  { type: 'nodeSet', node: node(201) },
  { type: 'nodeSet', node: node(3, { tags: ['tag:y'] }) },
  { type: 'nodeSet', node: node(6, routes('10.7.0.0/16')) },
  { type: 'nodeSet', node: node(6, { ...routes('10.7.0.0/16', '0.0.0.0/0'), online: false }) },
  { type: 'nodeSet', node: node(15, routes('10.7.0.0/16', '10.9.0.0/16')) },
  { type: 'nodeSet', node: node(1, { user: 4, tags: [] }) },
  { type: 'nodeRemoved', id: 200 },
  { type: 'nodeSet', node: node(300) },
  { type: 'nodeRemoved', id: 15 },
  { type: 'userSet', user: { id: 4, login: 'u9000@example.com', role: 'admin' } },
  { type: 'nodeSet', node: node(15, routes('10.7.1.0/24')) },
]

test('where every node was told its rules, each update tells all that a full compile tells, and whom it changes', () => {
  let compiled = tailnet()
  for (const change of CHANGES) {
    const before = new Map(compiled.tailnet.nodes.map(({ id }) => [id, answers(compiled, id)]))
    const { policy, affected } = compiled.update(change)
    const full = compilePolicy(compiled.policy, policy.tailnet)
    for (const { id } of policy.tailnet.nodes) {
      expect(answers(policy, id)).toBe(answers(full, id))
      if (answers(policy, id) !== before.get(id)) expect(affected.has(id)).toBe(true)
    }
    for (const [id, answer] of before) expect(answers(compiled, id)).toBe(answer)
    compiled = policy
  }
})

test('a tailnet grows beyond the room that it had, and what did not change is kept', () => {
  let compiled = tailnet(1020)
  for (const { id } of compiled.tailnet.nodes) compiled.filterFor(id)
  for (let id = 2001; id < 2012; id += 1) {
    const old = compiled
    const { policy, affected } = compiled.update({ type: 'nodeSet', node: node(id) })
    expect(affected.size).toBeLessThan(1000)
    const full = compilePolicy(policy.policy, policy.tailnet)
    const some = policy.tailnet.nodes.filter((each) => each.id > 2000 || each.id % 50 === 0)
    for (const each of some) {
      expect(answers(policy, each.id)).toBe(answers(full, each.id))
      if (each.id !== id && answers(policy, each.id) !== answers(old, each.id)) expect(affected.has(each.id)).toBe(true)
    }
    compiled = policy
  }
})

test('two updates of the same policy know nothing of each other', () => {
  const compiled = tailnet()
  const left = compiled.update({ type: 'nodeSet', node: node(400) }).policy
  const right = compiled.update({ type: 'nodeSet', node: node(401) }).policy.update({ type: 'nodeSet', node: node(400) }).policy
  for (const each of [left, right]) {
    const full = compilePolicy(each.policy, each.tailnet)
    for (const { id } of each.tailnet.nodes) expect(answers(each, id)).toBe(answers(full, id))
  }
  expect(() => left.filterFor(401)).toThrow('no node 401')
})

test('a user with a new device concerns the own devices and those who are told of it, not all members', () => {
  const { affected } = tailnet().update({ type: 'nodeSet', node: node(500, { user: 9, tags: [] }) })
  expect([...affected].every((id) => id === 500 || id % 10 === 8)).toBe(true)
})
