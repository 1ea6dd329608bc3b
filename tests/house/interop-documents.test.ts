import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Cell, document, merged, readDocument } from '../interop/matrix.ts'
import { knownText, releaseTable, withCells, withTable } from '../interop/versions.ts'
import { ROOT } from './repository.ts'

// The matrix of real programs is written by its runner: what a part of it writes must leave the rest as it was.
const cell = (flow: string, peer: string, more: Partial<Cell> = {}): Cell => ({ group: 'login', flow, peer, outcome: 'ok', ms: 0, reason: '', ...more })
const CELLS = [cell('a | b', 'tailscaled@1.102.5'), cell('a | b', 'tailscaled@1.80.3', { outcome: 'skipped', reason: 'not: installed | here' }), cell('c', 'derper', { outcome: 'FAILED', reason: 'Error: x' })]

describe('the matrix as a document', () => {
  test('what is written is read again', () => {
    expect(readDocument(document(CELLS, ['x@1'], '## By hand\n\n| group | what |\n|---|---|\n| login | 13/13 |\n| release | ok |'))).toEqual(CELLS)
  })

  test('the document of the repository is read and written without a change to any cell', () => {
    const cells = readDocument(readFileSync(path.join(ROOT, 'docs', 'interop.md'), 'utf8'))
    expect(cells.length).toBeGreaterThan(600)
    expect(readDocument(document(cells, [], ''))).toEqual(cells)
    expect(merged(cells, [])).toEqual(cells)
  })
})

describe('releases between the oldest and the newest', () => {
  const met = [cell('a', 'tailscaled@1.84.3'), cell('a', 'tailscaled@1.88.1', { outcome: 'FAILED', reason: 'late' }), cell('b', 'tailscaled@1.84.3', { outcome: 'skipped', reason: 'no root' }), cell('a', 'tailscaled@1.102.5')]

  test('each flow is kept with each release, a newer outcome in the place of an older; what was skipped changes nothing', () => {
    const known = withCells([], met)
    expect(known).toEqual([{ group: 'login', flow: 'a', releases: { '1.84.3': 'ok', '1.88.1': 'FAILED: late' } }])
    expect(withCells(known, [cell('a', 'tailscaled@1.88.1')])[0]?.releases).toEqual({ '1.84.3': 'ok', '1.88.1': 'ok' })
    expect(JSON.parse(knownText(known))).toEqual(known)
  })

  test('the table counts what went through of what was tried, and names the rest', () => {
    const table = releaseTable(withCells([], met))
    expect(table).toContain('| login | 1/1 | 0/1 |')
    expect(table).toContain('- 1.88.1, login, "a": FAILED: late')
    const text = 'before\n<!-- made from interop-versions.json -->\nold\n<!-- end -->\nafter\n'
    expect(withTable(text, table)).toBe(`before\n<!-- made from interop-versions.json -->\n${table}\n<!-- end -->\nafter\n`)
    expect(() => withTable('no place', table)).toThrow()
  })
})
