import { formatPrefix, isExitRoute, type Prefix, prefixCovers } from '@meshwright/ip'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { LocatedAlias, Policy } from './policy.ts'
import type { Resolver } from './resolve.ts'
import type { TailnetUser } from './tailnet.ts'

/** Those of the routes that autoApprovers lets the node have without asking anyone. */
export function autoApproved(policy: Policy, resolver: Resolver, record: NodeRecord, advertised: readonly Prefix[]): Prefix[] {
  const { routes, exitNode } = policy.autoApprovers
  const isApprover = ({ alias }: LocatedAlias): boolean => resolver.nodesOf(alias).has(record.slot)
  const known = new Map<string, boolean>()
  return advertised.filter((route) => {
    const key = isExitRoute(route) ? 'exit' : formatPrefix(route)
    let approved = known.get(key)
    if (approved === undefined) {
      // An entry for 0.0.0.0/0 stands for every ordinary route of the family, and not for the exit route.
      approved = isExitRoute(route)
        ? exitNode.some(isApprover)
        : routes.some(({ prefix, approvers }) => prefixCovers(prefix, route) && approvers.some(isApprover))
      known.set(key, approved)
    }
    return approved
  })
}

/** Whether a user may put a tag on an own device: an owner of the tag, directly or through other tags, or an admin. */
export function mayTag(policy: Policy, inventory: Inventory, user: TailnetUser, tag: string): boolean {
  if (!policy.tagOwners.has(tag)) return false
  if (user.role === 'owner' || user.role === 'admin' || user.role === 'network-admin') return true
  return ownsTag(policy, inventory, user, tag)
}

/** Whether a user is among the owners of a tag, without the right that admins have to every tag; `[]` means the admins. */
export function ownsTag(policy: Policy, inventory: Inventory, user: TailnetUser, tag: string): boolean {
  const open = [tag]
  const seen = new Set(open)
  for (let current = open.pop(); current !== undefined; current = open.pop()) {
    const owners = policy.tagOwners.get(current)?.value
    if (owners === undefined) continue
    if (owners.length === 0 && (user.role === 'admin' || user.role === 'owner')) return true
    for (const { alias } of owners) {
      if (alias.kind === 'tag') {
        if (!seen.has(alias.text)) open.push(alias.text)
        seen.add(alias.text)
      } else if (isUserAmong(policy, inventory, user, alias)) return true
    }
  }
  return false
}

function isUserAmong(policy: Policy, inventory: Inventory, user: TailnetUser, alias: LocatedAlias['alias']): boolean {
  const named = (login: string): boolean => inventory.usersNamed(login).some(({ id }) => id === user.id)
  if (alias.kind === 'user') return named(alias.login)
  if (alias.kind === 'group') return (policy.groups.get(alias.text)?.value ?? []).some((member) => named(member.value))
  if (alias.kind !== 'autogroup') return false
  return alias.autogroup === 'member' || user.role === alias.autogroup || (alias.autogroup === 'admin' && user.role === 'owner')
}
