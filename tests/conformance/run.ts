import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type CaseResult, type Kind, UnknownForm } from './kind.ts'

const HERE = path.dirname(fileURLToPath(import.meta.url))
const KINDS = ['wireguard', 'cryptokey', 'filter', 'policy', 'noise', 'wycheproof', 'control', 'headscale', 'derp', 'stun', 'disco', 'hujson', 'lanes']
const USAGE = `usage: npm run conformance -- KIND --cases PATH [--json]

Runs golden data through our code and reports what passed.
  KIND    one of ${KINDS.join(', ')}
  PATH    a file or folder of that form (default: the copy in tests/vectors, else the shared data)
  --json  print {kind, passed, total, groups, failures} alone on standard output

Exit status: 0 every case passed, 1 a case failed, 2 no case, unknown form or wrong usage.
`

/** What `--json` prints. */
export interface Report {
  readonly kind: string
  readonly passed: number
  readonly total: number
  readonly groups: Readonly<Record<string, { passed: number; total: number }>>
  readonly failures: readonly string[]
}

/** Loads a kind by name, or `undefined` when it is not built yet. */
export async function loadKind(name: string): Promise<Kind | undefined> {
  const files = await readdir(path.join(HERE, 'kinds'))
  if (!files.includes(`${name}.ts`)) return undefined
  const module = (await import(`./kinds/${name}.ts`)) as { readonly kind: Kind }
  return module.kind
}

/** The folder of shared golden data: `MESHWRIGHT_SHARED`, else `../shared` beside the repository. */
export function sharedFolder(): string {
  return process.env.MESHWRIGHT_SHARED ?? path.resolve(HERE, '../../../shared')
}

/** Where a kind's own data is found: the copy in the repository first, else the shared folder; `undefined` when neither is there. */
export function defaultCases(kind: Kind): string | undefined {
  const copied = path.resolve(HERE, '../vectors', kind.defaultPath.replace(/^(vectors|conformance)\//, ''))
  if (kind.copied && existsSync(copied)) return copied
  const shared = path.resolve(sharedFolder(), kind.defaultPath)
  return existsSync(shared) ? shared : undefined
}

/** Adds up the results of a kind's cases. */
export function summarize(kind: string, results: readonly CaseResult[]): Report {
  const groups: Record<string, { passed: number; total: number }> = {}
  for (const result of results) {
    const group = (groups[result.group] ??= { passed: 0, total: 0 })
    group.total += 1
    if (result.passed) group.passed += 1
  }
  const failures = results.filter((result) => !result.passed).map((result) => result.id)
  return { kind, passed: results.length - failures.length, total: results.length, groups, failures }
}

async function main(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: { cases: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const name = positionals[0]
  if (name === undefined || positionals.length > 1 || !KINDS.includes(name)) {
    process.stderr.write(name === undefined ? USAGE : `conformance: '${positionals.join(' ')}' is not one kind; choose from ${KINDS.join(', ')}\n`)
    return 2
  }
  const kind = await loadKind(name)
  if (kind === undefined) {
    process.stderr.write(`conformance: the kind '${name}' is not built yet\n`)
    return 2
  }
  const cases = values.cases ?? defaultCases(kind)
  if (cases === undefined || !existsSync(cases)) {
    process.stderr.write(`conformance: ${cases ?? kind.defaultPath} is not there; name the data with --cases PATH or set MESHWRIGHT_SHARED\n`)
    return 2
  }
  let results: readonly CaseResult[]
  try {
    results = await kind.run(path.resolve(cases))
  } catch (error) {
    if (!(error instanceof UnknownForm)) throw error
    process.stderr.write(`conformance: ${error.message}\n`)
    return 2
  }
  if (results.length === 0) {
    process.stderr.write(`conformance: ${cases} holds no case\n`)
    return 2
  }
  const report = summarize(name, results)
  if (values.json) process.stdout.write(`${JSON.stringify(report)}\n`)
  else {
    for (const [group, { passed, total }] of Object.entries(report.groups)) process.stdout.write(`${passed === total ? 'ok    ' : 'FAILED'} ${group}: ${passed} of ${total}\n`)
    for (const result of results.filter((each) => !each.passed).slice(0, 50)) process.stdout.write(`  ${result.id}: ${result.detail ?? 'differs'}\n`)
    process.stdout.write(`${name}: ${report.passed} of ${report.total} passed\n`)
  }
  return report.failures.length > 0 ? 1 : 0
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
  main(process.argv.slice(2)).then(
    (status) => {
      process.exitCode = status
    },
    (error: unknown) => {
      process.stderr.write(`conformance: ${error instanceof Error ? error.message : String(error)}\n`)
      process.exitCode = 2
    },
  )
}
