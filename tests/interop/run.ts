import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type Cell, document, matrix, merged, readCells, type VitestReport } from './matrix.ts'
import { type Installed, installAll, installSystem, linkAll, type Program, programLabel } from './programs.ts'
import { Traces } from './traces.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const REPORT = path.join(ROOT, '.cache', 'results', 'interop.json')
const CELLS = path.join(ROOT, '.cache', 'results', 'interop-matrix.json')

const USAGE = `usage: npm run test:interop [-- OPTIONS] [SUITE...]

Meets real programs: tailscaled and tailscale in their newest and oldest release, derper, headscale, wireguard-go, boringtun and others.
What is missing is installed by name (needs Go; Rust for boringtun; apt for programs of the system), into
${path.join('~', '.cache', 'meshwright-interop')} or the folder in MESHWRIGHT_INTEROP_CACHE.
  SUITE            only files of tests/interop whose name holds it: tailscaled-login, routes, wg-tools...
  --grep FLOW      only flows whose group or name holds FLOW
  --peer PEER      only cells of this peer: tailscaled@1.80.3, tailscaled, headscale...
  --all            also tailscaled 1.84, 1.88, 1.92, 1.96, 1.98 and 1.100; one of them alone: --peer tailscaled@1.84.3
  --json           print {ok, seconds, cells: [{group, flow, peer, outcome, ms, reason}]} alone on standard output
  --install-only   install, then stop
  --write-docs     write the matrix to docs/interop.md; a part takes the place of its own cells in it

The last result of every cell is kept in .cache/results/interop-matrix.json, and that is what --write-docs writes. A cell without its program or rights is skipped, with the reason; with
REQUIRE_INTEROP=1 it is a failure. Processes, network namespaces and files that are left behind are a failure always.
Exit status: 0 all cells ok or skipped, 1 a cell failed or something was left behind, 2 wrong usage.
`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      grep: { type: 'string' },
      peer: { type: 'string' },
      all: { type: 'boolean' },
      json: { type: 'boolean' },
      'install-only': { type: 'boolean' },
      'write-docs': { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const installed = await installEverything((extra) => values.all === true || values.peer?.endsWith(programLabel(extra).replace(/^[^@]*/, '')) === true)
  if (values['install-only'] === true) return installed.some((each) => each.path === undefined) ? 1 : 0

  const begun = performance.now()
  const traces = new Traces()
  // Short: the paths of sockets in it may have 107 bytes.
  const temp = mkdtempSync(path.join(os.tmpdir(), 'mwi-'))
  chmodSync(temp, 0o711) // flows without root reach what is theirs in it
  const [bin, spaces] = [path.join(temp, 'bin'), path.join(temp, 'spaces')]
  mkdirSync(bin)
  linkAll(installed, bin)
  mkdirSync(path.dirname(REPORT), { recursive: true })
  rmSync(REPORT, { force: true })
  const status = await finished(vitestArguments(values.grep, values.peer, positionals), {
    ...process.env,
    ...traces.environment,
    TMPDIR: temp,
    MESHWRIGHT_INTEROP_BIN: bin,
    MESHWRIGHT_INTEROP_SPACES: spaces,
    ...(values.peer !== undefined && { MESHWRIGHT_INTEROP_PEER: values.peer }),
    ...(values.all === true && { MESHWRIGHT_INTEROP_ALL: '1' }),
  })
  rmSync(bin, { recursive: true, force: true })
  const spacesLeft = namespacesLeft(spaces)
  const left = [...(await traces.left(temp)), ...spacesLeft]
  rmSync(temp, { recursive: true, force: true })
  if (!existsSync(REPORT)) {
    process.stderr.write('interop: the suites did not run\n')
    return 1
  }

  const cells: Cell[] = [...readCells(JSON.parse(readFileSync(REPORT, 'utf8')) as VitestReport, { grep: values.grep, peer: values.peer })]
  cells.push({ group: 'the run itself', flow: 'no process, namespace or file is left behind', peer: 'this computer', outcome: left.length === 0 ? 'ok' : 'FAILED', ms: 0, reason: left.join('; ') })
  const required = process.env['REQUIRE_INTEROP'] === '1'
  const ok = status === 0 && left.length === 0 && cells.length > 1 && !(required && cells.some((cell) => cell.outcome === 'skipped'))
  const result = `${JSON.stringify({ ok, seconds: Math.round((performance.now() - begun) / 1000), cells }, null, 2)}\n`
  // A part takes the place of its own cells among those of earlier runs.
  const part = values.grep !== undefined || values.peer !== undefined || positionals.length > 0
  const all = part && existsSync(CELLS) ? merged((JSON.parse(readFileSync(CELLS, 'utf8')) as { readonly cells: readonly Cell[] }).cells, cells) : cells
  writeFileSync(CELLS, `${JSON.stringify({ cells: all }, null, 2)}\n`)
  process.stdout.write(values.json === true ? result : `${matrix(cells)}\n`)
  if (values['write-docs'] === true) writeFileSync(path.join(ROOT, 'docs', 'interop.md'), document(all, installed.map(({ program }) => programLabel(program))))
  return ok ? 0 : 1
}

// Network namespaces of the run get their names in a place of their own: they are neither seen by other runs nor mixed up with theirs.
const APART = 'mkdir -p /run/netns && mount -t tmpfs netns /run/netns || exit 1; "$@"; status=$?; ls /run/netns > "$MESHWRIGHT_INTEROP_SPACES"; exit $status'

/** Runs the suites; a signal to this program ends them too, and what they leave is looked for all the same. */
function finished(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((resolve) => {
    const apart = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0
    const child = spawn(apart ? 'unshare' : 'npx', apart ? ['-m', 'sh', '-c', APART, 'sh', 'npx', ...args] : args, { cwd: ROOT, stdio: ['ignore', 2, 2], env })
    const stop = (): void => void child.kill('SIGTERM')
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop)
    child.once('error', () => resolve(1))
    child.once('close', (status) => resolve(status ?? 1))
  })
}

function namespacesLeft(file: string): readonly string[] {
  if (!existsSync(file)) return [] // none could be made
  const names = readFileSync(file, 'utf8').split('\n').filter((name) => name !== '')
  rmSync(file)
  return names.map((name) => `network namespace ${name}`)
}

async function installEverything(wants: (extra: Program) => boolean): Promise<readonly Installed[]> {
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  for (const { name } of await installSystem(say)) say(`${name} is missing: flows that need it are skipped`)
  const installed = await installAll(say, wants)
  for (const { reason } of installed) if (reason !== undefined) say(reason)
  return installed
}

// The name of a test holds its group, its flow and its peer in brackets.
function vitestArguments(grep: string | undefined, peer: string | undefined, suites: readonly string[]): readonly string[] {
  const args = ['--no-install', 'vitest', 'run', ...suites, '--config', 'tests/interop/vitest.config.ts', '--reporter=default', '--reporter=json', `--outputFile.json=${REPORT}`]
  const literal = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  if (grep !== undefined || peer !== undefined) args.push('-t', `^${grep === undefined ? '' : `(?=.*${literal(grep)})`}${peer === undefined ? '' : `(?=.*\\[[^\\]]*${literal(peer)})`}`)
  return args
}

main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    process.stderr.write(`interop: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 2
  },
)
