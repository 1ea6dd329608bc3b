import { execFile } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { readPackages, ROOT } from './repository.ts'
import { readmeExample } from './rules.ts'

const run = promisify(execFile)
const FOLDER = path.join(ROOT, 'node_modules', '.cache', 'readme')

test.concurrent.each(readPackages())('the first program in the README of $name prints what stands below it', async (house) => {
  const example = readmeExample(house.readme ?? '')
  if (example === undefined) throw new Error(`${house.name}: the README has no program with its output`)
  mkdirSync(FOLDER, { recursive: true })
  const file = path.join(FOLDER, `${house.name}.mts`)
  writeFileSync(file, example.program)
  const { stdout } = await run(process.execPath, ['--conditions=@meshwright/source', '--import', 'tsx', file], { cwd: ROOT, timeout: 60_000 })
  expect(stdout.trimEnd()).toBe(example.output.trimEnd())
})
