import type { UnixMillis } from '@meshwright/core'
import { formatPrefix, type Ip, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { checkPolicy, type CompiledPolicy, compilePolicy, type Diagnostic, parsePolicy, type PeerView, type Policy, type SshRuleView, type TailnetNode, type TailnetUser, type TailnetView } from '@meshwright/policy'
import type { SSHAction } from '@meshwright/control-protocol'
import { DENIED, type NodeAccess, PLAIN_PEER, type VisiblePeer } from './access.ts'
import type { AdminProblem } from './admin-commands.ts'
import type { RegistrationRules } from './context.ts'
import { servedRoutes } from './host-facts.ts'
import type { NodeRecord, UserRecord } from './records.ts'
import { isExpired, loginNameOf } from './registration.ts'
import type { State } from './state.ts'

/** A problem of a policy, with its place where that is known. */
export type PolicyProblem = NonNullable<AdminProblem['diagnostics']>[number]

/** What the policy says of an SSH session. */
export interface SshVerdict {
  /** The action that lets the session in, with its recording. */
  readonly accept: SSHAction
  /** How long the approval of a person holds, 0: for this session; undefined when none is needed. */
  readonly checkMs: number | undefined
}

/** What the policy needs to know beside the stored state. */
export interface PolicySurroundings {
  wallNow(): UnixMillis
  /** Whether the node is connected and, where it shares routes with others, answers. */
  isOnline(nodeId: number): boolean
  serverUrl(): string
}

/** Whose answers may have changed: anybody's, or those of the affected nodes, where seeing others differs only if one of both moved. */
export type PolicyEffect = 'everybody' | { readonly affected: ReadonlySet<number>; readonly moved: ReadonlySet<number> }

/** Where more changed than one in so many nodes, and more than a few, compiling anew is cheaper than following each change. */
const FOLLOWED_SHARE = 16
const FOLLOWED_ALWAYS = 4
/** Where nodes ask about an SSH session in check mode; the names in capitals are filled in by the node. */
const SSH_CHECK = '/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER'

/**
 * The policy in force and all that follows from it. It is made anew only when something it depends on has changed: its text, the users, or
 * who a node is (owner, tags, addresses, served routes and, for routers, presence, what postures look at). Endpoints and relays do not
 * matter to it. A change of a few nodes is followed alone, and the answers of all nodes that it cannot touch are kept.
 */
export class TailnetPolicy implements RegistrationRules {
  readonly #state: State
  readonly #around: PolicySurroundings
  readonly #nodes = new Map<number, { readonly fingerprint: string; readonly view: TailnetNode }>()
  readonly #stale = new Set<number>()
  readonly #answers = new Map<number, NodeAccess>()
  #source: string | undefined
  #policy: Policy | undefined
  #compiled: CompiledPolicy | undefined
  #whole = true
  #affected = new Set<number>()
  #moved = new Set<number>()
  #anybody = false

  constructor(state: State, around: PolicySurroundings) {
    this.#state = state
    this.#around = around
    for (const node of state.nodes()) this.#stale.add(node.id)
  }

  /** Whether there is a policy that compiles. */
  get active(): boolean {
    this.#refresh()
    return this.#compiled !== undefined
  }

  /** Whether something changed that {@link TailnetPolicy.takeAffected} has not told yet. */
  get unsettled(): boolean {
    return this.#whole || this.#stale.size > 0 || this.#anybody || this.#affected.size > 0
  }

  /** Why a text cannot be the policy of this network: syntax, meaning, failing tests. Empty: it can. */
  check(text: string): PolicyProblem[] {
    const { policy, diagnostics } = parsePolicy(text)
    if (policy === undefined || diagnostics.length > 0) return diagnostics.map(problemOf)
    return checkPolicy(policy, this.#view(), this.#around.wallNow()).map(problemOf)
  }

  /** The text or the users may be others now. */
  recompile(): void {
    this.#whole = true
  }

  /** These nodes may be others now, or gone. */
  nodesChanged(ids: Iterable<number>): void {
    for (const id of ids) this.#stale.add(id)
  }

  /** Whose answers may have changed since this was last asked. */
  takeAffected(): PolicyEffect {
    this.#refresh()
    const effect: PolicyEffect = this.#anybody ? 'everybody' : { affected: this.#affected, moved: this.#moved }
    this.#anybody = false
    this.#affected = new Set()
    this.#moved = new Set()
    return effect
  }

  /** What a node may do. The same object until that may have changed. */
  accessOf(nodeId: number): NodeAccess {
    const compiled = this.#compiledFor(nodeId)
    if (compiled === undefined) return DENIED
    let answer = this.#answers.get(nodeId)
    if (answer === undefined) {
      answer = answerFor(compiled, nodeId, this.#nodes.get(nodeId)?.view.addresses.length ?? 0, this.#around.wallNow())
      this.#answers.set(nodeId, answer)
    }
    return answer
  }

  /** All nodes that a node sees, and how. */
  peersOf(nodeId: number): readonly (readonly [number, VisiblePeer])[] {
    const peers = this.#compiledFor(nodeId)?.peersFor(nodeId, this.#around.wallNow()) ?? []
    return peers.map((peer) => [peer.node.id, visible(peer)] as const)
  }

  /** How a node sees one other node; `undefined`: not at all. */
  peerOf(nodeId: number, peerId: number): VisiblePeer | undefined {
    const peer = this.#compiledFor(nodeId)?.peerFor(nodeId, peerId, this.#around.wallNow())
    return peer && visible(peer)
  }

  /** The policy, for the nodes that it says anything to. */
  #compiledFor(nodeId: number): CompiledPolicy | undefined {
    this.#refresh()
    const node = this.#state.node(nodeId)
    return node === undefined || !this.#nodes.has(nodeId) || isExpired(node, this.#around.wallNow()) ? undefined : this.#compiled
  }

  /** What the rules say now of a session from one node to another as a local user; `undefined`: not allowed. */
  sshVerdict(source: NodeRecord, destination: NodeRecord, localUser: string): SshVerdict | undefined {
    this.#refresh()
    const wallNow = this.#around.wallNow()
    const [policy, compiled] = [this.#policy, this.#compiled]
    if (policy === undefined || compiled === undefined || isExpired(source, wallNow) || isExpired(destination, wallNow)) return undefined
    const addresses = [source.ipv4, source.ipv6]
    const matching = (rules: readonly SshRuleView[]): SshRuleView | undefined =>
      rules.find((rule) => rule.principals.some(({ nodeIP }) => addresses.includes(nodeIP)) && mapsTo(rule.sshUsers, localUser))
    const rule = matching(compiled.sshFor(destination.id, wallNow))
    if (rule === undefined) return undefined
    const { holdAndDelegate, ...rest } = rule.action
    const accept = { ...rest, accept: true, allowAgentForwarding: true, allowLocalPortForwarding: true, allowRemotePortForwarding: true }
    if (holdAndDelegate === undefined) return { accept, checkMs: undefined }
    // Rules do not carry the period to the wire: the first of the file that demands the check alone says it.
    const demanding = policy.ssh.find((one) => one.action === 'check' && matching(compilePolicy({ ...policy, ssh: [one] }, this.#view()).sshFor(destination.id, wallNow)) !== undefined)
    const period = demanding?.checkPeriodMs ?? 0
    return { accept, checkMs: period === 'always' ? 0 : period }
  }

  mayUseTag(user: UserRecord, tag: string): boolean {
    this.#refresh()
    if (this.#policy === undefined || this.#state.user(user.id) === undefined) return false
    return compilePolicy(this.#policy, this.#view([])).tagOwnersAllow(user.id, tag)
  }

  knowsTag(tag: string): boolean {
    this.#refresh()
    return this.#policy?.tagOwners.has(tag) === true
  }

  autoApproved(node: NodeRecord): readonly string[] {
    this.#refresh()
    if (this.#policy === undefined) return []
    const view = this.#nodeView(node)
    // Approvers are asked about this node alone, and it may not be stored yet.
    return compilePolicy(this.#policy, this.#view([view])).approvedRoutes(node.id, view.advertisedRoutes).map(formatPrefix)
  }

  #refresh(): void {
    if (!this.#whole && this.#stale.size === 0) return
    const changed: TailnetNode[] = []
    const removed: number[] = []
    for (const id of this.#stale) {
      const node = this.#state.node(id)
      const fingerprint = node === undefined ? undefined : this.#fingerprint(node)
      if (fingerprint === this.#nodes.get(id)?.fingerprint) continue
      if (node === undefined || fingerprint === undefined) {
        this.#nodes.delete(id)
        removed.push(id)
      } else {
        const view = this.#nodeView(node)
        this.#nodes.set(id, { fingerprint, view })
        changed.push(view)
      }
    }
    this.#stale.clear()
    if (this.#whole || changed.length + removed.length > Math.max(FOLLOWED_ALWAYS, this.#nodes.size / FOLLOWED_SHARE)) return this.#compile()
    for (const node of changed) this.#follow({ type: 'nodeSet', node })
    for (const id of removed) this.#follow({ type: 'nodeRemoved', id })
  }

  #follow(change: Parameters<CompiledPolicy['update']>[0]): void {
    if (this.#compiled === undefined) return
    const { policy, affected, moved } = this.#compiled.update(change, this.#around.wallNow())
    this.#compiled = policy
    for (const id of affected) {
      this.#answers.delete(id)
      this.#affected.add(id)
    }
    for (const id of moved) this.#moved.add(id)
  }

  #compile(): void {
    this.#whole = false
    this.#answers.clear()
    this.#anybody = true
    const text = this.#state.policy?.text
    if (text !== this.#source) {
      this.#source = text
      this.#policy = text === undefined ? undefined : parsePolicy(text).policy
    }
    this.#compiled = this.#policy && compilePolicy(this.#policy, this.#view(), { sshCheckUrl: this.#around.serverUrl() + SSH_CHECK })
  }

  #view(nodes: readonly TailnetNode[] = [...this.#nodes.values()].map(({ view }) => view)): TailnetView {
    const users = [...this.#state.users()].map((user): TailnetUser => ({ id: user.id, login: loginNameOf(user), displayName: user.displayName, role: 'member' }))
    const domains = new Set(users.flatMap(({ login }) => (login.includes('@') ? login.slice(login.lastIndexOf('@') + 1) : [])))
    return { users, nodes, domains: [...domains] }
  }

  #nodeView(node: NodeRecord): TailnetNode {
    const { OS, OSVersion, IPNVersion } = node.hostinfo
    const attributes = [['node:os', OS], ['node:osVersion', OSVersion], ['node:tsVersion', IPNVersion]].flatMap(([name, value]) =>
      name === undefined || value === undefined ? [] : [[name, { value }] as const],
    )
    return {
      id: node.id,
      name: node.givenName,
      ...(node.userId !== undefined && { user: node.userId }),
      tags: node.tags,
      addresses: [node.ipv4, node.ipv6].flatMap((text): readonly Ip[] => ips(text)),
      advertisedRoutes: prefixes(node.advertisedRoutes),
      approvedRoutes: prefixes(node.approvedRoutes),
      created: node.createdAt,
      online: this.#carries(node),
      attributes: new Map(attributes),
    }
  }

  #carries(node: NodeRecord): boolean {
    return this.#around.isOnline(node.id) && !isExpired(node, this.#around.wallNow())
  }

  #fingerprint(node: NodeRecord): string {
    const { OS, OSVersion, IPNVersion } = node.hostinfo
    const served = servedRoutes(node)
    return JSON.stringify([node.userId, node.tags, node.ipv4, node.ipv6, served, served.length > 0 && this.#carries(node), OS, OSVersion, IPNVersion])
  }
}

function answerFor(compiled: CompiledPolicy, nodeId: number, ownAddresses: number, wallNow: UnixMillis): NodeAccess {
  return {
    filter: compiled.filterFor(nodeId, wallNow),
    ssh: { rules: compiled.sshFor(nodeId, wallNow) },
    attrs: Object.fromEntries([...compiled.attrsFor(nodeId)].map(([name, values]) => [name, values ?? []])),
    ipv6Only: compiled.addressesFor(nodeId).length < ownAddresses,
  }
}

function visible(peer: PeerView): VisiblePeer {
  const hidden = peer.node.addresses.length > peer.addresses.length
  if (!hidden && peer.subnetRoutes.length + peer.exitRoutes.length + peer.capabilities.length === 0) return PLAIN_PEER
  const routes = [...peer.subnetRoutes, ...peer.exitRoutes].map(formatPrefix).sort()
  return { routes, ipv6Only: hidden, capMap: Object.fromEntries(peer.capabilities.map((name) => [name, []])) }
}

/** Whether some requested name leads to the local user: `=` is the same name, but never root. */
function mapsTo(sshUsers: Readonly<Record<string, string>>, localUser: string): boolean {
  if (localUser === '') return false
  return Object.entries(sshUsers).some(([asked, local]) => local === localUser || (local === '=' && localUser !== 'root' && (asked === '*' || asked === localUser)))
}

function ips(text: string | undefined): readonly Ip[] {
  const ip = text === undefined ? undefined : parseIp(text)
  return ip === undefined ? [] : [ip]
}

function prefixes(texts: readonly string[]): Prefix[] {
  return texts.flatMap((text) => parsePrefix(text) ?? [])
}

function problemOf({ line, column, code, message, remedy }: Diagnostic): PolicyProblem {
  return { line, column, code, message: remedy === undefined ? message : `${message} (${remedy})` }
}
