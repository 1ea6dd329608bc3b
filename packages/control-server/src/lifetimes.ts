import { after, earlier, type Instant } from '@meshwright/core'
import type { Context } from './context.ts'
import type { NodeRecord } from './records.ts'

/** Expiry stands on the wall clock, which may be set, ahead or back: it is looked at again after this time at the latest. */
const LOOK_AGAIN_MS = 10_000
/** A clock that was set back so that keys are good again is told again after these times: see {@link Lifetimes.remind}. */
const REMIND_AFTER_MS: readonly number[] = [1_000, LOOK_AGAIN_MS]
/** An ephemeral node that never polled gets this long at least: its first map may be slow (juanfont/headscale issue 3423). */
const FIRST_POLL_MS = 300_000

interface Watch {
  readonly expiry: number | undefined
  /** When the node goes if nobody sees it before. */
  readonly deleteAt: Instant | undefined
  readonly expired: boolean
}

/** Watches what happens to nodes by time alone: keys that expire, ephemeral nodes that stay away. */
export class Lifetimes {
  readonly #context: Context
  readonly #watches = new Map<number, Watch>()
  #due: Instant | undefined
  #reminders: readonly Instant[] = []

  constructor(context: Context) {
    this.#context = context
  }

  /** When to look next. */
  get due(): Instant | undefined {
    return earlier(this.#due, this.#reminders[0])
  }

  /** The node is as given now, and connected or not. */
  watch(node: NodeRecord, online: boolean): void {
    const config = this.#context.config()
    const known = this.#watches.get(node.id)
    const patience = node.lastSeen === undefined ? Math.max(FIRST_POLL_MS, config.ephemeralInactivityMs) : config.ephemeralInactivityMs
    const deleteAt = !node.ephemeral || online ? undefined : (known?.deleteAt ?? after(this.#context.now(), patience))
    const isExpired = node.expiry !== undefined && this.#context.wallNow() >= node.expiry
    // What the clock changed meanwhile is found by the look that tells it, never passed over here.
    const expired = known !== undefined && known.expiry === node.expiry ? known.expired : isExpired
    if (node.expiry === undefined && deleteAt === undefined) {
      this.#watches.delete(node.id)
      return
    }
    this.#watches.set(node.id, { expiry: node.expiry, deleteAt, expired })
    this.#due = earlier(this.#due, expired === isExpired ? this.#dueOf(node.expiry, deleteAt, expired) : this.#context.now())
  }

  forget(nodeId: number): void {
    this.#watches.delete(nodeId)
  }

  /** Deletes overdue ephemeral nodes from the state; gives the nodes whose keys expired since the last look, or are good again. */
  expire(): number[] {
    const now = this.#context.now()
    if (this.#due === undefined || now < this.#due) return []
    const wallNow = this.#context.wallNow()
    const changed: number[] = []
    this.#due = undefined
    for (const [id, watch] of this.#watches) {
      if (watch.deleteAt !== undefined && now >= watch.deleteAt) {
        const node = this.#context.state.node(id)
        if (node !== undefined) {
          this.#context.state.deleteNode(id)
          this.#context.audit('server', 'node.delete', `node:${id}`, `${node.givenName} is ephemeral and stayed away`)
        }
        // Kept until the deletion is on disk: a failed write is tried again.
        this.#watches.set(id, { ...watch, deleteAt: after(now, LOOK_AGAIN_MS) })
      } else if (watch.expiry !== undefined && wallNow >= watch.expiry !== watch.expired) {
        changed.push(id)
        this.#watches.set(id, { ...watch, expired: !watch.expired })
        if (watch.expired) this.#reminders = REMIND_AFTER_MS.map((ms) => after(now, ms))
      }
      const left = this.#watches.get(id)
      if (left !== undefined) this.#due = earlier(this.#due, this.#dueOf(left.expiry, left.deleteAt, left.expired))
    }
    return changed
  }

  /**
   * Whether clients are to judge all keys anew, since the clock was set back not long ago. They take the time up beside the frames that it comes
   * with (tailscaled 1.92 to 1.102: an event of its own): a busy one may do so after it has judged a node that is good again by the old time.
   */
  remind(): boolean {
    const now = this.#context.now()
    const left = this.#reminders.filter((at) => now < at)
    const due = left.length < this.#reminders.length
    this.#reminders = left
    return due
  }

  #dueOf(expiry: number | undefined, deleteAt: Instant | undefined, expired: boolean): Instant | undefined {
    if (expiry === undefined) return deleteAt
    // Expired: only a clock that is set back can change that.
    if (expired) return earlier(deleteAt, after(this.#context.now(), LOOK_AGAIN_MS))
    // Rounded up: a look a fraction too early would find nothing and come again at once.
    const wait = Math.min(Math.max(Math.ceil(expiry - this.#context.wallNow()), 1), LOOK_AGAIN_MS)
    return earlier(deleteAt, after(this.#context.now(), wait))
  }
}
