import { formatIpRange, type Ip, prefixRange } from '@meshwright/ip'
import type { Alias } from './aliases.ts'
import type { Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'

/** An alias that takes part, where it stands, and where its meaning comes from (a member of a group, a host, an ipset). */
export interface Involved {
  readonly text: string
  readonly at: Place
  readonly through: readonly NamedPlace[]
}

/** A name and where it stands. */
export interface NamedPlace extends Place {
  readonly text: string
}

/** Where the meaning of a name comes from: the members of a group that have the address, the definition of a host or ipset. */
export function meaningOf(engine: Engine, alias: Alias, address: Ip): readonly NamedPlace[] {
  const { groups, hosts, ipsets } = engine.policy
  const host = alias.kind === 'host' ? hosts.get(alias.name) : undefined
  if (host !== undefined) return [{ ...host.at, text: formatIpRange(prefixRange(host.value)) }]
  const ipset = alias.kind === 'ipset' ? ipsets.get(alias.text) : undefined
  if (ipset !== undefined) return [{ ...ipset.at, text: alias.text }]
  if (alias.kind !== 'group') return []
  const owners = new Set(engine.inventory.recordsAt(address).flatMap(({ node }) => engine.inventory.ownerOf(node)?.id ?? []))
  const members = groups.get(alias.text)?.value ?? []
  return members.filter((member) => engine.inventory.usersNamed(member.value).some(({ id }) => owners.has(id))).map(({ at, value }) => ({ ...at, text: value }))
}
