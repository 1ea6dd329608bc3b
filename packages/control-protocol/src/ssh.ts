import type { TimeText } from './keys.ts'
import { decoder, flag, integer, type JsonDecoder, list, object, record, required, type Shape, text, time } from './shape.ts'

/** Whom an SSH rule is about: the first member that is set decides. */
export interface SSHPrincipal {
  /** StableID. */
  readonly node?: string
  readonly nodeIP?: string
  readonly userLogin?: string
  readonly any?: boolean
}

/** What happens when a session cannot be recorded. */
export interface SSHRecorderFailureAction {
  readonly RejectSessionWithMessage?: string
  readonly TerminateSessionWithMessage?: string
  readonly NotifyURL?: string
}

/** The verdict of an SSH rule, or where to ask for it (`holdAndDelegate`). */
export interface SSHAction {
  readonly message?: string
  readonly reject?: boolean
  readonly accept?: boolean
  /** Nanoseconds. */
  readonly sessionDuration?: number
  readonly allowAgentForwarding?: boolean
  readonly holdAndDelegate?: string
  readonly allowLocalPortForwarding?: boolean
  readonly allowRemotePortForwarding?: boolean
  readonly recorders?: readonly string[]
  readonly onRecordingFailure?: SSHRecorderFailureAction
}

/** One SSH rule; the first that matches decides. */
export interface SSHRule {
  readonly ruleExpires?: TimeText
  readonly principals: readonly SSHPrincipal[]
  /** Asked name or `*` to local name, `=` for the same, empty for no match. */
  readonly sshUsers?: Readonly<Record<string, string>>
  readonly action?: SSHAction
  readonly acceptEnv?: readonly string[]
}

/** Who may open SSH sessions here; without rules, nobody. */
export interface SSHPolicy {
  readonly rules: readonly SSHRule[]
}

const principal: Shape<SSHPrincipal> = object<SSHPrincipal>({ any: flag, node: text, nodeIP: text, userLogin: text })

const action: Shape<SSHAction> = object<SSHAction>({
  message: text,
  reject: flag,
  accept: flag,
  sessionDuration: integer,
  allowAgentForwarding: flag,
  holdAndDelegate: text,
  allowLocalPortForwarding: flag,
  allowRemotePortForwarding: flag,
  recorders: list(text),
  onRecordingFailure: object<SSHRecorderFailureAction>({ RejectSessionWithMessage: text, TerminateSessionWithMessage: text, NotifyURL: text }),
})

const rule: Shape<SSHRule> = object<SSHRule>({
  ruleExpires: time,
  principals: required<readonly SSHPrincipal[]>(list(principal), []),
  sshUsers: record(text),
  action,
  acceptEnv: list(text),
})

/** Reads a `SSHPolicy`. */
export const sshPolicy: Shape<SSHPolicy> = object<SSHPolicy>({ rules: required<readonly SSHRule[]>(list(rule), []) })

/** Decodes an SSHAction, the answer to a held session. */
export const decodeSSHAction: JsonDecoder<SSHAction> = decoder(action)

/** Decodes an SSHPolicy. */
export const decodeSSHPolicy: JsonDecoder<SSHPolicy> = decoder(sshPolicy)
