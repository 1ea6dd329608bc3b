import type { SSHAction } from '@meshwright/control-protocol'
import { expect, test } from 'vitest'
import { Lab, type LabNode } from './server-lab.test.ts'

const policy = (action: object): string =>
  JSON.stringify({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }], ssh: [{ src: ['autogroup:member'], dst: ['autogroup:self'], users: ['autogroup:nonroot', 'root'], ...action }] })
const CHECK = policy({ action: 'check' })

interface Site {
  readonly lab: Lab
  readonly laptop: LabNode
  readonly server: LabNode
  /** The node asks; gives the number of its request. */
  ask(more?: Partial<{ machineKey: string; source: number; destination: number; localUser: string; authId: string }>): number
  action(request: number): SSHAction
  waiting(): readonly { authId: string; localUser: string; source: { givenName: string; user: string }; destination: { givenName: string } }[]
}

function site(text: string = CHECK): Site {
  const lab = new Lab()
  const [laptop, server] = [lab.node('alice', 'laptop'), lab.node('alice', 'server')]
  expect(lab.admin({ command: 'setPolicy', policy: text }).status).toBe(200)
  let next = 10_000
  return {
    lab,
    laptop,
    server,
    ask(more = {}) {
      next += 1
      lab.feed({ type: 'sshAction', request: next, machineKey: server.machine, source: laptop.id, destination: server.id, localUser: 'root', authId: undefined, ...more })
      return next
    },
    action(request) {
      const answer = lab.answers.get(request)
      expect(answer?.status).toBe(200)
      return answer?.body as SSHAction
    },
    waiting: () => lab.admin({ command: 'listSshChecks' }).body['sshChecks'],
  }
}

/** The session waits; gives the id and the request that is held. */
function hold({ ask, action, lab }: Site): { id: string; held: number } {
  const first = action(ask())
  const id = /auth_id=(\S+)$/.exec(first.holdAndDelegate ?? '')?.[1] ?? ''
  expect(first.message).toContain(id)
  const held = ask({ authId: id })
  expect(lab.answers.has(held)).toBe(false)
  return { id, held }
}

test('a session in check mode is held until an administrator approves it, and then let in for the period', () => {
  const here = site()
  const { id, held } = hold(here)
  expect(here.waiting()).toEqual([{ authId: id, source: { id: '1', givenName: 'laptop', user: 'alice' }, destination: { id: '2', givenName: 'server' }, localUser: 'root', askedAt: expect.any(String), state: 'waiting' }])
  expect(here.lab.admin({ command: 'approveSshCheck', authId: id }).status).toBe(200)
  expect(here.action(held)).toEqual({ accept: true, allowAgentForwarding: true, allowLocalPortForwarding: true, allowRemotePortForwarding: true })
  expect(here.waiting()).toEqual([])
  expect(here.action(here.ask()).accept).toBe(true)
  here.lab.advance(12 * 3_600_000)
  expect(here.action(here.ask()).holdAndDelegate).toBeDefined()
})

test('an approval is for one source, one destination and one local user', () => {
  const here = site()
  const { id } = hold(here)
  here.lab.admin({ command: 'approveSshCheck', authId: id })
  expect(here.action(here.ask({ localUser: 'operator' })).accept).toBeUndefined()
  expect(here.action(here.ask({ source: here.server.id })).accept).toBeUndefined()
})

test('with checkPeriod always every session is asked about', () => {
  const here = site(policy({ action: 'check', checkPeriod: 'always' }))
  const { id, held } = hold(here)
  here.lab.admin({ command: 'approveSshCheck', authId: id })
  expect(here.action(held).accept).toBe(true)
  expect(here.action(here.ask()).holdAndDelegate).toBeDefined()
})

test('the period of the first rule that demands the check counts', () => {
  const text = policy({ action: 'check', checkPeriod: '1h' })
  const two = JSON.parse(text) as { ssh: object[] }
  two.ssh.push({ action: 'check', src: ['autogroup:member'], dst: ['autogroup:self'], users: ['root'], checkPeriod: '100h' })
  const here = site(JSON.stringify(two))
  const { id } = hold(here)
  here.lab.admin({ command: 'approveSshCheck', authId: id })
  here.lab.advance(3_599_000)
  expect(here.action(here.ask()).accept).toBe(true)
  here.lab.advance(1_000)
  expect(here.action(here.ask()).accept).toBeUndefined()
})

test('how long an approval holds is said by the policy of the day', () => {
  const here = site()
  const { id } = hold(here)
  here.lab.admin({ command: 'approveSshCheck', authId: id })
  here.lab.advance(60_000)
  here.lab.admin({ command: 'setPolicy', policy: policy({ action: 'check', checkPeriod: 'always' }) })
  expect(here.action(here.ask()).accept).toBeUndefined()
  here.lab.admin({ command: 'setPolicy', policy: policy({ action: 'check', checkPeriod: '1h' }) })
  expect(here.action(here.ask()).accept).toBe(true)
})

test('a rejected session is refused with words, also to a node that asks again', () => {
  const here = site()
  const { id, held } = hold(here)
  expect(here.lab.admin({ command: 'rejectSshCheck', authId: id }).status).toBe(200)
  for (const request of [held, here.ask({ authId: id })]) expect(here.action(request)).toEqual({ message: 'An administrator refused this session.\n', reject: true })
  expect(here.lab.admin({ command: 'approveSshCheck', authId: id }).status).toBe(400)
})

test('an approval that meets no held request is kept for the node that asks again, once', () => {
  const here = site(policy({ action: 'check', checkPeriod: 'always' }))
  const { id, held } = hold(here)
  here.lab.feed({ type: 'closed', request: held })
  here.lab.admin({ command: 'approveSshCheck', authId: id })
  expect(here.action(here.ask({ authId: id })).accept).toBe(true)
  expect(here.action(here.ask({ authId: id })).accept).toBeUndefined()
})

test('nobody approves: refused when its time is over', () => {
  const here = site()
  const { held } = hold(here)
  here.lab.advance(15 * 60_000)
  expect(here.action(held).reject).toBe(true)
  expect(here.waiting()).toEqual([])
})

test('only the device of the destination may ask, and strangers learn nothing', () => {
  const here = site()
  const answers = [here.ask({ machineKey: here.laptop.machine }), here.ask({ destination: 77 })].map((request) => here.lab.answers.get(request))
  for (const answer of answers) expect(answer).toMatchObject({ status: 404, body: 'node not found' })
  expect(here.waiting()).toEqual([])
})

test('an id works only for the session that it was given to', () => {
  const here = site()
  const { id } = hold(here)
  const other = here.ask({ authId: id, localUser: 'operator' })
  expect(here.action(other).holdAndDelegate).not.toContain(id)
})

test('a policy that changed meanwhile decides: no rule refuses, an accept rule lets in, and approving what is forbidden fails', () => {
  const here = site()
  const { id, held } = hold(here)
  here.lab.admin({ command: 'setPolicy', policy: policy({ action: 'check', users: ['nobody-else'] }) })
  expect(here.lab.admin({ command: 'approveSshCheck', authId: id })).toMatchObject({ status: 400 })
  expect(here.lab.answers.has(held)).toBe(false)
  expect(here.action(here.ask()).reject).toBe(true)
  here.lab.admin({ command: 'setPolicy', policy: policy({ action: 'accept' }) })
  expect(here.action(here.ask()).accept).toBe(true)
})

test('"=" never means root', () => {
  const here = site(policy({ action: 'check', users: ['autogroup:nonroot'] }))
  expect(here.action(here.ask()).reject).toBe(true)
  expect(here.action(here.ask({ localUser: 'operator' })).holdAndDelegate).toBeDefined()
})

test('one destination holds no more than its share of sessions', () => {
  const here = site()
  for (let i = 0; i < 64; i += 1) expect(here.action(here.ask({ localUser: `user${i}` })).holdAndDelegate).toBeDefined()
  expect(here.action(here.ask({ localUser: 'one-more' }))).toEqual({ message: 'Too many sessions wait for approval: try again later.\n', reject: true })
  expect(here.action(here.ask({ localUser: 'user0' })).holdAndDelegate).toBeDefined()
})

test.each(['laptop', 'server'] as const)('a session of nodes of which the %s has expired is let in by nobody, an approval that still holds included', (who) => {
  const here = site()
  const { id } = hold(here)
  here.lab.admin({ command: 'approveSshCheck', authId: id })
  expect(here.action(here.ask()).accept).toBe(true)
  here.lab.admin({ command: 'expireNode', id: here[who].id })
  const answer = here.lab.answers.get(here.ask())
  expect(answer).toBeDefined()
  expect(JSON.stringify(answer)).not.toMatch(/"accept":true|holdAndDelegate/i)
})
