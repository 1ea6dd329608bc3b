import type { Cell } from './matrix.ts'
import { TAILSCALE_EXTRA } from './programs.ts'

// What the releases between the oldest and the newest did. No CI run meets them, so what they did is kept from run to run in a file of the
// repository, cell by cell, and a table is made of it.

/** One flow with each release: `ok`, or why not. */
export interface KnownFlow {
  readonly group: string
  readonly flow: string
  readonly releases: Readonly<Record<string, string>>
}

const OK = 'ok'
const BEGIN = '<!-- made from interop-versions.json -->'
const END = '<!-- end -->'

/** The release between the oldest and the newest that a cell is about. */
export function extraRelease(cell: Cell): string | undefined {
  return TAILSCALE_EXTRA.find((version) => cell.peer === `tailscaled@${version}`)
}

/** What is known, with the cells of a run in the place of their like. A flow that was skipped changes nothing. */
export function withCells(known: readonly KnownFlow[], cells: readonly Cell[]): readonly KnownFlow[] {
  const key = (row: { readonly group: string; readonly flow: string }): string => `${row.group}\0${row.flow}`
  const rows = new Map(known.map((row) => [key(row), row]))
  for (const cell of cells) {
    const release = extraRelease(cell)
    if (release === undefined || cell.outcome === 'skipped') continue
    const { group, flow } = cell
    const outcome = cell.outcome === 'ok' ? OK : `FAILED: ${cell.reason}`
    rows.set(key(cell), { group, flow, releases: { ...rows.get(key(cell))?.releases, [release]: outcome } })
  }
  return [...rows.values()].sort((a, b) => (key(a) < key(b) ? -1 : 1))
}

/** Flows that went through, of those that were tried, by group and release; below it each that did not. */
export function releaseTable(known: readonly KnownFlow[]): string {
  const releases = TAILSCALE_EXTRA.filter((release) => known.some((row) => row.releases[release] !== undefined))
  const share = (rows: readonly KnownFlow[], release: string): string => {
    const tried = rows.flatMap((row) => row.releases[release] ?? [])
    return tried.length === 0 ? '' : `${tried.filter((outcome) => outcome === OK).length}/${tried.length}`
  }
  const line = (name: string, rows: readonly KnownFlow[]): string => `| ${name} | ${releases.map((release) => share(rows, release)).join(' | ')} |`
  const groups = [...new Set(known.map(({ group }) => group))]
  const failed = known.flatMap(({ group, flow, releases: outcomes }) => releases.filter((release) => ![undefined, OK].includes(outcomes[release])).map((release) => `- ${release}, ${group}, "${flow}": ${outcomes[release] ?? ''}`))
  return [`| flows of | ${releases.join(' | ')} |`, `|---|${releases.map(() => '---|').join('')}`, ...groups.map((group) => line(group, known.filter((row) => row.group === group))), line('**all**', known), ...(failed.length > 0 ? ['', ...failed] : [])].join('\n')
}

/** A text with the table at its place. @throws Error when it has no place for one */
export function withTable(text: string, table: string): string {
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error(`no place for the table of releases: "${BEGIN}" and "${END}" are missing`)
  return `${text.slice(0, begin + BEGIN.length)}\n${table}\n${text.slice(end)}`
}

/** As JSON with one flow a line, so that differences can be read. */
export function knownText(known: readonly KnownFlow[]): string {
  return `[\n${known.map((row) => `  ${JSON.stringify(row)}`).join(',\n')}\n]\n`
}
