import { parseHuJson } from '@meshwright/policy/hujson'
import { isStdin, nameOf, readBytes, replaceFile } from './files.ts'
import { type Options, type Outcome, PLAIN } from './outcome.ts'
import { UsageError } from './usage.ts'

/** `fmt FILE...`: the formatted text, or whether it is formatted, or the file rewritten. */
export async function fmt(files: readonly string[], options: Options): Promise<Outcome> {
  if (files.length === 0) throw new UsageError('fmt needs FILE')
  if (options.check === true && options.write === true) throw new UsageError('--check and --write exclude each other')
  if (options.write === true && files.some(isStdin)) throw new UsageError('standard input cannot be written: leave --write out')
  if (files.length > 1 && options.check !== true && options.write !== true) throw new UsageError('several files need --check or --write')
  const { bad, strong } = options.style ?? PLAIN
  const lines: string[] = []
  const results: unknown[] = []
  let status: 0 | 1 = 0
  for (const file of files) {
    const bytes = await readBytes(file)
    const parsed = parseHuJson(bytes)
    const name = strong(`${nameOf(file)}:`)
    if (!parsed.ok) {
      status = 1
      lines.push(`${name} ${bad(parsed.error.message)}`)
      results.push({ file: nameOf(file), ok: false, error: parsed.error })
      continue
    }
    parsed.value.format()
    // As bytes, because strings may hold some that are no UTF-8, and they stay.
    const formatted = parsed.value.pack()
    const text = new TextDecoder().decode(formatted)
    const changed = !Buffer.from(formatted).equals(bytes)
    const ok = options.check !== true || !changed
    if (!ok) {
      status = 1
      lines.push(`${name} ${bad('not formatted')}`)
    } else if (options.write === true && changed) await replaceFile(file, formatted)
    else if (options.write !== true && options.check !== true) lines.push(text.replace(/\n$/, ''))
    results.push({ file: nameOf(file), ok, changed, ...(options.check === true || options.write === true ? {} : { text }) })
  }
  const [only] = results
  return { status, lines, json: results.length === 1 ? only : { ok: status === 0, files: results } }
}
