import type { CapGrant, FilterRule, NetPortRange } from './filter-rule.ts'
import { isPortRange, isProtocol, readAddresses, readPrefix } from './rule-meaning.ts'

/** Something in the rules that could not be read and was left out. */
export interface FilterProblem {
  /** Which rule, counted from 0; -1 for the list itself. */
  readonly rule: number
  /** Which part of it, such as `SrcIPs[3]`. */
  readonly path: string
  readonly message: string
}

/** What could be read, and what could not. */
export interface ParsedFilterRules {
  readonly rules: readonly FilterRule[]
  readonly problems: readonly FilterProblem[]
}

type Report = (path: string, message: string) => undefined

/**
 * Reads filter rules as they come from a control server. Never throws. Whatever cannot be read is left out and reported, the smallest
 * part that can be left out without letting anything more through: an entry of a list of sources, destinations or grants, else the whole
 * rule. `null` stands for "absent", as Go writes empty lists; unknown fields are ignored.
 */
export function parseFilterRules(json: unknown): ParsedFilterRules {
  const problems: FilterProblem[] = []
  if (json === null || json === undefined) return { rules: [], problems }
  if (!Array.isArray(json)) return { rules: [], problems: [{ rule: -1, path: '', message: 'is not a list of rules' }] }
  const list: readonly unknown[] = json
  const rules = list.flatMap((item, index) => {
    const report: Report = (path, message) => {
      problems.push({ rule: index, path, message })
      return undefined
    }
    return parseRule(item, report) ?? []
  })
  return { rules, problems }
}

function parseRule(item: unknown, report: Report): FilterRule | undefined {
  if (!isObject(item)) return report('', 'is not an object')
  const sourceList = listOf(item.SrcIPs, 'SrcIPs', report)
  const portList = listOf(item.DstPorts, 'DstPorts', report)
  const protocolList = listOf(item.IPProto, 'IPProto', report)
  const grantList = listOf(item.CapGrant, 'CapGrant', report)
  const bitsList = listOf(item.SrcBits, 'SrcBits', report)
  if (!sourceList || !portList || !protocolList || !grantList || !bitsList) return undefined
  const sources = sourceList.flatMap((entry, i) => parseSource(entry, bitsList[i], `SrcIPs[${i}]`, report) ?? [])
  if (sources.length === 0 && sourceList.length > 0) return undefined
  const protocols = protocolList.flatMap((entry, i) => parseProtocol(entry, `IPProto[${i}]`, report) ?? [])
  // A list of which nothing is left means "no protocol", never "the default protocols".
  const noProtocol = protocolList.length > 0 && protocols.length === 0
  const ports = noProtocol ? [] : portList.flatMap((entry, i) => parseDestination(entry, `DstPorts[${i}]`, report) ?? [])
  const grants = grantList.flatMap((entry, i) => parseGrant(entry, `CapGrant[${i}]`, report) ?? [])
  if (ports.length === 0 && grants.length === 0 && portList.length + grantList.length > 0) return undefined
  return {
    SrcIPs: sources,
    ...(ports.length > 0 ? { DstPorts: ports } : {}),
    ...(protocols.length > 0 ? { IPProto: protocols } : {}),
    ...(grants.length > 0 ? { CapGrant: grants } : {}),
  }
}

/** A source in today's form: the old one, an address with its length in `SrcBits`, becomes a prefix. */
function parseSource(entry: unknown, bits: unknown, path: string, report: Report): string | undefined {
  if (typeof entry !== 'string') return report(path, 'is not a text')
  const old = bits !== undefined && bits !== null && entry !== '*' && !entry.startsWith('cap:')
  const text = old && !entry.includes('/') && !entry.includes('-') ? `${entry}/${String(bits)}` : entry
  return readAddresses(text) === undefined ? report(path, `cannot be read: ${JSON.stringify(text.slice(0, 100))}`) : text
}

function parseProtocol(entry: unknown, path: string, report: Report): number | undefined {
  return typeof entry === 'number' && isProtocol(entry) ? entry : report(path, 'is not a protocol number')
}

function parseDestination(entry: unknown, path: string, report: Report): NetPortRange | undefined {
  if (!isObject(entry) || typeof entry.IP !== 'string') return report(path, 'is not an object with an IP')
  if (entry.Bits !== undefined && entry.Bits !== null) return report(path, 'uses the old field Bits')
  const read = readAddresses(entry.IP)
  if (read === undefined || !('addresses' in read)) return report(path, `cannot be read: ${JSON.stringify(entry.IP.slice(0, 100))}`)
  if (!isObject(entry.Ports)) return report(path, 'has no Ports')
  const { First, Last } = entry.Ports
  if (typeof First !== 'number' || typeof Last !== 'number' || !isPortRange({ First, Last })) return report(path, 'has no port range of 0 to 65535 in Ports')
  return { IP: entry.IP, Ports: { First, Last } }
}

function parseGrant(entry: unknown, path: string, report: Report): CapGrant | undefined {
  if (!isObject(entry)) return report(path, 'is not an object')
  const destinations = listOf(entry.Dsts, `${path}.Dsts`, report)
  const names = listOf(entry.Caps, `${path}.Caps`, report)
  if (!destinations || !names) return undefined
  const Dsts = destinations.flatMap((text, i) => (typeof text === 'string' && readPrefix(text) ? text : (report(`${path}.Dsts[${i}]`, 'is not a prefix') ?? [])))
  const Caps = names.flatMap((name, i) => (typeof name === 'string' ? name : (report(`${path}.Caps[${i}]`, 'is not a text') ?? [])))
  const given = entry.CapMap ?? {}
  if (!isObject(given)) return report(`${path}.CapMap`, 'is not an object')
  const valued: (readonly [string, readonly unknown[] | null])[] = []
  for (const [name, values] of Object.entries(given)) {
    if (values !== null && !Array.isArray(values)) report(`${path}.CapMap`, `holds no list under ${JSON.stringify(name.slice(0, 100))}`)
    else valued.push([name, values])
  }
  return { Dsts, ...(Caps.length > 0 ? { Caps } : {}), ...(valued.length > 0 ? { CapMap: Object.fromEntries(valued) } : {}) }
}

function listOf(value: unknown, path: string, report: Report): readonly unknown[] | undefined {
  if (value === undefined || value === null) return []
  return Array.isArray(value) ? value : report(path, 'is not a list')
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
