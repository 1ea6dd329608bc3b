import { parseHuJson } from '@meshwright/policy/hujson'
import { SeededRandom } from '@meshwright/testkit'
import { type HuJsonInput, randomHuJson } from './policy-hujson-texts.ts'

/** What `hujson-peer` answers: see tests/interop/go/hujson-peer. */
interface Answer {
  readonly error?: string
  readonly standard: boolean
  readonly packed?: string
  readonly standardized?: string
  readonly minimized?: string
  readonly formatted?: string
  readonly patched?: string
  readonly patchError?: string
}

/** A place where we and the Go module differ. */
export interface HuJsonDifference {
  readonly input: string
  readonly patch: string | undefined
  readonly what: string
  readonly ours: string
  readonly theirs: string
}

/** The questions of one seed, as the lines that the program reads. */
export function hujsonQuestions(seed: number, count: number): readonly HuJsonInput[] {
  const random = new SeededRandom(seed)
  return Array.from({ length: count }, () => randomHuJson(random))
}

/** One line for the program. */
export function questionLine({ text, patch }: HuJsonInput): string {
  return `${JSON.stringify({ text: base64(text), ...(patch === undefined ? {} : { patch: base64(patch) }) })}\n`
}

/** Compares our answer with the program's line; `undefined` when they agree on everything. */
export function hujsonDifference(input: HuJsonInput, line: string): HuJsonDifference | undefined {
  const theirs = JSON.parse(line) as Answer
  const differ = (what: string, ours: string, other: string): HuJsonDifference | undefined =>
    ours === other
      ? undefined
      : { input: show(input.text), patch: input.patch === undefined ? undefined : show(input.patch), what, ours, theirs: other }
  const parsed = parseHuJson(input.text)
  if (!parsed.ok || theirs.error !== undefined) return differ('error', parsed.ok ? '' : parsed.error.message, theirs.error ?? '')
  const tree = parsed.value
  const made = (change: 'standardize' | 'minimize' | 'format'): string => {
    const copy = tree.clone()
    copy[change]()
    return show(copy.pack())
  }
  const found =
    differ('standard', String(tree.standard), String(theirs.standard)) ??
    differ('packed', show(tree.pack()), unbase64(theirs.packed)) ??
    differ('standardized', made('standardize'), unbase64(theirs.standardized)) ??
    differ('minimized', made('minimize'), unbase64(theirs.minimized)) ??
    differ('formatted', made('format'), unbase64(theirs.formatted))
  if (found !== undefined || input.patch === undefined) return found
  const copy = tree.clone()
  const error = copy.patch(input.patch)
  if (error !== undefined || theirs.patchError !== undefined) return differ('patch error', error ?? '', theirs.patchError ?? '')
  return differ('patched', show(copy.pack()), unbase64(theirs.patched))
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

function unbase64(text: string | undefined): string {
  return Buffer.from(text ?? '', 'base64').toString('latin1')
}

function show(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}
