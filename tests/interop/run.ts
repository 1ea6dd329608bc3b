import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type Cell, document, failedSuites, matrix, merged, readCells, readDocument, secondTry, type VitestReport } from './matrix.ts'
import { isNotOnLane, laneDocument, laneEnvironment, readLaneDocument, withLane } from './lanes.ts'
import { type Installed, installAll, installSystem, linkAll, type Program, programLabel } from './programs.ts'
import { OuterWatch, readWatch, WATCH_FOLDER, whyNoWatch } from './outer-watch.ts'
import { clearKilledRuns, removeRun, RUN_FOLDER, Traces } from './traces.ts'
import { extraRelease, knownText, type KnownFlow, releaseTable, withCells, withTable } from './versions.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const REPORT = path.join(ROOT, '.cache', 'results', 'interop.json')
const CELLS = path.join(ROOT, '.cache', 'results', 'interop-matrix.json')
const BUNDLES = path.join(ROOT, '.cache', 'interop')
const DOCS = path.join(ROOT, 'docs')
/** What releases between the oldest and the newest did: the table of it, and its source. */
const VERSIONS = { text: path.join(DOCS, 'interop-versions.md'), cells: path.join(DOCS, 'interop-versions.json') } as const

/** What is said of a run as a whole. */
const RUN = 'the run itself'

// Suites whose flows go through the data plane of meshwright-wg or of a mesh node.
const LANE_SUITES = ['wireguard-peers', 'wg-quick', 'wg-tools', 'wireguard-mesh', 'interop/tun.interop', 'tailscaled-tun', 'embed.interop', 'headscale-data', 'dataplane']
// More than these have a cause that no second try mends.
const MOST_SUITES_AGAIN = 4

const USAGE = `usage: npm run test:interop [-- OPTIONS] [SUITE...]

Meets real programs: tailscaled and tailscale in their newest and oldest release, derper, headscale, wireguard-go, boringtun and others.
What is missing is installed by name (needs Go; Rust for boringtun; apt for programs of the system), into
${path.join('~', '.cache', 'meshwright-interop')} or the folder in MESHWRIGHT_INTEROP_CACHE.
  SUITE            only files of tests/interop whose name holds it: tailscaled-login, routes, wg-tools...
  --grep FLOW      only flows whose group or name holds FLOW
  --peer PEERS     only cells of these peers: tailscaled@1.80.3, tailscaled, headscale..., or several: tailscaled@1.96.5,tailscaled@1.98.10
  --all            also tailscaled 1.84, 1.88, 1.92, 1.96, 1.98 and 1.100; one of them alone: --peer tailscaled@1.84.3
  --lane LANE      on this lane of the data plane (MESHWRIGHT_DATAPLANE: portable, noffload, offload and their forms; offload+wasm without OpenSSL);
                   without SUITE those whose flows it carries. The cells are kept apart, and --write-docs writes docs/lanes.md
  --json           print {ok, seconds, cells: [{group, flow, peer, outcome, ms, reason}]} alone on standard output
  --once           no second try; without it the suites of cells that failed run once more, alone, and a cell that is ok then says so
  --install-only   install, then stop
  --write-docs     write the matrix to docs/interop.md; a part takes the place of its own cells in it. What was met of releases between the
                   oldest and the newest goes to docs/interop-versions.json, and a table of it to docs/interop-versions.md

The last result of every cell is kept in .cache/results/interop-matrix.json. A cell without its program or rights is skipped, with the reason; with
REQUIRE_INTEROP=1 it is a failure. Processes, network namespaces and files that are left behind are a failure always. What a run has left
that was killed itself (kill -9) is taken away by the next.
Exit status: 0 all cells ok or skipped, 1 a cell failed or something was left behind, 2 wrong usage: no suite, flow or peer is called so;
130 and the like: ended by a signal, after everything was taken away.
`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      grep: { type: 'string' },
      peer: { type: 'string' },
      all: { type: 'boolean' },
      lane: { type: 'string' },
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
  const peers = values.peer?.split(',')
  const files = readdirSync(import.meta.dirname).filter((name) => name.endsWith('.interop.test.ts'))
  const unknown = positionals.filter((word) => !files.some((file) => `tests/interop/${file}`.includes(word)))
  if (unknown.length > 0 || peers?.includes('') === true) {
    process.stderr.write(`${unknown.map((word) => `interop: no suite is called ${word}\n`).join('')}${USAGE}`)
    return 2
  }
  const installed = await installEverything((extra) => values.all === true || peers?.some((peer) => peer.endsWith(programLabel(extra).replace(/^[^@]*/, ''))) === true)
  if (values['install-only'] === true) return installed.some((each) => each.path === undefined) ? 1 : 0

  const begun = performance.now()
  for (const line of await clearKilledRuns(BUNDLES)) process.stderr.write(`${line}\n`)
  const traces = new Traces()
  const temp = mkdtempSync(path.join(os.tmpdir(), RUN_FOLDER))
  traces.own(temp)
  chmodSync(temp, 0o711) // flows without root reach what is theirs in it
  const [bin, spaces] = [path.join(temp, 'bin'), path.join(temp, 'spaces')]
  mkdirSync(bin)
  linkAll(installed, bin)
  mkdirSync(path.dirname(REPORT), { recursive: true })
  rmSync(REPORT, { force: true })
  // Not the same for runs side by side.
  const raw = path.join(temp, 'vitest.json')
  const environment = {
    ...process.env,
    ...traces.environment,
    TMPDIR: temp,
    MESHWRIGHT_INTEROP_BIN: bin,
    MESHWRIGHT_INTEROP_SPACES: spaces,
    ...(values.peer !== undefined && { MESHWRIGHT_INTEROP_PEER: values.peer }),
    ...(values.all === true && { MESHWRIGHT_INTEROP_ALL: '1' }),
    ...(values.lane !== undefined && laneEnvironment(values.lane)),
  }
  const chosenSuites = positionals.length === 0 && values.lane !== undefined ? LANE_SUITES : positionals
  const watched = await Watched.start(temp)
  const suites = (files: readonly string[], alone: boolean): Promise<number> => finished(vitestArguments(values.grep, peers, files, alone, raw), { ...environment, ...watched.environment })
  let status = await suites(chosenSuites, false)
  const chosen = { grep: values.grep, peers }
  let report = readReport(raw)
  let cells: readonly Cell[] = readCells(report, chosen)
  const again = values.once === true || signalled !== undefined ? [] : failedSuites(report)
  if (again.length > 0 && again.length <= MOST_SUITES_AGAIN) {
    process.stderr.write(`${cells.filter(({ outcome }) => outcome === 'FAILED').length} cells failed: their suites run once more, alone\n`)
    rmSync(raw)
    status = await suites(again, true)
    report = readReport(raw)
    cells = secondTry(cells, readCells(report, chosen))
  }
  const outside = await watched.stop()
  rmSync(bin, { recursive: true, force: true })
  rmSync(raw, { force: true })
  const spacesLeft = namespacesLeft(spaces)
  const left = [...(await traces.left(temp)), ...spacesLeft]
  removeRun(temp, BUNDLES)
  if (signalled !== undefined) {
    process.stderr.write(`interop: ended by ${signalled}${left.map((each) => `\n  taken away: ${each}`).join('')}\n`)
    return 128 + os.constants.signals[signalled]
  }
  if (cells.length === 0) {
    const none = values.grep !== undefined || peers !== undefined ? report.testResults.length > 0 : false
    process.stderr.write(none ? 'interop: no flow and peer are called so\n' : 'interop: the suites did not run\n')
    return none ? 2 : 1
  }

  const traceless: Cell = { group: RUN, flow: 'no process, namespace or file is left behind', peer: 'this computer', outcome: left.length === 0 ? 'ok' : 'FAILED', ms: 0, reason: left.join('; ') }
  cells = [...cells, outside, traceless]
  const count = (outcome: Cell['outcome']): number => cells.filter((cell) => cell.outcome === outcome).length
  writeFileSync(REPORT, `${JSON.stringify({ numPassedTests: count('ok'), numFailedTests: count('FAILED') })}\n`)
  const required = process.env['REQUIRE_INTEROP'] === '1'
  // vitest also fails when something was thrown outside all tests.
  const ok = (status === 0 || failedSuites(report).length > 0) && count('FAILED') === 0 && cells.length > 2 && !(required && cells.some((cell) => cell.outcome === 'skipped' && !isNotOnLane(cell)))
  const result = `${JSON.stringify({ ok, seconds: Math.round((performance.now() - begun) / 1000), cells }, null, 2)}\n`
  const part = values.grep !== undefined || peers !== undefined || positionals.length > 0
  const usual = cells.filter((cell) => extraRelease(cell) === undefined)
  // A part takes the place of its own cells among those of earlier runs.
  const kept = values.lane === undefined ? CELLS : laneFile(values.lane)
  const all = part && existsSync(kept) ? merged(keptCells(kept), usual) : usual
  writeFileSync(kept, `${JSON.stringify({ cells: all }, null, 2)}\n`)
  process.stdout.write(values.json === true ? result : `${matrix(cells)}\n`)
  if (values['write-docs'] === true && values.lane !== undefined) writeLane(values.lane, part, usual.filter(({ group }) => group !== RUN))
  else if (values['write-docs'] === true) writeDocs(part, cells, installed.filter(({ program }) => program.extra !== true).map(({ program }) => programLabel(program)))
  return ok ? 0 : 1
}

function keptCells(file: string): readonly Cell[] {
  return (JSON.parse(readFileSync(file, 'utf8')) as { readonly cells: readonly Cell[] }).cells // what a run has written
}

function laneFile(lane: string): string {
  return path.join(path.dirname(CELLS), `interop-lane-${lane}.json`)
}

/** A lane beside the others. @param part only some flows ran: all others stay as they are in the document */
function writeLane(lane: string, part: boolean, cells: readonly Cell[]): void {
  const file = path.join(DOCS, 'lanes.md')
  const known = existsSync(file) ? readLaneDocument(readFileSync(file, 'utf8')) : new Map<string, readonly Cell[]>()
  writeFileSync(file, laneDocument(withLane(known, lane, cells, !part)))
}

/** @param part only some flows ran: all others stay as they are in the documents @param cells of this run */
function writeDocs(part: boolean, cells: readonly Cell[], programs: readonly string[]): void {
  const matrixFile = path.join(DOCS, 'interop.md')
  const usual = cells.filter((cell) => extraRelease(cell) === undefined)
  const all = part ? merged(readDocument(readFileSync(matrixFile, 'utf8')), usual.filter(({ group }) => group !== RUN)) : usual
  const known = withCells(JSON.parse(readFileSync(VERSIONS.cells, 'utf8')) as readonly KnownFlow[], cells) // our own file
  writeFileSync(VERSIONS.cells, knownText(known))
  const text = withTable(readFileSync(VERSIONS.text, 'utf8'), releaseTable(known))
  writeFileSync(VERSIONS.text, text)
  writeFileSync(matrixFile, document(all, programs, text))
}

// Network namespaces of the run get their names in a place of their own: they are neither seen by other runs nor mixed up with theirs.
const APART = 'mkdir -p /run/netns && mount -t tmpfs netns /run/netns || exit 1; "$@"; status=$?; ls /run/netns > "$MESHWRIGHT_INTEROP_SPACES"; exit $status'

function readReport(file: string): VitestReport {
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as VitestReport) : { testResults: [] } // vitest's own form
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
      group: RUN,
      flow: 'no plaintext, no private key and no counter twice in a datagram outside',
      peer: 'this computer',
      outcome: this.#reason !== undefined ? 'skipped' : findings.length > 0 ? 'FAILED' : 'ok',
      ms: 0,
      reason: this.#reason ?? [...findings.slice(0, 5), ...(findings.length > 5 ? [`${findings.length - 5} more`] : []), about].join('; '),
    }
  }
}

/** The signal that is to end this run before its time. */
let signalled: 'SIGINT' | 'SIGTERM' | 'SIGHUP' | undefined

/** Runs the suites; a signal to this program ends them too, and what they leave is looked for all the same. */
function finished(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((resolve) => {
    const apart = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0
    const child = spawn(apart ? 'unshare' : 'npx', apart ? ['-m', 'sh', '-c', APART, 'sh', 'npx', ...args] : args, { cwd: ROOT, stdio: ['ignore', 2, 2], env })
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        signalled ??= signal
        child.kill('SIGTERM')
      })
    }
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
function vitestArguments(grep: string | undefined, peers: readonly string[] | undefined, suites: readonly string[], alone: boolean, report: string): readonly string[] {
  const args = ['--no-install', 'vitest', 'run', ...suites, '--config', 'tests/interop/vitest.config.ts', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...(alone ? ['--maxWorkers=1'] : [])]
  const literal = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  if (grep !== undefined || peers !== undefined) args.push('-t', `^${grep === undefined ? '' : `(?=.*${literal(grep)})`}${peers === undefined ? '' : `(?=.*\\[[^\\]]*(?:${peers.map(literal).join('|')}))`}`)
  return args
}

process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    process.stderr.write(`interop: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 2
  },
)
