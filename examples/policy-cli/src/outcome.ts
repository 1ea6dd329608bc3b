/** What a command has to say: lines for people, a value for programs, and the exit status. */
export interface Outcome {
  readonly status: 0 | 1
  readonly lines: readonly string[]
  readonly json: unknown
}

/** Options as they were given, and how to write. */
export interface Options {
  readonly policy?: string | undefined
  readonly inventory?: string | undefined
  readonly format?: string | undefined
  readonly proto?: string | undefined
  readonly as?: string | undefined
  readonly check?: boolean | undefined
  readonly write?: boolean | undefined
  readonly style?: Style | undefined
}

/** How words stand out on a terminal. */
export interface Style {
  good(text: string): string
  bad(text: string): string
  strong(text: string): string
  faint(text: string): string
}

/** For files and pipes. */
export const PLAIN: Style = { good: same, bad: same, strong: same, faint: same }

/** For terminals. */
export const COLOURED: Style = { good: (text) => paint(32, text), bad: (text) => paint(31, text), strong: (text) => paint(1, text), faint: (text) => paint(2, text) }

/** `1 test`, `2 tests`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}

/** `12:5` */
export function at({ line, column }: { readonly line: number; readonly column: number }): string {
  return `${line}:${column}`
}

/** Rows with columns as wide as their longest cell. */
export function columns(rows: readonly (readonly string[])[], indent: string = ''): string[] {
  const widths: number[] = []
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length)
  return rows.map((row) => `${indent}${row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] ?? 0))).join('  ')}`.trimEnd())
}

function same(text: string): string {
  return text
}

function paint(code: number, text: string): string {
  return `\u001b[${code}m${text}\u001b[0m`
}
