import type { Ip } from '@meshwright/ip'
import type { Alias } from './aliases.ts'
import type { Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'
import type { NodeRecord } from './inventory.ts'
import { type Involved, meaningOf, type NamedPlace } from './meaning.ts'
import { posturesMet } from './near-miss.ts'
import type { LocatedAlias, SshRule } from './policy.ts'
import type { Connection } from './reach.ts'
import type { TailnetNode } from './tailnet.ts'

/** An entry of ssh that lets a source in. */
export interface SshAccess {
  readonly at: Place
  readonly action: 'accept' | 'check'
  /** Login names that it opens, `autogroup:nonroot` for all but root. */
  readonly logins: readonly string[]
  readonly sources: readonly Involved[]
  readonly destinations: readonly Involved[]
  readonly postures: readonly NamedPlace[]
  /** Whose server it is. */
  readonly node: TailnetNode
}

/** Every entry of ssh that lets the source of a connection into the node at its destination, in the order of the server's list. */
export function sshAccessOf(engine: Engine, { source, destination }: Connection): readonly SshAccess[] {
  const clients = engine.inventory.recordsAt(source)
  return engine.inventory.recordsAt(destination).flatMap((server) => {
    const entries = new Map<SshRule, Set<string>>()
    for (const { rule, view } of engine.ssh.originsFor(server)) {
      if (!view.principals.some(({ nodeIP }) => nodeIP === source.key)) continue
      const logins = entries.get(rule) ?? new Set<string>()
      for (const [login, local] of Object.entries(view.sshUsers)) if (local !== '') logins.add(login === '*' ? 'autogroup:nonroot' : login)
      entries.set(rule, logins)
    }
    return [...entries].flatMap(([rule, logins]): SshAccess[] => {
      if (logins.size === 0) return []
      const involved = (aliases: readonly LocatedAlias[], records: readonly NodeRecord[], address: Ip): Involved[] =>
        aliases
          .filter(({ alias }) => isSelf(alias) || records.some(({ slot }) => engine.resolver.nodesOf(alias).has(slot)))
          .map(({ alias, at }) => ({ text: alias.text, at, through: meaningOf(engine, alias, address) }))
      return [
        {
          at: rule.at,
          action: rule.action,
          logins: [...logins],
          sources: involved(rule.sources, clients, source),
          destinations: involved(rule.destinations, [server], destination),
          postures: posturesMet(engine, rule.srcPosture, source),
          node: server.node,
        },
      ]
    })
  })
}

function isSelf(alias: Alias): boolean {
  return alias.kind === 'autogroup' && alias.autogroup === 'self'
}
