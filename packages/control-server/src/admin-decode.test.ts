import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeAdminCommand } from './index.ts'
import { Lab } from './server-lab.test.ts'

test.each([
  { command: 'renameUser', id: 1, newName: 'x' }, { command: 'health' }, { command: 'createAuthKey', tags: ['tag:a'], expiration: 1.8e12 },
])('%j is a command', (value) => expect(decodeAdminCommand(value)).toBe(value))

test.each([
  null, 1, {}, { command: 1 }, { command: 'toString' }, { command: '__proto__' }, { command: 'renameUser', id: '1', newName: 'x' }, { command: 'renameUser', id: 1 },
  { command: 'health', more: 1 }, { command: 'setPolicy', policy: 5 }, { command: 'setTags', id: 1, tags: 'tag:a' }, { command: 'expireNode', id: 1, expiry: 1e300 },
])('%j is none', (value) => expect(decodeAdminCommand(value)).toBeUndefined())

test('whatever decodes is answered', () => {
  const lab = new Lab()
  lab.node('alice', 'a')
  const text = fc.oneof(fc.string(), fc.constantFrom('alice', '1', '{"acls":[]}', 'tag:a'))
  const id = fc.integer({ min: 0, max: 3 })
  fc.assert(
    fc.property(
      fc.oneof(
        fc.record({ command: fc.constantFrom('createUser'), name: text }),
        fc.record({ command: fc.constantFrom('renameUser', 'renameNode'), id, newName: text }),
        fc.record({ command: fc.constantFrom('setTags'), id, tags: fc.array(text) }),
        fc.record({ command: fc.constantFrom('approveRoutes'), id, routes: fc.array(text) }),
        fc.record({ command: fc.constantFrom('registerLogin'), authId: text, user: text }),
        fc.record({ command: fc.constantFrom('setPolicy', 'checkPolicy'), policy: text }),
        fc.record({ command: fc.constantFrom('expireNode'), id, expiry: fc.integer({ min: 0 }) }),
      ),
      (value) => {
        const command = decodeAdminCommand(value)
        return command !== undefined && lab.admin(command).status < 500
      },
    ),
    { numRuns: 300 },
  )
})
