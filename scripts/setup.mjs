// Installs what the lockfile names and builds every package, when that is not already done. Everything it says goes to standard error, so that
// programs that print JSON stay clean.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)

/** Ends the process with a clear sentence when this Node cannot run Meshwright. */
export function requireNode() {
  if (major > 20 || (major === 20 && minor >= 19)) return
  process.stderr.write(`meshwright needs Node 20.19 or newer; this is ${process.versions.node}. Install a newer Node and run the same command again.\n`)
  process.exit(2)
}

/** Runs a command with its output on standard error; ends the process when it fails. */
export function run(command, args, more = {}) {
  const result = spawnSync(command, args, { cwd: ROOT, stdio: ['ignore', 2, 2], shell: process.platform === 'win32', ...more, env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1', ...more.env } })
  if (result.error !== undefined) {
    process.stderr.write(`${command} could not be started: ${result.error.message}\n`)
    process.exit(1)
  }
  if (result.status !== 0) {
    process.stderr.write(`\n'${command} ${args.join(' ')}' failed with status ${result.status}.\n`)
    process.exit(1)
  }
}

/** `npm ci`, unless node_modules already holds what the lockfile names. */
export function install() {
  const lock = path.join(ROOT, 'package-lock.json')
  const installed = path.join(ROOT, 'node_modules', '.package-lock.json')
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs - 1000) return
  if (existsSync(installed) && sameDependencies(lock, installed)) return
  process.stderr.write('Installing dependencies (npm ci)...\n')
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])
}

/** Builds what has changed since the last build. */
export function build() {
  process.stderr.write('Building packages (turbo run build)...\n')
  run('npx', ['--no-install', 'turbo', 'run', 'build', `--concurrency=${Math.max(2, availableParallelism())}`, '--output-logs=errors-only', '--no-update-notifier'])
}

function sameDependencies(lock, installed) {
  const wanted = JSON.parse(readFileSync(lock, 'utf8')).packages
  const present = JSON.parse(readFileSync(installed, 'utf8')).packages
  return Object.entries(wanted).every(([name, entry]) => name === '' || entry.optional || entry.link || !name.startsWith('node_modules/') || present[name]?.version === entry.version)
}
