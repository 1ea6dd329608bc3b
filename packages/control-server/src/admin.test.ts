import { expect, test } from 'vitest'
import { Lab } from './server-lab.test.ts'

test('users are made, listed, renamed and removed; names are unique and checked', () => {
  const lab = new Lab()
  expect(lab.admin({ command: 'createUser', name: 'alice', displayName: 'Alice', email: 'alice@example.com' }).body['user']).toMatchObject({ id: '1', name: 'alice', email: 'alice@example.com', createdAt: '2026-01-01T00:00:00Z' })
  expect(lab.admin({ command: 'createUser', name: 'alice' })).toMatchObject({ status: 409, body: { message: 'user alice exists already', remedy: expect.any(String) } })
  expect(lab.admin({ command: 'createUser', name: 'a b' }).status).toBe(400)
  // It would be taken for a number: whoever has it would be meant where user 1 was named.
  expect(lab.admin({ command: 'createUser', name: '1' })).toMatchObject({ status: 400, body: { message: '"1" cannot be a user name' } })
  expect(lab.admin({ command: 'renameUser', id: 1, newName: '007' }).status).toBe(400)
  expect(lab.admin({ command: 'renameUser', id: 1, newName: 'al' }).body['user'].name).toBe('al')
  expect(lab.admin({ command: 'renameUser', id: 9, newName: 'x' })).toMatchObject({ status: 404, body: { message: 'user 9 not found', remedy: 'users list' } })
  expect(lab.admin({ command: 'deleteUser', id: 1 }).status).toBe(200)
  expect(lab.admin({ command: 'listUsers' }).body['users']).toEqual([])
})

test('a user with nodes is not removed', () => {
  const lab = new Lab()
  lab.node('alice', 'a')
  expect(lab.admin({ command: 'deleteUser', id: 1 })).toMatchObject({ status: 400, body: { message: 'user alice still has 1 node' } })
})

test('removing a user ends its auth keys', () => {
  const lab = new Lab()
  lab.admin({ command: 'createUser', name: 'alice' })
  lab.admin({ command: 'createAuthKey', userId: 1 })
  lab.admin({ command: 'deleteUser', id: 1 })
  expect(lab.store.state().authKeys).toEqual([])
})

test('auth keys need a user or tags, and a life of one hour unless told', () => {
  const lab = new Lab()
  lab.admin({ command: 'createUser', name: 'alice' })
  expect(lab.admin({ command: 'createAuthKey' }).status).toBe(400)
  expect(lab.admin({ command: 'createAuthKey', userId: 7 }).status).toBe(404)
  expect(lab.admin({ command: 'createAuthKey', tags: ['srv'] }).status).toBe(400)
  const created = lab.admin({ command: 'createAuthKey', userId: 1 }).body['preAuthKey']
  expect(created).toMatchObject({ id: '1', expiration: '2026-01-01T01:00:00Z', used: false, user: { name: 'alice' } })
  expect(created.key).toMatch(/^hskey-auth-[0-9a-f]{12}-[0-9a-f]{64}$/)
  expect(lab.admin({ command: 'listAuthKeys' }).body['preAuthKeys'][0].key).toMatch(/^hskey-auth-[0-9a-f]{12}-\*\*\*$/)
})

test('names of nodes: collisions get a number, an administrator may choose, and a new host name does not undo that', () => {
  const lab = new Lab()
  const a = lab.node('alice', 'pc')
  const b = lab.node('bob', 'PC')
  expect(lab.admin({ command: 'listNodes' }).body['nodes'].map((node: { givenName: string }) => node.givenName)).toEqual(['pc', 'pc-1'])
  expect(lab.admin({ command: 'renameNode', id: b.id, newName: 'pc' }).status).toBe(400)
  expect(lab.admin({ command: 'renameNode', id: b.id, newName: 'Not A Label' }).status).toBe(400)
  lab.admin({ command: 'renameNode', id: b.id, newName: 'desk' })
  lab.map(b.machine, { NodeKey: b.NodeKey, OmitPeers: true, Hostinfo: { Hostname: 'other' } })
  lab.map(a.machine, { NodeKey: a.NodeKey, OmitPeers: true, Hostinfo: { Hostname: 'moved' } })
  expect(lab.store.state().nodes.map((node) => node.givenName)).toEqual(['moved', 'desk'])
})

test('every change is told to the audit log, with who, what and to what', () => {
  const lab = new Lab()
  const a = lab.node('alice', 'a')
  lab.admin({ command: 'deleteNode', id: a.id })
  expect(lab.audit.map((event) => [event.actor, event.action, event.target])).toEqual([
    ['admin', 'user.create', 'user:alice'],
    ['admin', 'authkey.create', 'authkey:1'],
    ['authkey:1', 'node.register', 'node:1'],
    ['admin', 'node.delete', 'node:1'],
  ])
})
