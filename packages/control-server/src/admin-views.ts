import { formatTime } from '@meshwright/control-protocol'
import { shownAuthKey } from './auth-keys.ts'
import { isExitRoute, servedRoutes } from './host-facts.ts'
import type { PrimaryRoutes } from './routes.ts'
import type { AuthKeyRecord, NodeRecord, UserRecord } from './records.ts'
import type { SshCheck } from './ssh-checks.ts'
import type { State } from './state.ts'

/** A user as headscale's API writes it. */
export interface UserView {
  readonly id: string
  readonly name: string
  readonly createdAt: string
  readonly displayName: string
  readonly email: string
  readonly providerId: string
  readonly provider: string
  readonly profilePicUrl: string
}

/** A node as headscale's API writes it. */
export interface NodeView {
  readonly id: string
  readonly machineKey: string
  readonly nodeKey: string
  readonly discoKey: string
  readonly ipAddresses: readonly string[]
  readonly name: string
  /** Null for tagged nodes. */
  readonly user: UserView | null
  readonly lastSeen: string | null
  readonly expiry: string | null
  readonly preAuthKey: AuthKeyView | null
  readonly createdAt: string
  readonly registerMethod: string
  readonly givenName: string
  readonly online: boolean
  readonly ephemeral: boolean
  readonly approvedRoutes: readonly string[]
  readonly availableRoutes: readonly string[]
  readonly subnetRoutes: readonly string[]
  readonly tags: readonly string[]
}

/** An auth key as headscale's API writes it; `key` is the secret only in the answer that creates it. */
export interface AuthKeyView {
  readonly user: UserView | null
  readonly id: string
  readonly key: string
  readonly reusable: boolean
  readonly ephemeral: boolean
  readonly used: boolean
  readonly expiration: string
  readonly createdAt: string
  readonly aclTags: readonly string[]
}

/** An SSH session that waits for approval. */
export interface SshCheckView {
  readonly authId: string
  /** The node that the session comes from. */
  readonly source: { readonly id: string; readonly givenName: string; readonly user: string }
  /** The node that it goes to. */
  readonly destination: { readonly id: string; readonly givenName: string }
  readonly localUser: string
  readonly askedAt: string
  readonly state: 'waiting' | 'approved' | 'rejected'
}

export function sshCheckView(state: State, check: SshCheck): SshCheckView {
  const [source, destination] = [state.node(check.source), state.node(check.destination)]
  return {
    authId: check.id,
    source: { id: String(check.source), givenName: source?.givenName ?? '', user: state.user(source?.userId)?.name ?? '' },
    destination: { id: String(check.destination), givenName: destination?.givenName ?? '' },
    localUser: check.localUser,
    askedAt: formatTime(check.askedAt),
    state: check.state,
  }
}

export function userView(user: UserRecord): UserView {
  return {
    id: String(user.id),
    name: user.name,
    createdAt: formatTime(user.createdAt),
    displayName: user.displayName,
    email: user.email,
    providerId: '',
    provider: '',
    profilePicUrl: user.profilePicUrl,
  }
}

export function authKeyView(state: State, key: AuthKeyRecord, secret?: string): AuthKeyView {
  const user = state.user(key.userId)
  return {
    user: user === undefined ? null : userView(user),
    id: String(key.id),
    key: secret ?? shownAuthKey(key),
    reusable: key.reusable,
    ephemeral: key.ephemeral,
    used: key.used,
    expiration: formatTime(key.expiresAt),
    createdAt: formatTime(key.createdAt),
    aclTags: key.tags,
  }
}

export function nodeView(state: State, primaries: PrimaryRoutes, node: NodeRecord, online: boolean): NodeView {
  const user = state.user(node.userId)
  const key = state.authKey(node.authKeyId)
  return {
    id: String(node.id),
    machineKey: node.machineKey,
    nodeKey: node.nodeKey,
    discoKey: node.discoKey ?? '',
    ipAddresses: [node.ipv4, node.ipv6].flatMap((address) => address ?? []),
    name: node.hostname,
    user: user === undefined ? null : userView(user),
    lastSeen: node.lastSeen === undefined ? null : formatTime(node.lastSeen),
    expiry: node.expiry === undefined ? null : formatTime(node.expiry),
    preAuthKey: key === undefined ? null : authKeyView(state, key),
    createdAt: formatTime(node.createdAt),
    registerMethod: node.registerMethod === 'authKey' ? 'REGISTER_METHOD_AUTH_KEY' : 'REGISTER_METHOD_CLI',
    givenName: node.givenName,
    online,
    ephemeral: node.ephemeral,
    approvedRoutes: node.approvedRoutes,
    availableRoutes: node.advertisedRoutes,
    subnetRoutes: [...primaries.routesOf(node.id), ...servedRoutes(node).filter(isExitRoute)],
    tags: node.tags,
  }
}
