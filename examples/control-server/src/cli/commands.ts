import { createInterface } from 'node:readline/promises'
import type { AuthKeyView, NodeView, SshCheckView, UserView } from '@meshwright/control-server'
import { MAX_POLICY_BYTES, readText } from '../bounded-file.ts'
import { parseDuration } from '../config/duration.ts'
import { Failure } from '../failure.ts'
import { type Arguments, type Flag, wrong } from './arguments.ts'
import { ask } from './client.ts'
import { type OutputForm, shortTime, table, write } from './output.ts'

/** What a command runs with. */
export interface Run {
  readonly args: Arguments
  readonly socket: string
  readonly form: OutputForm
  /** `users create`: for messages. */
  readonly name: string
}

/** One command of a group. */
export interface Command {
  readonly names: readonly [string, ...string[]]
  readonly help: string
  readonly usage?: string
  readonly flags: readonly Flag[]
  run(run: Run): Promise<void>
}

/** A group of commands. */
export interface Group {
  readonly names: readonly [string, ...string[]]
  readonly help: string
  readonly commands: readonly Command[]
}

const ID: Flag = { name: 'identifier', short: 'i', kind: 'text', value: 'ID', help: 'number of the thing, as the list shows it' }
const FORCE: Flag = { name: 'force', kind: 'switch', help: 'do not ask' }

const users: Group = {
  names: ['users', 'user'],
  help: 'who owns nodes',
  commands: [
    {
      names: ['create', 'c', 'new'],
      help: 'add a user',
      usage: 'NAME',
      flags: [
        { name: 'display-name', short: 'd', kind: 'text', value: 'TEXT', help: 'name for people' },
        { name: 'email', short: 'e', kind: 'text', value: 'ADDRESS', help: 'e-mail address: policies can name the user by it' },
        { name: 'picture-url', short: 'p', kind: 'text', value: 'URL', help: 'picture shown by clients' },
      ],
      async run(run) {
        const name = onlyPositional(run, 'NAME')
        const given = { displayName: run.args.text('display-name'), email: run.args.text('email'), pictureUrl: run.args.text('picture-url') }
        const { user } = await ask(run.socket, { command: 'createUser', name, ...present(given) })
        write(run.form, user, () => `User ${name} was created (id ${(user as UserView).id}).`)
      },
    },
    {
      names: ['list', 'ls', 'show'],
      help: 'show users',
      flags: [ID, { name: 'name', short: 'n', kind: 'text', value: 'NAME', help: 'this one only' }, { name: 'email', short: 'e', kind: 'text', value: 'ADDRESS', help: 'this one only' }],
      async run(run) {
        const id = run.args.text('identifier')
        const list = await listUsers(run, present({ id: id === undefined ? undefined : number(run, id), name: run.args.text('name'), email: run.args.text('email') }))
        write(run.form, list, () =>
          table(['ID', 'Name', 'Display name', 'E-mail', 'Created'], list.map((user) => [user.id, user.name, user.displayName || '-', user.email || '-', shortTime(user.createdAt)])),
        )
      },
    },
    {
      names: ['rename', 'mv'],
      help: 'give a user another name',
      flags: [ID, { name: 'name', short: 'n', kind: 'text', value: 'NAME', help: 'the user, by name' }, { name: 'new-name', short: 'r', kind: 'text', value: 'NAME', help: 'the new name' }],
      async run(run) {
        const newName = run.args.text('new-name') ?? fail(run, '--new-name is missing')
        const { user } = await ask(run.socket, { command: 'renameUser', id: Number((await chosenUser(run)).id), newName })
        write(run.form, user, () => `The user is called ${newName} now.`)
      },
    },
    {
      names: ['destroy', 'delete'],
      help: 'remove a user without nodes, and its auth keys',
      flags: [ID, { name: 'name', short: 'n', kind: 'text', value: 'NAME', help: 'the user, by name' }, FORCE],
      async run(run) {
        const user = await chosenUser(run)
        await confirm(run, `Remove user ${user.name} and its auth keys?`)
        const answer = await ask(run.socket, { command: 'deleteUser', id: Number(user.id) })
        write(run.form, answer, () => `User ${user.name} was removed.`)
      },
    },
  ],
}

const nodes: Group = {
  names: ['nodes', 'node'],
  help: 'the devices of the mesh',
  commands: [
    {
      names: ['list', 'ls', 'show'],
      help: 'show nodes',
      flags: [{ name: 'user', short: 'u', kind: 'text', value: 'NAME', help: 'only those of this user' }],
      async run(run) {
        const list = await listNodes(run, run.args.text('user'))
        write(run.form, list, () => nodeTable(list))
        await warnWithoutPolicy(run)
      },
    },
    {
      names: ['list-routes', 'lsr', 'routes'],
      help: 'show who offers which routes',
      flags: [ID],
      async run(run) {
        const id = run.args.text('identifier')
        const list = (await listNodes(run, undefined)).filter((node) => (id === undefined ? node.availableRoutes.length + node.approvedRoutes.length > 0 : node.id === id))
        write(run.form, list, () =>
          table(['ID', 'Name', 'Approved', 'Available', 'Serving (primary)'], list.map((node) => [node.id, node.givenName, joined(node.approvedRoutes), joined(node.availableRoutes), joined(node.subnetRoutes)])),
        )
      },
    },
    {
      names: ['approve-routes'],
      help: 'set the approved routes of a node; an empty list takes all away',
      flags: [ID, { name: 'routes', short: 'r', kind: 'list', value: 'CIDR,...', help: 'all routes that are to be approved' }],
      run: (run) => nodeCommand(run, (id) => ({ command: 'approveRoutes', id, routes: run.args.list('routes') }), (node) => `Approved for ${node.givenName}: ${joined(node.approvedRoutes)}.`),
    },
    {
      names: ['register'],
      help: 'let a waiting device in (as auth register)',
      flags: [{ name: 'user', short: 'u', kind: 'text', value: 'NAME', help: 'the owner' }, { name: 'key', short: 'k', kind: 'text', value: 'ID', help: 'id from the login URL' }],
      run: (run) => registerLogin(run, run.args.text('key') ?? fail(run, '--key is missing')),
    },
    {
      names: ['expire', 'logout', 'e'],
      help: 'end the life of a node\'s key, now or at a time; --disable: it never expires',
      flags: [ID, { name: 'expiry', short: 'e', kind: 'text', value: 'TIME', help: 'RFC 3339 time or a duration from now' }, { name: 'disable', short: 'd', kind: 'switch', help: 'never expire' }],
      run: (run) =>
        nodeCommand(
          run,
          (id) => ({ command: 'expireNode', id, ...present({ expiry: moment(run, run.args.text('expiry')) }), disable: run.args.has('disable') }),
          (node) => (node.expiry === null ? `${node.givenName} never expires.` : `The key of ${node.givenName} expires at ${shortTime(node.expiry)} UTC.`),
        ),
    },
    {
      names: ['rename'],
      help: 'give a node another name',
      usage: 'NAME',
      flags: [ID],
      run: (run) => nodeCommand(run, (id) => ({ command: 'renameNode', id, newName: onlyPositional(run, 'NAME') }), (node) => `The node is called ${node.givenName} now.`),
    },
    {
      names: ['tag', 'tags', 't'],
      help: 'set the tags of a node; it then belongs to nobody and never expires',
      flags: [ID, { name: 'tags', short: 't', kind: 'list', value: 'tag:x,...', help: 'all its tags' }],
      run: (run) => nodeCommand(run, (id) => ({ command: 'setTags', id, tags: run.args.list('tags') }), (node) => `${node.givenName} carries ${joined(node.tags)}.`),
    },
    {
      names: ['delete', 'del'],
      help: 'remove a node',
      flags: [ID, FORCE],
      async run(run) {
        const id = nodeId(run)
        const { node } = await ask(run.socket, { command: 'getNode', id })
        await confirm(run, `Remove node ${(node as NodeView).givenName}?`)
        const answer = await ask(run.socket, { command: 'deleteNode', id })
        write(run.form, answer, () => `Node ${(node as NodeView).givenName} was removed.`)
      },
    },
  ],
}

const preauthkeys: Group = {
  names: ['preauthkeys', 'preauthkey', 'authkey', 'pre'],
  help: 'keys that let devices in without a login',
  commands: [
    {
      names: ['create', 'c', 'new'],
      help: 'make a key; it is shown this once',
      flags: [
        { name: 'user', short: 'u', kind: 'text', value: 'ID', help: 'number of the owner of the nodes it lets in' },
        { name: 'reusable', kind: 'switch', help: 'more than one device may use it' },
        { name: 'ephemeral', kind: 'switch', help: 'its nodes are deleted after a time offline' },
        { name: 'expiration', short: 'e', kind: 'text', value: 'DURATION', help: 'how long it is good, such as 30m, 24h, 90d (default 1h)' },
        { name: 'tags', kind: 'list', value: 'tag:x,...', help: 'its nodes carry these tags and belong to nobody' },
      ],
      async run(run) {
        const user = run.args.text('user')
        const text = run.args.text('expiration') ?? '1h'
        const duration = parseDuration(text)
        if (duration === undefined || duration <= 0) throw wrong(`--expiration ${text}: expected a duration such as 30m, 24h or 90d, at most 1000y`, run.name)
        const { preAuthKey } = await ask(run.socket, {
          command: 'createAuthKey',
          reusable: run.args.has('reusable'),
          ephemeral: run.args.has('ephemeral'),
          tags: run.args.list('tags'),
          expiration: Date.now() + duration,
          ...present({ userId: user === undefined ? undefined : await userId(run, user) }),
        })
        write(run.form, preAuthKey, () => (preAuthKey as AuthKeyView).key)
      },
    },
    {
      names: ['list', 'ls', 'show'],
      help: 'show keys, without their secrets',
      flags: [{ name: 'user', short: 'u', kind: 'text', value: 'ID', help: 'only those of this user' }],
      async run(run) {
        const { preAuthKeys } = await ask(run.socket, { command: 'listAuthKeys' })
        const wanted = run.args.text('user')
        const list = (preAuthKeys as AuthKeyView[]).filter((key) => wanted === undefined || key.user?.id === wanted || key.user?.name === wanted)
        write(run.form, list, () =>
          table(
            ['ID', 'Key', 'Owner', 'Reusable', 'Ephemeral', 'Used', 'Expires', 'Created'],
            list.map((key) => [key.id, key.key, key.user?.name ?? joined(key.aclTags), yes(key.reusable), yes(key.ephemeral), yes(key.used), shortTime(key.expiration), shortTime(key.createdAt)]),
          ),
        )
      },
    },
    ...(['expire', 'delete'] as const).map(
      (verb): Command => ({
        names: [verb],
        help: verb === 'expire' ? 'end the life of a key' : 'remove a key from the list',
        flags: [{ name: 'id', short: 'i', kind: 'text', value: 'ID', help: 'number of the key, as the list shows it' }],
        async run(run) {
          const text = run.args.text('id') ?? run.args.positional[0] ?? fail(run, '--id is missing')
          const answer = await ask(run.socket, { command: verb === 'expire' ? 'expireAuthKey' : 'deleteAuthKey', id: number(run, text) })
          write(run.form, answer, () => `Key ${text} ${verb === 'expire' ? 'lets nobody in any more' : 'was removed'}.`)
        },
      }),
    ),
  ],
}

const AUTH_ID: Flag = { name: 'auth-id', kind: 'text', value: 'ID', help: 'id from the login URL, or the whole URL' }

const auth: Group = {
  names: ['auth'],
  help: 'devices that wait for approval',
  commands: [
    {
      names: ['register'],
      help: 'let a waiting device in',
      flags: [AUTH_ID, { name: 'user', short: 'u', kind: 'text', value: 'NAME', help: 'the owner' }],
      run: (run) => registerLogin(run, authId(run)),
    },
    {
      names: ['reject'],
      help: 'turn a waiting device away',
      flags: [AUTH_ID],
      async run(run) {
        const answer = await ask(run.socket, { command: 'rejectLogin', authId: authId(run) })
        write(run.form, answer, () => 'The device was turned away.')
      },
    },
    { names: ['approve'], help: 'let an SSH session begin (as ssh approve)', flags: [AUTH_ID], run: (run) => decideSsh(run, 'approveSshCheck') },
  ],
}

const SSH_ID: Flag = { name: 'auth-id', kind: 'text', value: 'ID', help: 'id from the message of the session, or the whole URL' }

const ssh: Group = {
  names: ['ssh'],
  help: 'SSH sessions that wait for approval, because the policy says "check"',
  commands: [
    {
      names: ['list', 'ls', 'show'],
      help: 'show sessions that wait',
      flags: [],
      async run(run) {
        const { sshChecks } = await ask(run.socket, { command: 'listSshChecks' })
        const list = sshChecks as SshCheckView[]
        write(run.form, list, () =>
          table(['ID', 'From', 'Owner', 'To', 'As', 'Asked'], list.map((check) => [check.authId, check.source.givenName, check.source.user || '-', check.destination.givenName, check.localUser, shortTime(check.askedAt)])),
        )
      },
    },
    { names: ['approve'], help: 'let a session begin; the approval holds for the checkPeriod of the rule', flags: [SSH_ID], run: (run) => decideSsh(run, 'approveSshCheck') },
    { names: ['reject'], help: 'refuse a session', flags: [SSH_ID], run: (run) => decideSsh(run, 'rejectSshCheck') },
  ],
}

const FILE: Flag = { name: 'file', short: 'f', kind: 'text', value: 'FILE', help: 'the policy (HuJSON); - reads standard input' }

const policy: Group = {
  names: ['policy'],
  help: 'who may reach what',
  commands: [
    {
      names: ['get', 'show', 'view'],
      help: 'print the policy in force',
      flags: [],
      async run(run) {
        const answer = await ask(run.socket, { command: 'getPolicy' })
        write(run.form, answer, () => String(answer['policy']).trimEnd())
      },
    },
    ...(['set', 'check'] as const).map(
      (verb): Command => ({
        names: [verb],
        help: verb === 'set' ? 'put a policy in force; its tests run first' : 'say whether a policy would be taken; changes nothing',
        flags: [FILE],
        async run(run) {
          const text = readText(run.args.text('file') ?? fail(run, '--file is missing'), MAX_POLICY_BYTES, { what: 'the policy', remedy: 'check --file' })
          const answer = await ask(run.socket, { command: verb === 'set' ? 'setPolicy' : 'checkPolicy', policy: text })
          write(run.form, answer, () => (verb === 'set' ? 'The policy is in force.' : 'The policy is fine.'))
        },
      }),
    ),
  ],
}

/** All groups of commands. */
export const GROUPS: readonly Group[] = [users, nodes, preauthkeys, auth, ssh, policy]

/** Says on standard error that nothing can reach anything. */
export async function warnWithoutPolicy(run: Pick<Run, 'socket'>): Promise<void> {
  const { policy: state } = await ask(run.socket, { command: 'health' })
  if (typeof state === 'string' && !state.startsWith('set')) process.stderr.write(`note: policy: ${state}\n`)
}

function authId(run: Run): string {
  return run.args.text('auth-id') ?? fail(run, '--auth-id is missing')
}

async function decideSsh(run: Run, command: 'approveSshCheck' | 'rejectSshCheck'): Promise<void> {
  const { sshCheck } = await ask(run.socket, { command, authId: authId(run) })
  const { source, destination, localUser } = sshCheck as SshCheckView
  write(run.form, sshCheck, () => `SSH from ${source.givenName} to ${destination.givenName} as ${localUser} was ${command === 'approveSshCheck' ? 'approved' : 'refused'}.`)
}

async function registerLogin(run: Run, authId: string): Promise<void> {
  const user = run.args.text('user') ?? fail(run, '--user is missing')
  const { node } = await ask(run.socket, { command: 'registerLogin', authId, user })
  write(run.form, node, () => `Node ${(node as NodeView).givenName} joined (id ${(node as NodeView).id}).`)
}

async function nodeCommand(run: Run, make: (id: number) => Parameters<typeof ask>[1], people: (node: NodeView) => string): Promise<void> {
  const { node } = await ask(run.socket, make(nodeId(run)))
  write(run.form, node, () => people(node as NodeView))
}

async function listUsers(run: Run, filter: { id?: number; name?: string; email?: string }): Promise<UserView[]> {
  const { users: list } = await ask(run.socket, { command: 'listUsers', ...filter })
  return list as UserView[]
}

async function listNodes(run: Run, user: string | undefined): Promise<NodeView[]> {
  const { nodes: list } = await ask(run.socket, { command: 'listNodes', ...present({ user }) })
  return list as NodeView[]
}

async function chosenUser(run: Run): Promise<UserView> {
  const id = run.args.text('identifier')
  const name = run.args.text('name') ?? run.args.positional[0]
  if (id === undefined && name === undefined) throw wrong('name the user with -i ID or -n NAME', run.name)
  const [user] = await listUsers(run, id !== undefined ? { id: number(run, id) } : present({ name }))
  if (user === undefined) throw new Failure(`user ${id ?? name} not found`, { remedy: 'users list shows them' })
  return user
}

async function userId(run: Run, text: string): Promise<number> {
  if (/^[0-9]+$/.test(text)) return Number(text)
  const [user] = await listUsers(run, { name: text })
  if (user === undefined) throw new Failure(`user ${text} not found`, { remedy: 'users list shows them' })
  return Number(user.id)
}

function nodeTable(list: readonly NodeView[]): string {
  return table(
    ['ID', 'Name', 'Owner', 'Addresses', 'Online', 'Ephemeral', 'Last seen', 'Expires'],
    list.map((node) => [
      node.id,
      node.givenName,
      node.user?.name ?? joined(node.tags),
      joined(node.ipAddresses),
      yes(node.online),
      yes(node.ephemeral),
      node.online ? 'now' : shortTime(node.lastSeen),
      node.expiry === null ? 'never' : Date.parse(node.expiry) <= Date.now() ? 'expired' : shortTime(node.expiry),
    ]),
  )
}

async function confirm(run: Run, question: string): Promise<void> {
  if (run.args.has('force')) return
  if (!process.stdin.isTTY) throw new Failure(`${question} Nobody is there to answer.`, { remedy: 'add --force', status: 2 })
  const prompt = createInterface({ input: process.stdin, output: process.stderr })
  const answer = await prompt.question(`${question} [y/N] `)
  prompt.close()
  if (!/^y(es)?$/i.test(answer.trim())) throw new Failure('nothing was changed')
}

function nodeId(run: Run): number {
  return number(run, run.args.text('identifier') ?? fail(run, '--identifier is missing'))
}

function number(run: Run, text: string): number {
  return /^[0-9]{1,15}$/.test(text) ? Number(text) : fail(run, `"${text}" is no id: ids are numbers`)
}

function moment(run: Run, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const duration = parseDuration(text)
  const at = duration === undefined ? Date.parse(text) : Date.now() + duration
  return Number.isNaN(at) ? fail(run, `--expiry ${text}: expected a time such as 2027-01-31T12:00:00Z, or a duration`) : at
}

function onlyPositional(run: Run, what: string): string {
  const [first, second] = run.args.positional
  if (first === undefined) return fail(run, `${what} is missing`)
  return second === undefined ? first : fail(run, `"${second}" is one word too many`)
}

function fail(run: Run, message: string): never {
  throw wrong(message, run.name)
}

/** Without the members that are undefined. */
function present<T extends object>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: Exclude<T[K], undefined> }
}

function joined(items: readonly string[]): string {
  return items.length === 0 ? '-' : items.join(', ')
}

function yes(value: boolean): string {
  return value ? 'yes' : 'no'
}
