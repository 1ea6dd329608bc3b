import { type IpRange, parseIpRange, parsePrefix, type Prefix } from '@meshwright/ip'

/** Autogroups that select users by their role. `admin` includes the owner. */
export const ROLE_AUTOGROUPS = ['owner', 'admin', 'network-admin', 'it-admin', 'billing-admin', 'auditor'] as const
/** A role that an autogroup names. */
export type RoleAutogroup = (typeof ROLE_AUTOGROUPS)[number]

/** Autogroups that are not roles. */
export const OTHER_AUTOGROUPS = ['member', 'tagged', 'self', 'internet', 'shared', 'danger-all'] as const
/** Every autogroup that may stand in a source or destination. */
export type Autogroup = RoleAutogroup | (typeof OTHER_AUTOGROUPS)[number]

/** What a name in a policy stands for, before it is looked up. `text` is the name itself, trimmed. */
export type Alias = { readonly text: string } & (
  | { readonly kind: 'any' }
  | { readonly kind: 'prefix'; readonly prefix: Prefix }
  | { readonly kind: 'range'; readonly range: IpRange }
  | { readonly kind: 'user'; readonly login: string }
  | { readonly kind: 'domain'; readonly domain: string }
  | { readonly kind: 'group' }
  | { readonly kind: 'tag' }
  | { readonly kind: 'ipset' }
  | { readonly kind: 'service' }
  | { readonly kind: 'host'; readonly name: string }
  | { readonly kind: 'autogroup'; readonly autogroup: Autogroup }
  | { readonly kind: 'unknownAutogroup' }
)

const USER_DOMAIN = 'user:*@'

/**
 * Reads a name. Prefixes are tested before `@`, because names of groups that a provider keeps hold one. What is nothing else is the name
 * of a host. White space around the name is ignored.
 */
export function parseAlias(written: string): Alias {
  const text = written.trim()
  if (text === '*') return { kind: 'any', text }
  if (text.startsWith('group:')) return { kind: 'group', text }
  if (text.startsWith('tag:')) return { kind: 'tag', text }
  if (text.startsWith('autogroup:')) {
    const autogroup = autogroupOf(text.slice('autogroup:'.length))
    return autogroup === undefined ? { kind: 'unknownAutogroup', text } : { kind: 'autogroup', autogroup, text }
  }
  if (text.startsWith('ipset:')) return { kind: 'ipset', text }
  if (text.startsWith('svc:')) return { kind: 'service', text }
  if (text.startsWith('host:')) return { kind: 'host', name: text.slice('host:'.length), text }
  if (text.startsWith(USER_DOMAIN)) return { kind: 'domain', domain: text.slice(USER_DOMAIN.length), text }
  // What stands for login names is no user; it means something among the users of ssh only.
  if (text.includes('@') && !text.startsWith('localpart:')) return { kind: 'user', login: text, text }
  const prefix = parsePrefix(text)
  if (prefix !== undefined) return { kind: 'prefix', prefix, text }
  const range = parseIpRange(text)
  return range === undefined ? { kind: 'host', name: text, text } : { kind: 'range', range, text }
}

/** `autogroup:members` is the old name of `autogroup:member`. */
function autogroupOf(name: string): Autogroup | undefined {
  const current = name === 'members' ? 'member' : name
  return ROLE_AUTOGROUPS.find((role) => role === current) ?? OTHER_AUTOGROUPS.find((other) => other === current)
}

/** True for an autogroup that names a role. */
export function isRoleAutogroup(autogroup: Autogroup): autogroup is RoleAutogroup {
  return ROLE_AUTOGROUPS.some((role) => role === autogroup)
}
