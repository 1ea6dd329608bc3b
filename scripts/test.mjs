// `npm test`: installs, builds, and runs house, unit, property, conformance, simulation, fuzz and e2e suites.
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { build, install, requireNode, ROOT } from './setup.mjs'

requireNode()
install()
build()

const results = path.join(ROOT, '.cache', 'results')
rmSync(results, { recursive: true, force: true })
mkdirSync(results, { recursive: true })

const extra = process.argv.slice(2)
const steps = [
  // Floors 0 to 5 against the bare language (neither DOM nor Node), then everything.
  ['types of pure packages', ['tsc', '-p', 'tsconfig.pure.json']],
  ['types', ['tsc', '-p', 'tsconfig.json', '--noEmit']],
  ['tests', ['vitest', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${path.join(results, 'tests.json')}`, ...extra]],
  ['e2e', ['vitest', 'run', '--config', 'tests/e2e/vitest.config.ts', '--reporter=default', '--reporter=json', `--outputFile.json=${path.join(results, 'e2e.json')}`, ...extra]],
]

let failed = false
for (const [name, args] of steps) {
  process.stdout.write(`\n== ${name}\n`)
  const result = spawnSync('npx', ['--no-install', ...args], { cwd: ROOT, stdio: 'inherit', shell: process.platform === 'win32' })
  if (result.status !== 0) {
    failed = true
    process.stdout.write(`== ${name} FAILED\n`)
  }
}
process.exit(failed ? 1 : 0)
