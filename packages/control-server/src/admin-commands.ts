import type { UnixMillis } from '@meshwright/core'

/** What an administrator can ask. Every command is answered with a JSON body, or with an {@link AdminProblem} and a status from 400 on. */
export type AdminCommand =
  | { readonly command: 'createUser'; readonly name: string; readonly displayName?: string; readonly email?: string; readonly pictureUrl?: string }
  | { readonly command: 'listUsers'; readonly id?: number; readonly name?: string; readonly email?: string }
  | { readonly command: 'renameUser'; readonly id: number; readonly newName: string }
  | { readonly command: 'deleteUser'; readonly id: number }
  | { readonly command: 'listNodes'; readonly user?: string }
  | { readonly command: 'getNode'; readonly id: number }
  /** Without `expiry`: now. `disable`: never. */
  | { readonly command: 'expireNode'; readonly id: number; readonly expiry?: UnixMillis; readonly disable?: boolean }
  | { readonly command: 'renameNode'; readonly id: number; readonly newName: string }
  | { readonly command: 'deleteNode'; readonly id: number }
  | { readonly command: 'setTags'; readonly id: number; readonly tags: readonly string[] }
  /** Replaces the approved routes. */
  | { readonly command: 'approveRoutes'; readonly id: number; readonly routes: readonly string[] }
  | {
      readonly command: 'createAuthKey'
      readonly userId?: number
      readonly reusable?: boolean
      readonly ephemeral?: boolean
      readonly tags?: readonly string[]
      /** Absent: one hour. */
      readonly expiration?: UnixMillis
    }
  | { readonly command: 'listAuthKeys' }
  | { readonly command: 'expireAuthKey'; readonly id: number }
  | { readonly command: 'deleteAuthKey'; readonly id: number }
  /** `authId` may be the whole login URL; `user` is a name or a number. */
  | { readonly command: 'registerLogin'; readonly authId: string; readonly user: string }
  | { readonly command: 'rejectLogin'; readonly authId: string }
  | { readonly command: 'getLogin'; readonly authId: string }
  /** SSH sessions whose policy says `check`, that wait for approval. */
  | { readonly command: 'listSshChecks' }
  | { readonly command: 'getSshCheck'; readonly authId: string }
  | { readonly command: 'approveSshCheck'; readonly authId: string }
  | { readonly command: 'rejectSshCheck'; readonly authId: string }
  | { readonly command: 'getPolicy' }
  | { readonly command: 'setPolicy'; readonly policy: string }
  | { readonly command: 'clearPolicy' }
  | { readonly command: 'checkPolicy'; readonly policy: string }
  | { readonly command: 'health' }

/** The body of a refused command. */
export interface AdminProblem {
  /** What is wrong, naming the thing. */
  readonly message: string
  /** What to do about it. */
  readonly remedy?: string
  /** Where a policy is wrong. */
  readonly diagnostics?: readonly { readonly line?: number; readonly column?: number; readonly code: string; readonly message: string }[]
}
