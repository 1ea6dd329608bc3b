import type { ControlFigures } from './control.ts'
import type { FloodFigures } from './flood.ts'
import type { LiarReport } from './liar-rounds.ts'

/** One line of the table: a figure, what it must be, and what is aimed at. */
export interface Row {
  readonly figure: string
  readonly unit: string
  readonly must: number
  readonly aim: number
  readonly of: (figures: ControlFigures) => number | undefined
}

/** What a server of 300 nodes must do, and what it should. */
export const ROWS_300: readonly Row[] = [
  { figure: 'join: server CPU until quiet', unit: 's', must: 8, aim: 4, of: (each) => each.joinCpu },
  { figure: 'endpoint change seen, p50', unit: 's', must: 0.15, aim: 0.1, of: (each) => each.endpointP50 },
  { figure: 'endpoint change seen, p99', unit: 's', must: 0.4, aim: 0.25, of: (each) => each.endpointP99 },
  { figure: 'node added, p99', unit: 's', must: 0.7, aim: 0.5, of: (each) => each.addedP99 },
  { figure: 'node added, bytes per client', unit: 'B', must: 3_000, aim: 1_000, of: (each) => each.addedBytes },
  { figure: 'reconnect of all, complete', unit: 's', must: 2, aim: 1, of: (each) => each.reconnectSeconds },
  { figure: 'reconnect of all, server CPU', unit: 's', must: 5, aim: 2, of: (each) => each.reconnectCpu },
]

/** What a server of 1,000 nodes must do. */
export const ROWS_1000: readonly Row[] = [
  { figure: 'join and settle', unit: 's', must: 60, aim: 20, of: (each) => each.settleSeconds },
  { figure: 'reconnect of all, complete', unit: 's', must: 60, aim: 20, of: (each) => each.reconnectSeconds },
]

/** The rows that a measurement answers. */
export function rowsFor(figures: ControlFigures): readonly Row[] {
  return figures.clients >= 1_000 ? ROWS_1000 : ROWS_300
}

/** Figures side by side: a table of text for each policy and number of clients. */
export function formatTables(all: readonly ControlFigures[]): string {
  const groups = new Map<string, ControlFigures[]>()
  for (const figures of all) {
    const title = `${figures.clients} nodes, ${figures.policy === 'allow-all' ? 'allow-all' : '20 groups and 100 rules'}`
    groups.set(title, [...(groups.get(title) ?? []), figures])
  }
  return [...groups].map(([title, group]) => formatTable(title, group)).join('\n')
}

function formatTable(title: string, group: readonly ControlFigures[]): string {
  const [first] = group
  if (first === undefined) return ''
  const ours = group.find((each) => each.server === 'ours')
  const lines = [
    ['figure', ...group.map((each) => each.server), 'must', 'aim', ''],
    ...rowsFor(first).map((row) => [row.figure, ...group.map((each) => show(row.of(each), row.unit)), show(row.must, row.unit), show(row.aim, row.unit), ours === undefined ? '' : verdict(row, ours)]),
    ['memory of the server, most', ...group.map((each) => `${each.peakRssMegabytes} MB`), '', '', ''],
  ]
  return `${title}\n${columns(lines)}\n`
}

/** Of what senders got rid of, what must arrive. */
export const SHARE_MUST = 0.5
/** What a flood by 50 pairs may add to the memory of our relay: 100 connections of a window, two queues and a frame each, and the engine's garbage. */
export const GROWN_MUST_MEGABYTES = 128

/** What a flood came to, relays side by side. */
export function formatFlood(all: readonly FloodFigures[]): string {
  const lines = [
    ['figure', ...all.map((each) => each.relay), 'must'],
    ['taken from the senders', ...all.map((each) => `${each.sentMegabytesPerSecond.toFixed(0)} MB/s`), ''],
    ['delivered', ...all.map((each) => `${each.deliveredMegabytesPerSecond.toFixed(0)} MB/s`), ''],
    ['delivered of what was taken', ...all.map((each) => `${(each.deliveredShare * 100).toFixed(1)} %`), `${SHARE_MUST * 100} %`],
    ['memory added by the flood, most', ...all.map((each) => `${each.grownMegabytes.toFixed(0)} MB`), `${GROWN_MUST_MEGABYTES} MB`],
    ['CPU of the relay', ...all.map((each) => `${each.relayCpuSeconds.toFixed(1)} s`), ''],
  ]
  return `flood by ${all[0]?.pairs ?? 0} pairs, ${all[0]?.seconds.toFixed(1) ?? 0} s\n${columns(lines)}\n`
}

/** How many times as long honest requests may take beside liars, at p99. */
export const RATIO_MUST = 2

/** What honest clients felt of liars, a line for each kind. */
export function formatLiars(report: LiarReport): string {
  const ms = (value: number): string => `${(value * 1000).toFixed(1)} ms`
  const times = (value: number | undefined): string => (value === undefined ? '' : value.toFixed(2))
  const lines = [
    ['liars', 'p50 alone', 'among', 'p99 alone', 'among', 'times', 'elsewhere', 'failed', 'newcomer', 'lies/s', 'offered/s', 'CPU: server', 'liars', 'honest'],
    ...report.kinds.map((each) => [
      each.kind,
      ms(each.quietP50),
      ms(each.attackedP50),
      ms(each.quietP99),
      ms(each.attackedP99),
      times(each.ratio),
      times(each.elsewhereRatio),
      String(each.failed),
      `${each.newcomerSeconds.toFixed(2)} s`,
      each.liesPerSecond.toFixed(0),
      each.offeredPerSecond.toFixed(0),
      ...[each.cpu.server, each.cpu.liars, each.cpu.honest].map((share) => share.toFixed(2)),
    ]),
  ]
  const held = `memory added by all of them: ${report.grownMegabytes.toFixed(0)} MB (must ${report.growthMustMegabytes} MB)`
  return `honest requests alone and among liars at ${report.at}, ${report.halfOpen} connections half open (p99: the median of those of the rounds; must: at most ${RATIO_MUST} times, none failed, a newcomer joins within ${report.newcomerMustSeconds} s; liars have the time that nobody else wants, ${report.perSecond === undefined ? '24 conversations at once without a pause' : `${report.perSecond} lies begun a second whatever becomes of them`}; elsewhere: times, beside the same lies told to another server)\n${columns(lines)}\n  ${held}\n`
}

/** Whether honest clients keep working beside every kind of liars. */
export function liarsHeld(report: LiarReport): boolean {
  return report.kinds.every((each) => each.failed === 0 && each.ratio <= RATIO_MUST && each.newcomerSeconds <= report.newcomerMustSeconds) && report.grownMegabytes <= report.growthMustMegabytes
}

/** Whether ours reaches what it must. */
export function verdict(row: Row, ours: ControlFigures): 'aim' | 'must' | 'MISSED' {
  const value = row.of(ours)
  if (value === undefined || value > row.must) return 'MISSED'
  return value <= row.aim ? 'aim' : 'must'
}

/** What ours misses, a line for each. */
export function misses(all: readonly ControlFigures[]): readonly string[] {
  return all
    .filter((each) => each.server === 'ours')
    .flatMap((each) => rowsFor(each).filter((row) => verdict(row, each) === 'MISSED').map((row) => `${each.clients} nodes, ${each.policy}: ${row.figure} is ${show(row.of(each), row.unit)} and must be ${show(row.must, row.unit)}`))
}

/** Rows of text in columns as wide as they must be. */
export function columns(lines: readonly (readonly string[])[]): string {
  const widths = (lines[0] ?? []).map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)))
  return lines.map((line) => `  ${line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ').trimEnd()}`).join('\n')
}

function show(value: number | undefined, unit: string): string {
  if (value === undefined) return 'never'
  return unit === 'B' ? `${Math.round(value)} B` : `${value.toFixed(value < 1 ? 3 : 2)} s`
}
