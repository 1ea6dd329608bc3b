import { parseHuJson } from '@meshwright/policy/hujson'
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

const FORM = 'lines of {id, text or text64, expect}'

interface Expect {
  readonly ok: boolean
  readonly error?: string
  readonly standard?: boolean
  readonly [name: string]: unknown
}

interface Case {
  readonly id: string
  readonly text?: string
  readonly text64?: string
  readonly patch?: string
  readonly patch64?: string
  readonly expect: Expect
}

/** HuJSON texts and what the Go module makes of them. */
export const kind: Kind = {
  name: 'hujson',
  defaultPath: 'conformance/hujson',
  copied: true,
  async run(target) {
    const file = (await stat(target)).isDirectory() ? path.join(target, 'cases.jsonl') : target
    let text: string
    try {
      text = await readFile(file, 'utf8')
    } catch (error) {
      throw new UnknownForm(`${target} (${String(error)})`, FORM)
    }
    return text
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line) => judge(readCase(target, line)))
  },
}

function readCase(target: string, line: string): Case {
  const value = readJson(target, line)
  if (typeof value === 'object' && value !== null && 'expect' in value && 'id' in value && ('text' in value || 'text64' in value))
    return value as Case
  throw new UnknownForm(target, FORM)
}

function readJson(target: string, line: string): unknown {
  try {
    return JSON.parse(line)
  } catch (error) {
    throw new UnknownForm(`${target} (${String(error)})`, FORM)
  }
}

function judge(item: Case): CaseResult {
  const group = `${item.id.split('-')[0] ?? ''}/${item.expect.ok ? 'accepted' : 'refused'}`
  const detail = differenceOf(item)
  return { group, id: item.id, passed: detail === undefined, ...(detail === undefined ? {} : { detail }) }
}

function differenceOf(item: Case): string | undefined {
  const { expect } = item
  const input = bytesOf(item.text, item.text64)
  const parsed = parseHuJson(input)
  if (!parsed.ok) return expect.ok ? `refused: ${parsed.error.message}` : compare('error', parsed.error.message, expect.error)
  if (!expect.ok) return 'accepted'
  const tree = parsed.value
  if (!Buffer.from(tree.pack()).equals(input)) return 'does not pack back to its bytes'
  if (tree.standard !== expect.standard) return `standard: ${tree.standard}`
  for (const [name, change] of [
    ['standardized', 'standardize'],
    ['minimized', 'minimize'],
    ['formatted', 'format'],
  ] as const) {
    const copy = tree.clone()
    copy[change]()
    const difference = compareBytes(name, copy.pack(), expect)
    if (difference !== undefined) return difference
    if (change !== 'format') continue
    const again = parseHuJson(copy.pack())
    if (!again.ok) return `formatted text does not parse: ${again.error.message}`
    again.value.format()
    if (!Buffer.from(again.value.pack()).equals(copy.pack())) return 'formatting formatted text changes it'
  }
  if (item.patch === undefined && item.patch64 === undefined) return undefined
  const copy = tree.clone()
  const error = copy.patch(bytesOf(item.patch, item.patch64))
  if (error !== undefined || expect.patchedError !== undefined) return compare('patchedError', error, expect.patchedError)
  return compareBytes('patched', copy.pack(), expect)
}

function bytesOf(text: string | undefined, base64: string | undefined): Buffer {
  return base64 === undefined ? Buffer.from(text ?? '', 'utf8') : Buffer.from(base64, 'base64')
}

function compareBytes(name: string, ours: Uint8Array, expect: Expect): string | undefined {
  const plain = expect[name]
  const base64 = expect[`${name}64`]
  const theirs = bytesOf(typeof plain === 'string' ? plain : undefined, typeof base64 === 'string' ? base64 : undefined)
  return compare(name, Buffer.from(ours).toString('latin1'), theirs.toString('latin1'))
}

function compare(name: string, ours: unknown, theirs: unknown): string | undefined {
  return ours === theirs ? undefined : `${name}: ${JSON.stringify(ours)} instead of ${JSON.stringify(theirs)}`
}
