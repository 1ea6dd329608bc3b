import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { Policy, SshRule } from './policy.ts'
import { domainOf, type Resolver } from './resolve.ts'
import type { TailnetUser } from './tailnet.ts'

/** Who a rule is for: the holder of an address. */
export interface SshPrincipalView {
  readonly nodeIP: string
}

/** What happens to a session; the shape of tailscale/tailscale:tailcfg/tailcfg.go, type SSHAction. */
export interface SshActionView {
  readonly accept?: boolean
  readonly allowAgentForwarding?: boolean
  readonly allowLocalPortForwarding?: boolean
  readonly allowRemotePortForwarding?: boolean
  /** Where the node asks what to do; `$SRC_NODE_ID`, `$DST_NODE_ID` and `$LOCAL_USER` are filled in by the node. */
  readonly holdAndDelegate?: string
  readonly recorders?: readonly string[]
  readonly onRecordingFailure?: { readonly RejectSessionWithMessage: string; readonly TerminateSessionWithMessage: string }
}

/** A rule of a node's SSH server: the first whose principal and user map fit decides. */
export interface SshRuleView {
  readonly principals: readonly SshPrincipalView[]
  /** Requested login name (or `*`) to local user; `=` is the same name, `''` nobody. */
  readonly sshUsers: Readonly<Record<string, string>>
  readonly action: SshActionView
  readonly acceptEnv?: readonly string[]
}

/** Where nodes ask about a `check`, relative to the control server. */
export const SSH_CHECK_PATH = '/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER'

const RECORDER_PORT = 80
const LOCALPART = 'localpart:*@'

/** The domain of `localpart:*@domain`; `undefined` for every other login name, those that only look similar included. */
export function localpartDomain(user: string): string | undefined {
  const domain = user.startsWith(LOCALPART) ? user.slice(LOCALPART.length) : ''
  return domain === '' ? undefined : domain
}

/** Makes the SSH rules of one node after another. */
export class SshCompiler {
  readonly #policy: Policy
  readonly #inventory: Inventory
  readonly #resolver: Resolver
  readonly #meets: (rule: SshRule) => ((record: NodeRecord) => boolean) | undefined
  readonly #checkUrl: string
  readonly #sources: Map<SshRule, readonly NodeRecord[]> = new Map()

  constructor(
    policy: Policy,
    inventory: Inventory,
    resolver: Resolver,
    meets: (rule: SshRule) => ((record: NodeRecord) => boolean) | undefined,
    checkUrl: string,
  ) {
    this.#policy = policy
    this.#inventory = inventory
    this.#resolver = resolver
    this.#meets = meets
    this.#checkUrl = checkUrl
  }

  /** Checks before accepts; within each the order of the file. */
  rulesFor(record: NodeRecord): SshRuleView[] {
    return this.originsFor(record).map(({ view }) => view)
  }

  /** The rules of a node in their order, with the entries of the policy that they come from. */
  originsFor(record: NodeRecord): { readonly rule: SshRule; readonly view: SshRuleView }[] {
    const rules = this.#policy.ssh.flatMap((rule) => this.#rulesOf(rule, record).map((view) => ({ rule, view })))
    return [...rules.filter(({ rule }) => rule.action === 'check'), ...rules.filter(({ rule }) => rule.action !== 'check')]
  }

  /** The nodes that a rule lets in, once for every reason. */
  sourcesOf(rule: SshRule): readonly NodeRecord[] {
    const known = this.#sources.get(rule)
    if (known !== undefined) return known
    const meets = this.#meets(rule)
    const nodes = new BitSet(this.#inventory.room)
    for (const { alias } of rule.sources) nodes.or(this.#resolver.nodesOf(alias))
    const records = nodes.slots().flatMap((slot) => this.#inventory.records[slot] ?? [])
    const allowed = meets === undefined ? records : records.filter(meets)
    this.#sources.set(rule, allowed)
    return allowed
  }

  #rulesOf(rule: SshRule, record: NodeRecord): SshRuleView[] {
    const views: SshRuleView[] = []
    const sources = this.sourcesOf(rule)
    const owner = this.#inventory.ownerOf(record.node)
    const base = userMap(rule)
    const domains = rule.users.flatMap(({ value }) => localpartDomain(value) ?? [])
    const add = (records: readonly NodeRecord[], sshUsers: Readonly<Record<string, string>>): void => {
      if (records.length > 0)
        views.push({
          principals: this.#principals(rule, records),
          sshUsers,
          action: this.#actionOf(rule),
          ...(rule.acceptEnv.length > 0 ? { acceptEnv: rule.acceptEnv } : {}),
        })
    }
    const addFor = (user: TailnetUser, records: readonly NodeRecord[]): void => {
      add(records, base)
      const domain = domainOf(user.login)
      if (records.length > 0 && domain !== undefined && domains.includes(domain))
        add(records, { [user.login.slice(0, -domain.length - 1)]: user.login.slice(0, -domain.length - 1) })
    }
    const ownedBy = (user: TailnetUser): NodeRecord[] => sources.filter((source) => this.#inventory.ownerOf(source.node)?.id === user.id)
    const others = rule.destinations.filter(({ alias }) => !(alias.kind === 'autogroup' && alias.autogroup === 'self'))
    if (others.length < rule.destinations.length && owner !== undefined) {
      if (domains.length === 0) add(ownedBy(owner), base)
      else addFor(owner, ownedBy(owner))
    }
    if (others.length === 0) return views
    if (others.some(({ alias }) => this.#resolver.nodesOf(alias).has(record.slot))) {
      if (domains.length === 0) add(sources, base)
      else {
        for (const user of [...this.#inventory.view.users].sort((a, b) => a.id - b.id)) addFor(user, ownedBy(user))
        add(
          sources.filter((source) => source.node.tags.length > 0),
          base,
        )
      }
    } else if (domains.length > 0 && sources.includes(record)) {
      // The hosted service tells sources the same of themselves.
      if (owner !== undefined) addFor(owner, ownedBy(owner))
      else add([record], base)
    }
    return views
  }

  #principals(rule: SshRule, records: readonly NodeRecord[]): SshPrincipalView[] {
    const tagged = rule.sources.some(({ alias }) => alias.kind === 'autogroup' && alias.autogroup === 'tagged')
    // A node that is a source by being tagged counts once for each of its tags.
    const times = (record: NodeRecord): number => (tagged ? Math.max(1, record.node.tags.length) : 1)
    return records
      .flatMap((record) => record.addressTexts.flatMap((nodeIP) => new Array<string>(times(record)).fill(nodeIP)))
      .sort()
      .map((nodeIP) => ({ nodeIP }))
  }

  #actionOf(rule: SshRule): SshActionView {
    const recorders = rule.recorder.flatMap(({ alias }) =>
      this.#resolver
        .nodesOf(alias)
        .slots()
        .flatMap((slot) => this.#inventory.records[slot] ?? [])
        // Slots tell of the past of the tailnet, ids do not.
        .sort((a, b) => a.node.id - b.node.id)
        .flatMap((record) => record.addressTexts),
    )
    const recording: Partial<SshActionView> =
      rule.recorder.length === 0
        ? {}
        : {
            recorders: recorders.map((text) => (text.includes(':') ? `[${text}]:${RECORDER_PORT}` : `${text}:${RECORDER_PORT}`)),
            ...(rule.enforceRecorder
              ? {
                  onRecordingFailure: {
                    RejectSessionWithMessage: 'the session cannot be recorded',
                    TerminateSessionWithMessage: 'the session can no longer be recorded',
                  },
                }
              : {}),
          }
    if (rule.action === 'check') return { holdAndDelegate: this.#checkUrl, ...recording }
    return { accept: true, allowAgentForwarding: true, allowLocalPortForwarding: true, allowRemotePortForwarding: true, ...recording }
  }
}

function userMap(rule: SshRule): Readonly<Record<string, string>> {
  const map = new Map([['root', '']])
  for (const { value } of rule.users) {
    if (value === 'autogroup:nonroot') map.set('*', '=')
    else if (localpartDomain(value) === undefined) map.set(value, value)
  }
  return Object.fromEntries(map)
}
