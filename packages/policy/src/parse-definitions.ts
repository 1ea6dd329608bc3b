import { parseIpRange, parsePrefix } from '@meshwright/ip'
import { type Alias, parseAlias } from './aliases.ts'
import type { Decoder, Entry, Item } from './decode.ts'
import type { Located } from './diagnostics.ts'
import { quoteText } from './hujson/quote.ts'
import { type AliasClass, type Definitions, type NameRules, readNames } from './names.ts'
import type { Definition, IpsetStep, LocatedAlias, Policy } from './policy.ts'
import { type Assertion, parseAssertion } from './posture.ts'

/** The sections that define names. */
export interface DefinitionItems {
  readonly groups: Item | undefined
  readonly hosts: Item | undefined
  readonly tagOwners: Item | undefined
  readonly ipsets: Item | undefined
  readonly postures: Item | undefined
}

/** Reads the sections that define names, and checks them against one another. */
export function readDefinitions(decoder: Decoder, items: DefinitionItems): Definitions {
  const groups = readGroups(decoder, items.groups)
  const hosts = readHosts(decoder, items.hosts)
  const postures = readPostures(decoder, items.postures)
  const tags = readSection(decoder, items.tagOwners, 'tagOwners')
  const checked: Entry[] = tags.filter((entry) => isTag(decoder, entry))
  // Owners may be tags, so all tags must be known before the owners are read.
  const known: Definitions = {
    groups,
    hosts,
    postures,
    ipsets: new Map(),
    tagOwners: new Map(checked.map((entry) => [entry.name.trim(), { name: entry.name.trim(), at: entry.nameAt, value: [] }])),
  }
  const tagOwners = new Map<string, Definition<readonly LocatedAlias[]>>()
  for (const { name, nameAt, item } of checked) {
    const owners = readNames(decoder, item, known, ownerRules(name.trim())) ?? []
    tagOwners.set(name.trim(), { name: name.trim(), at: nameAt, value: owners })
  }
  return { groups, hosts, postures, tagOwners, ipsets: readIpsets(decoder, items.ipsets, { ...known, tagOwners }) }
}

function readSection(decoder: Decoder, item: Item | undefined, what: string): readonly Entry[] {
  return item === undefined ? [] : decoder.entries(item, what)
}

function readGroups(decoder: Decoder, item: Item | undefined): Policy['groups'] {
  const groups = new Map<string, Definition<readonly Located<string>[]>>()
  const nested: { readonly parent: Entry; readonly member: Located<string> }[] = []
  for (const entry of readSection(decoder, item, 'groups')) {
    const name = entry.name.trim()
    if (!/^group:./.test(name)) {
      decoder.reporter.report(entry.nameAt, 'POLICY_GROUP', `groups[${quoteText(name)}]: group names must start with 'group:'`)
      continue
    }
    const members: Located<string>[] = []
    for (const member of decoder.strings(entry.item, `groups[${quoteText(name)}]`) ?? []) {
      const alias = parseAlias(member.value)
      if (alias.kind === 'group') nested.push({ parent: entry, member })
      else if (alias.kind === 'user') members.push({ value: alias.text, at: member.at })
      else {
        const message = `groups[${quoteText(name)}]: ${quoteText(alias.text)}: group members must be users`
        decoder.reporter.report(member.at, 'POLICY_GROUP', message, {
          remedy: 'Write the login name of a user, such as "alice@example.com".',
        })
      }
    }
    groups.set(name, { name, at: entry.nameAt, value: members })
  }
  // Of several, the hosted service names the last parent in sorted order.
  nested.sort((a, b) => (a.parent.name < b.parent.name ? 1 : a.parent.name > b.parent.name ? -1 : 0))
  for (const { parent, member } of nested) {
    const message = `groups[${quoteText(parent.name)}]: ${quoteText(member.value)}: group members cannot be recursive`
    decoder.reporter.report(member.at, 'POLICY_GROUP', message, { remedy: 'List the users of the inner group.' })
  }
  return groups
}

function readHosts(decoder: Decoder, item: Item | undefined): Policy['hosts'] {
  const hosts: Map<string, Policy['hosts'] extends ReadonlyMap<string, infer D> ? D : never> = new Map()
  for (const { name, nameAt, item: value } of readSection(decoder, item, 'hosts')) {
    const text = decoder.string(value, `hosts[${quoteText(name)}]`)
    if (text === undefined) continue
    const prefix = parsePrefix(text.value)
    const alias = parseAlias(name)
    if (name.includes('@')) decoder.reporter.report(nameAt, 'POLICY_HOST', `hosts[${quoteText(name)}]: host names cannot contain '@'`)
    // A name that means something else by itself, or has white space around it, would never be looked up here.
    else if (alias.kind !== 'host' || alias.name !== name)
      decoder.reporter.report(nameAt, 'POLICY_HOST', `hosts[${quoteText(name)}]: invalid hostname`)
    else if (prefix === undefined)
      decoder.reporter.report(text.at, 'POLICY_HOST', `hosts[${quoteText(name)}]: ${quoteText(text.value)}: invalid address`)
    else hosts.set(name, { name, at: nameAt, value: prefix })
  }
  return hosts
}

function isTag(decoder: Decoder, { name, nameAt }: Entry): boolean {
  const tag = name.trim()
  if (/^tag:[a-zA-Z][a-zA-Z0-9-]*$/.test(tag)) return true
  const reason = !tag.startsWith('tag:')
    ? "tags must start with 'tag:'"
    : /^tag:[a-zA-Z]/.test(tag)
    ? 'tag names can only contain numbers, letters, or dashes'
    : "tag names must start with a letter, after 'tag:'"
  decoder.reporter.report(nameAt, 'POLICY_TAG_OWNER', `tagOwners[${quoteText(tag)}]: ${reason}`)
  return false
}

/** Who may own a tag. */
export const OWNERS: readonly AliasClass[] = ['user', 'group', 'tag', 'role', 'member', 'tagged']

function ownerRules(tag: string): NameRules {
  const prefix = `tagOwners[${quoteText(tag)}]: `
  return {
    what: `tagOwners[${quoteText(tag)}]`,
    allowed: OWNERS,
    code: 'POLICY_TAG_OWNER',
    refuse: (alias) => `${prefix}${quoteText(alias.text)}: not a user, group, tag or autogroup that can own a tag`,
    wrap: (message) => prefix + message,
  }
}

function readIpsets(decoder: Decoder, item: Item | undefined, names: Definitions): Policy['ipsets'] {
  const ipsets = new Map<string, Definition<readonly IpsetStep[]>>()
  const entries = readSection(decoder, item, 'ipsets')
  const known = new Set(entries.map((entry) => entry.name.trim()))
  for (const { name, nameAt, item: value } of entries) {
    const set = name.trim()
    if (!/^ipset:./.test(set)) {
      decoder.reporter.report(nameAt, 'POLICY_IPSET', `ipsets[${quoteText(set)}]: ipset names must start with 'ipset:'`)
      continue
    }
    const lines = decoder.strings(value, `ipsets[${quoteText(set)}]`) ?? []
    const removes = lines.some((line) => /^\s*remove\s/.test(line.value))
    const steps: IpsetStep[] = []
    for (const { value: line, at } of lines) {
      const words = line.trim().split(/\s+/)
      const verb = words.length === 2 ? words[0] : words.length === 1 && !removes ? 'add' : undefined
      const target = parseIpsetTarget(words.at(-1) ?? '')
      const usable =
        target !== undefined &&
        (target.kind !== 'ipset' || known.has(target.text)) &&
        (target.kind !== 'host' || names.hosts.has(target.name))
      if ((verb !== 'add' && verb !== 'remove') || !usable)
        decoder.reporter.report(at, 'POLICY_IPSET', `ipsets[${quoteText(set)}]: ${quoteText(line)}: invalid entry`, {
          remedy: 'Write "add" or "remove" and an address, CIDR, range, host:name, ipset:name or autogroup:internet.',
        })
      else steps.push({ add: verb === 'add', target, at })
    }
    ipsets.set(set, { name: set, at: nameAt, value: steps })
  }
  return withoutCycles(decoder, ipsets)
}

function parseIpsetTarget(text: string): Alias | undefined {
  const range = parseIpRange(text)
  if (range !== undefined) return { kind: 'range', range, text }
  const alias = parseAlias(text)
  const fits =
    alias.kind === 'prefix' ||
    alias.kind === 'ipset' ||
    (alias.kind === 'host' && text.startsWith('host:')) ||
    (alias.kind === 'autogroup' && alias.autogroup === 'internet')
  return fits ? alias : undefined
}

/** How deep ipsets may stand in one another. */
const MOST_IPSET_DEPTH = 50

/** Reports ipsets that contain themselves, directly or through others, or go too deep, and empties them. */
function withoutCycles(decoder: Decoder, ipsets: Map<string, Definition<readonly IpsetStep[]>>): Policy['ipsets'] {
  const state = new Map<string, 'open' | 'done'>()
  const depth = new Map<string, number>()
  const innerOf = (name: string): string[] =>
    (ipsets.get(name)?.value ?? []).flatMap((step) => (step.target.kind === 'ipset' ? [step.target.text] : []))
  for (const start of [...ipsets.keys()]) {
    const path = [{ name: start, inner: innerOf(start), next: 0 }]
    while (path.length > 0) {
      const top = path[path.length - 1]
      if (top === undefined) break
      state.set(top.name, 'open')
      const next = top.inner[top.next]
      top.next += 1
      if (next === undefined) {
        const level = 1 + top.inner.reduce((most, name) => Math.max(most, depth.get(name) ?? 0), 0)
        const definition = ipsets.get(top.name)
        if (level > MOST_IPSET_DEPTH && definition !== undefined) {
          decoder.reporter.report(definition.at, 'POLICY_IPSET', `ipsets[${quoteText(top.name)}]: ipsets are nested too deeply`)
          ipsets.set(top.name, { ...definition, value: [] })
        }
        depth.set(top.name, level)
        state.set(top.name, 'done')
        path.pop()
      } else if (state.get(next) === 'open') {
        const definition = ipsets.get(top.name)
        if (definition !== undefined) {
          decoder.reporter.report(
            definition.at,
            'POLICY_IPSET',
            `ipsets[${quoteText(top.name)}]: ${quoteText(next)}: ipsets cannot be recursive`,
          )
          ipsets.set(top.name, { ...definition, value: [] })
        }
        top.inner = []
      } else if (state.get(next) === undefined) path.push({ name: next, inner: innerOf(next), next: 0 })
    }
  }
  return ipsets
}

function readPostures(decoder: Decoder, item: Item | undefined): Policy['postures'] {
  const postures = new Map<string, Definition<readonly Assertion[]>>()
  for (const { name, nameAt, item: value } of readSection(decoder, item, 'postures')) {
    const what = `postures[${quoteText(name)}]`
    if (!/^posture:./.test(name)) {
      decoder.reporter.report(nameAt, 'POLICY_POSTURE', `${what}: posture names must start with 'posture:'`)
      continue
    }
    const list = value.value.trimmed.kind === 'object' ? decoder.fields(value, what, ['assertions', 'onFailure']).get('assertions') : value
    const assertions: Assertion[] = []
    for (const { value: text, at } of decoder.strings(list, what) ?? []) {
      const assertion = parseAssertion(text)
      if (assertion === undefined)
        decoder.reporter.report(at, 'POLICY_POSTURE', `${what}: ${quoteText(text)}: invalid assertion`, {
          remedy: "Write an attribute, an operator and a value, such as node:os == 'linux'.",
        })
      else assertions.push(assertion)
    }
    if (assertions.length === 0) decoder.reporter.report(nameAt, 'POLICY_POSTURE', `${what}: a posture needs an assertion`)
    postures.set(name, { name, at: nameAt, value: assertions })
  }
  return postures
}
