import type { UnixMillis } from '@meshwright/core'
import type { Ip, Prefix } from '@meshwright/ip'
import type { RoleAutogroup } from './aliases.ts'
import type { NodeAttributeValue } from './posture.ts'

/** What a user may do in the tailnet; also what role autogroups go by. */
export type UserRole = RoleAutogroup | 'member'

/** A user of the tailnet. */
export interface TailnetUser {
  /** Unique; SSH rules for several users come in the order of their ids. */
  readonly id: number
  /** What policies call the user: `alice@example.com`, or a bare name, which policies write `alice@`. */
  readonly login: string
  readonly displayName?: string
  readonly role: UserRole
  /**
   * True for a user of another tailnet who shares devices into this one: those are `autogroup:shared` (and what the user's login names), not
   * `autogroup:member`, and postures do not ask them for anything. Absent: no.
   */
  readonly external?: boolean
}

/** A node of the tailnet. Never changed: a node that changes is another object with the same id. */
export interface TailnetNode {
  readonly id: number
  /** For people and messages only. */
  readonly name: string
  /** Id of its user; without meaning for policies when the node has tags. */
  readonly user?: number
  readonly tags: readonly string[]
  readonly addresses: readonly Ip[]
  readonly advertisedRoutes: readonly Prefix[]
  readonly approvedRoutes: readonly Prefix[]
  /** Of nodes that serve the same route, the one created first is its primary. */
  readonly created: UnixMillis
  /** Whether it is connected: only then is it the primary of a route. Absent: yes. */
  readonly online?: boolean
  /** Device attributes for postures, such as `node:os`. */
  readonly attributes?: ReadonlyMap<string, NodeAttributeValue>
}

/** A service: what policies name `svc:x`. Its hosts serve its addresses as single-address routes, advertised and approved like others. */
export interface TailnetService {
  /** `svc:x`. */
  readonly name: string
  readonly addresses: readonly Ip[]
}

/** All of a tailnet that policies depend on. */
export interface TailnetView {
  readonly users: readonly TailnetUser[]
  readonly nodes: readonly TailnetNode[]
  /** Absent: none, and `svc:x` means nothing. */
  readonly services?: readonly TailnetService[]
  /** Domains of logins that belong to the tailnet; compared with case. */
  readonly domains: readonly string[]
  /** Whether nodes can get certificates; without it, `funnel` comes with a warning. Absent: no. */
  readonly httpsEnabled?: boolean
}

/** One change of a tailnet. */
export type TailnetChange =
  | { readonly type: 'nodeSet'; readonly node: TailnetNode }
  | { readonly type: 'nodeRemoved'; readonly id: number }
  | { readonly type: 'userSet'; readonly user: TailnetUser }
  | { readonly type: 'userRemoved'; readonly id: number }
