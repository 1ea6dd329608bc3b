import { isRoleAutogroup, type Alias, parseAlias } from './aliases.ts'
import type { Decoder, Item } from './decode.ts'
import { type DiagnosticCode, type Located, nearest, type Problem } from './diagnostics.ts'
import { quoteText } from './hujson/quote.ts'
import type { LocatedAlias, Policy } from './policy.ts'

/** The sections that give names a meaning. */
export type Definitions = Pick<Policy, 'groups' | 'hosts' | 'tagOwners' | 'ipsets' | 'postures'>

/** Kinds of alias, autogroups by their own names: what a place of the policy lets stand there. */
export type AliasClass =
  | 'any'
  | 'user'
  | 'domain'
  | 'group'
  | 'tag'
  | 'host'
  | 'prefix'
  | 'ipset'
  | 'service'
  | 'member'
  | 'tagged'
  | 'role'
  | 'self'
  | 'internet'
  | 'shared'
  | 'danger-all'

/** The class of an alias; `undefined` for what stands nowhere. */
export function classOf(alias: Alias): AliasClass | undefined {
  if (alias.kind === 'autogroup') return isRoleAutogroup(alias.autogroup) ? 'role' : alias.autogroup
  if (alias.kind === 'unknownAutogroup' || alias.kind === 'range') return undefined
  return alias.kind
}

const SERVICE = /^svc:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i

/** Why a name means nothing in this policy, in the hosted service's words where they are known; `undefined` when it does. */
export function undefinedName(
  alias: Alias,
  names: Definitions,
  suggest: (name: string, known: Iterable<string>) => string | undefined = nearest,
): { readonly message: string; readonly remedy?: string } | undefined {
  const text = quoteText(alias.text)
  const missing = (message: string, known: Iterable<string>, section: string): { message: string; remedy: string } => {
    const guess = suggest(alias.text, known)
    return {
      message,
      remedy:
        guess === undefined ? `Define it in ${section}.` : `Did you mean ${quoteText(guess)}? Otherwise define it in ${section}.`,
    }
  }
  if (alias.kind === 'tag')
    return names.tagOwners.has(alias.text) ? undefined : missing(`tag not found: ${text}`, names.tagOwners.keys(), 'tagOwners')
  // A group that a provider keeps is named with its domain and defined there.
  if (alias.kind === 'group')
    return names.groups.has(alias.text) || alias.text.includes('@')
      ? undefined
      : missing(`group not found: ${text}`, names.groups.keys(), 'groups')
  if (alias.kind === 'host')
    return names.hosts.has(alias.name) ? undefined : missing(`${text}: invalid address`, names.hosts.keys(), 'hosts')
  if (alias.kind === 'ipset')
    return names.ipsets.has(alias.text) ? undefined : missing(`ipset not found: ${text}`, names.ipsets.keys(), 'ipsets')
  if (alias.kind === 'service') return SERVICE.test(alias.text) ? undefined : { message: `${text} is not a valid service name`, remedy: 'Write svc: and a DNS label.' }
  if (alias.kind === 'range') return { message: `${text}: invalid address`, remedy: 'A range of addresses stands in ipsets only.' }
  if (alias.kind === 'unknownAutogroup') return { message: `unknown autogroup: ${text}` }
  return undefined
}

/** How a list of names is checked and what its messages look like. */
export interface NameRules {
  readonly what: string
  readonly allowed: readonly AliasClass[]
  readonly code: DiagnosticCode
  /** The message for a name of a class that is not allowed. */
  readonly refuse: (alias: Alias) => string
  /** Makes the message for a name that means nothing. */
  readonly wrap: (message: string, alias: Alias) => string
}

/** Reads a list of names and reports every one that may not stand there or means nothing. */
export function readNames(
  decoder: Decoder,
  item: Item | undefined,
  names: Definitions,
  rules: NameRules,
): readonly LocatedAlias[] | undefined {
  return decoder.strings(item, rules.what)?.flatMap((written) => checkName(decoder, written, names, rules) ?? [])
}

/** Reads one name. */
export function checkName(
  decoder: Decoder,
  { value, at }: Located<string>,
  names: Definitions,
  rules: NameRules,
): LocatedAlias | undefined {
  const alias = parseAlias(value)
  const kind = classOf(alias)
  const missing = undefinedName(alias, names, (name, known) => decoder.reporter.guess(name, known))
  const report = (message: string, problem: Problem = {}): undefined => {
    decoder.reporter.report(at, rules.code, message, problem)
    return undefined
  }
  decoder.spelled(alias.text, at)
  if (kind !== undefined && !rules.allowed.includes(kind)) return report(rules.refuse(alias))
  if (missing !== undefined)
    return report(rules.wrap(missing.message, alias), missing.remedy === undefined ? {} : { remedy: missing.remedy })
  return { alias, at }
}
