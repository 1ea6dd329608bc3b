import { after, earlier, formatBase64, type Instant } from '@meshwright/core'
import type { SSHAction } from '@meshwright/control-protocol'
import type { Context, RequestId } from './context.ts'
import { AUTH_ID_PREFIX } from './pending-logins.ts'
import type { NodeRecord } from './records.ts'
import type { SshVerdict, TailnetPolicy } from './tailnet-policy.ts'

const ID_BYTES = 18 // 24 characters of base64
/** Approvals that are remembered; the oldest gives way. */
const MAX_APPROVALS = 4096
/** The longest `checkPeriod` that a policy may name is 168 hours. */
const LONGEST_PERIOD_MS = 604_800_000

/** A node asks what to do with an SSH session that came to it. */
export interface SshActionInput {
  readonly request: RequestId
  readonly machineKey: string
  /** Numbers of the node that the session comes from and of the node that asks. */
  readonly source: number
  readonly destination: number
  readonly localUser: string
  /** The id of the check it was told to wait for; undefined when it asks for the first time. */
  readonly authId: string | undefined
}

/** A session that waits for somebody's verdict. */
export interface SshCheck {
  readonly id: string
  readonly source: number
  readonly destination: number
  readonly localUser: string
  readonly askedAt: number
  readonly expiresAt: Instant
  readonly waiters: Set<RequestId>
  state: 'waiting' | 'approved' | 'rejected'
}

/**
 * SSH sessions whose policy says `check`: the node that they reach holds them and asks here; an administrator decides.
 *
 * | state | edge | to |
 * |---|---|---|
 * | none | the node asks, the policy still demands a check, no fresh approval | waiting; the node is told to ask again with the id |
 * | waiting | the node asks with the id | waiting: the request is held |
 * | waiting | approved | held requests are accepted; the approval holds for `checkPeriod` (not at all with `always`) |
 * | waiting | rejected | held requests are rejected, later ones too until the check expires |
 * | any | its time is over | none; whoever waits is rejected |
 *
 * An approval is for one source, one destination and one local user, and lives in memory: after a restart sessions are checked anew. The
 * policy is asked again at every step, so a rule that was taken away approves nothing any more.
 */
export class SshChecks {
  readonly #context: Context
  readonly #policy: TailnetPolicy
  readonly #checks = new Map<string, SshCheck>()
  /** Who, where and as whom, to when that was approved. How long it holds is said by the policy of the day. */
  readonly #approvals = new Map<string, Instant>()

  constructor(context: Context, policy: TailnetPolicy) {
    this.#context = context
    this.#policy = policy
  }

  /** When the first check expires. */
  get due(): Instant | undefined {
    let due: Instant | undefined
    for (const check of this.#checks.values()) due = earlier(due, check.expiresAt)
    return due
  }

  get size(): number {
    return this.#checks.size
  }

  all(): IterableIterator<SshCheck> {
    return this.#checks.values()
  }

  find(id: string): SshCheck | undefined {
    return this.#checks.get(id)
  }

  /** Answers a node now, or holds its request until there is a verdict. */
  ask(input: SshActionInput): void {
    const { request, localUser } = input
    const destination = this.#context.state.node(input.destination)
    // The node that asks must be the one that the session reached; the same answer for a stranger's and for none.
    if (destination === undefined || destination.machineKey !== input.machineKey) return this.#context.respond(request, 404, 'node not found')
    const source = this.#context.state.node(input.source)
    const verdict = source && this.#policy.sshVerdict(source, destination, localUser)
    if (source === undefined || verdict === undefined) return this.#answer(request, rejection('The policy of this network does not allow this session.'))
    if (verdict.checkMs === undefined) return this.#answer(request, verdict.accept)
    const approvedAt = this.#approvals.get(approvalKey(source.id, destination.id, localUser))
    if (approvedAt !== undefined && this.#context.now() < after(approvedAt, verdict.checkMs)) return this.#answer(request, verdict.accept)
    const known = input.authId === undefined ? undefined : this.#checks.get(input.authId)
    if (known !== undefined && isFor(known, input)) return this.#followUp(request, known, verdict)
    this.#open(input, source, destination)
  }

  /** An administrator said yes. Gives why that cannot be. */
  approve(check: SshCheck): string | undefined {
    const { state } = this.#context
    const [source, destination] = [state.node(check.source), state.node(check.destination)]
    const verdict = source && destination && this.#policy.sshVerdict(source, destination, check.localUser)
    if (source === undefined || destination === undefined || verdict === undefined) return 'the policy no longer allows this session, or one of its nodes is gone'
    check.state = 'approved'
    this.#remember(approvalKey(source.id, destination.id, check.localUser))
    for (const request of check.waiters) this.#answer(request, verdict.accept)
    // One that nobody waits for just now stays, for the node that asks again.
    if (check.waiters.size > 0) this.#checks.delete(check.id)
    check.waiters.clear()
    this.#context.audit('admin', 'ssh.approve', `node:${destination.id}`, `SSH from ${source.givenName} to ${destination.givenName} as ${check.localUser} was approved`)
    return undefined
  }

  /** An administrator said no. */
  reject(check: SshCheck): void {
    check.state = 'rejected'
    for (const request of check.waiters) this.#answer(request, rejection(REFUSED))
    check.waiters.clear()
    this.#context.audit('admin', 'ssh.reject', `node:${check.destination}`, `SSH from node ${check.source} to node ${check.destination} as ${check.localUser} was rejected`)
  }

  /** Forgets a held request whose sender has gone. */
  release(request: RequestId): void {
    for (const check of this.#checks.values()) check.waiters.delete(request)
  }

  /** Ends what has waited too long. */
  expire(): void {
    const now = this.#context.now()
    for (const check of [...this.#checks.values()]) {
      if (now < check.expiresAt) continue
      this.#checks.delete(check.id)
      for (const request of check.waiters) this.#answer(request, rejection('Nobody approved this session in time.'))
    }
    for (const [key, approvedAt] of this.#approvals) if (now >= after(approvedAt, LONGEST_PERIOD_MS)) this.#approvals.delete(key)
  }

  #open(input: SshActionInput, source: NodeRecord, destination: NodeRecord): void {
    const { maxPendingLogins, maxPendingPerSource, pendingLoginMs, serverUrl } = this.#context.config()
    const waiting = [...this.#checks.values()]
    let check = waiting.find((one) => one.state === 'waiting' && isFor(one, input))
    if (check === undefined) {
      const ofDestination = waiting.filter((one) => one.destination === destination.id).length
      if (waiting.length >= maxPendingLogins || ofDestination >= maxPendingPerSource) return this.#answer(input.request, rejection('Too many sessions wait for approval: try again later.'))
      const id = AUTH_ID_PREFIX + formatBase64(this.#context.random(ID_BYTES)).replaceAll('+', '-').replaceAll('/', '_')
      const expiresAt = after(this.#context.now(), pendingLoginMs)
      check = { id, source: source.id, destination: destination.id, localUser: input.localUser, askedAt: this.#context.wallNow(), expiresAt, waiters: new Set(), state: 'waiting' }
      this.#checks.set(id, check)
      this.#context.audit(`node:${destination.id}`, 'ssh.check', `node:${source.id}`, `SSH from ${source.givenName} to ${destination.givenName} as ${input.localUser} waits for approval`)
    }
    const message = `This session needs the approval of an administrator, who sees it at\n  ${serverUrl}/auth/${check.id}\nor runs on the control server\n  meshwright-control ssh approve --auth-id ${check.id}\n`
    const holdAndDelegate = `${serverUrl}/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER&auth_id=${check.id}`
    this.#answer(input.request, { message, holdAndDelegate })
  }

  #followUp(request: RequestId, check: SshCheck, verdict: SshVerdict): void {
    if (check.state === 'waiting') return void check.waiters.add(request)
    if (check.state === 'rejected') return this.#answer(request, rejection(REFUSED))
    this.#checks.delete(check.id) // an approval opens one session, unless it is remembered beyond
    this.#answer(request, verdict.accept)
  }

  #remember(key: string): void {
    this.#approvals.delete(key)
    this.#approvals.set(key, this.#context.now())
    for (const [oldest] of this.#approvals) {
      if (this.#approvals.size <= MAX_APPROVALS) return
      this.#approvals.delete(oldest)
    }
  }

  #answer(request: RequestId, action: SSHAction): void {
    this.#context.respond(request, 200, action)
  }
}

const REFUSED = 'An administrator refused this session.'

function rejection(why: string): SSHAction {
  return { message: `${why}\n`, reject: true }
}

function isFor(check: SshCheck, input: SshActionInput): boolean {
  return check.source === input.source && check.destination === input.destination && check.localUser === input.localUser
}

function approvalKey(source: number, destination: number, localUser: string): string {
  return `${source} ${destination} ${localUser}`
}
