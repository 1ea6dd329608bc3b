import { readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'

const ROOT = path.resolve(import.meta.dirname, '../..')

test('every check of what the kernel says has the test that the document names', () => {
  const rows = readFileSync(path.join(ROOT, 'docs/kernel-lengths.md'), 'utf8').split('\n').flatMap((line) => /\| `([^|]*)` \| `([^|`]*\.test\.ts)` \|$/.exec(line)?.slice(1, 3) ?? [])
  expect(rows.length).toBeGreaterThan(60)
  for (let i = 0; i < rows.length; i += 2) {
    const [title = '', file = ''] = rows.slice(i, i + 2)
    expect([file, title, readFileSync(path.join(ROOT, 'packages/runtime-node/src/dataplane', file), 'utf8').includes(`('${title}'`)]).toEqual([file, title, true])
  }
})
