import type { PortRange } from '@meshwright/packet-filter'
import { type Alias, parseAlias } from './aliases.ts'
import type { Decoder, Entry, Item } from './decode.ts'
import type { Located, Place } from './diagnostics.ts'
import { quoteText } from './hujson/quote.ts'
import { type AliasClass, checkName, classOf, type Definitions, type NameRules, readNames } from './names.ts'
import type { AppCapability, Destination, LocatedAlias, Statement } from './policy.ts'
import { ALL_PORTS, hasPorts, parsePorts, parseProtocol, PROTOCOL_NAMES, protocolProblem } from './ports.ts'

/** Members of an entry of acls. */
export const ACL_FIELDS = ['action', 'src', 'dst', 'proto', 'srcPosture', 'users', 'ports'] as const
/** Members of a grant. */
export const GRANT_FIELDS = ['src', 'dst', 'ip', 'app', 'via', 'srcPosture'] as const

/** Capabilities of the domain that the hosted service keeps for itself, which policies may grant all the same. */
const GRANTABLE = new Set(
  ['drive', 'relay', 'webui', 'kubernetes', 'tsidp', 'secrets', 'golink', 'tailsql'].map((name) => `tailscale.com/cap/${name}`),
)

/** What may be a source of an acl or grant. */
export const SOURCES: readonly AliasClass[] = [
  'any',
  'user',
  'domain',
  'group',
  'tag',
  'host',
  'prefix',
  'ipset',
  'member',
  'tagged',
  'role',
  'shared',
  'danger-all',
]
/** What may be a destination of an acl or grant. */
export const DESTINATIONS: readonly AliasClass[] = [
  'any',
  'user',
  'domain',
  'group',
  'tag',
  'host',
  'prefix',
  'ipset',
  'service',
  'member',
  'tagged',
  'role',
  'self',
  'internet',
]
/** What may reach its own devices by `autogroup:self`. */
const SELF_SOURCES: readonly AliasClass[] = ['user', 'domain', 'group', 'member', 'role']

const SOURCE_RULES: NameRules = {
  what: 'src',
  allowed: SOURCES,
  code: 'POLICY_SOURCE',
  refuse: (alias) => `${quoteText(alias.text)} not valid on the src side of a rule`,
  wrap: (message) => `src=${message}`,
}

const ACL_DESTINATION_RULES: NameRules = {
  what: 'dst',
  allowed: DESTINATIONS,
  code: 'POLICY_DESTINATION',
  refuse: refuseDestination,
  wrap: (message, alias) => `dst=${quoteText(alias.text)}: ${message}`,
}

const GRANT_DESTINATION_RULES: NameRules = { ...ACL_DESTINATION_RULES }

/** Reads one entry of acls; reports what is wrong with it. */
export function readAcl(decoder: Decoder, item: Item, names: Definitions): Statement {
  const fields = decoder.fields(item, 'every entry of acls', ACL_FIELDS, true)
  const at = decoder.placeOf(item)
  const { reporter } = decoder
  const actionItem = fields.get('action')
  const action = decoder.optionalString(actionItem, 'action')
  if (action?.value !== 'accept') {
    // Whatever its case, the member that is there is replaced.
    const [op, path] = actionItem === undefined ? (['add', `${at.path}/action`] as const) : (['replace', actionItem.path] as const)
    const repairable = action === undefined ? item.value.trimmed.kind === 'object' : action.value.trim().toLowerCase() === 'accept'
    const remedy = 'Policies only allow: write "accept", or leave the entry out.'
    reporter.report(action?.at ?? at, 'POLICY_ACTION', `action=${quoteText(action?.value ?? '')} is not supported`, {
      remedy,
      ...(repairable ? { fix: [{ op, path, value: 'accept' }] } : {}),
    })
  }
  const sources = readNames(decoder, decoder.either(fields, 'src', 'users'), names, SOURCE_RULES) ?? []
  const protocol = readProtocol(decoder, fields.get('proto'))
  const destinations = (decoder.strings(decoder.either(fields, 'dst', 'ports'), 'dst') ?? []).flatMap(
    (text) => readAclDestination(decoder, text, names, protocol) ?? [],
  )
  checkSelf(decoder, sources, destinations, ['any', ...SELF_SOURCES])
  return {
    kind: 'acl',
    at,
    sources,
    destinations,
    protocols: [protocol],
    app: [],
    via: [],
    srcPosture: readPostureNames(decoder, fields.get('srcPosture'), names),
  }
}

/** Reads one grant; reports what is wrong with it. */
export function readGrant(decoder: Decoder, item: Item, names: Definitions): Statement {
  const fields = decoder.fields(item, 'every grant', GRANT_FIELDS)
  const at = decoder.placeOf(item)
  const sources = readNames(decoder, fields.get('src'), names, SOURCE_RULES) ?? []
  const access = readAccess(decoder, fields.get('ip'))
  const app = readApp(decoder, fields.get('app'))
  if (!access.written && !app.written) {
    decoder.reporter.report(at, 'POLICY_PORTS', 'ip and app can not both be empty', {
      remedy: 'Add "ip": ["*"] for all traffic, or list ports.',
    })
  }
  const ports = [...access.byProtocol.values()]
  const targets = readNames(decoder, fields.get('dst'), names, GRANT_DESTINATION_RULES) ?? []
  const destinations = targets.map((target) => ({ ...target, ports }))
  for (const { alias, at: place } of targets) {
    const prefix = alias.kind === 'prefix' ? alias.prefix : alias.kind === 'host' ? names.hosts.get(alias.name)?.value : undefined
    if (prefix?.bits === 0) {
      const message = `dst ${quoteText(alias.text)}: to allow all IP addresses, use "*" or "autogroup:internet"`
      decoder.reporter.report(place, 'POLICY_DESTINATION', message)
    }
    if (app.written && alias.kind === 'autogroup' && alias.autogroup === 'internet') {
      decoder.reporter.report(place, 'POLICY_CAPABILITY', 'cannot use app grants with autogroup:internet', {
        remedy: 'Applications run on nodes: name tags or users.',
      })
    }
  }
  checkSelf(decoder, sources, destinations, SELF_SOURCES)
  const via = readVia(decoder, fields.get('via'), names)
  return {
    kind: 'grant',
    at,
    sources,
    destinations,
    protocols: [...access.byProtocol.keys()],
    app: app.capabilities,
    via,
    srcPosture: readPostureNames(decoder, fields.get('srcPosture'), names),
  }
}

/** Names of postures; absent or `null` means that the default ones apply. */
export function readPostureNames(decoder: Decoder, item: Item | undefined, names: Definitions): readonly string[] | undefined {
  return decoder.strings(item, 'srcPosture')?.map(({ value, at }) => {
    const name = value.trim()
    if (!names.postures.has(name))
      decoder.reporter.report(at, 'POLICY_POSTURE', `posture not found: ${quoteText(name)}`, { remedy: 'Define it in postures.' })
    return name
  })
}

/** Reads capability names with their lists of values. */
export function readApp(
  decoder: Decoder,
  item: Item | undefined,
  reserved: ReadonlySet<string> = GRANTABLE,
  check: (entry: Entry) => void = () => {},
): { readonly capabilities: readonly AppCapability[]; readonly written: boolean } {
  if (item === undefined) return { capabilities: [], written: false }
  const entries = decoder.entries(item, 'app')
  const capabilities: AppCapability[] = []
  for (const entry of entries) {
    const { name, nameAt, item: value } = entry
    check(entry)
    const problem = capabilityProblem(name, reserved)
    if (problem !== undefined) decoder.reporter.report(nameAt, 'POLICY_CAPABILITY', problem)
    if (decoder.isNull(value)) capabilities.push({ name, values: null })
    else {
      const values = decoder.elements(value, `app[${quoteText(name)}]`) ?? []
      capabilities.push({ name, values: values.map((element) => decoder.json(element, `app[${quoteText(name)}]`)) })
    }
  }
  return { capabilities, written: entries.length > 0 }
}

function capabilityProblem(name: string, reserved: ReadonlySet<string>): string | undefined {
  const slash = name.indexOf('/')
  const domain = name.slice(0, Math.max(0, slash)).toLowerCase()
  const dotted = domain.slice(1, -1).includes('.')
  if (name.includes('://') || /\s/.test(name) || !dotted || slash === name.length - 1) return 'capability name must have the form {domain}/{path}'
  const own = domain === 'tailscale.com' || domain.endsWith('.tailscale.com')
  return own && !reserved.has(name) ? 'capability name must not be in the tailscale.com domain' : undefined
}

function readProtocol(decoder: Decoder, item: Item | undefined): number | undefined {
  const text = decoder.optionalString(item, 'proto')
  if (text === undefined || text.value === '') return undefined
  const protocol = parseProtocol(text.value.trim())
  if (protocol === undefined) reportProtocol(decoder, text.at, text.value.trim())
  return protocol
}

function reportProtocol(decoder: Decoder, at: Place, text: string): void {
  decoder.reporter.report(at, 'POLICY_PROTOCOL', protocolProblem(text), {
    remedy: `Write a number from 1 to 255 or one of ${PROTOCOL_NAMES.join(', ')}.`,
  })
}

function readAclDestination(
  decoder: Decoder,
  { value, at }: Located<string>,
  names: Definitions,
  protocol: number | undefined,
): Destination | undefined {
  const text = value.trim()
  const colon = text.lastIndexOf(':')
  const written = colon < 0 ? text : text.slice(0, colon)
  const report = (message: string): undefined => {
    decoder.reporter.report(at, 'POLICY_DESTINATION', `dst=${quoteText(text)}: ${message}`, {
      remedy: 'Write NAME:PORTS, such as "tag:web:443" or "*:*".',
    })
    return undefined
  }
  if (colon < 0) return report('hostport must contain a colon (":")')
  const { ports, error } = parsePorts(text.slice(colon + 1).trim())
  if (error !== undefined) return report(error)
  const bare = unbracket(written)
  if (bare === undefined) return report('invalid address')
  const target = checkName(decoder, { value: bare, at }, names, ACL_DESTINATION_RULES)
  if (target === undefined) return undefined
  if (protocol !== undefined && !hasPorts(protocol) && !ports.every(isEveryPort)) {
    decoder.reporter.report(at, 'POLICY_PORTS', `dst=${quoteText(text)}: protocol ${protocol} has no ports`, {
      remedy: `Write ${quoteText(`${written}:*`)}.`,
      fix: [{ op: 'replace', path: at.path, value: `${written}:*` }],
    })
  }
  return { ...target, ports: [ports] }
}

/** Takes the brackets off an IPv6 address; `undefined` when they stand around something else. */
export function unbracket(text: string): string | undefined {
  if (!text.startsWith('[')) return text
  const match = /^\[([0-9a-fA-F:.]+)\](\/[0-9]+)?$/.exec(text)
  if (match === null) return undefined
  const bare = `${match[1] ?? ''}${match[2] ?? ''}`
  const alias = parseAlias(bare)
  return alias.kind === 'prefix' && alias.prefix.ip.family === 6 ? bare : undefined
}

function isEveryPort(range: PortRange): boolean {
  return range.First === ALL_PORTS.First && range.Last === ALL_PORTS.Last
}

function readAccess(
  decoder: Decoder,
  item: Item | undefined,
): { readonly byProtocol: ReadonlyMap<number | undefined, readonly PortRange[]>; readonly written: boolean } {
  const byProtocol = new Map<number | undefined, PortRange[]>()
  const texts = decoder.strings(item, 'ip') ?? []
  for (const { value, at } of texts) {
    const text = value.trim()
    const colon = text.lastIndexOf(':')
    const name = colon < 0 ? '*' : text.slice(0, colon).trim()
    const protocol = name === '*' ? undefined : parseProtocol(name)
    const { ports, error } = parsePorts(text.slice(colon + 1).trim())
    const known = byProtocol.get(protocol)
    if (text === '') decoder.reporter.report(at, 'POLICY_PORTS', 'empty string', { remedy: 'Write "*" for all traffic.' })
    else if (name.includes(',')) decoder.reporter.report(at, 'POLICY_PORTS', 'host cannot contain a comma (",")')
    else if (error !== undefined) decoder.reporter.report(at, 'POLICY_PORTS', error, portRemedy(text, at))
    else if (name === '') decoder.reporter.report(at, 'POLICY_PROTOCOL', 'empty protocol')
    else if (name !== '*' && protocol === undefined) reportProtocol(decoder, at, name)
    else if (protocol !== undefined && !hasPorts(protocol) && !ports.every(isEveryPort)) {
      decoder.reporter.report(at, 'POLICY_PORTS', `port range ${quoteText(text)}: protocol ${protocol} has no ports`, {
        remedy: `Write "${name}:*".`,
        fix: [{ op: 'replace', path: at.path, value: `${name}:*` }],
      })
    } else if (known === undefined) byProtocol.set(protocol, [...ports])
    else for (const range of ports) known.push(range)
  }
  return { byProtocol, written: texts.length > 0 }
}

function portRemedy(
  text: string,
  at: Place,
): { readonly remedy?: string; readonly fix?: readonly { op: 'replace'; path: string; value: string }[] } {
  if (parseProtocol(text) === undefined || /^[0-9]/.test(text)) return {}
  return { remedy: `For all of a protocol write "${text}:*".`, fix: [{ op: 'replace', path: at.path, value: `${text}:*` }] }
}

function readVia(decoder: Decoder, item: Item | undefined, names: Definitions): readonly LocatedAlias[] {
  return (
    readNames(decoder, item, names, {
      what: 'via',
      allowed: ['tag'],
      code: 'POLICY_VIA',
      refuse: () => 'via can only be a tag',
      wrap: (message, alias) => (alias.kind === 'tag' ? `tag ${quoteText(alias.text)} not found` : message),
    }) ?? []
  )
}

function checkSelf(
  decoder: Decoder,
  sources: readonly LocatedAlias[],
  destinations: readonly Destination[],
  allowed: readonly AliasClass[],
): void {
  const self = destinations.find(({ alias }) => alias.kind === 'autogroup' && alias.autogroup === 'self')
  if (self === undefined) return
  for (const { alias, at } of sources) {
    const kind = classOf(alias)
    if (kind !== undefined && allowed.includes(kind)) continue
    decoder.reporter.report(at, 'POLICY_SOURCE', 'autogroup:self can only be used with users, groups, or supported autogroups', {
      remedy: 'Name users, groups, autogroup:member or roles.',
    })
    return
  }
}

function refuseDestination(alias: Alias): string {
  if (alias.kind === 'autogroup' && alias.autogroup === 'danger-all') return 'cannot use autogroup:danger-all as a dst'
  return `${quoteText(alias.text)} not valid on the dst side of a rule`
}
