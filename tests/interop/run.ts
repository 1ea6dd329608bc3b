import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type Cell, document, failedSuites, matrix, merged, readCells, secondTry, type VitestReport } from './matrix.ts'
import { type Installed, installAll, installSystem, linkAll, type Program, programLabel } from './programs.ts'
import { OuterWatch, readWatch, WATCH_FOLDER, whyNoWatch } from './outer-watch.ts'
import { Traces } from './traces.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const REPORT = path.join(ROOT, '.cache', 'results', 'interop.json')
const CELLS = path.join(ROOT, '.cache', 'results', 'interop-matrix.json')

// More than these have a cause that no second try mends.
const MOST_SUITES_AGAIN = 4

const USAGE = `usage: npm run test:interop [-- OPTIONS] [SUITE...]

Meets real programs: tailscaled and tailscale in their newest and oldest release, derper, headscale, wireguard-go, boringtun and others.
What is missing is installed by name (needs Go; Rust for boringtun; apt for programs of the system), into
${path.join('~', '.cache', 'meshwright-interop')} or the folder in MESHWRIGHT_INTEROP_CACHE.
  SUITE            only files of tests/interop whose name holds it: tailscaled-login, routes, wg-tools...
  --grep FLOW      only flows whose group or name holds FLOW
  --peer PEER      only cells of this peer: tailscaled@1.80.3, tailscaled, headscale...
  --all            also tailscaled 1.84, 1.88, 1.92, 1.96, 1.98 and 1.100; one of them alone: --peer tailscaled@1.84.3
  --json           print {ok, seconds, cells: [{group, flow, peer, outcome, ms, reason}]} alone on standard output
  --once           no second try; without it the suites of cells that failed run once more, alone, and a cell that is ok then says so
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
      once: { type: 'boolean' },
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
  const environment = {
    ...process.env,
    ...traces.environment,
    TMPDIR: temp,
    MESHWRIGHT_INTEROP_BIN: bin,
    MESHWRIGHT_INTEROP_SPACES: spaces,
    ...(values.peer !== undefined && { MESHWRIGHT_INTEROP_PEER: values.peer }),
    ...(values.all === true && { MESHWRIGHT_INTEROP_ALL: '1' }),
  }
  const watched = await Watched.start(temp)
  const suites = (files: readonly string[], alone: boolean): Promise<number> => finished(vitestArguments(values.grep, values.peer, files, alone), { ...environment, ...watched.environment })
  let status = await suites(positionals, false)
  const chosen = { grep: values.grep, peer: values.peer }
  let report = readReport()
  let cells: readonly Cell[] = readCells(report, chosen)
  const again = values.once === true ? [] : failedSuites(report)
  if (again.length > 0 && again.length <= MOST_SUITES_AGAIN) {
    process.stderr.write(`${cells.filter(({ outcome }) => outcome === 'FAILED').length} cells failed: their suites run once more, alone\n`)
    rmSync(REPORT)
    status = await suites(again, true)
    report = readReport()
    cells = secondTry(cells, readCells(report, chosen))
  }
  const outside = await watched.stop()
  rmSync(bin, { recursive: true, force: true })
  const spacesLeft = namespacesLeft(spaces)
  const left = [...(await traces.left(temp)), ...spacesLeft]
  rmSync(temp, { recursive: true, force: true })
  if (cells.length === 0) {
    process.stderr.write('interop: the suites did not run\n')
    return 1
  }

  const traceless: Cell = { group: 'the run itself', flow: 'no process, namespace or file is left behind', peer: 'this computer', outcome: left.length === 0 ? 'ok' : 'FAILED', ms: 0, reason: left.join('; ') }
  cells = [...cells, outside, traceless]
  const count = (outcome: Cell['outcome']): number => cells.filter((cell) => cell.outcome === outcome).length
  writeFileSync(REPORT, `${JSON.stringify({ numPassedTests: count('ok'), numFailedTests: count('FAILED') })}\n`)
  const required = process.env['REQUIRE_INTEROP'] === '1'
  // vitest also fails when something was thrown outside all tests.
  const ok = (status === 0 || failedSuites(report).length > 0) && count('FAILED') === 0 && cells.length > 2 && !(required && count('skipped') > 0)
  const result = `${JSON.stringify({ ok, seconds: Math.round((performance.now() - begun) / 1000), cells }, null, 2)}\n`
  // A part takes the place of its own cells among those of earlier runs.
  const part = values.grep !== undefined || values.peer !== undefined || positionals.length > 0
  const all = part && existsSync(CELLS) ? merged((JSON.parse(readFileSync(CELLS, 'utf8')) as { readonly cells: readonly Cell[] }).cells, cells) : cells
  writeFileSync(CELLS, `${JSON.stringify({ cells: all }, null, 2)}\n`)
  process.stdout.write(values.json === true ? result : `${matrix(cells)}\n`)
  if (values['write-docs'] === true) writeFileSync(path.join(ROOT, 'docs', 'interop.md'), document(all, installed.map(({ program }) => programLabel(program)), readFileSync(path.join(ROOT, 'docs', 'interop-versions.md'), 'utf8')))
  return ok ? 0 : 1
}

// Network namespaces of the run get their names in a place of their own: they are neither seen by other runs nor mixed up with theirs.
const APART = 'mkdir -p /run/netns && mount -t tmpfs netns /run/netns || exit 1; "$@"; status=$?; ls /run/netns > "$MESHWRIGHT_INTEROP_SPACES"; exit $status'

function readReport(): VitestReport {
  return existsSync(REPORT) ? (JSON.parse(readFileSync(REPORT, 'utf8')) as VitestReport) : { testResults: [] } // vitest's own form
}

/** The watch over a run, when there can be one. */
class Watched {
  readonly environment: Readonly<Record<string, string>>
  readonly #folder: string
  readonly #here: OuterWatch | undefined
  readonly #reason: string | undefined

  private constructor(folder: string, here: OuterWatch | undefined, reason: string | undefined) {
    this.#folder = folder
    this.#here = here
    this.#reason = reason
    this.environment = here === undefined ? {} : { [WATCH_FOLDER]: folder }
  }

  static async start(temp: string): Promise<Watched> {
    const folder = path.join(temp, 'watch')
    mkdirSync(folder, { mode: 0o700 })
    const reason = whyNoWatch()
    return new Watched(folder, reason === undefined ? await OuterWatch.start('lo', { folder }) : undefined, reason)
  }

  /** Ends it; gives its cell of the matrix. */
  async stop(): Promise<Cell> {
    await this.#here?.stop()
    const { datagrams, bytes, messages, missed, keys, findings } = readWatch(this.#folder)
    rmSync(this.#folder, { recursive: true, force: true })
    const about = `${datagrams} datagrams of ${Math.round(bytes / 1e6)} MB with ${messages} transport messages, searched for ${keys} private keys; ${missed} frames were missed`
    return {
      group: 'the run itself',
      flow: 'no plaintext, no private key and no counter twice in a datagram outside',
      peer: 'this computer',
      outcome: this.#reason !== undefined ? 'skipped' : findings.length > 0 ? 'FAILED' : 'ok',
      ms: 0,
      reason: this.#reason ?? [...findings.slice(0, 5), ...(findings.length > 5 ? [`${findings.length - 5} more`] : []), about].join('; '),
    }
  }
}

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
function vitestArguments(grep: string | undefined, peer: string | undefined, suites: readonly string[], alone: boolean): readonly string[] {
  const args = ['--no-install', 'vitest', 'run', ...suites, '--config', 'tests/interop/vitest.config.ts', '--reporter=default', '--reporter=json', `--outputFile.json=${REPORT}`, ...(alone ? ['--maxWorkers=1'] : [])]
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
