import { stringify } from 'yaml'
import { Failure } from '../failure.ts'

/** How results are written: a table for people, or a form for programs. */
export type OutputForm = 'table' | 'json' | 'json-line' | 'yaml'

export function outputForm(text: string | undefined): OutputForm {
  if (text === undefined || text === '') return 'table'
  if (text === 'json' || text === 'json-line' || text === 'yaml') return text
  throw new Failure(`unknown output form ${text}`, { remedy: 'use -o json, -o json-line or -o yaml', status: 2 })
}

/** Writes a result: in a form for programs the value, else the text for people. */
export function write(form: OutputForm, value: unknown, people: () => string): void {
  const text = form === 'json' ? JSON.stringify(value, null, '\t') : form === 'json-line' ? JSON.stringify(value) : form === 'yaml' ? stringify(value).trimEnd() : people()
  process.stdout.write(`${text}\n`)
}

/** Columns under headings, each as wide as its widest cell. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, i) => Math.max(heading.length, ...rows.map((row) => (row[i] ?? '').length)))
  const line = (cells: readonly string[], pad = ' '): string => cells.map((cell, i) => cell.padEnd(widths[i] ?? 0, pad)).join('  ').trimEnd()
  return [line(headings), line(headings.map(() => ''), '─'), ...rows.map((row) => line(row))].join('\n')
}

/** A time for people: `2026-11-21 14:05:12` in UTC, or a dash for none. */
export function shortTime(text: string | null | undefined): string {
  return text === null || text === undefined || text === '' || text.startsWith('0001-') ? '-' : text.slice(0, 19).replace('T', ' ')
}
