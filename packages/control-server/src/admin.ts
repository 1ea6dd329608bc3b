import { formatTime } from '@meshwright/control-protocol'
import type { AdminCommand, AdminProblem } from './admin-commands.ts'
import { authKeyView, nodeView, sshCheckView, userView } from './admin-views.ts'
import { createAuthKey } from './auth-keys.ts'
import type { Context } from './context.ts'
import { canonicalRoutes, isExitRoute, withAutoApproval } from './host-facts.ts'
import { labelProblem } from './names.ts'
import { loginIdIn, type PendingLogin, type PendingLogins } from './pending-logins.ts'
import { parsePrefix } from '@meshwright/ip'
import type { NodeRecord, UserRecord } from './records.ts'
import type { Registration } from './registration.ts'
import type { PrimaryRoutes } from './routes.ts'
import type { SshChecks } from './ssh-checks.ts'
import type { TailnetPolicy } from './tailnet-policy.ts'

const DEFAULT_AUTH_KEY_MS = 3_600_000
const NAME_RULE = /^[a-z0-9][a-z0-9._@+-]{0,254}$/i

/** The answer to a command. */
interface Answer {
  readonly status: number
  readonly body: unknown
}

/** Carries out what administrators ask. Every change is part of the batch it came in; nothing is answered before it is on disk. */
export class Admin {
  readonly #context: Context
  readonly #registration: Registration
  readonly #pending: PendingLogins
  readonly #primaries: PrimaryRoutes
  readonly #policy: TailnetPolicy
  readonly #sshChecks: SshChecks

  constructor(context: Context, registration: Registration, pending: PendingLogins, primaries: PrimaryRoutes, policy: TailnetPolicy, sshChecks: SshChecks) {
    this.#context = context
    this.#registration = registration
    this.#pending = pending
    this.#primaries = primaries
    this.#policy = policy
    this.#sshChecks = sshChecks
  }

  /** Carries out one command and gives the answer, which the caller stages. */
  execute(command: AdminCommand): Answer {
    switch (command.command) {
      case 'createUser':
      case 'listUsers':
      case 'renameUser':
      case 'deleteUser':
        return this.#user(command)
      case 'createAuthKey':
      case 'listAuthKeys':
      case 'expireAuthKey':
      case 'deleteAuthKey':
        return this.#authKey(command)
      case 'registerLogin':
      case 'rejectLogin':
      case 'getLogin':
        return this.#login(command)
      case 'listSshChecks':
      case 'getSshCheck':
      case 'approveSshCheck':
      case 'rejectSshCheck':
        return this.#sshCheck(command)
      case 'getPolicy':
      case 'setPolicy':
      case 'clearPolicy':
      case 'checkPolicy':
        return this.#policyCommand(command)
      case 'health':
        return ok({ databaseConnectivity: true, policy: this.#policyState(), nodes: this.#context.state.nodeCount })
      default:
        return this.#node(command)
    }
  }

  #policyState(): string {
    const { state } = this.#context
    if (this.#policy.active) return `set at ${formatTime(state.policy?.updatedAt ?? 0)}`
    return state.policy === undefined ? 'none: all traffic is denied' : 'stored, but it does not compile: all traffic is denied'
  }

  #user(command: Extract<AdminCommand, { command: 'createUser' | 'listUsers' | 'renameUser' | 'deleteUser' }>): Answer {
    const { state } = this.#context
    if (command.command === 'createUser') {
      const problem = this.#userNameProblem(command.name)
      if (problem !== undefined) return problem
      const user: UserRecord = {
        id: state.takeId('nextUserId'),
        name: command.name,
        displayName: command.displayName ?? '',
        email: command.email ?? '',
        profilePicUrl: command.pictureUrl ?? '',
        createdAt: this.#context.wallNow(),
      }
      state.putUser(user)
      this.#policy.recompile()
      this.#context.audit('admin', 'user.create', `user:${user.name}`, `user ${user.name} was created`)
      return ok({ user: userView(user) })
    }
    if (command.command === 'listUsers') {
      const users = [...state.users()].filter((user) =>
        command.name ? user.name === command.name : command.email ? user.email === command.email : command.id ? user.id === command.id : true,
      )
      return ok({ users: users.map(userView) })
    }
    const user = state.user(command.id)
    if (user === undefined) return missing(`user ${command.id}`, 'users list')
    if (command.command === 'renameUser') {
      const problem = this.#userNameProblem(command.newName)
      if (problem !== undefined) return problem
      const renamed = { ...user, name: command.newName }
      state.putUser(renamed)
      this.#policy.recompile()
      this.#context.audit('admin', 'user.rename', `user:${user.name}`, `renamed to ${renamed.name}`)
      return ok({ user: userView(renamed) })
    }
    const nodes = state.nodesOfUser(user.id)
    if (nodes.length > 0) {
      return refused(`user ${user.name} still has ${nodes.length} node${nodes.length === 1 ? '' : 's'}`, 'delete or tag them first: nodes list')
    }
    for (const key of [...state.authKeys()]) if (key.userId === user.id) state.deleteAuthKey(key.id)
    state.deleteUser(user.id)
    this.#policy.recompile()
    this.#context.audit('admin', 'user.delete', `user:${user.name}`, `user ${user.name} and its auth keys were deleted`)
    return ok({})
  }

  #userNameProblem(name: string): Answer | undefined {
    if (!NAME_RULE.test(name)) return refused(`"${name}" cannot be a user name`, 'use letters, digits and . _ @ + -, beginning with a letter or digit')
    // Commands take the number of a user as well as the name: who is meant must not depend on who else there is.
    if (/^[0-9]+$/.test(name)) return refused(`"${name}" cannot be a user name`, 'it would be taken for the number of a user: use at least one letter')
    if (this.#context.state.userByName(name) !== undefined) return { status: 409, body: problem(`user ${name} exists already`, 'choose another name') }
    return undefined
  }

  #authKey(command: Extract<AdminCommand, { command: 'createAuthKey' | 'listAuthKeys' | 'expireAuthKey' | 'deleteAuthKey' }>): Answer {
    const { state } = this.#context
    if (command.command === 'listAuthKeys') return ok({ preAuthKeys: [...state.authKeys()].map((key) => authKeyView(state, key)) })
    if (command.command === 'createAuthKey') {
      const tags = command.tags ?? []
      if (command.userId === undefined && tags.length === 0) return refused('an auth key needs a user or tags', 'name a user (-u ID) or tags (--tags tag:x)')
      if (command.userId !== undefined && state.user(command.userId) === undefined) return missing(`user ${command.userId}`, 'users list')
      const bad = this.#tagProblem(tags)
      if (bad !== undefined) return bad
      const expiresAt = command.expiration ?? this.#context.wallNow() + DEFAULT_AUTH_KEY_MS
      const { record, text } = createAuthKey(this.#context, {
        userId: command.userId,
        reusable: command.reusable ?? false,
        ephemeral: command.ephemeral ?? false,
        tags,
        expiresAt,
      })
      this.#context.audit('admin', 'authkey.create', `authkey:${record.id}`, `auth key ${record.prefix} was created`)
      return ok({ preAuthKey: authKeyView(state, record, text) })
    }
    const key = state.authKey(command.id)
    if (key === undefined) return missing(`auth key ${command.id}`, 'preauthkeys list')
    if (command.command === 'deleteAuthKey') state.deleteAuthKey(key.id)
    else state.putAuthKey({ ...key, revoked: true, expiresAt: Math.min(key.expiresAt, this.#context.wallNow()) })
    const action = command.command === 'deleteAuthKey' ? 'delete' : 'expire'
    this.#context.audit('admin', `authkey.${action}`, `authkey:${key.id}`, `auth key ${key.prefix}: ${action}`)
    return ok({})
  }

  #login(command: Extract<AdminCommand, { command: 'registerLogin' | 'rejectLogin' | 'getLogin' }>): Answer {
    const id = loginIdIn(command.authId)
    if (id === undefined) return refused(`"${command.authId}" is no auth id`, 'copy the whole id from the login URL: hskey-authreq- and 24 characters')
    const login = this.#pending.find(id)
    if (login === undefined) return missing(`login ${id}`, 'it may be over: let the device ask again and take the id of its new URL')
    if (command.command === 'getLogin') return ok(loginView(login))
    if (command.command === 'rejectLogin') {
      this.#registration.reject(login)
      return ok({})
    }
    const { state } = this.#context
    const user = state.userByName(command.user.replace(/@$/, '')) ?? (/^[0-9]+$/.test(command.user) ? state.user(Number(command.user)) : undefined)
    if (user === undefined) return missing(`user ${command.user}`, 'users list')
    if (login.rejected) return refused(`login ${id} was rejected`, 'let the device ask again')
    const node = this.#registration.approve(login, user)
    return 'refused' in node ? refused(node.refused, 'check tagOwners in the policy') : ok({ node: this.#view(node) })
  }

  #sshCheck(command: Extract<AdminCommand, { command: 'listSshChecks' | 'getSshCheck' | 'approveSshCheck' | 'rejectSshCheck' }>): Answer {
    const { state } = this.#context
    if (command.command === 'listSshChecks') {
      return ok({ sshChecks: [...this.#sshChecks.all()].filter((check) => check.state === 'waiting').map((check) => sshCheckView(state, check)) })
    }
    const id = loginIdIn(command.authId)
    if (id === undefined) return refused(`"${command.authId}" is no auth id`, 'copy the whole id from the message of the session: hskey-authreq- and 24 characters')
    const check = this.#sshChecks.find(id)
    if (check === undefined) return missing(`SSH session ${id}`, 'ssh list shows those that wait; it may be over: let its user connect again')
    if (command.command === 'rejectSshCheck') this.#sshChecks.reject(check)
    else if (command.command === 'approveSshCheck') {
      if (check.state === 'rejected') return refused(`SSH session ${id} was rejected`, 'let its user connect again')
      const problem = this.#sshChecks.approve(check)
      if (problem !== undefined) return refused(problem, 'check the ssh section of the policy')
    }
    return ok({ sshCheck: sshCheckView(state, check) })
  }

  #policyCommand(command: Extract<AdminCommand, { command: 'getPolicy' | 'setPolicy' | 'clearPolicy' | 'checkPolicy' }>): Answer {
    const { state } = this.#context
    if (command.command === 'getPolicy') {
      if (state.policy === undefined) return missing('policy', 'none is set, so all traffic is denied: policy set -f FILE')
      return ok({ policy: state.policy.text, updatedAt: formatTime(state.policy.updatedAt) })
    }
    if (command.command === 'clearPolicy') {
      if (state.policy !== undefined) state.putPolicy(undefined)
      this.#policy.recompile()
      this.#context.audit('admin', 'policy.clear', 'policy', 'the policy was taken away: all traffic is denied')
      return ok({})
    }
    const diagnostics = this.#policy.check(command.policy)
    if (diagnostics.length > 0) return { status: 400, body: { ...problem('the policy was refused, nothing has changed'), diagnostics } }
    if (command.command === 'checkPolicy') return ok({})
    const updatedAt = this.#context.wallNow()
    state.putPolicy({ text: command.policy, updatedAt })
    this.#policy.recompile()
    for (const node of [...state.nodes()]) {
      const approved = withAutoApproval(this.#context, node)
      if (approved !== node) state.putNode(approved)
    }
    this.#context.audit('admin', 'policy.set', 'policy', 'a new policy is in force')
    return ok({ policy: command.policy, updatedAt: formatTime(updatedAt) })
  }

  #node(command: Extract<AdminCommand, { command: 'listNodes' | 'getNode' | 'expireNode' | 'renameNode' | 'deleteNode' | 'setTags' | 'approveRoutes' }>): Answer {
    const { state } = this.#context
    if (command.command === 'listNodes') {
      const user = command.user === undefined ? undefined : state.userByName(command.user)
      if (command.user !== undefined && user === undefined) return missing(`user ${command.user}`, 'users list')
      const nodes = [...state.nodes()].filter((node) => user === undefined || node.userId === user.id).sort((a, b) => a.id - b.id)
      return ok({ nodes: nodes.map((node) => this.#view(node)) })
    }
    const node = state.node(command.id)
    if (node === undefined) return missing(`node ${command.id}`, 'nodes list')
    if (command.command === 'getNode') return ok({ node: this.#view(node) })
    if (command.command === 'deleteNode') {
      state.deleteNode(node.id)
      this.#context.audit('admin', 'node.delete', `node:${node.id}`, `${node.givenName} was deleted`)
      return ok({})
    }
    const next = this.#changed(node, command)
    if ('status' in next) return next
    if (next !== node) state.putNode(next)
    this.#context.audit('admin', `node.${command.command}`, `node:${node.id}`, `${node.givenName}: ${command.command}`)
    return ok({ node: this.#view(next) })
  }

  #changed(node: NodeRecord, command: Extract<AdminCommand, { command: 'expireNode' | 'renameNode' | 'setTags' | 'approveRoutes' }>): NodeRecord | Answer {
    if (command.command === 'expireNode') {
      if (command.disable === true && command.expiry !== undefined) return refused('an expiry and "never" exclude each other', 'give one of --expiry and --disable')
      const { expiry: _, ...rest } = node
      return { ...rest, expiry: command.disable === true ? undefined : (command.expiry ?? this.#context.wallNow()) }
    }
    if (command.command === 'renameNode') {
      const problem = labelProblem(command.newName)
      if (problem !== undefined) return refused(problem, 'choose a name that is a DNS label')
      const holder = this.#context.state.nodeByName(command.newName)
      if (holder !== undefined && holder.id !== node.id) return refused(`node ${holder.id} is called ${command.newName} already`, 'choose another name')
      return { ...node, givenName: command.newName, renamed: true }
    }
    if (command.command === 'setTags') {
      if (command.tags.length === 0) return refused('at least one tag is needed', 'a tagged node becomes a user\'s again when it logs in anew')
      const bad = this.#tagProblem(command.tags) ?? this.#unknownTag(command.tags)
      if (bad !== undefined) return bad
      return { ...node, tags: [...new Set(command.tags)].sort(), userId: undefined, expiry: undefined }
    }
    const invalid = command.routes.find((route) => parsePrefix(route) === undefined)
    if (invalid !== undefined) return refused(`"${invalid}" is no prefix`, 'write routes as 10.0.0.0/8')
    // An exit node carries both families: approving one approves the other.
    const routes = command.routes.some(isExitRoute) ? [...command.routes, '0.0.0.0/0', '::/0'] : command.routes
    return { ...node, approvedRoutes: canonicalRoutes(routes) }
  }

  #tagProblem(tags: readonly string[]): Answer | undefined {
    const bad = tags.find((tag) => !/^tag:[a-z][a-z0-9-]*$/.test(tag))
    return bad === undefined ? undefined : refused(`"${bad}" is no tag`, 'tags are tag: and then a small letter, letters, digits and hyphens')
  }

  #unknownTag(tags: readonly string[]): Answer | undefined {
    const bad = tags.find((tag) => !this.#context.rules.knowsTag(tag))
    return bad === undefined ? undefined : refused(`${bad} is not defined in the policy`, 'add it to tagOwners')
  }

  #view(node: NodeRecord): unknown {
    return nodeView(this.#context.state, this.#primaries, node, this.#context.isOnline(node.id))
  }
}

function loginView(login: PendingLogin): unknown {
  return { authId: login.id, hostname: login.hostinfo.Hostname ?? '', os: login.hostinfo.OS ?? '', machineKey: login.machineKey, nodeKey: login.nodeKey, rejected: login.rejected }
}

function ok(body: unknown): Answer {
  return { status: 200, body }
}

function missing(thing: string, remedy: string): Answer {
  return { status: 404, body: problem(`${thing} not found`, remedy) }
}

function refused(message: string, remedy: string): Answer {
  return { status: 400, body: problem(message, remedy) }
}

function problem(message: string, remedy?: string): AdminProblem {
  return { message, ...(remedy !== undefined && { remedy }) }
}
