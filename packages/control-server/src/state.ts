import type { AuthKeyRecord, Change, Counters, DepartedRecord, NodeRecord, PolicyRecord, ServerState, UserRecord } from './records.ts'

/** Devices whose node was deleted that are remembered. */
const MAX_DEPARTED = 1024

/**
 * The server's memory: all records with the indexes that requests need, and a journal of what changed since the last commit, so that a
 * failed commit can be undone. Nothing here knows protocols.
 */
export class State {
  readonly #users = new Map<number, UserRecord>()
  readonly #usersByName = new Map<string, UserRecord>()
  readonly #nodes = new Map<number, NodeRecord>()
  readonly #nodesByKey = new Map<string, NodeRecord>()
  readonly #nodesByMachine = new Map<string, Set<number>>()
  readonly #nodesByName = new Map<string, number>()
  readonly #addresses = new Map<string, number>()
  /** By device, the oldest first. */
  readonly #departed = new Map<string, DepartedRecord>()
  readonly #authKeys = new Map<number, AuthKeyRecord>()
  readonly #authKeysByPrefix = new Map<string, AuthKeyRecord>()
  #policy: PolicyRecord | undefined
  #counters: Counters
  readonly #changes = new Map<string, Change>()
  readonly #undo: (() => void)[] = []
  readonly #touched = new Set<number>()

  constructor(loaded: ServerState) {
    this.#policy = loaded.policy
    this.#counters = loaded.counters
    for (const user of loaded.users) this.#setUser(user.id, user)
    for (const node of loaded.nodes) this.#setNode(node.id, node)
    for (const authKey of loaded.authKeys) this.#setAuthKey(authKey.id, authKey)
    for (const departed of loaded.departed) this.#departed.set(departed.machineKey, departed)
  }

  get policy(): PolicyRecord | undefined {
    return this.#policy
  }

  get nodeCount(): number {
    return this.#nodes.size
  }

  /** All nodes by ascending id as far as ids were given in order. */
  nodes(): IterableIterator<NodeRecord> {
    return this.#nodes.values()
  }

  node(id: number): NodeRecord | undefined {
    return this.#nodes.get(id)
  }

  nodeByKey(nodeKey: string): NodeRecord | undefined {
    return this.#nodesByKey.get(nodeKey)
  }

  hasMachine(machineKey: string): boolean {
    return this.#nodesByMachine.has(machineKey)
  }

  nodesOfMachine(machineKey: string): NodeRecord[] {
    return [...(this.#nodesByMachine.get(machineKey) ?? [])].flatMap((id) => this.#nodes.get(id) ?? [])
  }

  nodesOfUser(userId: number): NodeRecord[] {
    return [...this.#nodes.values()].filter((node) => node.userId === userId)
  }

  nodeByName(givenName: string): NodeRecord | undefined {
    const id = this.#nodesByName.get(givenName)
    return id === undefined ? undefined : this.#nodes.get(id)
  }

  /** The node that holds an address (canonical text). */
  nodeByAddress(address: string): NodeRecord | undefined {
    const id = this.#addresses.get(address)
    return id === undefined ? undefined : this.#nodes.get(id)
  }

  /** What is left of the node that a device held last, if that was deleted. The oldest of these are forgotten. */
  departedOf(machineKey: string): DepartedRecord | undefined {
    return this.#departed.get(machineKey)
  }

  users(): IterableIterator<UserRecord> {
    return this.#users.values()
  }

  user(id: number | undefined): UserRecord | undefined {
    return id === undefined ? undefined : this.#users.get(id)
  }

  userByName(name: string): UserRecord | undefined {
    return this.#usersByName.get(name)
  }

  authKeys(): IterableIterator<AuthKeyRecord> {
    return this.#authKeys.values()
  }

  authKey(id: number | undefined): AuthKeyRecord | undefined {
    return id === undefined ? undefined : this.#authKeys.get(id)
  }

  authKeyByPrefix(prefix: string): AuthKeyRecord | undefined {
    return this.#authKeysByPrefix.get(prefix)
  }

  putUser(user: UserRecord): void {
    const before = this.#users.get(user.id)
    this.#setUser(user.id, user)
    this.#note(`user ${user.id}`, { type: 'putUser', user }, () => this.#setUser(user.id, before))
  }

  deleteUser(id: number): void {
    const before = this.#users.get(id)
    this.#setUser(id, undefined)
    this.#note(`user ${id}`, { type: 'deleteUser', id }, () => this.#setUser(id, before))
  }

  putNode(node: NodeRecord): void {
    const before = this.#nodes.get(node.id)
    if (before === undefined && this.#departed.has(node.machineKey)) this.#putDeparted(node.machineKey, undefined)
    this.#setNode(node.id, node)
    this.#note(`node ${node.id}`, { type: 'putNode', node }, () => this.#setNode(node.id, before))
    this.#touched.add(node.id)
  }

  deleteNode(id: number): void {
    const before = this.#nodes.get(id)
    if (before !== undefined) this.#remember(before)
    this.#setNode(id, undefined)
    this.#note(`node ${id}`, { type: 'deleteNode', id }, () => this.#setNode(id, before))
    this.#touched.add(id)
  }

  putAuthKey(authKey: AuthKeyRecord): void {
    const before = this.#authKeys.get(authKey.id)
    this.#setAuthKey(authKey.id, authKey)
    this.#note(`authKey ${authKey.id}`, { type: 'putAuthKey', authKey }, () => this.#setAuthKey(authKey.id, before))
  }

  deleteAuthKey(id: number): void {
    const before = this.#authKeys.get(id)
    this.#setAuthKey(id, undefined)
    this.#note(`authKey ${id}`, { type: 'deleteAuthKey', id }, () => this.#setAuthKey(id, before))
  }

  /** @param policy undefined takes the policy away */
  putPolicy(policy: PolicyRecord | undefined): void {
    const before = this.#policy
    this.#policy = policy
    this.#note('policy', policy === undefined ? { type: 'deletePolicy' } : { type: 'putPolicy', policy }, () => {
      this.#policy = before
    })
  }

  /** A number never given before. */
  takeId(counter: keyof Counters): number {
    const before = this.#counters
    const id = before[counter]
    this.#counters = { ...before, [counter]: id + 1 }
    this.#note('counters', { type: 'putCounters', counters: this.#counters }, () => {
      this.#counters = before
    })
    return id
  }

  /** True while changes wait for a commit. */
  get changed(): boolean {
    return this.#changes.size > 0
  }

  /** What the next commit must write, the newest state of each record once. The journal stays until {@link State.committed}. */
  changes(): readonly Change[] {
    return [...this.#changes.values()]
  }

  /** The journal is on disk: forgets it and gives the ids of the nodes that it touched. */
  committed(): ReadonlySet<number> {
    const touched = new Set(this.#touched)
    this.#changes.clear()
    this.#undo.length = 0
    this.#touched.clear()
    return touched
  }

  /** The commit failed: everything is as it was before the journal began. Gives the nodes that it had touched. */
  rollback(): ReadonlySet<number> {
    const touched = new Set(this.#touched)
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) undo()
    this.#changes.clear()
    this.#touched.clear()
    return touched
  }

  /** The whole state, for tests and for copying into another store. */
  snapshot(): ServerState {
    return {
      users: [...this.#users.values()],
      nodes: [...this.#nodes.values()],
      authKeys: [...this.#authKeys.values()],
      policy: this.#policy,
      counters: this.#counters,
      departed: [...this.#departed.values()],
    }
  }

  #remember({ machineKey, hostinfo: { NetInfo: netInfo }, homeRelay }: NodeRecord): void {
    if (netInfo === undefined && homeRelay === 0) return
    this.#putDeparted(machineKey, { machineKey, netInfo, homeRelay })
    const [oldest] = this.#departed.keys()
    if (this.#departed.size > MAX_DEPARTED && oldest !== undefined) this.#putDeparted(oldest, undefined)
  }

  #putDeparted(machineKey: string, departed: DepartedRecord | undefined): void {
    const before = this.#departed.get(machineKey)
    this.#setDeparted(machineKey, departed)
    this.#note(`departed ${machineKey}`, departed === undefined ? { type: 'deleteDeparted', machineKey } : { type: 'putDeparted', departed }, () => {
      this.#setDeparted(machineKey, departed === undefined ? undefined : before)
      if (departed !== undefined || before === undefined) return
      // Most often it was the oldest.
      const others = [...this.#departed]
      this.#departed.clear()
      for (const [key, each] of [[machineKey, before] as const, ...others]) this.#departed.set(key, each)
    })
  }

  #setDeparted(machineKey: string, departed: DepartedRecord | undefined): void {
    this.#departed.delete(machineKey)
    if (departed !== undefined) this.#departed.set(machineKey, departed)
  }

  #note(key: string, change: Change, undo: () => void): void {
    this.#changes.delete(key)
    this.#changes.set(key, change)
    this.#undo.push(undo)
  }

  #setUser(id: number, user: UserRecord | undefined): void {
    const before = this.#users.get(id)
    if (before !== undefined && this.#usersByName.get(before.name)?.id === id) this.#usersByName.delete(before.name)
    if (user === undefined) {
      this.#users.delete(id)
      return
    }
    this.#users.set(id, user)
    this.#usersByName.set(user.name, user)
  }

  #setAuthKey(id: number, authKey: AuthKeyRecord | undefined): void {
    const before = this.#authKeys.get(id)
    if (before !== undefined) this.#authKeysByPrefix.delete(before.prefix)
    if (authKey === undefined) {
      this.#authKeys.delete(id)
      return
    }
    this.#authKeys.set(id, authKey)
    this.#authKeysByPrefix.set(authKey.prefix, authKey)
  }

  #setNode(id: number, node: NodeRecord | undefined): void {
    const before = this.#nodes.get(id)
    if (before !== undefined) this.#unindex(before)
    if (node === undefined) {
      this.#nodes.delete(id)
      return
    }
    this.#nodes.set(id, node)
    this.#nodesByKey.set(node.nodeKey, node)
    this.#nodesByName.set(node.givenName, id)
    for (const address of [node.ipv4, node.ipv6]) if (address !== undefined) this.#addresses.set(address, id)
    const siblings = this.#nodesByMachine.get(node.machineKey)
    if (siblings === undefined) this.#nodesByMachine.set(node.machineKey, new Set([id]))
    else siblings.add(id)
  }

  #unindex(node: NodeRecord): void {
    if (this.#nodesByKey.get(node.nodeKey)?.id === node.id) this.#nodesByKey.delete(node.nodeKey)
    if (this.#nodesByName.get(node.givenName) === node.id) this.#nodesByName.delete(node.givenName)
    for (const address of [node.ipv4, node.ipv6]) {
      if (address !== undefined && this.#addresses.get(address) === node.id) this.#addresses.delete(address)
    }
    const siblings = this.#nodesByMachine.get(node.machineKey)
    siblings?.delete(node.id)
    if (siblings?.size === 0) this.#nodesByMachine.delete(node.machineKey)
  }
}
