import { after, type Instant, type Outbox, type RandomSource } from '@meshwright/core'
import {
  CAPABILITY_VERSION,
  decodeDocument,
  decodeRegisterResponse,
  type Hostinfo,
  LOGOUT_EXPIRY,
  type RegisterRequest,
  type RegisterResponse,
  ZERO_NODE_KEY,
  ZERO_TIME,
} from '@meshwright/control-protocol'
import { NodePrivateKey } from '@meshwright/crypto'
import { Backoff, retryAfterMs } from './backoff.ts'
import type { ControlClientOutput, ControlProblemCode } from './events.ts'
import { isWebAddress, plainText } from './plain-text.ts'
import type { Answer, Requests } from './requests.ts'

/** How to log in. */
export interface LoginHow {
  /** A pre-auth key. Without one, a known node key is used, or a person must visit a URL. */
  readonly authKey?: string
  /** Register a new node key even though the known one is good. */
  readonly forceNewKey?: boolean
  /** Ask to be forgotten when offline for a while. */
  readonly ephemeral?: boolean
}

/** What a login needs from the client around it. */
export interface LoginSurroundings {
  readonly outbox: Outbox<ControlClientOutput>
  readonly requests: Requests
  readonly random: RandomSource
  readonly hostinfo: () => Hostinfo
  /** The registered key. */
  readonly nodeKey: () => NodePrivateKey | undefined
  /** The server has been reached and does not take this node as it is: it wants a person or a new key, or says no. */
  readonly refused: (now: Instant) => void
  /** Registered: this is the node key from now on. `how` would register it again. */
  readonly succeeded: (now: Instant, key: NodePrivateKey, response: RegisterResponse, how: LoginHow) => void
  readonly loggedOut: (now: Instant) => void
}

const REGISTER_PATH = '/machine/register'
const MAX_ANSWER_BYTES = 1_048_576
const REGISTER_TIMEOUT_MS = 60_000
const REFUSED_STEP_MS = 500
const MAX_LOGOUT_TRIES = 4

interface Attempt {
  readonly how: LoginHow
  readonly key: NodePrivateKey
  readonly oldKey: NodePrivateKey | undefined
  /** The URL that a person must visit, once the server has named it. */
  readonly followup: string | undefined
  /** A new key was made in this round because the server asked for one. */
  readonly renewed: boolean
}

type LoginPhase =
  | { readonly state: 'idle' }
  | { readonly state: 'asking'; readonly attempt: Attempt; readonly id: number }
  /** `unreachable`: it was the network that failed. */
  | { readonly state: 'waiting'; readonly attempt: Attempt; readonly due: Instant; readonly unreachable: boolean }
  | { readonly state: 'loggingOut'; readonly tries: number; readonly id: number }
  | { readonly state: 'logoutWaiting'; readonly tries: number; readonly due: Instant }

/**
 * Registration: the auth loop of the client (tailscale/tailscale:control/controlclient/{auto,direct}.go).
 *
 * | state | edge | to |
 * |---|---|---|
 * | idle | login | asking |
 * | asking | accepted | idle |
 * | asking | a URL: shown, asked again with it | asking |
 * | asking | another URL than was shown: shown, asked again with it | waiting |
 * | asking | key expired: a new key, once a round | asking |
 * | asking | refused, failed, 429, the same URL again | waiting |
 * | waiting | time | asking |
 * | any | logout | loggingOut, then idle |
 */
export class LoginFlow {
  readonly #around: LoginSurroundings
  readonly #backoff: Backoff
  readonly #refusals: Backoff
  #phase: LoginPhase = { state: 'idle' }
  #authKey: string | undefined

  constructor(around: LoginSurroundings) {
    this.#around = around
    this.#backoff = new Backoff(around.random)
    this.#refusals = new Backoff(around.random, REFUSED_STEP_MS)
  }

  get state(): LoginPhase['state'] {
    return this.#phase.state
  }

  /** The URL that a person must visit now. */
  get pendingUrl(): string | undefined {
    return this.#phase.state === 'asking' || this.#phase.state === 'waiting' ? this.#phase.attempt.followup : undefined
  }

  get due(): Instant | undefined {
    return this.#phase.state === 'waiting' || this.#phase.state === 'logoutWaiting' ? this.#phase.due : undefined
  }

  login(now: Instant, how: LoginHow): void {
    this.#giveUp()
    this.#backoff.reset()
    this.#refusals.reset()
    this.#authKey = how.authKey
    const known = this.#around.nodeKey()
    const fresh = known === undefined || how.forceNewKey === true
    this.#ask(now, {
      how,
      key: fresh ? NodePrivateKey.generate(this.#around.random) : known,
      oldKey: fresh ? known : undefined,
      followup: undefined,
      renewed: false,
    })
  }

  logout(now: Instant): void {
    this.#giveUp()
    this.#backoff.reset()
    if (this.#around.nodeKey() === undefined) return this.#around.loggedOut(now)
    this.#askLogout(now, 1)
  }

  /** Gives up whatever is under way, without telling the server. */
  stop(): void {
    this.#giveUp()
  }

  /** The network has changed: a server that could not be reached is tried at once. */
  networkChanged(now: Instant): void {
    if (this.#phase.state !== 'waiting' || !this.#phase.unreachable) return
    this.#backoff.reset()
    this.#ask(now, this.#phase.attempt)
  }

  /** This node itself gives its connection up: what was asked on it is asked again. */
  reconnect(now: Instant): void {
    const phase = this.#phase
    if (phase.state !== 'asking' && phase.state !== 'loggingOut') return this.networkChanged(now)
    this.#around.requests.cancel(phase.id)
    if (phase.state === 'asking') this.#ask(now, phase.attempt)
    else this.#askLogout(now, phase.tries)
  }

  handleTimeout(now: Instant): void {
    const phase = this.#phase
    if (phase.state === 'waiting' && now >= phase.due) this.#ask(now, phase.attempt)
    if (phase.state === 'logoutWaiting' && now >= phase.due) this.#askLogout(now, phase.tries + 1)
  }

  #giveUp(): void {
    if (this.#phase.state === 'asking' || this.#phase.state === 'loggingOut') this.#around.requests.cancel(this.#phase.id)
    this.#phase = { state: 'idle' }
  }

  #ask(now: Instant, attempt: Attempt): void {
    const { how } = attempt
    const body: RegisterRequest = {
      Version: CAPABILITY_VERSION,
      NodeKey: attempt.key.publicKey().text,
      OldNodeKey: attempt.oldKey?.publicKey().text ?? ZERO_NODE_KEY,
      ...(how.authKey !== undefined && { Auth: { AuthKey: how.authKey } }),
      Expiry: ZERO_TIME,
      ...(attempt.followup !== undefined && { Followup: attempt.followup }),
      Hostinfo: this.#around.hostinfo(),
      ...(how.ephemeral === true && { Ephemeral: true }),
    }
    // A followup is held by the server until a person has decided: no time limit.
    const timeoutMs = attempt.followup === undefined ? REGISTER_TIMEOUT_MS : undefined
    const nodeKeys = attempt.oldKey === undefined ? [body.NodeKey] : [attempt.oldKey.publicKey().text, body.NodeKey]
    const id = this.#around.requests.ask(now, { path: REGISTER_PATH, body, nodeKeys, maxBytes: MAX_ANSWER_BYTES, timeoutMs }, (at, answer) =>
      this.#answered(at, attempt, answer),
    )
    this.#phase = { state: 'asking', attempt, id }
  }

  #answered(now: Instant, attempt: Attempt, answer: Answer): void {
    const { how } = attempt
    const response = this.#read(now, attempt, answer)
    if (response === undefined) return
    if (response.Error !== '' || response.NodeKeyExpired || response.AuthURL !== '') this.#around.refused(now)
    if (response.Error !== '') return this.#refused(now, attempt, response.Error)
    if (response.NodeKeyExpired) {
      if (attempt.renewed) return this.#refused(now, attempt, 'the control server calls a brand-new node key expired')
      return this.#ask(now, { ...attempt, key: NodePrivateKey.generate(this.#around.random), oldKey: attempt.key, followup: undefined, renewed: true })
    }
    if (response.AuthURL === '') {
      this.#backoff.reset()
      this.#phase = { state: 'idle' }
      return this.#around.succeeded(now, attempt.key, response, { ...how, forceNewKey: false })
    }
    if (!isWebAddress(response.AuthURL)) {
      return this.#retry(now, attempt, 'CONTROL_LOGIN_FAILED', 'the control server names an address to log in at that is no web address', this.#refusals.nextMs())
    }
    const next = { ...attempt, followup: response.AuthURL }
    if (attempt.followup !== response.AuthURL) this.#around.outbox.push({ type: 'openUrl', url: response.AuthURL })
    // The server holds a question about a URL until a person has decided. One that answers at once, with whatever URL, is asked more and more slowly.
    if (attempt.followup !== undefined) return this.#wait(now, next, this.#backoff.nextMs(), false)
    this.#backoff.reset()
    this.#ask(now, next)
  }

  #read(now: Instant, attempt: Attempt, answer: Answer): RegisterResponse | undefined {
    if (answer.type === 'failed') {
      return this.#retry(now, attempt, 'CONTROL_UNREACHABLE', `cannot reach the control server: ${answer.message}`, this.#backoff.nextMs())
    }
    if (answer.status === 429) {
      const waitMs = retryAfterMs(answer.retryAfter, this.#around.random)
      return this.#retry(now, attempt, 'CONTROL_RATE_LIMITED', 'the control server is busy and asked to try later', waitMs)
    }
    if (answer.status !== 200) {
      return this.#retry(now, attempt, 'CONTROL_LOGIN_FAILED', `the control server answered the login with status ${answer.status}`, this.#backoff.nextMs())
    }
    const decoded = decodeDocument(decodeRegisterResponse, answer.body)
    if (decoded.ok) return decoded.value
    return this.#retry(now, attempt, 'CONTROL_LOGIN_FAILED', `the answer to the login cannot be read: ${decoded.path} ${decoded.problem}`, this.#backoff.nextMs())
  }

  // Asked again all the same, as real clients do, but more slowly: the reason may go away (an approval, a database that was busy).
  #refused(now: Instant, attempt: Attempt, text: string): void {
    this.#retry(now, attempt, 'CONTROL_LOGIN_REFUSED', `the control server refused the login: ${plainText(text)}`, this.#refusals.nextMs())
  }

  #retry(now: Instant, attempt: Attempt, code: ControlProblemCode, message: string, waitMs: number): undefined {
    this.#around.outbox.push({ type: 'problem', code, message, retryInMs: waitMs })
    this.#wait(now, attempt, waitMs, code === 'CONTROL_UNREACHABLE')
  }

  #wait(now: Instant, attempt: Attempt, waitMs: number, unreachable: boolean): void {
    this.#phase = { state: 'waiting', attempt: { ...attempt, renewed: false }, due: after(now, waitMs), unreachable }
  }

  #askLogout(now: Instant, tries: number): void {
    const key = this.#around.nodeKey()?.publicKey().text ?? ZERO_NODE_KEY
    const body: RegisterRequest = {
      Version: CAPABILITY_VERSION,
      NodeKey: key,
      OldNodeKey: ZERO_NODE_KEY,
      ...(this.#authKey !== undefined && { Auth: { AuthKey: this.#authKey } }),
      Expiry: LOGOUT_EXPIRY,
      Hostinfo: this.#around.hostinfo(),
    }
    const ask = { path: REGISTER_PATH, body, nodeKeys: [key], maxBytes: MAX_ANSWER_BYTES, timeoutMs: REGISTER_TIMEOUT_MS }
    const id = this.#around.requests.ask(now, ask, (at, answer) => {
      if (answer.type === 'answer' && answer.status === 200) {
        this.#phase = { state: 'idle' }
        return this.#around.loggedOut(at)
      }
      const last = tries >= MAX_LOGOUT_TRIES
      const reason = answer.type === 'failed' ? answer.message : `status ${answer.status}`
      const waitMs = last ? undefined : this.#backoff.nextMs()
      this.#around.outbox.push({ type: 'problem', code: 'CONTROL_LOGOUT_FAILED', message: `the control server did not confirm the logout: ${reason}`, retryInMs: waitMs })
      if (waitMs !== undefined) this.#phase = { state: 'logoutWaiting', tries, due: after(at, waitMs) }
      else {
        this.#phase = { state: 'idle' }
        this.#around.loggedOut(at)
      }
    })
    this.#phase = { state: 'loggingOut', tries, id }
  }
}
