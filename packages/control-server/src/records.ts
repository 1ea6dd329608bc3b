import type { UnixMillis } from '@meshwright/core'
import type { Hostinfo, NetInfo } from '@meshwright/control-protocol'

/** Somebody who owns nodes. Ids count up from 1 and are never given twice. */
export interface UserRecord {
  readonly id: number
  /** Short name, unique; the policy writes it `name@` or by e-mail address. */
  readonly name: string
  readonly displayName: string
  readonly email: string
  readonly profilePicUrl: string
  readonly createdAt: UnixMillis
}

/** How a node came in: shown to administrators. */
export type RegisterMethod = 'authKey' | 'cli'

/** One node of the mesh as it is stored. Records are never changed in place: a change makes a new one. */
export interface NodeRecord {
  /** Counts up from 1, never given twice. */
  readonly id: number
  /** `mkey:` text of the device that holds it: only this device may speak for the node. */
  readonly machineKey: string
  /** `nodekey:` text, unique in the mesh. */
  readonly nodeKey: string
  /** `discokey:` text; undefined until the node polled once. */
  readonly discoKey: string | undefined
  /** Canonical texts of its addresses. */
  readonly ipv4: string | undefined
  readonly ipv6: string | undefined
  /** The host name as the node says it. */
  readonly hostname: string
  /** DNS label, unique in the mesh. */
  readonly givenName: string
  /** An administrator chose the label: a new host name does not change it. */
  readonly renamed: boolean
  /** Owner; undefined exactly when the node is tagged. */
  readonly userId: number | undefined
  /** Sorted `tag:` names; empty exactly when a user owns the node. */
  readonly tags: readonly string[]
  readonly registerMethod: RegisterMethod
  /** The auth key it came in with. */
  readonly authKeyId: number | undefined
  /** Deleted after a time offline. */
  readonly ephemeral: boolean
  readonly createdAt: UnixMillis
  /** When its last poll ended; undefined while one is open, and before the first. */
  readonly lastSeen: UnixMillis | undefined
  /** When its node key stops being good; undefined: never. */
  readonly expiry: UnixMillis | undefined
  /** Routes that an administrator or an auto-approver allowed, canonical and sorted; advertised or not. */
  readonly approvedRoutes: readonly string[]
  /** Advertised prefixes, canonical and sorted, taken from `hostinfo`. */
  readonly advertisedRoutes: readonly string[]
  readonly hostinfo: Hostinfo
  /** `ip:port` texts, loopback and link-local ones already dropped. */
  readonly endpoints: readonly string[]
  /** Region of its home relay; 0: not known. */
  readonly homeRelay: number
  /** Its capability version. */
  readonly capVersion: number
}

/** A pre-authentication key. The secret itself is never stored, only its hash. */
export interface AuthKeyRecord {
  readonly id: number
  /** The 12 characters that name the key in public. */
  readonly prefix: string
  /** Hex BLAKE2s-256 of the whole key text: the secret has 256 random bits, so a slow hash adds nothing. */
  readonly hash: string
  /** Owner of the nodes it lets in; undefined for a key with tags. */
  readonly userId: number | undefined
  readonly reusable: boolean
  readonly ephemeral: boolean
  readonly used: boolean
  readonly tags: readonly string[]
  readonly createdAt: UnixMillis
  readonly expiresAt: UnixMillis
  /** An administrator ended it. */
  readonly revoked: boolean
}

/** The policy that is in force, as its author wrote it. */
export interface PolicyRecord {
  readonly text: string
  readonly updatedAt: UnixMillis
}

/**
 * What is left of the last node of a device when that was deleted. Clients leave out what they believe the server knows of their network, and a
 * device that logs in anew believes so too: without this, its peers would know no home relay for it until its next report.
 */
export interface DepartedRecord {
  /** `mkey:` text of the device. */
  readonly machineKey: string
  readonly netInfo: NetInfo | undefined
  /** Region of its home relay; 0: not known. */
  readonly homeRelay: number
}

/** Numbers that must not come twice even when the newest record is gone. */
export interface Counters {
  readonly nextUserId: number
  readonly nextNodeId: number
  readonly nextAuthKeyId: number
}

/** Everything a store gives back at start. */
export interface ServerState {
  readonly users: readonly UserRecord[]
  readonly nodes: readonly NodeRecord[]
  readonly authKeys: readonly AuthKeyRecord[]
  readonly policy: PolicyRecord | undefined
  readonly counters: Counters
  /** The oldest first; no more than the server remembers. */
  readonly departed: readonly DepartedRecord[]
}

/** The state of a server that has never run. */
export function emptyState(): ServerState {
  return { users: [], nodes: [], authKeys: [], policy: undefined, counters: { nextUserId: 1, nextNodeId: 1, nextAuthKeyId: 1 }, departed: [] }
}

/** One write that a store must make; a commit holds several and is all or nothing. */
export type Change =
  | { readonly type: 'putUser'; readonly user: UserRecord }
  | { readonly type: 'deleteUser'; readonly id: number }
  | { readonly type: 'putNode'; readonly node: NodeRecord }
  | { readonly type: 'deleteNode'; readonly id: number }
  | { readonly type: 'putAuthKey'; readonly authKey: AuthKeyRecord }
  | { readonly type: 'deleteAuthKey'; readonly id: number }
  | { readonly type: 'putPolicy'; readonly policy: PolicyRecord }
  | { readonly type: 'deletePolicy' }
  | { readonly type: 'putCounters'; readonly counters: Counters }
  /** The record of a device takes the place of an older one and becomes the newest. */
  | { readonly type: 'putDeparted'; readonly departed: DepartedRecord }
  | { readonly type: 'deleteDeparted'; readonly machineKey: string }
