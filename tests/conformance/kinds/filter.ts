import { readFile } from 'node:fs/promises'
import { instant, parseHex } from '@meshwright/core'
import { formatPrefix, type Ip, IpSet, PacketView, parseIp, parsePrefix } from '@meshwright/ip'
import { type CapsOf, type FilterRule, PacketFilter, parseFilterRules, readAddresses, readFilterRule } from '@meshwright/packet-filter'
import type { FilterVectors, PacketCase, Verdict } from '../filter-vectors.ts'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

/** The whole file: packets, and how parts of rules are read. */
interface Data extends FilterVectors {
  readonly parseIPSet?: readonly { readonly input: string; readonly prefixes?: readonly string[]; readonly cap?: string; readonly error?: string }[]
  readonly rulesToMatches?: readonly { readonly rules: readonly FilterRule[]; readonly matches: readonly unknown[] }[]
  readonly caps?: { readonly rules: unknown; readonly cases: readonly { readonly src: string; readonly dst: string; readonly caps: readonly string[] }[] }
}

const NOW = instant(0)

/** Verdicts of a node's packet filter: rules in wire form and raw packets. */
export const kind: Kind = {
  name: 'filter',
  defaultPath: 'conformance/filter-matching.json',
  copied: true,
  async run(location: string): Promise<readonly CaseResult[]> {
    const data = await readData(location)
    const results: CaseResult[] = []
    const add = (group: string, id: string, detail: string | undefined): void => {
      results.push({ group, id, passed: detail === undefined, ...(detail === undefined ? {} : { detail }) })
    }
    for (const each of data.cases) add('cases', each.id, checkPacket(build(data, each.filter), each))
    for (const each of data.raw ?? []) add('raw', each.id, checkPacket(build(data, each.filter), each))
    for (const { id, filter: name, steps } of data.sequences ?? []) {
      const filter = build(data, name)
      const wrong = steps.map((step) => compare(judge(filter, step.dir, step.hex), step.verdict)).findIndex((detail) => detail !== undefined)
      add('sequences', id, wrong < 0 ? undefined : `step ${wrong} differs from ${steps[wrong]?.verdict ?? ''}`)
    }
    for (const each of data.parseIPSet ?? []) add('parseIPSet', each.input, checkAddresses(each))
    for (const [i, each] of (data.rulesToMatches ?? []).entries()) add('rulesToMatches', `rulesToMatches#${i}`, compare(each.rules.map(describeRule), each.matches))
    if (data.caps !== undefined) {
      const filter = new PacketFilter()
      filter.replace(parseFilterRules(data.caps.rules).rules, IpSet.everything)
      for (const { src, dst, caps } of data.caps.cases) add('caps', `${src} > ${dst}`, compare([...filter.capsFor(address(src), address(dst)).keys()], caps))
    }
    return results
  },
}

function build(data: Data, name: string | undefined): PacketFilter {
  const filter = new PacketFilter()
  if (name === undefined) return filter
  const setup = data.filters[name]
  if (setup === undefined) throw new UnknownForm(name, 'the name of a filter in "filters"')
  const parsed = parseFilterRules(setup.rules)
  if (parsed.problems.length > 0) throw new UnknownForm(name, 'rules that can all be read')
  const held = new Map(Object.entries(setup.nodeCaps ?? {}).map(([text, names]) => [address(text).key, new Set(names)]))
  const capsOf: CapsOf = (source) => held.get(source.key)
  filter.replace(parsed.rules, IpSet.from(setup.localNets.map((text) => parsePrefix(text) ?? IpSet.empty)), capsOf)
  return filter
}

function judge(filter: PacketFilter, direction: 'in' | 'out', hex: string): Verdict {
  const view = viewOf(hex)
  return (direction === 'in' ? filter.checkIn(NOW, view) : filter.checkOut(NOW, view)).accept ? 'accept' : 'drop'
}

function checkPacket(filter: PacketFilter, each: PacketCase): string | undefined {
  const view = viewOf(each.hex)
  const explained = filter.explain(view)
  const verdict = filter.checkIn(NOW, view)
  if (explained.accept !== verdict.accept) return 'the explanation and the verdict differ'
  const reason = each.dropReason === undefined ? undefined : compare(verdict.reason, each.dropReason)
  return compare(verdict.accept ? 'accept' : 'drop', each.verdict) ?? reason
}

function checkAddresses(each: { readonly input: string; readonly prefixes?: readonly string[]; readonly cap?: string; readonly error?: string }): string | undefined {
  const read = readAddresses(each.input)
  if (each.error !== undefined) return read === undefined ? undefined : 'was read'
  if (read === undefined) return 'was not read'
  const actual = 'capability' in read ? { prefixes: [], cap: read.capability } : { prefixes: read.addresses.prefixes().map(formatPrefix) }
  return compare(actual, { prefixes: each.prefixes ?? [], ...(each.cap === undefined ? {} : { cap: each.cap }) })
}

function describeRule(rule: FilterRule): unknown {
  const meaning = readFilterRule(rule)
  return {
    IPProto: meaning.protocols,
    Srcs: meaning.sources.prefixes().map(formatPrefix),
    Dsts: meaning.destinations.flatMap(({ addresses, ports }) => addresses.prefixes().map((prefix) => ({ Net: formatPrefix(prefix), Ports: { First: ports.First, Last: ports.Last } }))),
    Caps: meaning.capabilities.map(({ name }) => name),
  }
}

function viewOf(hex: string): PacketView {
  const bytes = parseHex(hex)
  if (bytes === undefined) throw new Error(`not hexadecimal: ${hex}`)
  const view = new PacketView()
  view.at(bytes)
  return view
}

function compare(actual: unknown, expected: unknown): string | undefined {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  return a === b ? undefined : `gave ${a}, expected ${b}`
}

function address(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(`not an address: ${text}`)
  return parsed
}

async function readData(location: string): Promise<Data> {
  let json: unknown
  try {
    json = JSON.parse(await readFile(location, 'utf8'))
  } catch (error) {
    throw new UnknownForm(location, `a JSON file (${error instanceof Error ? error.message : String(error)})`)
  }
  const data = json as Data
  if (typeof data !== 'object' || data === null || typeof data.filters !== 'object' || !Array.isArray(data.cases)) throw new UnknownForm(location, 'an object with "filters" and "cases"')
  return data
}
