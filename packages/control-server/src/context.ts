import type { Instant, RandomSource, UnixMillis } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import type { ControlServerConfig } from './config.ts'
import type { NodeRecord, UserRecord } from './records.ts'
import type { State } from './state.ts'

/** The number by which the caller knows a request that waits for its answer. */
export type RequestId = number

/** The questions that registrations and administrators ask of the policy. */
export interface RegistrationRules {
  /** Whether a user may put this tag on nodes. */
  mayUseTag(user: UserRecord, tag: string): boolean
  /** Whether the policy knows the tag at all. */
  knowsTag(tag: string): boolean
  /** Those of the advertised routes of a node that the policy approves by itself. */
  autoApproved(node: NodeRecord): readonly string[]
}

/**
 * What the rooms of the server share while a batch of inputs is worked on. Everything said here is *staged*: it leaves the server only
 * after the batch's changes are on disk, and never if they cannot be.
 */
export interface Context {
  readonly state: State
  readonly crypto: CryptoProvider
  readonly random: RandomSource
  /** What the policy says to registrations. Without a policy: nothing is allowed. */
  readonly rules: RegistrationRules
  config(): ControlServerConfig
  /** Whether a poll of the node is open, or ended only just now. */
  isOnline(nodeId: number): boolean
  now(): Instant
  wallNow(): UnixMillis
  /** Answers a request once the batch is on disk. `body` is a JSON value, a text, or nothing. */
  respond(request: RequestId, status: number, body?: unknown, retryAfterSeconds?: number): void
  /** Does something once the batch is on disk; `request` is answered with 500 instead when it cannot be stored. */
  afterCommit(effect: () => void, request?: RequestId): void
  audit(actor: string, action: string, target: string, detail: string): void
}
