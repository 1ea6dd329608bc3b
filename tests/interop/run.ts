import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { installAll, installSystem, linkAll, programLabel } from './programs.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const RESULTS = path.join(ROOT, '.cache', 'results', 'interop.json')

const USAGE = `usage: npm run test:interop [-- --grep FLOW] [--json] [--install-only] [--write-docs]

Meets real programs: tailscaled, tailscale, derper, headscale, wireguard-go. What is missing is installed by name (needs Go), into
${path.join('~', '.cache', 'meshwright-interop')} or the folder in MESHWRIGHT_INTEROP_CACHE.
  --grep FLOW     only flows whose name holds FLOW
  --json          print {ok, cells: [{flow, peer, outcome, ms, reason}]} alone on standard output
  --install-only  install, then stop
  --write-docs    write the matrix to docs/interop.md

A cell without its program or rights is skipped, with the reason; with REQUIRE_INTEROP=1 it is a failure.
Exit status: 0 all cells ok or skipped, 1 a cell failed, 2 wrong usage.
`

/** One flow with one peer. */
interface Cell {
  readonly flow: string
  readonly peer: string
  readonly outcome: 'ok' | 'FAILED' | 'skipped'
  readonly ms: number
  readonly reason: string
}

interface VitestReport {
  readonly testResults: readonly {
    readonly name: string
    readonly message?: string
    readonly assertionResults: readonly { readonly ancestorTitles: readonly string[]; readonly title: string; readonly status: string; readonly duration?: number | null; readonly failureMessages?: readonly string[] | null; readonly meta?: { readonly skipReason?: string } }[]
  }[]
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { grep: { type: 'string' }, json: { type: 'boolean' }, 'install-only': { type: 'boolean' }, 'write-docs': { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const installed = await installAll((line) => process.stderr.write(`${line}\n`))
  for (const { name } of await installSystem((line) => process.stderr.write(`${line}\n`))) process.stderr.write(`${name} is missing: flows that need it are skipped\n`)
  for (const { reason } of installed) if (reason !== undefined) process.stderr.write(`${reason}\n`)
  if (values['install-only'] === true) return installed.some((each) => each.path === undefined) ? 1 : 0
  const bin = mkdtempSync(path.join(os.tmpdir(), 'meshwright-bin-'))
  linkAll(installed, bin)
  mkdirSync(path.dirname(RESULTS), { recursive: true })
  rmSync(RESULTS, { force: true })
  const args = ['--no-install', 'vitest', 'run', '--config', 'tests/interop/vitest.config.ts', '--reporter=default', '--reporter=json', `--outputFile.json=${RESULTS}`]
  if (values.grep !== undefined) args.push('-t', values.grep)
  const run = spawnSync('npx', args, { cwd: ROOT, stdio: ['ignore', 2, 2], env: { ...process.env, MESHWRIGHT_INTEROP_BIN: bin } })
  rmSync(bin, { recursive: true, force: true })
  if (!existsSync(RESULTS)) {
    process.stderr.write('interop: the suites did not run\n')
    return 1
  }
  const cells = readCells(JSON.parse(readFileSync(RESULTS, 'utf8')) as VitestReport, values.grep)
  if (values.json === true) process.stdout.write(`${JSON.stringify({ ok: run.status === 0, cells }, null, 2)}\n`)
  else process.stdout.write(`${matrix(cells)}\n`)
  if (values['write-docs'] === true) writeFileSync(path.join(ROOT, 'docs', 'interop.md'), document(cells, installed.map(({ program }) => programLabel(program))))
  const required = process.env['REQUIRE_INTEROP'] === '1'
  const missing = required ? cells.filter((cell) => cell.outcome === 'skipped').length : 0
  return run.status === 0 && missing === 0 && cells.length > 0 ? 0 : 1
}

// A test is named "flow [peer]"; the suites around it say which program it is when the test does not.
function readCells(report: VitestReport, grep: string | undefined): readonly Cell[] {
  return report.testResults.flatMap((file) => {
    if (file.assertionResults.length === 0 && file.message !== undefined && file.message !== '') {
      return [{ flow: path.basename(file.name, '.interop.test.ts'), peer: '', outcome: 'FAILED' as const, ms: 0, reason: file.message.split('\n')[0] ?? '' }]
    }
    return file.assertionResults
      .filter((test) => grep === undefined || `${test.ancestorTitles.join(' ')} ${test.title}`.includes(grep))
      .map((test): Cell => {
        const match = /^(.*?)\s*\[([^\]]+)\]$/.exec(test.title)
        return {
          flow: match?.[1] ?? test.title,
          peer: match?.[2] ?? test.ancestorTitles[0] ?? path.basename(file.name, '.interop.test.ts'),
          outcome: test.status === 'passed' ? 'ok' : test.status === 'failed' ? 'FAILED' : 'skipped',
          ms: Math.round(test.duration ?? 0),
          reason: test.failureMessages?.[0]?.split('\n')[0] ?? '',
        }
      })
  })
}

function matrix(cells: readonly Cell[]): string {
  const width = Math.max(...cells.map((cell) => cell.flow.length), 4)
  const lines = cells.map((cell) => `${cell.flow.padEnd(width)}  ${cell.peer.padEnd(28)} ${cell.outcome.padEnd(8)} ${(cell.ms / 1000).toFixed(1).padStart(6)} s ${cell.reason}`)
  const count = (outcome: Cell['outcome']): number => cells.filter((cell) => cell.outcome === outcome).length
  return `${lines.join('\n')}\n${count('ok')} ok, ${count('FAILED')} failed, ${count('skipped')} skipped`
}

function document(cells: readonly Cell[], programs: readonly string[]): string {
  const rows = cells.map((cell) => `| ${cell.flow} | ${cell.peer} | ${cell.outcome}${cell.reason === '' ? '' : `: ${cell.reason}`} |`)
  return `# Interoperability\n\nWhat real programs did, by \`npm run test:interop -- --write-docs\`. Programs: ${programs.join(', ')}.\n\n| flow | peer | outcome |\n|---|---|---|\n${rows.join('\n')}\n`
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
