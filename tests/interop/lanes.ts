import { type Cell, escape, merged } from './matrix.ts'

/** The lanes of the data plane that every flow is tried on, and who carries packets there. Others are tried too where they are asked for. */
export const LANES: ReadonlyMap<string, string> = new Map([
  ['offload', 'the worker with all offloads: rows of TCP and UDP on the TUN device, rows of datagrams on the sockets; the default, on which CI runs all flows but those of wireguard-peers. Nodes without a device: rows by system calls'],
  ['noffload', 'the worker without any offload: a packet and a datagram for each system call. Nodes without a device: datagrams sent by one call each'],
  ['portable', 'the event loop: `node:dgram`, and a TUN device or our own TCP/IP stack; nothing of the worker'],
])

/** How the reason begins why a flow is not run on the lane that was asked for: it would say nothing there. Such a flow is no failure, and the document says why. */
export const NOT_ON_LANE = 'not on this lane: '

/** The lane that was asked for as `MESHWRIGHT_DATAPLANE` has it; the usual one is undefined. */
export const CHOSEN_LANE: string | undefined = process.env['MESHWRIGHT_DATAPLANE']

/** What a skipped test is given to say why it says nothing on this lane. */
export interface SkippableTest {
  readonly task: { readonly meta: object }
  skip(reason: string): never
}

/** Leaves a flow out because of the lane. @param why it would say nothing there */
export function notOnLane(test: SkippableTest, why: string): never {
  const reason = `${NOT_ON_LANE}${why}`
  Object.assign(test.task.meta, { skipReason: reason })
  return test.skip(reason)
}

/** The environment of a lane: `offload`, `noffload,no-priority`, `portable+wasm`... */
export function laneEnvironment(lane: string): Readonly<Record<string, string>> {
  const [mode = '', crypto] = lane.split('+')
  return { MESHWRIGHT_DATAPLANE: mode, ...(crypto !== undefined && { MESHWRIGHT_CRYPTO: crypto }) }
}

/** Cells by lane. */
export type LaneCells = ReadonlyMap<string, readonly Cell[]>

/** @param whole the cells are all there is of this lane; else they take the place of their like */
export function withLane(known: LaneCells, lane: string, cells: readonly Cell[], whole: boolean): LaneCells {
  const all = new Map(known)
  all.set(lane, whole ? cells : merged(known.get(lane) ?? [], cells))
  const names = [...LANES.keys(), ...[...all.keys()].filter((name) => !LANES.has(name)).sort()]
  return new Map(names.flatMap((name) => (all.has(name) ? [[name, all.get(name) ?? []]] : [])))
}

const FLOWS = '## Each flow'

/** What real programs did on each lane: how many, what says nothing on a lane and why, and each flow. */
export function laneDocument(lanes: LaneCells): string {
  const names = [...lanes.keys()]
  const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
    [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n').replaceAll('| --- ', '|---').replaceAll('--- |', '---|')
  const all = [...lanes.values()].flat()
  const groups = [...new Set(all.map(({ group }) => group))]
  const counted = (cells: readonly Cell[]): string => {
    const of = (outcome: Cell['outcome']): readonly Cell[] => cells.filter((cell) => cell.outcome === outcome)
    const senseless = of('skipped').filter(isNotOnLane).length
    const words = [`${of('ok').length} of ${cells.length - senseless} ok`]
    if (senseless > 0) words.push(`${senseless} not on this lane`)
    if (of('skipped').length > senseless) words.push(`${of('skipped').length - senseless} skipped`)
    return cells.length === 0 ? 'not run' : [...words, ...of('FAILED').map(({ flow }) => `FAILED: ${escape(flow)}`)].join('; ')
  }
  const left = [...lanes].flatMap(([lane, cells]) => cells.filter(isNotOnLane).map(({ group, flow, reason }) => [`\`${lane}\``, escape(group), escape(flow), escape(reason.slice(NOT_ON_LANE.length))]))
  const rows = new Map(all.map((cell) => [keyOf(cell), [cell.group, cell.flow, cell.peer].map(escape)]))
  const found = new Map([...lanes].map(([lane, cells]) => [lane, new Map(cells.map((cell) => [keyOf(cell), cell]))]))
  const shown = (cell: Cell | undefined): string => (cell === undefined ? '' : `${cell.outcome}${cell.reason === '' ? '' : `: ${escape(cell.reason)}`}`)
  return `# Real programs on each lane of the data plane

Written by \`npm run test:interop -- --lane LANE --write-docs [SUITE...]\`; a part takes the place of its own cells. Every suite whose flows go through the data plane, on every lane
([dataplane.md](dataplane.md) tells how they work; golden data on every lane: \`npm run conformance -- lanes\`). Each run also searches what is outside for plaintext, keys and counters
that come twice, and for processes and namespaces that are left behind. On \`portable\` the flows of \`wireguard-peers\` have our own TCP/IP stack in the place of a device; on the others, as in
all other suites but those of nodes in userspace, they have a TUN device.

${table(['lane', 'who carries the packets'], [...LANES].map(([lane, what]) => [`\`${lane}\``, what]))}

${table(['suite', ...names], groups.map((group) => [escape(group), ...names.map((lane) => counted((lanes.get(lane) ?? []).filter((cell) => cell.group === group)))]))}

## What says nothing on a lane

${left.length === 0 ? 'Nothing: every flow runs on every lane.' : table(['lane', 'suite', 'flow', 'why'], left)}

${FLOWS}

${table(['suite', 'flow', 'peer', ...names], [...rows].map(([key, row]) => [...row, ...names.map((lane) => shown(found.get(lane)?.get(key)))]))}
`
}

/** The cells of such a document. */
export function readLaneDocument(text: string): LaneCells {
  const [head = [], , ...rows] = text
    .slice(text.indexOf(FLOWS) + FLOWS.length)
    .split('\n')
    .filter((line) => text.includes(FLOWS) && line.startsWith('|'))
    .map((line) => line.slice(1, -1).split(/(?<!\\)\|/).map((each) => each.trim().replaceAll('\\|', '|')))
  const cells = head.slice(3).map((lane, i): readonly [string, readonly Cell[]] => [
    lane,
    rows.flatMap(([group = '', flow = '', peer = '', ...outcomes]): Cell[] => {
      const [outcome, ...reason] = (outcomes[i] ?? '').split(': ')
      return outcome === 'ok' || outcome === 'FAILED' || outcome === 'skipped' ? [{ group, flow, peer, outcome, ms: 0, reason: reason.join(': ') }] : []
    }),
  ])
  return new Map(cells)
}

/** A flow that is not run on this lane for a reason that lies in the lane. */
export function isNotOnLane({ outcome, reason }: Cell): boolean {
  return outcome === 'skipped' && reason.startsWith(NOT_ON_LANE)
}

function keyOf({ group, flow, peer }: Cell): string {
  return [group, flow, peer].join('\0')
}
