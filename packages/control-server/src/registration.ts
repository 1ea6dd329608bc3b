import type { Hostinfo, RegisterRequest, RegisterResponse } from '@meshwright/control-protocol'
import { formatTime, parseOptionalTime, TAGGED_DEVICES_USER_ID, ZERO_NODE_KEY } from '@meshwright/control-protocol'
import { authKeyProblem, findAuthKey } from './auth-keys.ts'
import type { Context, RequestId } from './context.ts'
import type { Enrolment, Refusal } from './enrolment.ts'
import { withHostinfo } from './host-facts.ts'
import { loginIdIn, type PendingLogin, type PendingLogins } from './pending-logins.ts'
import type { AuthKeyRecord, NodeRecord, UserRecord } from './records.ts'

/** A registration as it reached the server; `source` is the address it came from. */
export interface RegisterInput {
  readonly request: RequestId
  readonly machineKey: string
  readonly source: string
  readonly body: RegisterRequest
}

/** Routes that are remembered of a device that waits for a verdict. */
const MAX_WAITING_ROUTES = 128

/** Seconds after which a client that was turned away may try again. */
const RETRY_AFTER_SECONDS = 30

/**
 * Decides who may join.
 *
 * | the request | becomes |
 * |---|---|
 * | `Expiry` in the past | logout: the node expires now, an ephemeral one is deleted |
 * | known node key, alive | accepted as it is; a key that would change its owner must be good |
 * | known node key, expired | `NodeKeyExpired`: the client comes back with a new key |
 * | `Followup` of a waiting login | held until the verdict |
 * | an auth key | admitted if the key is good |
 * | anything else | a new waiting login and its URL |
 */
export class Registration {
  readonly #context: Context
  readonly #enrolment: Enrolment
  readonly #pending: PendingLogins

  constructor(context: Context, enrolment: Enrolment, pending: PendingLogins) {
    this.#context = context
    this.#enrolment = enrolment
    this.#pending = pending
  }

  /** Answers one registration, now or when its login has a verdict. */
  register(input: RegisterInput): void {
    const { body } = input
    if (body.NodeKey === ZERO_NODE_KEY) return this.#context.respond(input.request, 400, 'the node key is missing')
    const now = this.#context.wallNow()
    const expiry = parseOptionalTime(body.Expiry)
    const holder = this.#context.state.nodeByKey(body.NodeKey)
    const node = holder?.machineKey === input.machineKey ? holder : undefined
    // Logout comes first: clients send their auth key with it as well.
    if (expiry !== undefined && expiry <= now) return this.#logout(input, node)
    if (holder !== undefined && node === undefined) return this.#refuse(input, 'this node key belongs to another device')
    if (node !== undefined && !isExpired(node, now)) return this.#known(input, node, expiry)
    if (node !== undefined) return this.#expired(input, node)
    if (body.Followup !== undefined && body.Followup !== '') return this.#followup(input)
    const text = body.Auth?.AuthKey ?? ''
    if (text !== '') return this.#admitByKey(input, text, expiry)
    this.#ask(input)
  }

  /** A person said yes. Gives the node, or why it cannot be. */
  approve(login: PendingLogin, user: UserRecord): NodeRecord | Refusal {
    const tags = login.hostinfo.RequestTags ?? []
    const forbidden = tags.filter((tag) => !this.#context.rules.mayUseTag(user, tag))
    if (forbidden.length > 0) return { refused: tagRefusal(forbidden) }
    const node = this.#enrolment.admit({
      machineKey: login.machineKey,
      nodeKey: login.nodeKey,
      oldNodeKey: login.oldNodeKey,
      hostinfo: login.hostinfo,
      capVersion: login.capVersion,
      userId: tags.length > 0 ? undefined : user.id,
      tags: [...new Set(tags)].sort(),
      method: 'cli',
      authKey: undefined,
      wantedExpiry: undefined,
    })
    if ('refused' in node) return node
    for (const request of login.waiters) this.#context.respond(request, 200, this.#accepted(node))
    this.#context.audit('admin', 'login.approve', `node:${node.id}`, `${node.givenName} joined for ${user.name}`)
    this.#context.afterCommit(() => this.#pending.remove(login))
    return node
  }

  /** A person said no. */
  reject(login: PendingLogin): void {
    login.rejected = true
    for (const request of login.waiters) this.#context.respond(request, 200, failure('this login was rejected by an administrator'))
    login.waiters.clear()
    this.#context.audit('admin', 'login.reject', `machine:${login.machineKey.slice(0, 13)}`, `${login.hostinfo.Hostname ?? 'a device'} was refused`)
  }

  /** The time of a login is over: whoever waits gets a new URL. */
  expireLogins(): void {
    for (const login of this.#pending.expire(this.#context.now())) {
      for (const request of login.waiters) this.#openLogin(request, login)
    }
  }

  #logout(input: RegisterInput, node: NodeRecord | undefined): void {
    // The same answer for strangers: whether a key is known is nobody's business.
    this.#context.respond(input.request, 200, { ...EMPTY, NodeKeyExpired: true })
    if (node === undefined) return
    if (node.ephemeral) this.#context.state.deleteNode(node.id)
    else {
      const wallNow = this.#context.wallNow()
      this.#context.state.putNode({ ...node, expiry: Math.min(node.expiry ?? Number.MAX_SAFE_INTEGER, wallNow), lastSeen: wallNow })
    }
    this.#context.audit(`node:${node.id}`, 'node.logout', `node:${node.id}`, `${node.givenName} logged out`)
  }

  #known(input: RegisterInput, node: NodeRecord, expiry: number | undefined): void {
    const text = input.body.Auth?.AuthKey ?? ''
    if (text !== '') {
      const key = findAuthKey(this.#context, text)
      if (key === undefined) return this.#refuse(input, 'invalid pre auth key')
      const sameOwner = key.tags.length > 0 ? node.tags.length > 0 : key.userId === node.userId
      // A restarted container shows its spent key again: nothing changes, so nothing has to be proven.
      if (!sameOwner && key.userId !== undefined && node.userId !== undefined) return this.#otherUser(input, key)
      if (!sameOwner) return this.#admitByKey(input, text, expiry)
    }
    if (expiry !== undefined && node.expiry !== undefined && expiry > node.expiry) return this.#refuse(input, 'extending key is not allowed')
    let next = withHostinfo(this.#context, node, input.body.Hostinfo)
    if (expiry !== undefined && node.tags.length === 0) next = { ...next, expiry }
    if (next !== node) this.#context.state.putNode(next)
    this.#context.respond(input.request, 200, this.#accepted(next))
  }

  /** A node never changes from one user to another: with a new node key the device becomes a second node, of the other user. */
  #otherUser(input: RegisterInput, key: AuthKeyRecord): void {
    const problem = authKeyProblem(key, this.#context.wallNow())
    if (problem !== undefined) return this.#refuse(input, problem)
    this.#context.respond(input.request, 200, { ...EMPTY, NodeKeyExpired: true })
  }

  #expired(input: RegisterInput, node: NodeRecord): void {
    const text = input.body.Auth?.AuthKey ?? ''
    if (text !== '') {
      const key = findAuthKey(this.#context, text)
      const problem = key === undefined ? 'invalid pre auth key' : authKeyProblem(key, this.#context.wallNow())
      if (problem !== undefined) return this.#refuse(input, problem)
    }
    this.#context.respond(input.request, 200, { ...this.#accepted(node), NodeKeyExpired: true })
  }

  #followup(input: RegisterInput): void {
    const login = this.#pending.find(loginIdIn(input.body.Followup ?? '') ?? '')
    if (login === undefined || login.machineKey !== input.machineKey || login.nodeKey !== input.body.NodeKey) return this.#ask(input)
    if (login.rejected) return this.#refuse(input, 'this login was rejected by an administrator')
    login.waiters.add(input.request)
  }

  #ask(input: RegisterInput): void {
    const oldNodeKey = input.body.OldNodeKey === ZERO_NODE_KEY ? undefined : input.body.OldNodeKey
    this.#openLogin(input.request, {
      machineKey: input.machineKey,
      nodeKey: input.body.NodeKey,
      oldNodeKey,
      hostinfo: waitingHostinfo(input.body.Hostinfo ?? {}),
      capVersion: input.body.Version,
      source: input.source,
    })
  }

  #openLogin(request: RequestId, wanted: Omit<PendingLogin, 'id' | 'expiresAt' | 'waiters' | 'rejected'>): void {
    const { maxPendingLogins, maxPendingPerSource, pendingLoginMs, serverUrl } = this.#context.config()
    const waiting = this.#pending.of(wanted.machineKey, wanted.nodeKey)
    const open = waiting !== undefined && !waiting.rejected ? waiting : undefined
    const login = open ?? this.#pending.open(this.#context.now(), wanted, { total: maxPendingLogins, perSource: maxPendingPerSource, lifetimeMs: pendingLoginMs })
    if (login === undefined) return this.#context.respond(request, 429, 'too many logins wait for approval: try again later', RETRY_AFTER_SECONDS)
    this.#context.respond(request, 200, { ...EMPTY, AuthURL: `${serverUrl}/register/${login.id}` })
  }

  #admitByKey(input: RegisterInput, text: string, expiry: number | undefined): void {
    const key = findAuthKey(this.#context, text)
    if (key === undefined) return this.#refuse(input, 'invalid pre auth key')
    const problem = authKeyProblem(key, this.#context.wallNow()) ?? this.#tagProblem(input, key)
    if (problem !== undefined) return this.#refuse(input, problem)
    const admitted = this.#enrolment.admit({
      machineKey: input.machineKey,
      nodeKey: input.body.NodeKey,
      oldNodeKey: input.body.OldNodeKey,
      hostinfo: input.body.Hostinfo ?? {},
      capVersion: input.body.Version,
      userId: key.tags.length > 0 ? undefined : key.userId,
      tags: key.tags,
      method: 'authKey',
      authKey: key,
      wantedExpiry: expiry,
    })
    if ('refused' in admitted) return this.#refuse(input, admitted.refused)
    this.#context.audit(`authkey:${key.id}`, 'node.register', `node:${admitted.id}`, `${admitted.givenName} joined by auth key ${key.prefix}`)
    this.#context.respond(input.request, 200, this.#accepted(admitted))
  }

  #tagProblem(input: RegisterInput, key: AuthKeyRecord): string | undefined {
    const forbidden = (input.body.Hostinfo?.RequestTags ?? []).filter((tag) => !key.tags.includes(tag))
    return forbidden.length > 0 ? tagRefusal(forbidden) : undefined
  }

  #refuse(input: RegisterInput, reason: string): void {
    this.#context.audit(`machine:${input.machineKey.slice(0, 13)}`, 'login.refused', input.body.Hostinfo?.Hostname ?? 'a device', reason)
    this.#context.respond(input.request, 200, failure(reason))
  }

  #accepted(node: NodeRecord): RegisterResponse {
    const user = this.#context.state.user(node.userId)
    const id = user?.id ?? TAGGED_DEVICES_USER_ID
    const loginName = user === undefined ? 'tagged-devices' : loginNameOf(user)
    const displayName = user === undefined ? 'Tagged Devices' : displayNameOf(user)
    const picture = user?.profilePicUrl ?? ''
    return {
      ...EMPTY,
      User: { ID: id, DisplayName: displayName, ProfilePicURL: picture, Created: formatTime(user?.createdAt ?? node.createdAt) },
      Login: { ID: id, Provider: '', LoginName: loginName, DisplayName: displayName, ProfilePicURL: picture },
      MachineAuthorized: true,
    }
  }
}

/** The name that users are known by on the wire: the e-mail address where there is one. */
export function loginNameOf(user: UserRecord): string {
  return user.email !== '' ? user.email : user.name
}

/** The name that people read. */
export function displayNameOf(user: UserRecord): string {
  return user.displayName !== '' ? user.displayName : user.name
}

/** True when the node's key is no longer good. */
export function isExpired(node: NodeRecord, wallNow: number): boolean {
  return node.expiry !== undefined && wallNow >= node.expiry
}

const EMPTY: RegisterResponse = { NodeKeyExpired: false, MachineAuthorized: false, AuthURL: '', Error: '' }

/** What is kept of a stranger's word until somebody decides: all but long lists, which the node tells again when it is in. */
function waitingHostinfo(given: Hostinfo): Hostinfo {
  const { sshHostKeys: _keys, Services: _services, TPM: _tpm, ...kept } = given
  return { ...kept, ...(kept.RoutableIPs !== undefined && { RoutableIPs: kept.RoutableIPs.slice(0, MAX_WAITING_ROUTES) }) }
}

function failure(reason: string): RegisterResponse {
  return { ...EMPTY, Error: reason }
}

function tagRefusal(tags: readonly string[]): string {
  return `requested tags [${tags.join(' ')}] are invalid or not permitted`
}
