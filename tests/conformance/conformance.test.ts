import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { defaultCases, loadKind, sharedFolder, summarize } from './run.ts'

const KINDS = ['wireguard', 'cryptokey', 'filter', 'policy', 'noise', 'wycheproof', 'control', 'headscale', 'derp', 'stun', 'disco', 'hujson', 'lanes']

describe.each(KINDS)('%s', (name) => {
  test('every golden case passes', async (context) => {
    const kind = await loadKind(name)
    if (kind === undefined) throw new Error(`the kind ${name} is not built`)
    const cases = defaultCases(kind)
    if (cases === undefined) {
      if (kind.copied) throw new Error(`tests/vectors lacks the data of ${name}`)
      context.skip(`no ${kind.defaultPath} under ${sharedFolder()}: set MESHWRIGHT_SHARED to the folder of shared golden data`)
      return
    }
    const results = await kind.run(cases)
    const report = summarize(name, results)
    expect(results.filter((result) => !result.passed).slice(0, 20)).toEqual([])
    expect(report.total).toBeGreaterThan(0)
  })

  test('data of another form is refused, not passed', async () => {
    const kind = await loadKind(name)
    if (kind === undefined) throw new Error(`the kind ${name} is not built`)
    const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-conformance-'))
    const file = path.join(folder, 'other.json')
    writeFileSync(file, '{"something":"else"}\n')
    const outcome = await kind.run(file).then((results) => (results.length === 0 ? 'no case' : results.every((result) => !result.passed) ? 'failed' : 'passed'), () => 'refused')
    expect(outcome).not.toBe('passed')
  })
})

const run = promisify(execFile)
const runner = ['--conditions=@meshwright/source', '--import', 'tsx', path.join(import.meta.dirname, 'run.ts')]

test('the runner prints its report alone and ends with 0, 1 or 2', async () => {
  const shown = await run(process.execPath, [...runner, 'filter', '--json'])
  expect(Object.keys(JSON.parse(shown.stdout) as object)).toEqual(['kind', 'passed', 'total', 'groups', 'failures'])
  for (const args of [['nonsense'], ['filter', '--cases', '/nonexistent'], []]) {
    await expect(run(process.execPath, [...runner, ...args])).rejects.toMatchObject({ code: 2, stdout: '' })
  }
  expect(existsSync(runner[3] ?? '')).toBe(true)
})
