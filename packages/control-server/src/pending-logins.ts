import { after, type Instant, type RandomSource, formatBase64 } from '@meshwright/core'
import type { Hostinfo } from '@meshwright/control-protocol'
import type { RequestId } from './context.ts'

/** Ids of what waits for somebody's verdict begin so: clients and people know it from headscale. */
export const AUTH_ID_PREFIX = 'hskey-authreq-'
const ID_BYTES = 18 // 24 characters of base64

/** What a device asked for that waits for somebody's verdict. */
export interface LoginRequest {
  readonly machineKey: string
  readonly nodeKey: string
  /** The key that it would replace; undefined for none. */
  readonly oldNodeKey: string | undefined
  readonly hostinfo: Hostinfo
  readonly capVersion: number
  /** Address the request came from, for quotas. */
  readonly source: string
}

/** A login that waits. Its id stands in the URL that the user opens. */
export interface PendingLogin extends LoginRequest {
  readonly id: string
  readonly expiresAt: Instant
  /** Requests that are held until the verdict. */
  readonly waiters: Set<RequestId>
  /** A refused login is remembered until it expires, so that a client whose connection broke hears it too. */
  rejected: boolean
}

/** Logins that wait for a verdict: bounded as a whole and for each source address; old ones go by time. */
export class PendingLogins {
  readonly #byId = new Map<string, PendingLogin>()
  readonly #bySource = new Map<string, number>()
  readonly #random: RandomSource

  constructor(random: RandomSource) {
    this.#random = random
  }

  get size(): number {
    return this.#byId.size
  }

  /** When the oldest one expires. */
  get due(): Instant | undefined {
    for (const login of this.#byId.values()) return login.expiresAt
    return undefined
  }

  all(): IterableIterator<PendingLogin> {
    return this.#byId.values()
  }

  find(id: string): PendingLogin | undefined {
    return this.#byId.get(id)
  }

  /** The login of this device for this node key that waits already. */
  of(machineKey: string, nodeKey: string): PendingLogin | undefined {
    for (const login of this.#byId.values()) if (login.nodeKey === nodeKey && login.machineKey === machineKey) return login
    return undefined
  }

  /**
   * Opens a login. When all places are taken, the oldest that nobody holds a request for gives way; `undefined` when none can, or when
   * this source has its share already.
   */
  open(now: Instant, request: LoginRequest, limits: { readonly total: number; readonly perSource: number; readonly lifetimeMs: number }): PendingLogin | undefined {
    if ((this.#bySource.get(request.source) ?? 0) >= limits.perSource) return undefined
    if (this.#byId.size >= limits.total) {
      const idle = [...this.#byId.values()].find((login) => login.waiters.size === 0)
      if (idle === undefined) return undefined
      this.remove(idle)
    }
    const id = AUTH_ID_PREFIX + formatBase64(this.#random(ID_BYTES)).replaceAll('+', '-').replaceAll('/', '_')
    const login: PendingLogin = { ...request, id, expiresAt: after(now, limits.lifetimeMs), waiters: new Set(), rejected: false }
    this.#byId.set(id, login)
    this.#bySource.set(request.source, (this.#bySource.get(request.source) ?? 0) + 1)
    return login
  }

  remove(login: PendingLogin): void {
    if (!this.#byId.delete(login.id)) return
    const left = (this.#bySource.get(login.source) ?? 1) - 1
    if (left > 0) this.#bySource.set(login.source, left)
    else this.#bySource.delete(login.source)
  }

  /** Forgets a held request whose sender has gone. */
  release(request: RequestId): void {
    for (const login of this.#byId.values()) login.waiters.delete(request)
  }

  /** Removes and gives those whose time is over. */
  expire(now: Instant): PendingLogin[] {
    const over = [...this.#byId.values()].filter((login) => now >= login.expiresAt)
    for (const login of over) this.remove(login)
    return over
  }
}

/** The id in a login URL or in a command: the last `hskey-authreq-…` of the text; `undefined` when there is none. */
export function loginIdIn(text: string): string | undefined {
  const at = text.lastIndexOf(AUTH_ID_PREFIX)
  if (at < 0) return undefined
  const id = text.slice(at, at + AUTH_ID_PREFIX.length + 24)
  return /^hskey-authreq-[A-Za-z0-9_-]{24}$/.test(id) && text.length === at + id.length ? id : undefined
}
