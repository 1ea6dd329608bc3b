import { machineLaws, SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { type AdminCommand, ControlServer, controlServerConfig, emptyState, type ControlServerInput, type ControlServerOutput } from './index.ts'
import { key, Lab } from './server-lab.test.ts'

const ALLOW = '{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}'

describe('nothing is said before it is on disk', () => {
  test('answers, frames and audit events of a batch wait for its commit', () => {
    const lab = new Lab()
    lab.admin({ command: 'createUser', name: 'alice' })
    lab.admin({ command: 'setPolicy', policy: ALLOW })
    const b = lab.node('alice', 'b')
    lab.advance(1000)
    const frames = lab.framesOf(b.stream).length
    const audits = lab.audit.length
    lab.storing = 'hold'
    const request = lab.send({ type: 'admin', command: { command: 'setPolicy', policy: '{"acls":[]}' } })
    lab.advance(10_000)
    expect([lab.answers.has(request), lab.framesOf(b.stream).length, lab.audit.length]).toEqual([false, frames, audits])
    lab.commit()
    lab.advance(1000)
    expect(lab.answers.get(request)?.status).toBe(200)
    expect(lab.framesOf(b.stream).length).toBe(frames + 1)
    expect(lab.audit.length).toBe(audits + 1)
  })

  test('while one commit is on its way the rest becomes one more commit', () => {
    const lab = new Lab()
    lab.storing = 'hold'
    const requests = Array.from({ length: 50 }, (_, i) => lab.send({ type: 'admin', command: { command: 'createUser', name: `u${i}` } }))
    expect(lab.commits).toHaveLength(1)
    lab.commit()
    expect(lab.commits).toHaveLength(2)
    expect(requests.filter((request) => lab.answers.has(request))).toHaveLength(1)
    lab.commit()
    expect(requests.filter((request) => lab.answers.has(request))).toHaveLength(50)
    expect(lab.store.state().users).toHaveLength(50)
  })

  test('what waits for a disk that hangs is bounded: the rest is told to come again, and nobody is forgotten', () => {
    const lab = new Lab()
    lab.storing = 'hold'
    const first = lab.send({ type: 'admin', command: { command: 'createUser', name: 'alice' } })
    const waiting = Array.from({ length: 65_536 }, () => lab.send({ type: 'admin', command: { command: 'listUsers' } }))
    expect(lab.answers.size).toBe(0)
    const tooMuch = lab.send({ type: 'admin', command: { command: 'listUsers' } })
    expect(lab.answers.get(tooMuch)).toMatchObject({ status: 503, retryAfterSeconds: 5 })
    lab.feed({ type: 'closed', request: waiting[0] ?? 0 }) // who leaves is always heard: else what it opened would stay for ever
    expect(lab.answers.size).toBe(1)
    lab.commit()
    expect([first, ...waiting].every((request) => lab.answers.get(request)?.status === 200)).toBe(true)
  })

  test('a commit that fails leaves everything as it was, and says so', () => {
    const lab = new Lab()
    lab.admin({ command: 'createUser', name: 'alice' })
    lab.admin({ command: 'setPolicy', policy: ALLOW })
    const a = lab.node('alice', 'a')
    const b = lab.node('alice', 'b')
    lab.advance(1000)
    const before = [lab.store.state(), lab.admin({ command: 'listNodes' }).body, lab.framesOf(b.stream).length]
    lab.storing = 'fail'
    const commands: AdminCommand[] = [
      { command: 'createUser', name: 'bob' },
      { command: 'renameNode', id: a.id, newName: 'z' },
      { command: 'deleteNode', id: a.id },
      { command: 'expireNode', id: a.id },
      { command: 'setPolicy', policy: '{"acls":[]}' },
      { command: 'createAuthKey', userId: 1 },
    ]
    for (const command of commands) expect(lab.admin(command)).toMatchObject({ status: 500, body: { message: expect.stringContaining('disk full') } })
    const register = lab.register(key('mkey', 'c'), { NodeKey: key('nodekey', 'c'), Auth: { AuthKey: a.auth } })
    expect(lab.answers.get(register)?.status).toBe(200)
    lab.storing = 'now'
    lab.advance(1000)
    expect([lab.store.state(), lab.admin({ command: 'listNodes' }).body, lab.framesOf(b.stream).length]).toEqual(before)
    expect(lab.admin({ command: 'createUser', name: 'bob' }).body['user'].id).toBe('2')
  })

  test('a policy that could not be stored is not in force, also when somebody asked for it meanwhile', () => {
    const lab = new Lab()
    lab.admin({ command: 'createUser', name: 'alice' })
    lab.admin({ command: 'setPolicy', policy: '{"acls":[]}' })
    const a = lab.node('alice', 'a')
    const b = lab.node('alice', 'b')
    lab.advance(1000)
    const frames = lab.framesOf(b.stream).length
    lab.storing = 'hold'
    lab.send({ type: 'admin', command: { command: 'createUser', name: 'bob' } })
    // These wait, and become one commit: routes that are offered ask the policy who approves them.
    const set = lab.send({ type: 'admin', command: { command: 'setPolicy', policy: ALLOW } })
    lab.map(a.machine, { NodeKey: a.NodeKey, OmitPeers: true, Hostinfo: { Hostname: 'a', RoutableIPs: ['10.0.0.0/8'] } })
    lab.commit()
    lab.storing = 'now'
    lab.feed({ type: 'commitFailed', commit: lab.commits.at(-1) ?? 0, reason: 'disk full' })
    expect(lab.answers.get(set)?.status).toBe(500)
    lab.advance(1000)
    expect(lab.framesOf(b.stream)).toHaveLength(frames)
    const again = lab.map(b.machine, { NodeKey: b.NodeKey, Stream: true, DiscoKey: key('discokey', 'b') })
    expect(lab.framesOf(again)[0]).toMatchObject({ Node: { Name: 'b.mesh.test.' }, Peers: [] })
  })

  test('a poll whose first report cannot be stored is refused, and works when tried again', () => {
    const lab = new Lab()
    lab.admin({ command: 'createUser', name: 'alice' })
    const AuthKey = lab.admin({ command: 'createAuthKey', userId: 1 }).body['preAuthKey'].key as string
    lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Auth: { AuthKey } })
    const poll = (): number => lab.map(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Stream: true, DiscoKey: key('discokey', 'a') })
    lab.storing = 'fail'
    expect(lab.answers.get(poll())?.status).toBe(500)
    expect(lab.server.figures.polls).toBe(0)
    lab.storing = 'now'
    expect(lab.framesOf(poll())).toHaveLength(1)
  })

  test('a poll that is opened and given up while the disk works leaves nothing behind', () => {
    const lab = new Lab()
    const a = lab.node('alice', 'a')
    lab.feed({ type: 'closed', request: a.stream })
    lab.advance(11_000)
    lab.storing = 'hold'
    lab.send({ type: 'admin', command: { command: 'createUser', name: 'bob' } })
    const poll = lab.map(a.machine, { NodeKey: a.NodeKey, Stream: true, DiscoKey: key('discokey', 'a') })
    lab.feed({ type: 'closed', request: poll })
    lab.commit()
    lab.commit()
    expect(lab.server.figures).toMatchObject({ polls: 0, online: 0 })
  })

  test('after a restart everything acknowledged is there, and connected nodes keep their place until they are back', () => {
    const lab = new Lab()
    lab.admin({ command: 'createUser', name: 'alice' })
    lab.admin({ command: 'setPolicy', policy: ALLOW })
    const a = lab.node('alice', 'a')
    const b = lab.node('alice', 'b')
    const nodes = lab.admin({ command: 'listNodes' }).body
    lab.restart()
    expect(lab.admin({ command: 'listNodes' }).body).toEqual(nodes)
    const stream = lab.map(b.machine, { NodeKey: b.NodeKey, Stream: true })
    expect(lab.framesOf(stream)[0]?.Peers).toMatchObject([{ ID: a.id, Online: true }])
    lab.advance(41_000)
    expect(lab.framesOf(stream).at(-1)?.PeersChangedPatch).toMatchObject([{ NodeID: a.id, Online: false }])
  })

  test('numbers and addresses of what was deleted are not given again', () => {
    const lab = new Lab()
    const a = lab.node('alice', 'a')
    lab.admin({ command: 'deleteNode', id: a.id })
    const b = lab.node('alice', 'b')
    expect([b.id, lab.store.state().nodes[0]?.ipv4]).toEqual([a.id + 1, '100.64.0.2'])
    lab.admin({ command: 'deleteNode', id: b.id })
    lab.restart()
    expect(lab.node('alice', 'c').id).toBe(b.id + 1)
  })
})

test('machine laws hold for any mix of requests, on a disk that is slow and sometimes full', () => {
  const commands = (random: SeededRandom): AdminCommand =>
    random.pick<AdminCommand>([
      { command: 'createUser', name: `u${random.below(4)}` },
      { command: 'createAuthKey', userId: 1 + random.below(3), reusable: random.chance(0.5), ephemeral: random.chance(0.5) },
      { command: 'setPolicy', policy: random.pick([ALLOW, '{"acls":[]}', '{', '{"grants":[{"src":["*"],"dst":["*"],"ip":["22"]}]}']) },
      { command: 'deleteNode', id: 1 + random.below(5) },
      { command: 'expireNode', id: 1 + random.below(5), disable: random.chance(0.5) },
      { command: 'renameNode', id: 1 + random.below(5), newName: `n${random.below(4)}` },
      { command: 'approveRoutes', id: 1 + random.below(5), routes: ['10.0.0.0/8'] },
      { command: 'registerLogin', authId: `hskey-authreq-${'a'.repeat(24)}`, user: 'u1' },
      { command: 'listNodes' },
    ])
  let request = 0
  const arbitraryInput = (random: SeededRandom): ControlServerInput => {
    request += 1
    const name = `n${random.below(6)}`
    const machineKey = key('mkey', name)
    const NodeKey = key('nodekey', random.chance(0.9) ? name : `x${random.below(3)}`)
    const Hostinfo = { Hostname: random.pick(['', name, 'x'.repeat(300), '..', 'Ünï code']), RoutableIPs: random.chance(0.5) ? ['10.0.0.0/8', 'bad'] : [] }
    return random.pick<() => ControlServerInput>([
      () => ({ type: 'register', request, machineKey, source: `192.0.2.${random.below(3)}`, body: { Version: random.pick([142, 113, 1]), NodeKey, Hostinfo, ...(random.chance(0.2) && { Expiry: '1970-01-01T00:02:03Z' }) } }),
      () => ({ type: 'map', request, machineKey, body: { Version: 142, NodeKey, Stream: random.chance(0.5), OmitPeers: random.chance(0.5), Hostinfo, Endpoints: [random.pick(['1.2.3.4:5', '', 'x', '127.0.0.1:4'])] } }),
      () => ({ type: 'admin', request, command: commands(random) }),
      () => ({ type: random.pick(['closed', 'blocked', 'drained'] as const), request: random.below(request + 1) }),
    ])()
  }
  // The store of this law: it answers each commit before the next input, now and then with a failure.
  class Stored extends ControlServer {
    readonly #fail = new SeededRandom(3)
    override pollOutput(): ControlServerOutput | undefined {
      const output = super.pollOutput()
      if (output?.type === 'commit') pending = { commit: output.commit, failed: this.#fail.chance(0.1) }
      return output
    }
    override handleInput(now: Parameters<ControlServer['handleInput']>[0], input: ControlServerInput): void {
      super.handleInput(now, input)
      if (pending === undefined || this.#fail.chance(0.3)) return
      const { commit, failed } = pending
      pending = undefined
      super.handleInput(now, failed ? { type: 'commitFailed', commit, reason: 'full' } : { type: 'committed', commit })
    }
  }
  let pending: { commit: number; failed: boolean } | undefined
  machineLaws<ControlServerInput, ControlServerOutput>({
    make: (random, now) => {
      pending = undefined
      request = 0
      return new Stored(now, {
        config: controlServerConfig({ serverUrl: 'http://c.test', baseDomain: 'm.test', maxPendingLogins: 20 }),
        state: emptyState(),
        random: (length) => random.bytes(length),
        wallClock: () => 1_767_225_600_000 + now,
      })
    },
    arbitraryInput,
    exercise: (machine, now) => {
      machine.handleInput(now, { type: 'admin', request: 1_000_000, command: { command: 'createUser', name: 'u0' } })
    },
    stateOf: (machine) => (machine instanceof ControlServer ? machine.phase : 'idle'),
    states: ['idle', 'committing'],
    memory: { size: (machine) => (machine instanceof ControlServer ? machine.figures.pendingLogins : 0), bound: 20 },
    inputs: 400,
  })
})
