import type { Diagnostic } from '@meshwright/policy'
import { nameOf } from './files.ts'
import { readInventory } from './inventory.ts'
import { diagnosticsOf, toText } from './load.ts'
import { count, type Options, type Outcome, PLAIN } from './outcome.ts'
import { UsageError } from './usage.ts'

/** `check FILE...`: every problem, with its place and remedy. */
export async function check(files: readonly string[], options: Options): Promise<Outcome> {
  if (files.length === 0) throw new UsageError('check needs FILE')
  const style = options.style ?? PLAIN
  const github = options.format === 'github'
  const tailnet = options.inventory === undefined ? undefined : await readInventory(options.inventory)
  const results: { file: string; ok: boolean; diagnostics: readonly Diagnostic[] }[] = []
  for (const file of files) {
    const diagnostics = await diagnosticsOf(file, tailnet)
    results.push({ file: nameOf(file), ok: diagnostics.length === 0, diagnostics })
  }
  const lines = results.flatMap(({ file, ok, diagnostics }) => {
    if (github) return diagnostics.map((problem) => toGithub(file, problem))
    if (ok) return [`${style.strong(file)}: ${style.good('good')}`]
    return [...diagnostics.map((problem) => toText(file, problem, style)), style.bad(count(diagnostics.length, 'problem'))]
  })
  const ok = results.every((each) => each.ok)
  const [only] = results
  return { status: ok ? 0 : 1, lines, json: results.length === 1 && only !== undefined ? { ok, diagnostics: only.diagnostics } : { ok, files: results } }
}

/** A workflow command (GitHub, "Workflow commands for GitHub Actions"): an annotation at the line. */
function toGithub(file: string, { line, column, code, message, remedy }: Diagnostic): string {
  const escape = (text: string): string => text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')
  const property = (text: string): string => escape(text).replaceAll(':', '%3A').replaceAll(',', '%2C')
  return `::error file=${property(file)},line=${line},col=${column},title=${property(code)}::${escape(remedy === undefined ? message : `${message}. ${remedy}`)}`
}
