import type { NodePublicKey } from '@meshwright/crypto'
import { WireGuardError } from './errors.ts'
import type { Peer } from './peer.ts'
import type { Session } from './session.ts'
import type { WireGuardPath } from './types.ts'

/**
 * What `prepareSeal` found out and `cryptSeal` and `commitSeal` need: which session, which message numbers. Made once with
 * `device.sealPlan()` and used again for batch after batch; one batch at a time.
 */
export class SealPlan<Path extends WireGuardPath = WireGuardPath> {
  /** Internal: the peer that is sent to. */
  peer: Peer<Path> | undefined
  /** Internal: the session that is sent on; `undefined` when nothing is to be sealed. */
  session: Session<Peer<Path>> | undefined
  /** Internal: message number of the first pending slot. */
  firstCounter = 0n
}

/**
 * What `prepareOpen` found out and `cryptOpen` and `commitOpen` need: the session of each slot. After `commitOpen` it tells the peer
 * of each opened slot. Made with `device.openPlan(capacity)` and used again.
 */
export class OpenPlan<Path extends WireGuardPath = WireGuardPath> {
  /** The most slots of a batch that it can go with. */
  readonly capacity: number
  /** Internal: the session of each slot; `undefined` for slots that were dropped or were no transport messages. */
  readonly sessions: (Session<Peer<Path>> | undefined)[]
  /** Internal: the slots that are no transport messages, in order. They are worked on last: packets of sessions come first. */
  readonly others: Int32Array
  /** Internal: how many of `others` there are. */
  otherCount = 0
  /** Internal: whether transport messages came that belong to no session of ours. */
  hasStrays = false
  #used = 0

  constructor(capacity: number) {
    this.capacity = capacity
    this.sessions = new Array<Session<Peer<Path>> | undefined>(capacity).fill(undefined)
    this.others = new Int32Array(capacity)
  }

  /** Who sent the packet of a slot whose verdict is `DONE`; `undefined` for all others. */
  peerOf(slot: number): NodePublicKey | undefined {
    return this.sessions[slot]?.owner.publicKey
  }

  /** Internal. @throws WIREGUARD_PLAN_CAPACITY when a batch of `count` slots does not fit */
  reset(count: number): void {
    if (count > this.capacity) throw new WireGuardError('WIREGUARD_PLAN_CAPACITY', `a plan for ${this.capacity} slots cannot hold a batch of ${count}`)
    // Only what the batch before has used: plans have room for more than most batches hold.
    this.sessions.fill(undefined, 0, this.#used)
    this.#used = count
    this.otherCount = 0
    this.hasStrays = false
  }
}
