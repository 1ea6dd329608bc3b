import { parsePrefix, type Prefix, prefixContains, prefixCovers } from '@meshwright/ip'
import type { Decoder, Entry, Item } from './decode.ts'
import type { Located } from './diagnostics.ts'
import { quoteText } from './hujson/quote.ts'
import { type AliasClass, type Definitions, type NameRules, readNames } from './names.ts'
import { readApp } from './parse-access.ts'
import type { AutoApprovers, NodeAttribute, PolicySettings, PolicyTest, SshTest } from './policy.ts'

/** Members of an entry of nodeAttrs. */
export const NODE_ATTRIBUTE_FIELDS = ['target', 'attr', 'app', 'ipPool'] as const
/** Members of autoApprovers. */
export const AUTO_APPROVER_FIELDS = ['routes', 'exitNode', 'services'] as const
/** Members of an entry of tests. */
export const TEST_FIELDS = ['src', 'srcPostureAttrs', 'proto', 'accept', 'deny', 'user', 'allow'] as const
/** Members of an entry of sshTests. */
export const SSH_TEST_FIELDS = ['src', 'dst', 'accept', 'check', 'deny', 'srcPostureAttrs'] as const

const CGNAT = constant('100.64.0.0/10')
const RESERVED_POOLS = ['100.100.0.0/24', '100.100.100.0/24', '100.115.92.0/23'].map(constant)
const APP_CONNECTORS: ReadonlySet<string> = new Set(['tailscale.com/app-connectors'])

/** Members of an app connector. */
const APP_CONNECTOR_FIELDS = ['name', 'connectors', 'domains', 'routes'] as const
const CONNECTOR_RULES: NameRules = {
  what: 'connectors',
  allowed: ['any', 'tag'],
  code: 'POLICY_NODE_ATTRIBUTE',
  refuse: (alias) => `app connector ${quoteText(alias.text)}: not a tag or "*"`,
  wrap: (message) => message,
}

/** What may be a target of nodeAttrs. */
export const TARGETS: readonly AliasClass[] = ['any', 'user', 'domain', 'group', 'tag', 'host', 'prefix', 'member', 'tagged', 'role']

/** Who may approve routes and services. */
export const APPROVERS: readonly AliasClass[] = ['user', 'group', 'tag', 'member', 'tagged', 'role']

const TARGET_RULES: NameRules = {
  what: 'target',
  allowed: TARGETS,
  code: 'POLICY_NODE_ATTRIBUTE',
  refuse: (alias) => `${quoteText(alias.text)} not valid as a target of nodeAttrs`,
  wrap: (message) => message,
}

/** Reads one entry of nodeAttrs; reports what is wrong with it. */
export function readNodeAttribute(decoder: Decoder, item: Item, names: Definitions): NodeAttribute {
  const fields = decoder.fields(item, 'every entry of nodeAttrs', NODE_ATTRIBUTE_FIELDS)
  const ipPool: Prefix[] = []
  for (const { value, at } of decoder.strings(fields.get('ipPool'), 'ipPool') ?? []) {
    const prefix = parsePrefix(value.trim())
    const problem =
      prefix === undefined
        ? `IPPool(${value}): invalid prefix`
        : !prefixCovers(CGNAT, prefix)
        ? `IPPool(${value}): network not within 100.64.0.0/10`
        : RESERVED_POOLS.some(
            (reserved) => prefixContains(reserved, prefix.ip) || (prefixContains(prefix, reserved.ip) && prefix.bits >= 22),
          )
        ? `IPPool(${value}): network within reserved range`
        : undefined
    if (problem !== undefined) decoder.reporter.report(at, 'POLICY_IP_POOL', problem)
    else if (prefix !== undefined) ipPool.push(prefix)
  }
  return {
    at: decoder.placeOf(item),
    targets: readNames(decoder, fields.get('target'), names, TARGET_RULES) ?? [],
    attributes: (decoder.strings(fields.get('attr'), 'attr') ?? []).map((attribute) => attribute.value),
    app: readApp(decoder, fields.get('app'), APP_CONNECTORS, (entry) => checkAppConnectors(decoder, entry, names)).capabilities,
    ipPool,
  }
}

/** Reports app connectors that no node could read: the values of tailscale.com/app-connectors (tailscale/tailscale:types/appctype). */
function checkAppConnectors(decoder: Decoder, { name, item }: Entry, names: Definitions): void {
  if (!APP_CONNECTORS.has(name)) return
  for (const connector of decoder.elements(item, name) ?? []) {
    const fields = decoder.fields(connector, 'every app connector', APP_CONNECTOR_FIELDS)
    decoder.optionalString(fields.get('name'), 'name')
    decoder.strings(fields.get('domains'), 'domains')
    readNames(decoder, fields.get('connectors'), names, CONNECTOR_RULES)
    for (const { value, at } of decoder.strings(fields.get('routes'), 'routes') ?? [])
      if (parsePrefix(value.trim()) === undefined)
        decoder.reporter.report(at, 'POLICY_NODE_ATTRIBUTE', `app connector route ${quoteText(value)}: invalid prefix`)
  }
}

/** Reads autoApprovers; reports what is wrong with it. */
export function readAutoApprovers(decoder: Decoder, item: Item | undefined, names: Definitions): AutoApprovers {
  if (item === undefined) return { routes: [], exitNode: [], services: [] }
  const fields = decoder.fields(item, 'autoApprovers', AUTO_APPROVER_FIELDS)
  const rules: NameRules = {
    what: 'autoApprovers',
    allowed: APPROVERS,
    code: 'POLICY_AUTO_APPROVER',
    refuse: (alias) => `${quoteText(alias.text)} not valid as an auto approver`,
    wrap: (message) => message,
  }
  const routeItem = fields.get('routes')
  const routes = (routeItem === undefined ? [] : decoder.entries(routeItem, 'autoApprovers.routes')).flatMap(
    ({ name, nameAt, item: value }) => {
      const prefix = name.includes('/') ? parsePrefix(name.trim()) : undefined
      if (prefix === undefined)
        decoder.reporter.report(nameAt, 'POLICY_AUTO_APPROVER', `autoApprovers.routes[${quoteText(name)}]: invalid prefix`)
      const approvers = readNames(decoder, value, names, rules) ?? []
      return prefix === undefined ? [] : [{ prefix, approvers }]
    },
  )
  const serviceItem = fields.get('services')
  const services = (serviceItem === undefined ? [] : decoder.entries(serviceItem, 'autoApprovers.services')).flatMap(
    ({ name, nameAt, item: value }) => {
      if (!/^(?:svc|tag):./.test(name))
        decoder.reporter.report(
          nameAt,
          'POLICY_AUTO_APPROVER',
          `autoApprovers.services[${quoteText(name)}]: must be a service or a tag`,
        )
      return [{ service: name, approvers: readNames(decoder, value, names, rules) ?? [] }]
    },
  )
  return { routes, exitNode: readNames(decoder, fields.get('exitNode'), names, rules) ?? [], services }
}

/** Reads one entry of tests. What is wrong inside counts as a failed test, not as an unreadable one. */
export function readTest(decoder: Decoder, item: Item): PolicyTest {
  const fields = decoder.fields(item, 'every entry of tests', TEST_FIELDS)
  const trimmed = (list: readonly Located<string>[] | undefined): readonly Located<string>[] =>
    (list ?? []).map(({ value, at }) => ({ value: value.trim(), at }))
  return {
    at: decoder.placeOf(item),
    src: decoder.optionalString(decoder.either(fields, 'src', 'user'), 'src')?.value.trim() ?? '',
    proto: decoder.optionalString(fields.get('proto'), 'proto')?.value.trim(),
    accept: trimmed(decoder.strings(decoder.either(fields, 'accept', 'allow'), 'accept')),
    deny: trimmed(decoder.strings(fields.get('deny'), 'deny')),
    srcPostureAttrs: readAttributes(decoder, fields.get('srcPostureAttrs')),
  }
}

/** Reads one entry of sshTests. */
export function readSshTest(decoder: Decoder, item: Item, names: Definitions): SshTest {
  const fields = decoder.fields(item, 'every entry of sshTests', SSH_TEST_FIELDS)
  const dst: Located<string>[] = []
  for (const { value, at } of decoder.strings(fields.get('dst'), 'dst') ?? []) {
    const text = value.trim()
    const refused = text === 'autogroup:internet' || text === '*' || text.includes('/')
    if (refused) decoder.reporter.report(at, 'POLICY_TEST_SHAPE', `SSH tests dst contains disallowed element ${quoteText(text)}`)
    else if (text.startsWith('tag:') && !names.tagOwners.has(text)) {
      decoder.reporter.report(at, 'POLICY_TEST_SHAPE', `SSH tests dst contains unknown tag ${quoteText(text)}`, {
        remedy: 'Destinations of sshTests have no port.',
      })
    } else dst.push({ value: text, at })
  }
  const list = (name: 'accept' | 'check' | 'deny'): readonly string[] =>
    (decoder.strings(fields.get(name), name) ?? []).map(({ value }) => value.trim())
  return {
    at: decoder.placeOf(item),
    src: decoder.optionalString(fields.get('src'), 'src')?.value.trim() ?? '',
    dst,
    accept: list('accept'),
    check: list('check'),
    deny: list('deny'),
    srcPostureAttrs: readAttributes(decoder, fields.get('srcPostureAttrs')),
  }
}

/** The members of the policy that are settings of the tailnet. */
export interface SettingItems {
  readonly derpMap: Item | undefined
  readonly disableIPv4: Item | undefined
  readonly oneCGNATRoute: Item | undefined
  readonly randomizeClientPort: Item | undefined
  readonly services: Item | undefined
}

/** Reads the settings of the tailnet. */
export function readSettings(decoder: Decoder, items: SettingItems): PolicySettings {
  const { derpMap, services } = items
  if (derpMap !== undefined && !decoder.isNull(derpMap)) checkDerpMap(decoder, derpMap)
  const route = decoder.optionalString(items.oneCGNATRoute, 'oneCGNATRoute')
  const oneCgnatRoute = route?.value ?? ''
  const known = oneCgnatRoute === '' || oneCgnatRoute === 'mac-always' || oneCgnatRoute === 'mac-never' ? oneCgnatRoute : undefined
  if (known === undefined && route !== undefined)
    decoder.reporter.report(route.at, 'POLICY_SETTING', `invalid oneCGNATRoute ${quoteText(oneCgnatRoute)}`, {
      remedy: 'Write "", "mac-always" or "mac-never".',
    })
  return {
    derpMap: derpMap === undefined ? undefined : decoder.json(derpMap, 'derpMap'),
    disableIPv4: decoder.boolean(items.disableIPv4, 'disableIPv4') ?? false,
    oneCgnatRoute: known ?? '',
    randomizeClientPort: decoder.boolean(items.randomizeClientPort, 'randomizeClientPort') ?? false,
    services: services === undefined ? undefined : decoder.json(services, 'services'),
  }
}

function checkDerpMap(decoder: Decoder, item: Item): void {
  const fields = decoder.fields(item, 'derpMap', ['OmitDefaultRegions', 'Regions', 'HomeParams'])
  decoder.boolean(fields.get('OmitDefaultRegions'), 'derpMap.OmitDefaultRegions')
  const regions = fields.get('Regions')
  for (const { name, nameAt, item: region } of regions === undefined ? [] : decoder.entries(regions, 'derpMap.Regions')) {
    if (!/^[0-9]+$/.test(name))
      decoder.reporter.report(nameAt, 'POLICY_SETTING', `derpMap.Regions[${quoteText(name)}]: regions are named by number`)
    else if (!decoder.isNull(region) && region.value.trimmed.kind !== 'object')
      decoder.shape(region, `derpMap.Regions[${quoteText(name)}] must be an object, or null to leave it out`)
  }
}

function readAttributes(decoder: Decoder, item: Item | undefined): ReadonlyMap<string, string | number | boolean> {
  const attributes = new Map<string, string | number | boolean>()
  if (item === undefined) return attributes
  for (const { name, item: value } of decoder.entries(item, 'srcPostureAttrs')) {
    const json = decoder.json(value, 'srcPostureAttrs')
    if (typeof json === 'string' || typeof json === 'number' || typeof json === 'boolean') attributes.set(name, json)
    else decoder.shape(value, 'every attribute must be a string, number or boolean')
  }
  return attributes
}

function constant(text: string): Prefix {
  const prefix = parsePrefix(text)
  if (prefix === undefined) throw new RangeError(`not a prefix: ${text}`)
  return prefix
}
