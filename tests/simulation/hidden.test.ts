import { expect, test } from 'vitest'
import type { MeshHost } from './mesh-host.ts'
import { Tailnet } from './tailnet.ts'

const SHOWN = '{ "tagOwners": { "tag:db": ["alice@"] }, "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:7"] }] }'
const HIDDEN = '{ "tagOwners": { "tag:db": ["alice@"] }, "acls": [{ "action": "accept", "src": ["alice@"], "dst": ["tag:db:7"] }] }'

function ask(net: Tailnet, command: Parameters<Tailnet['control']['admin']>[0]): Record<string, Record<string, unknown>> {
  const { status, body } = net.control.admin(command)
  expect(status).toBe(200)
  return body as Record<string, Record<string, unknown>>
}

/** Milliseconds until an echo comes back, asked for every 100 ms. */
function reached(net: Tailnet, from: MeshHost, to: MeshHost): number {
  const start = net.clock.now
  const asked: number[] = []
  while (!asked.some((sequence) => from.echoes.has(sequence))) {
    asked.push(from.sendEcho(to.address))
    net.run(100)
    if (net.clock.now - start > 60_000) return Infinity
  }
  return net.clock.now - start
}

test.each([
  [1, 200],
  [2, 5_600],
  [3, 20_000],
  [4, 200_000],
])('two nodes, one of them by relay alone, that the policy has hidden from each other and shows again are back within a second (seed %i, hidden for %i ms)', (seed, hiddenMs) => {
  const net = new Tailnet(seed)
  const { laptop, guest, db } = net
  ask(net, { command: 'setPolicy', policy: SHOWN })
  const users = ['alice', 'bob'].map((name) => Number(ask(net, { command: 'createUser', name })['user']?.['id']))
  for (const [i, host] of [laptop, guest].entries()) host.up(String(ask(net, { command: 'createAuthKey', userId: users[i] ?? 0 })['preAuthKey']?.['key']))
  db.up(String(ask(net, { command: 'createAuthKey', tags: ['tag:db'] })['preAuthKey']?.['key']))
  net.runUntil('all know each other', 5_000, () => net.nodes.every((host) => host.node.map?.peers.size === 2))
  net.blockUdp(guest, true)
  net.run(500) // both have found their relay
  expect(Math.max(reached(net, laptop, guest), reached(net, guest, laptop))).toBeLessThan(1_000)
  ask(net, { command: 'setPolicy', policy: HIDDEN })
  net.runUntil('they do not see each other', 3_000, () => laptop.peer('guest') === undefined && guest.peer('laptop') === undefined)
  net.run(hiddenMs)
  ask(net, { command: 'setPolicy', policy: SHOWN })
  net.runUntil('they see each other', 3_000, () => laptop.peer('guest') !== undefined && guest.peer('laptop') !== undefined)
  expect(reached(net, guest, laptop)).toBeLessThan(1_000)
  expect(reached(net, laptop, guest)).toBeLessThan(1_000)
})
