import type { Hostinfo } from '@meshwright/control-protocol'
import type { AddressAllocator } from './addresses.ts'
import type { Context } from './context.ts'
import { withHostinfo } from './host-facts.ts'
import type { AuthKeyRecord, NodeRecord, RegisterMethod } from './records.ts'

/** A device that has been let in, and as whose. */
export interface Admission {
  readonly machineKey: string
  readonly nodeKey: string
  /** The key that the device says it used before. */
  readonly oldNodeKey: string | undefined
  readonly hostinfo: Hostinfo
  readonly capVersion: number
  /** Owner; undefined for tagged nodes. */
  readonly userId: number | undefined
  readonly tags: readonly string[]
  readonly method: RegisterMethod
  readonly authKey: AuthKeyRecord | undefined
  /** A shorter life than the server gives, asked for by the device (Unix milliseconds). */
  readonly wantedExpiry: number | undefined
}

/** A reason for refusal in words that the user of the device reads. */
export interface Refusal {
  readonly refused: string
}

/** Makes and renews node records. A node keeps its number, name and addresses when its key rotates. */
export class Enrolment {
  readonly #context: Context
  readonly #v4: AddressAllocator | undefined
  readonly #v6: AddressAllocator | undefined

  constructor(context: Context, v4: AddressAllocator | undefined, v6: AddressAllocator | undefined) {
    this.#context = context
    this.#v4 = v4
    this.#v6 = v6
  }

  /** Puts the device's node into the state, new or renewed. */
  admit(admission: Admission): NodeRecord | Refusal {
    const holder = this.#context.state.nodeByKey(admission.nodeKey)
    if (holder !== undefined && holder.machineKey !== admission.machineKey) return { refused: 'this node key belongs to another device' }
    const known = holder ?? this.#previous(admission)
    const node = known === undefined ? this.#create(admission) : this.#renew(known, admission)
    if ('refused' in node) return node
    this.#context.state.putNode(node)
    const { authKey } = admission
    if (authKey !== undefined && !authKey.used) this.#context.state.putAuthKey({ ...authKey, used: true })
    return node
  }

  /**
   * The node of this device that the admission renews. A device may hold several nodes (profiles), so: the one with the old key if its
   * owner is the same, or if it is or becomes tagged; else one of the same user; else one with the same tags that is not in use.
   */
  #previous(admission: Admission): NodeRecord | undefined {
    const candidates = this.#context.state.nodesOfMachine(admission.machineKey)
    const byOldKey = candidates.find((node) => node.nodeKey === admission.oldNodeKey)
    if (byOldKey !== undefined && (byOldKey.userId === admission.userId || byOldKey.userId === undefined || admission.userId === undefined)) return byOldKey
    if (admission.userId !== undefined) return candidates.find((node) => node.userId === admission.userId)
    const tags = [...admission.tags].sort().join()
    return candidates.find((node) => node.userId === undefined && node.tags.join() === tags && !this.#context.isOnline(node.id))
  }

  #create(admission: Admission): NodeRecord | Refusal {
    const { state } = this.#context
    const taken = (address: string): boolean => state.nodeByAddress(address) !== undefined
    const v4 = this.#v4?.allocate(taken, state.nodeCount)
    const v6 = this.#v6?.allocate(taken, state.nodeCount)
    if ((this.#v4 !== undefined && v4 === undefined) || (this.#v6 !== undefined && v6 === undefined)) {
      return { refused: 'this network has no free address left: ask its administrator to remove unused nodes' }
    }
    const sibling = state.nodesOfMachine(admission.machineKey)[0]
    const departed = state.departedOf(admission.machineKey)
    const netInfo = sibling?.hostinfo.NetInfo ?? departed?.netInfo
    const fresh: NodeRecord = {
      id: state.takeId('nextNodeId'),
      machineKey: admission.machineKey,
      nodeKey: admission.nodeKey,
      discoKey: undefined,
      ipv4: v4?.key,
      ipv6: v6?.key,
      hostname: '',
      givenName: '',
      renamed: false,
      userId: admission.userId,
      tags: admission.tags,
      registerMethod: admission.method,
      authKeyId: admission.authKey?.id,
      ephemeral: admission.authKey?.ephemeral ?? false,
      createdAt: this.#context.wallNow(),
      lastSeen: undefined,
      expiry: this.#expiry(admission),
      approvedRoutes: [],
      advertisedRoutes: [],
      hostinfo: netInfo === undefined ? {} : { NetInfo: netInfo },
      endpoints: [],
      homeRelay: sibling?.homeRelay ?? departed?.homeRelay ?? 0,
      capVersion: admission.capVersion,
    }
    return withHostinfo(this.#context, fresh, admission.hostinfo)
  }

  #renew(known: NodeRecord, admission: Admission): NodeRecord {
    // A living tagged node that comes back by a tagged key keeps its tags: an administrator may have changed them since. One whose life
    // has ended gets those of the key: a weak key must not bring strong tags back.
    const alive = known.expiry === undefined || this.#context.wallNow() < known.expiry
    const keepsTags = alive && known.tags.length > 0 && admission.tags.length > 0 && admission.method === 'authKey'
    const renewed: NodeRecord = {
      ...known,
      nodeKey: admission.nodeKey,
      userId: admission.userId,
      tags: keepsTags ? known.tags : admission.tags,
      registerMethod: admission.method,
      authKeyId: admission.authKey?.id ?? known.authKeyId,
      ephemeral: admission.authKey?.ephemeral ?? known.ephemeral,
      expiry: this.#expiry(admission),
      capVersion: admission.capVersion,
    }
    return withHostinfo(this.#context, renewed, admission.hostinfo)
  }

  #expiry(admission: Admission): number | undefined {
    const { nodeExpiryMs } = this.#context.config()
    const own = nodeExpiryMs > 0 ? this.#context.wallNow() + nodeExpiryMs : undefined
    if (admission.tags.length > 0) return undefined
    if (admission.wantedExpiry === undefined) return own
    return own === undefined ? admission.wantedExpiry : Math.min(own, admission.wantedExpiry)
  }
}
