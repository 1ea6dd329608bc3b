import type { SeededRandom } from '@meshwright/testkit'
import { mutate } from '../fuzz/fuzz-decoder.ts'

/** A HuJSON text and a patch for it, as bytes. */
export interface HuJsonInput {
  readonly text: Uint8Array
  readonly patch?: Uint8Array
}

const TOKENS = [
  '{', '}', '[', ']', ',', ':', '"a"', '"b":', '1', '-0', 'true', 'false', 'null', ' ', '\n', '\t', '\r\n', '//x\n', '/*y*/', '/* a\n * b\n */', '//é\n', '"', '\\', "'a'", '+1', '0x1', 'NaN',
  'nul', '/', '/*', '//', '\u{feff}', '\u{a0}', '\0', '\x7f', 'é', '…', '𝒳', '\u{2028}', '\u{e000}', '\u{378}',
] as const
const NUMBERS = [
  '0', '-0', '1', '-1', '12', '01', '-', '1.', '.5', '1.5', '1e5', '1E+5', '1e-5', '1e', '1.0', '1.00', '10e0', '1e400', '-1e400', '1e-400', '9007199254740993', '123456789012345678901234567890',
  '0.1', '1_0', '1a', '00', '0e0', '5e-324',
] as const
const NAMES = ['a', 'b', 'c', '', 'a/b', 'm~n', '0', '1', '01', '-', 'é', '__proto__', 'constructor', 'action', 'src', 'dst', 'a b', 'long name of a member', '\u0001', '"', '\\', '𝒳', '\u{2028}'] as const
const ESCAPES = ['\\n', '\\t', '\\"', '\\\\', '\\/', '\\b', '\\f', '\\r', '\\u0041', '\\u00e9', '\\u2028', '\\ud83d\\ude00', '\\ud83d', '\\ude00', '\\uD83D\\u0041', '\\u0000', '\\u007f', '\\u003c', '\\ufeff', '\\ufffd', '\\x', '\\u12', '\\U0001'] as const

/** One input of any kind: grown by the grammar, near it, or nowhere near it. */
export function randomHuJson(random: SeededRandom): HuJsonInput {
  const kind = random.below(10)
  if (kind === 0) return { text: utf8(Array.from({ length: random.below(24) }, () => random.pick(TOKENS)).join('')) }
  if (kind === 1) return { text: random.bytes(random.below(40)) }
  const text = textOf(random)
  if (kind === 2) return { text: mutate(random, text, [text]) }
  if (kind < 7) return { text }
  const patch = patchOf(random)
  return { text, patch: random.chance(0.1) ? mutate(random, patch, [patch]) : patch }
}

function textOf(random: SeededRandom): Uint8Array {
  const wide = random.chance(0.3)
  const style = { comments: random.chance(0.6), spread: random.below(4), dirty: random.chance(0.1), wide, crlf: random.chance(0.1) }
  const body = gap(random, style) + value(random, style, 1 + random.below(5)) + gap(random, style)
  return utf8(style.crlf ? body.replaceAll('\n', random.pick(['\r\n', '\n\r', '\r'])) : body)
}

interface Style {
  readonly comments: boolean
  /** 0 is dense, 3 is airy. */
  readonly spread: number
  readonly dirty: boolean
  /** Strings of lengths that bring lines near the column where they are broken. */
  readonly wide: boolean
}

function value(random: SeededRandom, style: Style, depth: number): string {
  const kind = random.below(depth > 0 ? 8 : 4)
  if (kind >= 4) return kind < 6 ? object(random, style, depth) : array(random, style, depth)
  if (kind === 0) return random.pick(['true', 'false', 'null'])
  if (kind === 1) return style.dirty || random.chance(0.3) ? random.pick(NUMBERS) : String(random.below(100_000))
  return string(random, style)
}

function string(random: SeededRandom, style: Style): string {
  if (style.wide && random.chance(0.4)) return JSON.stringify('w'.repeat(random.below(60)))
  const parts = Array.from({ length: random.below(4) }, () =>
    random.chance(style.dirty ? 0.6 : 0.25) ? random.pick(ESCAPES.slice(0, style.dirty ? undefined : -3)) : random.pick(['a', 'tag:x', '*', ' ', 'é', '𝒳', '<&>', '\u{2028}', '//', '/*', ',', '}']),
  )
  return `"${parts.join('')}${style.dirty && random.chance(0.1) ? random.pick(['\n', '\t', '\u0001', '\x7f']) : ''}"`
}

function object(random: SeededRandom, style: Style, depth: number): string {
  const members = Array.from({ length: random.below(5) }, () => {
    const name = random.chance(0.1) ? string(random, style) : JSON.stringify(random.pick(NAMES))
    return `${name}${gap(random, style)}:${gap(random, style)}${value(random, style, depth - 1)}`
  })
  return list(random, style, '{', members, '}')
}

function array(random: SeededRandom, style: Style, depth: number): string {
  return list(random, style, '[', Array.from({ length: random.below(6) }, () => value(random, style, depth - 1)), ']')
}

function list(random: SeededRandom, style: Style, open: string, items: readonly string[], close: string): string {
  const between = (): string => `${gap(random, style)},${gap(random, style)}`
  let text = open + gap(random, style)
  for (const [i, item] of items.entries()) text += (i === 0 ? '' : between()) + item
  if (items.length > 0 ? random.chance(0.3) : style.dirty && random.chance(0.2)) text += `${gap(random, style)},`
  return text + gap(random, style) + close
}

function gap(random: SeededRandom, style: Style): string {
  let text = ''
  for (let pieces = random.below(1 + style.spread); pieces > 0; pieces -= 1) {
    const kind = random.below(style.comments ? 10 : 6)
    if (kind < 2) text += ' '.repeat(random.below(4))
    else if (kind < 4) text += '\n'.repeat(random.below(4))
    else if (kind < 6) text += random.pick(['\t', '\n\t', ' \n', '\r\n', '\r', '  '])
    else if (kind < 8) text += `//${random.pick(['', ' line', ' é', '\t tab ', ' /* */', '  '])}\n`
    else if (kind < 9) text += `/*${random.pick(['', ' one ', ' two\n   lines ', '\n * star\n * column\n ', '\n\tdeep\n\t\tdeeper\n', ' * ', ' \n\n '])}*/`
    else text += style.dirty ? random.pick(['/', '/*', ',', '#x\n']) : ''
  }
  return text
}

function patchOf(random: SeededRandom): Uint8Array {
  const style: Style = { comments: random.chance(0.3), spread: random.below(3), dirty: random.chance(0.05), wide: false }
  const pointer = (): string => {
    if (random.chance(0.05)) return random.pick(['', 'a', '/', '//', '/~', '/~2', '/a~1b', '/m~0n', '/-', '/-1', '/00', '/01', '/1e0', '/99999999999999999999'])
    return Array.from({ length: random.below(4) }, () => `/${random.pick([...NAMES.map(escaped), '0', '0', '1', '1', '2', '3', '-'])}`).join('')
  }
  const operation = (): string => {
    const op = random.pick(['add', 'add', 'remove', 'replace', 'move', 'copy', 'test', random.chance(0.1) ? 'nothing' : 'add'])
    const members = [`"op": ${JSON.stringify(op)}`, `"path": ${JSON.stringify(pointer())}`]
    if (['add', 'replace', 'test'].includes(op) !== random.chance(0.03)) members.push(`"value":${gap(random, style)}${value(random, style, random.below(3))}`)
    if (['move', 'copy'].includes(op) !== random.chance(0.03)) members.push(`"from": ${JSON.stringify(pointer())}`)
    if (random.chance(0.05)) members.push(random.pick(['"more": 1', '"op": "add"', '"path": 1', '"PATH": "/a"', '"from": null']))
    if (random.chance(0.3)) members.reverse()
    return list(random, style, '{', members, '}')
  }
  return utf8(list(random, style, '[', Array.from({ length: random.below(4) }, operation), ']'))
}

function escaped(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}
