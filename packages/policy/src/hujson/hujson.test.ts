import { describe, expect, test } from 'vitest'
import { formatHuJson, minimizeHuJson, parseHuJson, patchHuJson, standardizeHuJson } from './index.ts'

function errorOf(text: string | Uint8Array): string {
  const parsed = parseHuJson(text)
  return parsed.ok ? 'accepted' : parsed.error.message
}

function valueOf(
  result: { readonly ok: true; readonly value: string } | { readonly ok: false; readonly error: { readonly message: string } },
): string {
  if (!result.ok) throw new Error(result.error.message)
  return result.value
}

describe('reading', () => {
  test('a tree packs back byte for byte, comments, odd line ends and bytes that are not UTF-8 included', () => {
    const text = '\r\n// a\n{ /* b */ "k\\u0041" : [1, 2.50e+1,] , // c\r\n "x": "\xff" }\t'
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0))
    const parsed = parseHuJson(bytes)
    expect(parsed.ok && parsed.value.pack()).toEqual(bytes)
  })

  test('columns count bytes, not characters', () => {
    expect(errorOf('{"é": 1 x')).toBe("hujson: line 1, column 10: invalid character 'x' after object value (expecting ',' or '}')")
  })

  test.each([
    ['', 'hujson: line 1, column 1: parsing value: unexpected EOF'],
    ['[,]', "hujson: line 1, column 2: invalid character ',' at start of value"],
    ['[1,,]', "hujson: line 1, column 4: invalid character ',' at start of value"],
    ['// no line feed', 'hujson: line 1, column 1: parsing comment: unexpected EOF'],
    ['{a: 1}', 'hujson: line 1, column 2: invalid literal: a'],
    ["'x'", "hujson: line 1, column 1: invalid character '\\'' at start of value"],
    ['01', 'hujson: line 1, column 1: invalid literal: 01'],
    ['\ufeff{}', "hujson: line 1, column 1: invalid character '\\ufeff' at start of value"],
    ['{} {}', "hujson: line 1, column 4: invalid character '{' after top-level value"],
  ])('%j is refused at its place', (text, message) => {
    expect(errorOf(text)).toBe(message)
  })

  test('a string with a lone surrogate has no bytes and is refused', () => {
    expect(errorOf('{"a": "\ud800"}')).toBe('hujson: line 1, column 8: invalid Unicode: lone surrogate')
  })

  test('a nesting of 100,000 is read, packed and changed without recursion', () => {
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
    const parsed = parseHuJson(deep)
    expect(parsed.ok && parsed.value.toString() === deep).toBe(true)
    expect(valueOf(minimizeHuJson(deep)).length).toBe(200_000)
    expect(errorOf('['.repeat(100_000))).toContain('parsing value: unexpected EOF')
  })

  test('names like __proto__ and numbers beyond float64 stay as they were written', () => {
    const text = '{"__proto__":1e999,"constructor":123456789012345678901234567890}'
    expect(valueOf(minimizeHuJson(text))).toBe(text)
  })
})

describe('changing', () => {
  test('standardizing keeps every offset', () => {
    expect(valueOf(standardizeHuJson('{ // x\n"a": 1, }'))).toBe('{     \n"a": 1  }')
  })

  test('formatting expands what spans lines, aligns values and adds trailing commas', () => {
    expect(valueOf(formatHuJson('{"a":1,\n"long":[1,2], // why\n}'))).toBe('{\n\t"a":    1,\n\t"long": [1, 2], // why\n}\n')
  })

  test('standard JSON stays standard when it is formatted', () => {
    expect(valueOf(formatHuJson('{"a":1,\n"b":2}'))).toBe('{\n\t"a": 1,\n\t"b": 2\n}\n')
  })

  test('a patch moves the comments that belong to a member and leaves the others', () => {
    const text = '{\n\t// far\n\n\t// near\n\t"a": 1, // behind\n\t"b": 2,\n}\n'
    expect(valueOf(patchHuJson(text, '[{"op": "remove", "path": "/a"}]'))).toBe('{\n\t// far\n\n\t"b": 2,\n}\n')
  })

  test('a failed patch names its operation', () => {
    const failed = patchHuJson('{}', '[{"op": "test", "path": "/a", "value": 1}]')
    expect(!failed.ok && failed.error.message).toBe('hujson: patch operation 0: value not found')
  })
})

test('ten megabytes are read, packed and minimized', () => {
  const word = 'x'.repeat(400)
  const text = `[${`{"name": "${word}", /* c */ "list": [1, 2]},\n`.repeat(24_000)}]`
  const parsed = parseHuJson(text)
  if (!parsed.ok) throw new Error(parsed.error.message)
  expect(parsed.value.toString() === text).toBe(true)
  parsed.value.minimize()
  expect(parsed.value.pack().length).toBe(24_000 * `{"name":"${word}","list":[1,2]},`.length + 1)
})
