import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatHuJson, minimizeHuJson, parseHuJson, patchHuJson, standardizeHuJson } from './index.ts'

const extra = fc.constantFrom('', ' ', '\n', '\t', '// note\n', '/* a */', '/* b\n * c\n */', '\n\n\n', '\r\n')

/** JSON values written with random white space, comments and trailing commas; the plain text beside. */
const written: fc.Arbitrary<{ readonly text: string; readonly plain: string }> = fc.letrec<{ value: { text: string; plain: string } }>(
  (tie) => ({
    value: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      fc
        .oneof(fc.string({ unit: 'grapheme' }), fc.integer(), fc.boolean(), fc.constant(null))
        .map((leaf) => ({ text: JSON.stringify(leaf), plain: JSON.stringify(leaf) })),
      fc.tuple(fc.array(fc.tuple(tie('value'), extra, extra), { maxLength: 5 }), extra, fc.boolean()).map(([items, end, comma]) => ({
        text: `[${items.map(([item, before, after]) => before + item.text + after).join(',')}${
          comma && items.length > 0 ? ',' : ''
        }${end}]`,
        plain: `[${items.map(([item]) => item.plain).join(',')}]`,
      })),
      fc
        .tuple(
          fc.uniqueArray(fc.tuple(fc.string({ maxLength: 8 }), tie('value'), extra, extra), { maxLength: 5, selector: ([name]) => name }),
          extra,
          fc.boolean(),
        )
        .map(([items, end, comma]) => ({
          text: `{${items
            .map(([name, item, before, after]) => `${before}${JSON.stringify(name)}${after}:${item.text}${before}`)
            .join(',')}${comma && items.length > 0 ? ',' : ''}${end}}`,
          plain: `{${items.map(([name, item]) => `${JSON.stringify(name)}:${item.plain}`).join(',')}}`,
        })),
    ),
  }),
).value

test('whatever is read packs back to itself, and its minimized form is the plain JSON', () => {
  fc.assert(
    fc.property(written, ({ text, plain }) => {
      const parsed = parseHuJson(text)
      expect(parsed.ok && parsed.value.toString()).toBe(text)
      expect(minimizeHuJson(text)).toEqual({ ok: true, value: plain })
    }),
    { numRuns: 150 },
  )
})

test('formatting keeps the value, and formatting again changes nothing', () => {
  fc.assert(
    fc.property(written, ({ text, plain }) => {
      const formatted = formatHuJson(text)
      if (!formatted.ok) throw new Error(formatted.error.message)
      const minimal = minimizeHuJson(formatted.value)
      expect(minimal.ok && JSON.parse(minimal.value)).toEqual(JSON.parse(plain))
      expect(formatHuJson(formatted.value)).toEqual(formatted)
    }),
    { numRuns: 150 },
  )
})

test('a standardized text has the length of the original and is JSON of the same value', () => {
  fc.assert(
    fc.property(written, ({ text, plain }) => {
      const standard = standardizeHuJson(text)
      if (!standard.ok) throw new Error(standard.error.message)
      expect(new TextEncoder().encode(standard.value).length).toBe(new TextEncoder().encode(text).length)
      expect(JSON.parse(standard.value)).toEqual(JSON.parse(plain))
    }),
    { numRuns: 150 },
  )
})

test('adding a member and removing it again leaves the value as it was', () => {
  fc.assert(
    fc.property(written, ({ text, plain }) => {
      const whole = `{"kept": ${text}}`
      const added = patchHuJson(whole, '[{"op": "add", "path": "/new", "value": [1]}]')
      if (!added.ok) throw new Error(added.error.message)
      const removed = patchHuJson(added.value, '[{"op": "remove", "path": "/new"}]')
      const minimal = removed.ok && minimizeHuJson(removed.value)
      expect(minimal).toEqual({ ok: true, value: `{"kept":${plain}}` })
    }),
    { numRuns: 200 },
  )
})
