import { type AccessView, DENY_ALL } from './access.ts'
import type { AdminProblem } from './admin-commands.ts'
import type { RegistrationRules } from './context.ts'
import { servedRoutes } from './host-facts.ts'
import type { NodeRecord, UserRecord } from './records.ts'
import type { PrimaryRoutes } from './routes.ts'
import type { State } from './state.ts'

/** A problem of a policy, with its place where that is known. */
export type PolicyProblem = NonNullable<AdminProblem['diagnostics']>[number]

/**
 * The policy in force and all that follows from it, made anew only when something it depends on has changed: its text, or who a node
 * is (owner, tags, addresses, served routes, what postures look at). Endpoints, relays and presence do not matter to it.
 */
export class TailnetPolicy implements RegistrationRules {
  readonly #state: State
  readonly #primaries: PrimaryRoutes
  readonly #fingerprints = new Map<number, string>()
  #access: AccessView | undefined
  #changed = false

  constructor(state: State, primaries: PrimaryRoutes) {
    this.#state = state
    this.#primaries = primaries
    this.nodesChanged([...state.nodes()].map((node) => node.id))
  }

  /** Why a text cannot be the policy of this network: syntax, meaning, failing tests. Empty: it can. */
  check(_text: string): PolicyProblem[] {
    return []
  }

  /** The text may be another one now. */
  recompile(): void {
    this.#access = undefined
    this.#changed = true
  }

  /** These nodes may be others now, or gone. */
  nodesChanged(ids: Iterable<number>): void {
    for (const id of ids) {
      const node = this.#state.node(id)
      const fingerprint = node === undefined ? undefined : this.#fingerprint(node)
      if (fingerprint === this.#fingerprints.get(id)) continue
      if (fingerprint === undefined) this.#fingerprints.delete(id)
      else this.#fingerprints.set(id, fingerprint)
      this.recompile()
    }
  }

  /** Whether answers may have changed since this was last asked. */
  takeChanged(): boolean {
    const changed = this.#changed
    this.#changed = false
    return changed
  }

  access(): AccessView {
    this.#access ??= this.#compile()
    return this.#access
  }

  mayUseTag(_user: UserRecord, _tag: string): boolean {
    return false
  }

  knowsTag(_tag: string): boolean {
    return false
  }

  autoApproved(_node: NodeRecord): readonly string[] {
    return []
  }

  #compile(): AccessView {
    return DENY_ALL
  }

  #fingerprint(node: NodeRecord): string {
    const { OS, OSVersion, IPNVersion } = node.hostinfo
    return JSON.stringify([node.userId, node.tags, node.ipv4, node.ipv6, servedRoutes(node), this.#primaries.routesOf(node.id), OS, OSVersion, IPNVersion])
  }
}
