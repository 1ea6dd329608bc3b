import type { Inventory, NodeRecord } from './inventory.ts'
import { ownsTag } from './approval.ts'
import type { Policy } from './policy.ts'
import type { Resolver } from './resolve.ts'

/** A capability map as nodes are given it: names to values. */
export type CapabilityMap = ReadonlyMap<string, readonly unknown[] | null>

/** What `funnel` brings along. */
const FUNNEL_PORTS = 'https://tailscale.com/cap/funnel-ports?ports=443,8443,10000'
const FUNNEL_NO_HTTPS = 'https://tailscale.com/cap/warn-funnel-no-https'
const IS_ADMIN = 'https://tailscale.com/cap/is-admin'
const IS_OWNER = 'https://tailscale.com/cap/is-owner'

/** Takes the IPv4 address away from a node. */
export const DISABLE_IPV4 = 'disable-ipv4'
/** Shown to the peers of every exit node. */
export const SUGGEST_EXIT_NODE = 'suggest-exit-node'

/** The attributes that nodeAttrs gives a node, and what they bring along. */
export function attributesFor(policy: Policy, resolver: Resolver, inventory: Inventory, record: NodeRecord): CapabilityMap {
  const attributes = new Map<string, readonly unknown[] | null>()
  for (const { targets, attributes: names, app } of policy.nodeAttrs) {
    if (!targets.some(({ alias }) => resolver.nodesOf(alias).has(record.slot))) continue
    for (const name of names) attributes.set(name, null)
    for (const { name, values } of app) attributes.set(name, [...(attributes.get(name) ?? []), ...(values ?? [])])
  }
  if (policy.settings.randomizeClientPort) attributes.set('randomize-client-port', null)
  if (policy.settings.disableIPv4) attributes.set(DISABLE_IPV4, null)
  const { oneCgnatRoute } = policy.settings
  if (oneCgnatRoute !== '') attributes.set(`one-cgnat?v=${oneCgnatRoute === 'mac-always'}`, null)
  if (attributes.has('funnel')) {
    attributes.set(FUNNEL_PORTS, null)
    if (inventory.view.httpsEnabled !== true) attributes.set(FUNNEL_NO_HTTPS, null)
  }
  return attributes
}

/** What the hosted service tells a node about its user's role; on tagged nodes, about who owns the tag. Not a matter of nodeAttrs. */
export function roleCapabilitiesFor(policy: Policy, inventory: Inventory, record: NodeRecord): CapabilityMap {
  const capabilities = new Map<string, null>()
  const user = inventory.ownerOf(record.node)
  if (user?.role === 'owner' || user?.role === 'admin') capabilities.set(IS_ADMIN, null)
  const owner = inventory.view.users.find(({ role }) => role === 'owner')
  const ownsDevice =
    owner !== undefined &&
    (user?.id === owner.id || record.node.tags.some((tag) => !policy.tagOwners.has(tag) || ownsTag(policy, inventory, owner, tag)))
  if (ownsDevice) capabilities.set(IS_OWNER, null)
  return capabilities
}
