import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from './repository.ts'

// docs/interop-flows.md says which flow shows which promise: each must be a row of the matrix, and in the file that is named.
const rows = readFileSync(path.join(ROOT, 'docs', 'interop-flows.md'), 'utf8')
  .split('\n')
  .flatMap((line) => {
    const match = /^\|.*\| (`+)(.+?)\1 \| ([a-z-]+) \|$/.exec(line)
    return match === null ? [] : [{ flow: match[2] ?? '', file: match[3] ?? '' }]
  })
const matrix = readFileSync(path.join(ROOT, 'docs', 'interop.md'), 'utf8').split('\n').map((line) => line.split(' | ')[1] ?? '')

test('every promise to real clients has a flow that is in the matrix', () => {
  expect(rows.length).toBeGreaterThan(80)
  expect(rows.filter(({ flow }) => !matrix.includes(flow))).toEqual([])
})

test('the files of these flows are there', () => {
  expect(rows.filter(({ file }) => !existsSync(path.join(ROOT, 'tests', 'interop', `${file}.interop.test.ts`)))).toEqual([])
})
