import { isMeshwrightError, MeshwrightError, type UnixMillis } from '@meshwright/core'
import type { Ip, Prefix } from '@meshwright/ip'
import type { FilterRule } from '@meshwright/packet-filter'
import { type Affected, affectedBy } from './affected.ts'
import { autoApproved, mayTag } from './approval.ts'
import { attributesFor, type CapabilityMap, DISABLE_IPV4, roleCapabilitiesFor, SUGGEST_EXIT_NODE } from './attributes.ts'
import { Engine } from './engine.ts'
import { Inventory, type NodeRecord } from './inventory.ts'
import type { NodeChange } from './inventory-index.ts'
import { asksForPostures } from './plan.ts'
import type { Policy } from './policy.ts'
import { SSH_CHECK_PATH, type SshRuleView } from './ssh.ts'
import type { TailnetChange, TailnetNode, TailnetView } from './tailnet.ts'
import type { PeerRoutes, PeerView } from './visibility.ts'

/** Codes of {@link PolicyError}. */
export type PolicyErrorCode = 'POLICY_NODE_UNKNOWN' | 'POLICY_USER_UNKNOWN' | 'POLICY_DUPLICATE_ID'

/** Misuse of a compiled policy: a node or user that is not in its tailnet. */
export class PolicyError extends MeshwrightError<PolicyErrorCode> {}

/** True for a {@link PolicyError}, of the given code when one is named. */
export function isPolicyError(error: unknown, code?: PolicyErrorCode): boolean {
  return isMeshwrightError(error, code) && error.code.startsWith('POLICY_')
}

/** How to compile. */
export interface CompileOptions {
  /** Where nodes ask about an SSH `check`; default: {@link SSH_CHECK_PATH}. */
  readonly sshCheckUrl?: string
}

/** The routes of a node as it is told itself. */
export interface OwnRoutes {
  /** All that it serves (approved and still advertised), exit routes included. */
  readonly served: readonly Prefix[]
  /** Subnet routes of which it is the primary. */
  readonly primary: readonly Prefix[]
}

/** What {@link CompiledPolicy.update} gives: whom the change concerns, the changed node included, and in no order. */
export interface PolicyUpdate extends Affected {
  readonly policy: CompiledPolicy
}

/**
 * A policy looked up in a tailnet: answers what every node receives. It never changes; {@link update} gives another one. All answers are
 * made when they are asked for. `wallNow` matters only for device attributes that expire; without it those count as not set.
 */
export class CompiledPolicy {
  readonly policy: Policy
  readonly #inventory: Inventory
  readonly #sshCheckUrl: string
  readonly #mayDisableIpv4: boolean
  readonly #postured: boolean
  /** Sorted moments at which some attribute expires, if any rule asks for postures. */
  readonly #expiries: readonly number[]
  #engine: { readonly epoch: number; readonly engine: Engine } | undefined

  /** @param previous the same policy for an earlier state of the tailnet */
  constructor(policy: Policy, inventory: Inventory, sshCheckUrl: string, previous?: CompiledPolicy) {
    this.policy = policy
    this.#inventory = inventory
    this.#sshCheckUrl = sshCheckUrl
    this.#mayDisableIpv4 = previous === undefined ? policy.nodeAttrs.some(({ attributes }) => attributes.includes(DISABLE_IPV4)) : previous.#mayDisableIpv4
    this.#postured = previous === undefined ? asksForPostures(policy) : previous.#postured
    const { old, now } = inventory.changed ?? {}
    const same = previous !== undefined && inventory.changed !== undefined && !expires(old?.node) && !expires(now?.node)
    this.#expiries = same ? previous.#expiries : this.#postured ? expiriesOf(inventory.view.nodes) : []
  }

  /** The tailnet that it was compiled for. */
  get tailnet(): TailnetView {
    return this.#inventory.view
  }

  /** The looked-up form, for the functions of this package. */
  engineAt(wallNow?: UnixMillis): Engine {
    return this.#engineFrom(undefined, wallNow)
  }

  #engineFrom(previous: Engine | undefined, wallNow: UnixMillis | undefined): Engine {
    const epoch = wallNow === undefined ? -1 : this.#expiries.filter((expiry) => expiry <= wallNow).length
    if (this.#engine === undefined || (this.#engine.epoch !== epoch && this.#expiries.length > 0)) {
      this.#engine = { epoch, engine: new Engine(this.policy, this.#inventory, this.#sshCheckUrl, wallNow, previous) }
    }
    return this.#engine.engine
  }

  /** The packet filter of a node, in the order of delivery. Lists inside are shared: do not change them. @throws POLICY_NODE_UNKNOWN */
  filterFor(nodeId: number, wallNow?: UnixMillis): readonly FilterRule[] {
    return this.engineAt(wallNow).filter.rulesFor(this.#record(nodeId))
  }

  /** All peers that a node sees, with the routes that lead over them. @throws POLICY_NODE_UNKNOWN */
  peersFor(nodeId: number, wallNow?: UnixMillis): readonly PeerView[] {
    const viewer = this.#record(nodeId)
    const engine = this.engineAt(wallNow)
    const viewerWithout = this.#withoutIpv4(engine, viewer)
    return engine.visibility.routesOf(viewer).map((peer) => this.#peerView(engine, peer, viewerWithout))
  }

  /**
   * One of the peers that {@link peersFor} gives; `undefined` when the node does not see it, or is it. What one node more or less costs others
   * is asked this way: for each pair of an affected and a moved node of an update.
   * @throws POLICY_NODE_UNKNOWN when the viewer is unknown; an unknown peer is not seen
   */
  peerFor(nodeId: number, peerId: number, wallNow?: UnixMillis): PeerView | undefined {
    const viewer = this.#record(nodeId)
    const peer = this.#inventory.recordOf(peerId)
    const engine = this.engineAt(wallNow)
    const routes = peer && engine.visibility.routesTo(viewer, peer)
    return routes && this.#peerView(engine, routes, this.#withoutIpv4(engine, viewer))
  }

  #peerView(engine: Engine, { record, subnetRoutes, exitRoutes }: PeerRoutes, viewerWithout: boolean): PeerView {
    const capabilities = record.exitRoutes.length > 0 ? [SUGGEST_EXIT_NODE] : []
    return { node: record.node, addresses: addressesOf(record, viewerWithout || this.#withoutIpv4(engine, record)), subnetRoutes, exitRoutes, capabilities }
  }

  /** The rules of a node's SSH server. @throws POLICY_NODE_UNKNOWN */
  sshFor(nodeId: number, wallNow?: UnixMillis): readonly SshRuleView[] {
    return this.engineAt(wallNow).ssh.rulesFor(this.#record(nodeId))
  }

  /** The attributes that nodeAttrs and settings give a node. @throws POLICY_NODE_UNKNOWN */
  attrsFor(nodeId: number): CapabilityMap {
    return this.#attributes(this.engineAt(), this.#record(nodeId))
  }

  /** What a node is told about the role of its user. @throws POLICY_NODE_UNKNOWN */
  roleCapabilitiesFor(nodeId: number): CapabilityMap {
    return roleCapabilitiesFor(this.policy, this.#inventory, this.#record(nodeId))
  }

  /** The addresses that a node may use itself: without IPv4 where the policy takes it away. @throws POLICY_NODE_UNKNOWN */
  addressesFor(nodeId: number): readonly Ip[] {
    const record = this.#record(nodeId)
    return addressesOf(record, this.#withoutIpv4(this.engineAt(), record))
  }

  /** The routes of a node as it is told itself. @throws POLICY_NODE_UNKNOWN */
  routesFor(nodeId: number): OwnRoutes {
    const record = this.#record(nodeId)
    return { served: [...record.subnetRoutes, ...record.exitRoutes], primary: this.engineAt().visibility.primaryRoutesOf(record) }
  }

  /** Those of the routes that need nobody's approval; to be asked when a route is first advertised. @throws POLICY_NODE_UNKNOWN */
  approvedRoutes(nodeId: number, advertised: readonly Prefix[]): readonly Prefix[] {
    return autoApproved(this.policy, this.engineAt().resolver, this.#record(nodeId), advertised)
  }

  /** Whether a user may put the tag on an own device. @throws POLICY_USER_UNKNOWN */
  tagOwnersAllow(userId: number, tag: string): boolean {
    const user = this.#inventory.users.get(userId)
    if (user === undefined) throw new PolicyError('POLICY_USER_UNKNOWN', `no user ${userId} in the tailnet`)
    return mayTag(this.policy, this.#inventory, user, tag)
  }

  /** The next moment after `wallNow` at which an answer changes by itself; `undefined`: never. */
  nextChange(wallNow: UnixMillis): UnixMillis | undefined {
    return this.#expiries.find((expiry) => expiry > wallNow)
  }

  /** The policy for the tailnet after a change. This one stays valid. Setting a node or user with a known id replaces it. */
  update(change: TailnetChange, wallNow?: UnixMillis): PolicyUpdate {
    const before = this.engineAt(wallNow)
    const inventory = new Inventory(applyChange(this.#inventory.view, change), this.#inventory, changedNode(change))
    const next = new CompiledPolicy(this.policy, inventory, this.#sshCheckUrl, this)
    return { policy: next, ...affectedBy(before, next.#engineFrom(before, wallNow)) }
  }

  #attributes(engine: Engine, record: NodeRecord): CapabilityMap {
    return attributesFor(this.policy, engine.resolver, this.#inventory, record)
  }

  #withoutIpv4(engine: Engine, record: NodeRecord): boolean {
    if (this.policy.settings.disableIPv4) return true
    return this.#mayDisableIpv4 && this.#attributes(engine, record).has(DISABLE_IPV4)
  }

  #record(nodeId: number): NodeRecord {
    const record = this.#inventory.recordOf(nodeId)
    if (record === undefined)
      throw new PolicyError('POLICY_NODE_UNKNOWN', `no node ${nodeId} in the tailnet`, { remedy: 'Add it with update().' })
    return record
  }
}

/** Looks a policy up in a tailnet. @throws POLICY_DUPLICATE_ID when two nodes or two users have the same id */
export function compilePolicy(policy: Policy, tailnet: TailnetView, options: CompileOptions = {}): CompiledPolicy {
  if (new Set(tailnet.nodes.map(({ id }) => id)).size < tailnet.nodes.length)
    throw new PolicyError('POLICY_DUPLICATE_ID', 'two nodes have the same id')
  if (new Set(tailnet.users.map(({ id }) => id)).size < tailnet.users.length)
    throw new PolicyError('POLICY_DUPLICATE_ID', 'two users have the same id')
  return new CompiledPolicy(policy, new Inventory(tailnet), options.sshCheckUrl ?? SSH_CHECK_PATH)
}

function addressesOf(record: NodeRecord, withoutIpv4: boolean): readonly Ip[] {
  return withoutIpv4 ? record.node.addresses.filter((ip) => ip.family === 6) : record.node.addresses
}

function expiriesOf(nodes: readonly TailnetNode[]): readonly number[] {
  const found = new Set<number>()
  for (const node of nodes) for (const { expires } of node.attributes?.values() ?? []) if (expires !== undefined) found.add(expires)
  return [...found].sort((a, b) => a - b)
}

function expires(node: TailnetNode | undefined): boolean {
  return [...(node?.attributes?.values() ?? [])].some((attribute) => attribute.expires !== undefined)
}

function changedNode(change: TailnetChange): NodeChange | undefined {
  if (change.type === 'nodeSet') return { id: change.node.id, node: change.node }
  return change.type === 'nodeRemoved' ? { id: change.id, node: undefined } : undefined
}

function applyChange(view: TailnetView, change: TailnetChange): TailnetView {
  switch (change.type) {
    case 'nodeSet':
      return { ...view, nodes: replaceById(view.nodes, change.node.id, change.node) }
    case 'nodeRemoved':
      return { ...view, nodes: replaceById(view.nodes, change.id, undefined) }
    case 'userSet':
      return { ...view, users: replaceById(view.users, change.user.id, change.user) }
    case 'userRemoved':
      return { ...view, users: replaceById(view.users, change.id, undefined) }
  }
}

function replaceById<T extends { readonly id: number }>(items: readonly T[], id: number, item: T | undefined): readonly T[] {
  const at = items.findIndex((each) => each.id === id)
  if (at < 0 && item === undefined) return items
  const copy = items.slice()
  if (item !== undefined) copy[at < 0 ? copy.length : at] = item
  else copy.splice(at, 1)
  return copy
}
