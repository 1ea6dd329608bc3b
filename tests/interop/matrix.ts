import path from 'node:path'

const SUITE_LOADED = 'the suite is loaded'

/** One flow with one peer. */
export interface Cell {
  readonly group: string
  readonly flow: string
  readonly peer: string
  readonly outcome: 'ok' | 'FAILED' | 'skipped'
  readonly ms: number
  readonly reason: string
}

/** The files of tests with a failure. */
export function failedSuites(report: VitestReport): readonly string[] {
  return report.testResults.filter(({ message, assertionResults }) => (assertionResults.length === 0 && message !== undefined && message !== '') || assertionResults.some(({ status }) => status === 'failed')).map(({ name }) => name)
}

/** Cells after their suites ran again: a cell is ok that was so at one of two tries, and tells why it was not at the other. */
export function secondTry(first: readonly Cell[], second: readonly Cell[]): readonly Cell[] {
  const key = (cell: Cell): string => [cell.group, cell.flow, cell.peer].join('\0')
  const earlier = new Map(first.map((cell) => [key(cell), cell]))
  return merged(
    // A suite that could not be loaded has its cells now.
    first.filter((cell) => !(cell.flow === SUITE_LOADED && second.length > 0)),
    second.flatMap((cell) => {
      const before = earlier.get(key(cell))
      if (before?.outcome === 'ok') return cell.outcome === 'FAILED' ? [{ ...before, reason: `at the first try; at the second: ${cell.reason}` }] : []
      return before?.outcome === 'FAILED' && cell.outcome === 'ok' ? [{ ...cell, reason: `at the second try; at the first: ${before.reason}` }] : [cell]
    }),
  )
}

/** The part of vitest's report that is read. */
export interface VitestReport {
  readonly testResults: readonly {
    readonly name: string
    readonly message?: string
    readonly assertionResults: readonly {
      readonly ancestorTitles: readonly string[]
      readonly title: string
      readonly status: string
      readonly duration?: number | null
      readonly failureMessages?: readonly string[] | null
      readonly meta?: { readonly skipReason?: string }
    }[]
  }[]
}

/** Reads the cells of a report: a test is named "flow [peer]"; the suite around it is its group, or its peer when the name has none. */
export function readCells(report: VitestReport, chosen: { readonly grep?: string | undefined; readonly peers?: readonly string[] | undefined }): readonly Cell[] {
  return report.testResults.flatMap((file) => {
    const suite = path.basename(file.name, '.interop.test.ts')
    if (file.assertionResults.length === 0 && file.message !== undefined && file.message !== '') {
      return [{ group: suite, flow: SUITE_LOADED, peer: '', outcome: 'FAILED' as const, ms: 0, reason: firstLine(file.message) }]
    }
    return file.assertionResults
      .map((test): Cell & { readonly full: string } => {
        const around = test.ancestorTitles[0] ?? ''
        const match = /^(.*?)\s*\[([^\]]+)\](.*)$/.exec(test.title)
        return {
          full: `${test.ancestorTitles.join(' ')} ${test.title}`,
          group: match === null || around === '' ? suite : around,
          flow: match === null ? test.title : `${match[1] ?? ''}${match[3] ?? ''}`,
          peer: match?.[2] ?? (around === '' ? suite : around),
          outcome: test.status === 'passed' ? 'ok' : test.status === 'failed' ? 'FAILED' : 'skipped',
          ms: Math.round(test.duration ?? 0),
          reason: firstLine(test.failureMessages?.[0] ?? test.meta?.skipReason ?? ''),
        }
      })
      .filter(({ full, peer }) => (chosen.grep === undefined || full.includes(chosen.grep)) && (chosen.peers?.some((one) => peer.includes(one)) ?? true))
      .map(({ full: _, ...cell }) => cell)
  })
}

/** Earlier cells, with newer ones in the place of their like. */
export function merged(earlier: readonly Cell[], newer: readonly Cell[]): readonly Cell[] {
  const key = (cell: Cell): string => [cell.group, cell.flow, cell.peer].join('\0')
  const fresh = new Map(newer.map((cell) => [key(cell), cell]))
  const known = new Set(earlier.map(key))
  return [...earlier.map((cell) => fresh.get(key(cell)) ?? cell), ...newer.filter((cell) => !known.has(key(cell)))]
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? ''
}

/** Flows that met the same programs: one table, with a column for each version. */
interface Table {
  readonly program: string
  readonly peers: readonly string[]
  readonly rows: readonly { readonly group: string; readonly flow: string; readonly cells: ReadonlyMap<string, Cell> }[]
}

function tables(cells: readonly Cell[]): readonly Table[] {
  const programOf = (peer: string): string => peer.split('@')[0] ?? ''
  return [...new Set(cells.map((cell) => programOf(cell.peer)))].map((program) => {
    const own = cells.filter((cell) => programOf(cell.peer) === program)
    const rows = new Map<string, { readonly group: string; readonly flow: string; readonly cells: Map<string, Cell> }>()
    for (const cell of own) {
      const key = `${cell.group}\0${cell.flow}`
      const row = rows.get(key) ?? { group: cell.group, flow: cell.flow, cells: new Map<string, Cell>() }
      row.cells.set(cell.peer, cell)
      rows.set(key, row)
    }
    return { program, peers: [...new Set(own.map((cell) => cell.peer))], rows: [...rows.values()].sort((a, b) => order(a.group) - order(b.group)) }
  })
}

const GROUPS = ['login', 'lifetime', 'access', 'names', 'paths', 'routes', 'features', 'faults', 'relay']

function order(group: string): number {
  const found = GROUPS.indexOf(group.split(/[ ,:]/)[0] ?? '')
  return found < 0 ? GROUPS.length : found
}

/** The matrix for the terminal: a row for each flow, a column for each peer and version; reasons below. */
export function matrix(cells: readonly Cell[]): string {
  const lines = tables(cells).flatMap(({ program, peers, rows }) => {
    const names = rows.map(({ group, flow }) => (group === program ? flow : `${group}: ${flow}`))
    const width = Math.max(...names.map((name) => name.length), program.length)
    const column = Math.max(...peers.map((peer) => peer.length), 16)
    const shown = (cell: Cell | undefined): string => (cell === undefined ? '-' : cell.outcome === 'skipped' ? 'skipped' : `${cell.outcome} ${(cell.ms / 1000).toFixed(1)} s`)
    return ['', `${program.padEnd(width)}  ${peers.map((peer) => peer.padEnd(column)).join(' ')}`, ...rows.map((row, i) => `${(names[i] ?? '').padEnd(width)}  ${peers.map((peer) => shown(row.cells.get(peer)).padEnd(column)).join(' ')}`)]
  })
  const reasons = cells.filter((cell) => cell.reason !== '').map((cell) => `${cell.outcome}: ${cell.flow} [${cell.peer}]: ${cell.reason}`)
  const count = (outcome: Cell['outcome']): number => cells.filter((cell) => cell.outcome === outcome).length
  return [...lines, '', ...reasons, `${count('ok')} ok, ${count('FAILED')} failed, ${count('skipped')} skipped`].join('\n')
}

/** The same as a document. @param versions what is written by hand of other releases: stands behind it */
export function document(cells: readonly Cell[], programs: readonly string[], versions: string): string {
  const parts = tables(cells).map(({ program, peers, rows }) => {
    const shown = (cell: Cell | undefined): string => (cell === undefined ? '' : `${cell.outcome}${cell.reason === '' ? '' : `: ${escape(cell.reason)}`}`)
    const head = `| group | flow | ${peers.join(' | ')} |\n|---|---|${peers.map(() => '---|').join('')}`
    return `## ${program}\n\n${head}\n${rows.map((row) => `| ${escape(row.group)} | ${escape(row.flow)} | ${peers.map((peer) => shown(row.cells.get(peer))).join(' | ')} |`).join('\n')}`
  })
  return `# Interoperability

What real programs did when they were last met, written by \`npm run test:interop -- --write-docs\`; a part of it runs with \`npm run test:interop -- --grep FLOW --peer tailscaled@1.80.3\`.
What goes through the data plane, on each lane of it: [lanes.md](lanes.md).
Programs: ${programs.join(', ')}.

${parts.join('\n\n')}

${versions.trim()}
`
}

/** The cells of such a document, without what is written by hand: what a part of the flows is put into. */
export function readDocument(text: string): readonly Cell[] {
  const cells: Cell[] = []
  let peers: readonly string[] = []
  for (const line of text.split('\n')) {
    const [group = '', flow = '', ...found] = /^\|(?!-)/.test(line) ? line.slice(1, -1).split(/(?<!\\)\|/).map((each) => each.trim().replaceAll('\\|', '|')) : []
    if (group === 'group') peers = found
    if (group === '' || group === 'group' || found.length !== peers.length) {
      // Tables of another form are written by hand.
      if (group !== 'group') peers = line === '' || /^\|-/.test(line) ? peers : []
      continue
    }
    for (const [i, shown] of found.entries()) {
      const [outcome, ...reason] = shown.split(': ')
      if (outcome === 'ok' || outcome === 'FAILED' || outcome === 'skipped') cells.push({ group, flow, peer: peers[i] ?? '', outcome, ms: 0, reason: reason.join(': ') })
    }
  }
  return cells
}

/** Text in a cell of a table. */
export function escape(text: string): string {
  return text.replaceAll('|', '\\|')
}
