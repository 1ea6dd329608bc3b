import { runPolicyTests, untestedStatements } from '@meshwright/policy'
import { nameOf } from './files.ts'
import { compile } from './load.ts'
import { at, columns, count, type Options, type Outcome, PLAIN } from './outcome.ts'
import { UsageError } from './usage.ts'

/** `test FILE`: how each entry of tests and sshTests goes, and which statements none of them exercises. */
export async function test([file, ...more]: readonly string[], options: Options): Promise<Outcome> {
  if (file === undefined || more.length > 0) throw new UsageError('test needs one FILE')
  const compiled = await compile(file, options)
  if ('lines' in compiled) return compiled
  const { good, bad, strong, faint } = options.style ?? PLAIN
  const now = Date.now()
  const results = runPolicyTests(compiled, now)
  const untested = untestedStatements(compiled, now)
  const failed = results.filter(({ passed }) => !passed)
  const failures = failed.flatMap(({ section, index, failures }) =>
    failures.map((failure) => `${strong(`${nameOf(file)}:${at(failure.at)}:`)} ${section}[${index}]: ${bad(failure.message)}`),
  )
  const passed = `${results.length - failed.length} of ${count(results.length, 'test')} passed`
  const rows = untested.map(({ section, index, at: place, summary, untestable }) => [
    `${nameOf(file)}:${at(place)}:`,
    `${section}[${index}]`,
    `${summary}${untestable ? faint(' (capabilities only: tests cannot name them)') : ''}`,
  ])
  const title = `${count(untested.length, 'statement')} that no test exercises:`
  return {
    status: failed.length > 0 ? 1 : 0,
    lines: [...failures, failed.length > 0 ? bad(passed) : good(passed), ...(rows.length === 0 ? [] : ['', strong(title), ...columns(rows, '  ')])],
    json: { ok: failed.length === 0, results, untested },
  }
}
