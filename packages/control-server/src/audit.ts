import type { UnixMillis } from '@meshwright/core'

/** Something that changed who is in the mesh or what they may do, or an attempt that was refused. Never holds a secret. */
export interface AuditEvent {
  readonly at: UnixMillis
  /** Who did it: `admin`, `node:ID`, `machine:[ab12…]` or `server`. */
  readonly actor: string
  /** `node.register`, `node.expire`, `policy.set`, `login.refused`, ... */
  readonly action: string
  /** What it was done to: `node:7`, `user:alice`, `policy`. */
  readonly target: string
  /** One sentence for people. */
  readonly detail: string
}
