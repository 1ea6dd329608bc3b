import type { AdminCommand } from './admin-commands.ts'

type Kind = 'id' | 'text' | 'texts' | 'flag' | 'time'
/** Members of each command; those with `?` may be missing. */
type Members = Readonly<Record<string, Kind | `${Kind}?`>>

const COMMANDS: { readonly [C in AdminCommand['command']]: Members } = {
  createUser: { name: 'text', displayName: 'text?', email: 'text?', pictureUrl: 'text?' },
  listUsers: { id: 'id?', name: 'text?', email: 'text?' },
  renameUser: { id: 'id', newName: 'text' },
  deleteUser: { id: 'id' },
  listNodes: { user: 'text?' },
  getNode: { id: 'id' },
  expireNode: { id: 'id', expiry: 'time?', disable: 'flag?' },
  renameNode: { id: 'id', newName: 'text' },
  deleteNode: { id: 'id' },
  setTags: { id: 'id', tags: 'texts' },
  approveRoutes: { id: 'id', routes: 'texts' },
  createAuthKey: { userId: 'id?', reusable: 'flag?', ephemeral: 'flag?', tags: 'texts?', expiration: 'time?' },
  listAuthKeys: {},
  expireAuthKey: { id: 'id' },
  deleteAuthKey: { id: 'id' },
  registerLogin: { authId: 'text', user: 'text' },
  rejectLogin: { authId: 'text' },
  getLogin: { authId: 'text' },
  listSshChecks: {},
  getSshCheck: { authId: 'text' },
  approveSshCheck: { authId: 'text' },
  rejectSshCheck: { authId: 'text' },
  getPolicy: {},
  setPolicy: { policy: 'text' },
  clearPolicy: {},
  checkPolicy: { policy: 'text' },
  health: {},
}

/** The command that a JSON value is; `undefined` for anything else, unknown members included: a typing error must not become a default. */
export function decodeAdminCommand(value: unknown): AdminCommand | undefined {
  if (typeof value !== 'object' || value === null || !('command' in value) || typeof value.command !== 'string') return undefined
  const members = Object.entries(COMMANDS).find(([name]) => name === value.command)?.[1]
  if (members === undefined) return undefined
  const given = new Map<string, unknown>(Object.entries(value))
  given.delete('command')
  for (const [name, kind] of Object.entries(members)) {
    const item = given.get(name)
    given.delete(name)
    if (item === undefined ? !kind.endsWith('?') : !fits(item, kind)) return undefined
  }
  // Sound: every member of the command named was checked against the table above, and there are no others.
  return given.size === 0 ? (value as AdminCommand) : undefined
}

function fits(item: unknown, kind: string): boolean {
  switch (kind.replace('?', '')) {
    case 'id':
      return typeof item === 'number' && Number.isSafeInteger(item) && item >= 0
    case 'time':
      return typeof item === 'number' && Number.isSafeInteger(Math.floor(item)) && item >= 0 && item < LAST_TIME
    case 'text':
      return typeof item === 'string'
    case 'texts':
      return Array.isArray(item) && item.every((one) => typeof one === 'string')
    default:
      return typeof item === 'boolean'
  }
}

/** The year 10000: RFC 3339 ends before it. */
const LAST_TIME = 253_402_300_800_000
