import { describe, expect, test } from 'vitest'
import { key, Lab } from './server-lab.test.ts'

const POLICY = '{"tagOwners":{"tag:srv":["alice@"],"tag:other":[]},"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}'

function withUser(): { lab: Lab; authKey: (more?: Partial<{ reusable: boolean; ephemeral: boolean; tags: string[]; expiration: number }>) => string } {
  const lab = new Lab()
  lab.admin({ command: 'createUser', name: 'alice' })
  lab.admin({ command: 'setPolicy', policy: POLICY })
  const authKey = (more = {}): string => lab.admin({ command: 'createAuthKey', userId: 1, ...more }).body['preAuthKey'].key as string
  return { lab, authKey }
}

function join(lab: Lab, name: string, AuthKey: string, more = {}): ReturnType<Lab['registered']> {
  return lab.registered(lab.register(key('mkey', name), { NodeKey: key('nodekey', name), Auth: { AuthKey }, Hostinfo: { Hostname: name }, ...more }))
}

describe('auth keys', () => {
  test('a one-off key lets exactly one of 200 devices in', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey()
    const results = Array.from({ length: 200 }, (_, i) => join(lab, `n${i}`, AuthKey).Error)
    expect(results.filter((error) => error === '')).toHaveLength(1)
    expect(new Set(results.filter((error) => error !== ''))).toEqual(new Set(['authkey already used']))
    expect(lab.store.state().nodes).toHaveLength(1)
  })

  test('requests that arrive while the disk works wait, and a one-off key still works once', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey()
    lab.storing = 'hold'
    const first = lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Auth: { AuthKey } })
    const second = lab.register(key('mkey', 'b'), { NodeKey: key('nodekey', 'b'), Auth: { AuthKey } })
    expect(lab.answers.has(first)).toBe(false)
    expect(lab.answers.has(second)).toBe(false)
    lab.commit()
    expect(lab.registered(first).Error).toBe('')
    expect(lab.registered(second).Error).toBe('authkey already used')
  })

  test('a reusable key lets many in until it expires', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey({ reusable: true, expiration: lab.clock.wallClock() + 60_000 })
    expect(join(lab, 'a', AuthKey).Error).toBe('')
    expect(join(lab, 'b', AuthKey).Error).toBe('')
    lab.advance(60_000)
    expect(join(lab, 'c', AuthKey).Error).toBe('authkey expired')
  })

  test('a key that an administrator ended is refused', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey()
    lab.admin({ command: 'expireAuthKey', id: 1 })
    expect(join(lab, 'a', AuthKey).Error).toBe('authkey revoked')
  })

  test.each(['', 'x', 'hskey-auth-000000000000-' + '0'.repeat(64), 'tskey-auth-abc'])('the key %j is nobody', (text) => {
    const { lab } = withUser()
    const answer = lab.registered(lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Auth: { AuthKey: text } }))
    expect(text === '' ? answer.AuthURL : answer.Error).not.toBe('')
    expect(lab.store.state().nodes).toHaveLength(0)
  })

  test('a changed character of the secret is refused', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey()
    const wrong = AuthKey.slice(0, -1) + (AuthKey.endsWith('0') ? '1' : '0')
    expect(join(lab, 'a', wrong).Error).toBe('invalid pre auth key')
  })

  test('the secret is in no record, no listing and no audit event', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey()
    join(lab, 'a', AuthKey)
    const shown = JSON.stringify([lab.store.state(), lab.admin({ command: 'listAuthKeys' }), lab.admin({ command: 'listNodes' }), lab.audit])
    expect(shown).not.toContain(AuthKey.slice(-64))
    expect(shown).toContain('hskey-auth-')
  })

  test('a tagged key makes a node that nobody owns and that never expires', () => {
    const lab = new Lab({ nodeExpiryMs: 1000 })
    const AuthKey = lab.admin({ command: 'createAuthKey', tags: ['tag:srv'] }).body['preAuthKey'].key as string
    expect(join(lab, 'a', AuthKey).Login?.LoginName).toBe('tagged-devices')
    expect(lab.store.state().nodes[0]).toMatchObject({ tags: ['tag:srv'], userId: undefined, expiry: undefined })
  })

  test('requested tags must be among those of the key', () => {
    const { lab } = withUser()
    const AuthKey = lab.admin({ command: 'createAuthKey', tags: ['tag:srv'], reusable: true }).body['preAuthKey'].key as string
    expect(join(lab, 'a', AuthKey, { Hostinfo: { RequestTags: ['tag:srv'] } }).Error).toBe('')
    expect(join(lab, 'b', AuthKey, { Hostinfo: { RequestTags: ['tag:other'] } }).Error).toBe('requested tags [tag:other] are invalid or not permitted')
  })
})

describe('known nodes', () => {
  test('a restart with the same keys is accepted unchanged, with a spent key or none, but not with an unknown key', () => {
    const { lab, authKey } = withUser()
    const AuthKey = authKey()
    join(lab, 'a', AuthKey)
    const before = lab.store.state().nodes
    expect(join(lab, 'a', AuthKey).Error).toBe('')
    expect(lab.registered(lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Hostinfo: { Hostname: 'a' } })).MachineAuthorized).toBe(true)
    expect(lab.store.state().nodes).toEqual(before)
    expect(join(lab, 'a', 'hskey-auth-000000000000-' + '0'.repeat(64)).Error).toBe('invalid pre auth key')
  })

  test('a node key belongs to the device that brought it', () => {
    const { lab, authKey } = withUser()
    join(lab, 'a', authKey())
    const stranger = lab.registered(lab.register(key('mkey', 'evil'), { NodeKey: key('nodekey', 'a'), Auth: { AuthKey: authKey() } }))
    expect(stranger.Error).toBe('this node key belongs to another device')
    expect(lab.answers.get(lab.map(key('mkey', 'evil'), { NodeKey: key('nodekey', 'a'), Stream: true }))).toMatchObject({ status: 404 })
    expect(lab.answers.get(lab.map(key('mkey', 'evil'), { NodeKey: key('nodekey', 'nobody'), Stream: true }))).toMatchObject({ status: 404, body: 'node not found' })
    // Without an auth key neither: no login is opened that an administrator could approve by mistake.
    expect(lab.registered(lab.register(key('mkey', 'evil'), { NodeKey: key('nodekey', 'a') }))).toMatchObject({ Error: 'this node key belongs to another device', AuthURL: '' })
    // Logging a stranger's node out changes nothing, and tells nothing.
    expect(lab.registered(lab.register(key('mkey', 'evil'), { NodeKey: key('nodekey', 'a'), Expiry: '1970-01-01T00:02:03Z' })).NodeKeyExpired).toBe(true)
    expect(lab.store.state().nodes[0]?.expiry).toBeUndefined()
  })

  test('a node key that another device took while a login waited is not given away by its approval', () => {
    const { lab, authKey } = withUser()
    const { AuthURL } = lab.registered(lab.register(key('mkey', 'evil'), { NodeKey: key('nodekey', 'a'), Hostinfo: { Hostname: 'evil' } }))
    join(lab, 'a', authKey())
    const before = lab.store.state().nodes
    expect(lab.admin({ command: 'registerLogin', authId: AuthURL, user: 'alice' })).toMatchObject({ status: 400, body: { message: 'this node key belongs to another device' } })
    expect(lab.store.state().nodes).toEqual(before)
  })

  test('a new node key keeps number, name and addresses, and peers get a patch', () => {
    const { lab } = withUser()
    const a = lab.node('alice', 'a')
    const b = lab.node('alice', 'b')
    lab.advance(100)
    const AuthKey = lab.admin({ command: 'createAuthKey', userId: 1 }).body['preAuthKey'].key as string
    const before = lab.framesOf(b.stream).length
    expect(lab.registered(lab.register(a.machine, { NodeKey: key('nodekey', 'new'), OldNodeKey: a.NodeKey, Auth: { AuthKey }, Hostinfo: { Hostname: 'a', OS: 'linux' } })).Error).toBe('')
    lab.advance(100)
    expect(lab.store.state().nodes).toHaveLength(2)
    expect(lab.store.state().nodes.find((node) => node.id === a.id)).toMatchObject({ nodeKey: key('nodekey', 'new'), ipv4: '100.64.0.1', givenName: 'a' })
    expect(lab.framesOf(b.stream).slice(before)).toEqual([{ ControlTime: expect.any(String), PeersChangedPatch: [{ NodeID: a.id, Key: key('nodekey', 'new') }] }])
  })

  test('logout expires the node and its peers learn it; the old key then asks for a new one', () => {
    const { lab } = withUser()
    const a = lab.node('alice', 'a')
    const b = lab.node('alice', 'b')
    lab.advance(100)
    expect(lab.registered(lab.register(a.machine, { NodeKey: a.NodeKey, Expiry: '1970-01-01T00:02:03Z', Auth: { AuthKey: a.auth } })).NodeKeyExpired).toBe(true)
    lab.advance(100)
    expect(lab.framesOf(b.stream).at(-1)?.PeersChanged).toMatchObject([{ ID: a.id, Expired: true }])
    expect(lab.registered(lab.register(a.machine, { NodeKey: a.NodeKey })).NodeKeyExpired).toBe(true)
    expect(lab.server.knowsNodeKey(a.NodeKey)).toBe(false)
  })

  test('logout deletes an ephemeral node', () => {
    const { lab } = withUser()
    const a = lab.node('alice', 'a', { ephemeral: true })
    lab.register(a.machine, { NodeKey: a.NodeKey, Expiry: '1970-01-01T00:02:03Z' })
    expect(lab.store.state().nodes).toHaveLength(0)
  })

  test('a logged-out tagged node comes back by a key of the same tags; a key of other tags makes another node', () => {
    const { lab, authKey } = withUser()
    lab.admin({ command: 'setPolicy', policy: POLICY })
    const a = lab.node('alice', 'a', { tags: ['tag:srv'] })
    lab.feed({ type: 'closed', request: a.stream })
    lab.register(a.machine, { NodeKey: a.NodeKey, Expiry: '1970-01-01T00:02:03Z' })
    expect(lab.admin({ command: 'getNode', id: a.id }).body['node'].online, 'goodbye has no grace').toBe(false)
    const again = (tags: string[], name: string): void => {
      const answer = lab.registered(lab.register(a.machine, { NodeKey: key('nodekey', name), Auth: { AuthKey: authKey({ tags }) }, Hostinfo: { Hostname: 'a' } }))
      expect(answer.Error).toBe('')
    }
    again(['tag:other'], 'n1')
    again(['tag:srv'], 'n2')
    expect(lab.store.state().nodes.map((node) => [node.id, node.tags, node.nodeKey])).toEqual([
      [a.id, ['tag:srv'], key('nodekey', 'n2')],
      [a.id + 1, ['tag:other'], key('nodekey', 'n1')],
    ])
  })

  test('an expired tagged node that names its old key gets the tags of the new auth key, not its old ones', () => {
    const { lab, authKey } = withUser()
    const a = lab.node('alice', 'a', { tags: ['tag:srv'] })
    lab.admin({ command: 'expireNode', id: a.id })
    lab.register(a.machine, { NodeKey: key('nodekey', 'n1'), OldNodeKey: a.NodeKey, Auth: { AuthKey: authKey({ tags: ['tag:other'] }) }, Hostinfo: { Hostname: 'a' } })
    expect(lab.store.state().nodes).toMatchObject([{ id: a.id, tags: ['tag:other'] }])
  })

  test('a client may shorten its life, never lengthen it', () => {
    const lab = new Lab({ nodeExpiryMs: 86_400_000 })
    const a = lab.node('alice', 'a')
    expect(lab.registered(lab.register(a.machine, { NodeKey: a.NodeKey, Expiry: '2030-01-01T00:00:00Z' })).Error).toBe('extending key is not allowed')
    expect(lab.registered(lab.register(a.machine, { NodeKey: a.NodeKey, Expiry: '2026-01-01T12:00:00Z' })).Error).toBe('')
    expect(lab.store.state().nodes[0]?.expiry).toBe(Date.UTC(2026, 0, 1, 12))
  })

  test('clients older than 1.80 are told so', () => {
    const lab = new Lab()
    const request = lab.send({ type: 'register', machineKey: key('mkey', 'a'), body: { Version: 100, NodeKey: key('nodekey', 'a') } })
    expect(lab.answers.get(request)).toMatchObject({ status: 400, body: expect.stringContaining('unsupported client version') })
  })

  test('the same device of another user becomes a second node', () => {
    const { lab, authKey } = withUser()
    join(lab, 'a', authKey())
    lab.admin({ command: 'createUser', name: 'bob' })
    const AuthKey = lab.admin({ command: 'createAuthKey', userId: 2 }).body['preAuthKey'].key as string
    expect(join(lab, 'a', AuthKey).NodeKeyExpired, 'first a new node key is asked for').toBe(true)
    const second = lab.registered(lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a2'), OldNodeKey: key('nodekey', 'a'), Auth: { AuthKey }, Hostinfo: { Hostname: 'a' } }))
    expect(second.Login?.LoginName).toBe('bob')
    expect(lab.store.state().nodes.map((node) => [node.userId, node.givenName])).toEqual([[1, 'a'], [2, 'a-1']])
  })
})

describe('logins by URL', () => {
  const ask = (lab: Lab, name: string, more = {}): ReturnType<Lab['registered']> =>
    lab.registered(lab.register(key('mkey', name), { NodeKey: key('nodekey', name), Hostinfo: { Hostname: name }, ...more }))

  test('a followup is for the device and the node key that asked: any other is asked anew', () => {
    const { lab } = withUser()
    const { AuthURL } = ask(lab, 'a')
    for (const [machine, NodeKey] of [[key('mkey', 'a'), key('nodekey', 'other')], [key('mkey', 'evil'), key('nodekey', 'evil')]] as const) {
      const answer = lab.registered(lab.register(machine, { NodeKey, Followup: AuthURL }))
      expect(answer).toMatchObject({ MachineAuthorized: false, Error: '' })
      expect([answer.AuthURL !== '', answer.AuthURL !== AuthURL]).toEqual([true, true])
    }
  })

  test('the followup is held until somebody approves, then answered with the user', () => {
    const { lab } = withUser()
    const { AuthURL } = ask(lab, 'a')
    expect(AuthURL).toMatch(/^http:\/\/control\.test\/register\/hskey-authreq-[A-Za-z0-9_-]{24}$/)
    const held = lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Followup: AuthURL })
    expect(lab.answers.has(held)).toBe(false)
    expect(lab.admin({ command: 'registerLogin', authId: AuthURL, user: 'alice' }).status).toBe(200)
    expect(lab.registered(held).Login?.LoginName).toBe('alice')
    // A connection that broke at the wrong moment asks again and hears the same.
    expect(lab.registered(lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Followup: AuthURL })).Login?.LoginName).toBe('alice')
  })

  test('a held login hears that it was rejected, also when it asks again', () => {
    const { lab } = withUser()
    const { AuthURL } = ask(lab, 'a')
    const held = lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Followup: AuthURL })
    lab.admin({ command: 'rejectLogin', authId: AuthURL })
    expect(lab.registered(held).Error).toContain('rejected')
    expect(lab.registered(lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Followup: AuthURL })).Error).toContain('rejected')
    expect(lab.admin({ command: 'registerLogin', authId: AuthURL, user: 'alice' }).status).toBe(400)
  })

  test('a login that is over gets a new URL', () => {
    const { lab } = withUser()
    const { AuthURL } = ask(lab, 'a')
    const held = lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Followup: AuthURL })
    lab.advance(15 * 60_000)
    expect(lab.registered(held).AuthURL).not.toBe(AuthURL)
    expect(lab.registered(held).AuthURL).toContain('/register/hskey-authreq-')
    expect(lab.admin({ command: 'registerLogin', authId: AuthURL, user: 'alice' }).status).toBe(404)
  })

  test('another device cannot hold or learn the verdict of a login', () => {
    const { lab } = withUser()
    const { AuthURL } = ask(lab, 'a')
    const thief = lab.register(key('mkey', 'evil'), { NodeKey: key('nodekey', 'evil'), Followup: AuthURL })
    expect(lab.registered(thief).AuthURL).not.toBe(AuthURL)
  })

  test('asking again while waiting gives the same URL', () => {
    const { lab } = withUser()
    expect(ask(lab, 'a').AuthURL).toBe(ask(lab, 'a').AuthURL)
  })

  test('one address opens at most its share of logins, then hears 429', () => {
    const lab = new Lab({ maxPendingPerSource: 3 })
    const statuses = Array.from({ length: 5 }, (_, i) => lab.answers.get(lab.register(key('mkey', `n${i}`), { NodeKey: key('nodekey', `n${i}`) }, '203.0.113.7'))?.status)
    expect(statuses).toEqual([200, 200, 200, 429, 429])
    expect(lab.answers.get(lab.register(key('mkey', 'other'), { NodeKey: key('nodekey', 'other') }, '203.0.113.8'))?.status).toBe(200)
  })

  test('waiting logins are bounded: the oldest that nobody waits for gives way', () => {
    const lab = new Lab({ maxPendingLogins: 10, maxPendingPerSource: 1000 })
    for (let i = 0; i < 500; i += 1) lab.register(key('mkey', `n${i}`), { NodeKey: key('nodekey', `n${i}`) }, `198.51.100.${i % 250}`)
    expect(lab.server.figures.pendingLogins).toBe(10)
  })

  test('requested tags need an owner: the approving user must be one', () => {
    const { lab } = withUser()
    lab.admin({ command: 'createUser', name: 'bob' })
    const { AuthURL } = ask(lab, 'a', { Hostinfo: { Hostname: 'a', RequestTags: ['tag:srv'] } })
    expect(lab.admin({ command: 'registerLogin', authId: AuthURL, user: 'bob' })).toMatchObject({ status: 400, body: { message: 'requested tags [tag:srv] are invalid or not permitted' } })
    expect(lab.admin({ command: 'registerLogin', authId: AuthURL, user: 'alice' }).status).toBe(200)
    expect(lab.store.state().nodes[0]).toMatchObject({ tags: ['tag:srv'], userId: undefined })
  })

  test.each(['', 'x', 'hskey-authreq-short', `hskey-authreq-${'a'.repeat(24)}x`])('%j is no auth id', (authId) => {
    const { lab } = withUser()
    expect(lab.admin({ command: 'registerLogin', authId, user: 'alice' }).status).toBe(400)
  })
})
