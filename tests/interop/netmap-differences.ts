/** A network map in the JSON form of tailscaled. */
export type Netmap = Readonly<Record<string, unknown>>

/** What two observers of one network may show differently, and why. */
export interface Difference {
  /** Where, members parted by `/`; `*` is any one member, `**` at the end all below. */
  readonly at: string
  /** Releases of tailscaled that show it; absent: all. */
  readonly releases?: string
  readonly why: string
}

/** Zero values: Go writes or leaves them out by release and by type. Not inside of `CapMap`, where an empty list is a capability. */
const EMPTY: ReadonlySet<unknown> = new Set([null, '', '0001-01-01T00:00:00Z'])

/**
 * Every member of `debug netmap` that is not compared, with the reason. All else must be equal by value: every node (peers, and each observer's own
 * node with the entry that the other has of it), the filter in both forms with the observer's own addresses called `own` as destinations, DNS, relay map, users,
 * SSH policy, capabilities.
 */
export const DIFFERENCES: readonly Difference[] = [
  { at: 'NodeKey', why: 'the own key of each observer; it is compared as `Key` of its node' },
  { at: 'MachineKey', why: 'the own key of each observer; it is compared as `Machine` of its node' },
  { at: 'PrivateKey', releases: 'to 1.88', why: 'zeroes always, and gone later' },
  { at: 'Name', releases: 'to 1.88', why: 'the name of the own node once more; compared there' },
  { at: 'Expiry', releases: 'to 1.88', why: 'the key expiry of the own node once more; compared there' },
  { at: 'MaxKeyDuration', releases: '1.80.3', why: 'a setting that nothing reads' },
  { at: 'Cached', releases: 'from 1.96', why: 'whether the map came from a file at the start; we say `false` once the server has spoken' },
  { at: 'Nodes/*/Cap', why: 'headscale gives every peer the capability version of the one who asks' },
  { at: 'Nodes/*/LastSeen', why: 'tailscaled turns whole peers into patches of what it had, and loses a time where it had none' },
  { at: 'Nodes/expired/Key', why: 'when the time of a key has come, tailscaled spoils key, endpoints and home relay in its copy; we keep what the server said and ask the clock' },
  { at: 'Nodes/expired/Endpoints/**', why: 'as the key of an expired node' },
  { at: 'Nodes/expired/HomeDERP', why: 'as the key of an expired node' },
  { at: 'Nodes/expired/Expired', why: 'as the key of an expired node: the server tells the time, tailscaled adds the flag' },
  { at: 'Nodes/own/CapMap/**', why: 'what the server grants to a node is told to that node alone' },
]

const SOURCES: ReadonlySet<string> = new Set(['Srcs', 'SrcIPs'])

/** The table of docs/netmap-differences.md. */
export function differencesTable(): string {
  const rows = DIFFERENCES.map(({ at, releases, why }) => `| \`${at}\` | ${releases ?? 'all'} | ${why} |`)
  return ['| member | releases | why it is not compared |', '|---|---|---|', ...rows, ''].join('\n')
}

/**
 * Compares what two nodes of one network know of it: lines `PATH: ours ..., theirs ...`, none when they agree.
 * @param ours the map of our node @param theirs the map of the real one
 */
export function netmapDifferences(ours: Netmap, theirs: Netmap): readonly string[] {
  const kinds = [
    { kind: 'own', names: [ownName(ours), ownName(theirs)] },
    { kind: 'expired', names: list(theirs['Peers']).map(record).filter(isExpired).map((node) => String(node['Name'])) },
  ]
  const meet = knows(ours, ownName(theirs)) || knows(theirs, ownName(ours))
  const [mine, real] = [leaves(common(ours, meet)), leaves(common(theirs, meet))]
  const lines: string[] = []
  for (const path of [...new Set([...mine.keys(), ...real.keys()])].sort()) {
    const [a, b] = [mine.get(path), real.get(path)]
    if (a === b || isIgnored(path, kinds)) continue
    lines.push(`${path}: ours ${a ?? 'nothing'}, theirs ${b ?? 'nothing'}`)
  }
  return lines
}

function isIgnored(path: string, kinds: readonly { readonly kind: string; readonly names: readonly string[] }[]): boolean {
  const [top = '', name = '', ...rest] = path.split('/')
  const called = [name, ...kinds.filter(({ names }) => top === 'Nodes' && names.includes(name)).map(({ kind }) => kind)]
  return DIFFERENCES.some(({ at }) => called.some((each) => fits(at, rest.length === 0 && name === '' ? [top] : [top, each, ...rest])))
}

function isExpired(node: Netmap): boolean {
  return node['Expired'] === true
}

function fits(pattern: string, words: readonly string[]): boolean {
  const parts = pattern.split('/')
  const open = parts[parts.length - 1] === '**'
  const fixed = open ? parts.slice(0, -1) : parts
  return (open ? words.length >= fixed.length : words.length === fixed.length) && fixed.every((part, i) => part === '*' || part === words[i])
}

function ownName(map: Netmap): string {
  return String(record(map['SelfNode'])['Name'])
}

function knows(map: Netmap, name: string): boolean {
  return list(map['Peers']).some((peer) => record(peer)['Name'] === name)
}

/** The map with one list of nodes by name, oneself among them where the two know each other, and a filter that names oneself `own`. */
function common(map: Netmap, withOwn: boolean): Netmap {
  const { SelfNode, Peers, PacketFilter, PacketFilterRules, AllCaps, ...rest } = map
  const own = record(SelfNode)
  const nodes = [...(withOwn ? [own] : []), ...list(Peers).map(record)]
  const addresses = list(own['Addresses']).map(String)
  // The oldest release lists capabilities in no order.
  return { ...rest, AllCaps: list(AllCaps).map(String).sort(), PacketFilter: renamed(PacketFilter, addresses), PacketFilterRules: renamed(PacketFilterRules, addresses), Nodes: Object.fromEntries(nodes.map((node) => [String(node['Name']), node])) }
}

// Where rules lead to, own addresses stand alone or as prefixes of one address. Where they come from they are those of one node among others.
function renamed(value: unknown, addresses: readonly string[]): unknown {
  if (typeof value === 'string') {
    const at = addresses.findIndex((prefix) => prefix === value || prefix.replace(/\/\d+$/, '') === value)
    return at < 0 ? value : `own ${at}`
  }
  if (Array.isArray(value)) return value.map((each) => renamed(each, addresses))
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, SOURCES.has(name) ? each : renamed(each, addresses)]))
  return value
}

/** Every value that is no object or list, by its path; what is empty is as if absent. */
function leaves(value: unknown, path: string = '', found: Map<string, string> = new Map()): ReadonlyMap<string, string> {
  const inside = path.includes('/CapMap/')
  if (typeof value !== 'object' || value === null) {
    if (inside || !EMPTY.has(value)) found.set(path, JSON.stringify(value))
    return found
  }
  const entries = Object.entries(value)
  if (inside && entries.length === 0) found.set(path, JSON.stringify(value))
  for (const [name, each] of entries) leaves(each, path === '' ? name : `${path}/${name}`, found)
  return found
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {}
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}
