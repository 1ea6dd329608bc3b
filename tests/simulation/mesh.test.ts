import { describe, expect, test } from 'vitest'
import { Tailnet } from './tailnet.ts'

const GROUND = `
  "tagOwners": { "tag:db": ["alice@"] },
  // Everybody may use the echo service; ports of the database are named one by one.
`
const STRICT = `{${GROUND} "acls": [
  { "action": "accept", "src": ["*"], "dst": ["*:7"] },
  { "action": "accept", "src": ["alice@"], "dst": ["tag:db:5432"] },
] }`
const RELAXED = `{${GROUND} "acls": [
  { "action": "accept", "src": ["*"], "dst": ["*:7"] },
  { "action": "accept", "src": ["alice@"], "dst": ["tag:db:5432"] },
  { "action": "accept", "src": ["bob@"], "dst": ["tag:db:5432"] },
] }`

/** One value in the answer of the control server to a command that must succeed. */
function ask(net: Tailnet, command: Parameters<Tailnet['control']['admin']>[0], ...at: readonly string[]): string {
  const { status, body } = net.control.admin(command)
  expect({ command: command.command, status, body }).toMatchObject({ status: 200 })
  let value: unknown = body
  for (const name of at) value = Object.entries(Object(value)).find(([key]) => key === name)?.[1]
  return String(value)
}

function logIn(net: Tailnet): void {
  ask(net, { command: 'setPolicy', policy: STRICT })
  const alice = Number(ask(net, { command: 'createUser', name: 'alice' }, 'user', 'id'))
  const bob = Number(ask(net, { command: 'createUser', name: 'bob' }, 'user', 'id'))
  net.laptop.up(ask(net, { command: 'createAuthKey', userId: alice }, 'preAuthKey', 'key'))
  net.guest.up(ask(net, { command: 'createAuthKey', userId: bob }, 'preAuthKey', 'key'))
  net.db.up(ask(net, { command: 'createAuthKey', tags: ['tag:db'] }, 'preAuthKey', 'key'))
}

/** The whole story in ten virtual minutes; every step asserts itself. */
function story(net: Tailnet): string {
  const { laptop, guest, db } = net
  const started = net.clock.now

  // Login by auth key; peers appear.
  logIn(net)
  net.runUntil('all run and know their peers', 5_000, () => net.nodes.every((host) => host.node.state === 'running' && host.node.map?.peers.size === 2))
  expect(net.nodes.map((host) => host.node.map?.self.name)).toEqual(['laptop.mesh.test', 'guest.mesh.test', 'db.mesh.test'])
  for (const host of [laptop, guest, db]) host.serveEcho(5432)

  // By relay first, then directly.
  const first = laptop.sendEcho(db.address)
  net.runUntil('the first echo is back', 2_000, () => laptop.echoes.has(first), 1)
  expect(laptop.echoes.get(first), 'the first packet went through the relay, four times 20 ms and more').toBeGreaterThanOrEqual(80)
  const { relayBytesIn } = laptop.node.status(net.clock.now)
  expect(relayBytesIn).toBeGreaterThan(0)
  net.runUntil('laptop and db have a direct path', 10_000, () => laptop.peer('db')?.path.type === 'direct')
  net.chat(laptop, db.address, 2_000)
  const relayed = laptop.node.status(net.clock.now).relayBytesIn
  expect(net.chat(laptop, db.address, 5_000)).toEqual({ sent: 50, answered: 50 })
  expect(laptop.node.status(net.clock.now).relayBytesIn, 'nothing of a direct conversation goes by the relay').toBe(relayed)

  // The policy denies a port, and a live change of the policy allows it.
  const to = { ip: db.address, port: 5432 }
  const allowed = laptop.dial(to)
  const denied = guest.dial(to)
  net.run(20_000)
  expect(allowed().echoed).toBe('over the mesh')
  expect(denied().openedAfterMs).toBeUndefined()
  ask(net, { command: 'setPolicy', policy: RELAXED })
  net.run(1_000)
  const now = guest.dial(to)
  net.runUntil('the new policy lets bob in', 3_000, () => now().echoed === 'over the mesh')
  ask(net, { command: 'setPolicy', policy: STRICT })
  net.run(1_000)
  const again = guest.dial(to)
  net.run(20_000)
  expect(again().openedAfterMs, 'and the old one keeps him out again').toBeUndefined()

  // UDP blocked: by relay within ten seconds, directly again afterwards.
  net.chat(laptop, db.address, 3_000)
  expect(laptop.peer('db')?.path.type).toBe('direct')
  net.blockUdp(laptop, true)
  net.chatUntil(laptop, db.address, 'an echo comes by the relay', 10_000, () => laptop.peer('db')?.path.type === 'relay')
  expect(net.chat(laptop, db.address, 5_000)).toEqual({ sent: 50, answered: 50 })
  net.blockUdp(laptop, false)
  net.chatUntil(laptop, db.address, 'a direct path again', 60_000, () => laptop.peer('db')?.path.type === 'direct' && db.peer('laptop')?.path.type === 'direct')
  expect(net.chat(laptop, db.address, 5_000)).toEqual({ sent: 50, answered: 50 })

  // The control server is gone for a minute: traffic goes on.
  net.control.kill()
  expect(net.chat(laptop, db.address, 60_000)).toEqual({ sent: 600, answered: 600 })
  net.control.start()
  expect(net.chat(laptop, db.address, 60_000)).toEqual({ sent: 600, answered: 600 })
  expect(laptop.node.status(net.clock.now).lastError).toBeUndefined()

  // A node expires and is cut off by its peers, though it goes on as if nothing had happened; then it hears of it and stops by itself.
  expect(net.chat(guest, db.address, 2_000)).toEqual({ sent: 20, answered: 20 })
  guest.setDeaf(true)
  ask(net, { command: 'expireNode', id: Number(guest.node.map?.self.id) })
  net.run(200)
  expect(net.chat(guest, db.address, 10_000)).toEqual({ sent: 100, answered: 0 })
  expect(guest.node.state, 'it does not know').toBe('running')
  expect(db.peer('guest')).toMatchObject({ expired: true, path: { type: 'none' } })
  expect(db.node.status(net.clock.now).peers.filter((peer) => peer.path.type !== 'none').map((peer) => peer.hostName)).toEqual(['laptop'])
  guest.setDeaf(false)
  net.runUntil('it hears of its expiry', 5_000, () => guest.node.state === 'needs-login')
  expect(() => guest.sendEcho(db.address)).toThrow('no local IPv4 address')
  expect(net.chat(laptop, db.address, 5_000), 'the others go on').toEqual({ sent: 50, answered: 50 })

  // Silence until ten minutes are over; the sessions come back at once.
  net.run(600_000 - (net.clock.now - started) - 2_000)
  expect(net.chat(laptop, db.address, 1_000)).toEqual({ sent: 10, answered: 10 })
  return `${net.transcript.digest} ${net.transcript.entries}`
}

const digests = new Set<string>()

describe('three nodes, a relay and a control server in virtual time', () => {
  test('the same seed gives the same ten minutes, byte for byte', () => {
    digests.add(story(new Tailnet(1)))
    digests.add(story(new Tailnet(1)))
    expect(digests.size).toBe(1)
  })

  test.each([2, 3, 4, 5])('the story holds with seed %i, and is another one', (seed) => {
    const before = digests.size
    digests.add(story(new Tailnet(seed)))
    expect(digests.size).toBe(before + 1)
  })
})
