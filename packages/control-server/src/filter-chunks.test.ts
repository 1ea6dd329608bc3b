import type { FilterRule } from '@meshwright/packet-filter'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { filterChunks } from './filter-chunks.ts'

const rule = (SrcIPs: readonly string[], port: number): FilterRule => ({ SrcIPs, DstPorts: [{ IP: '100.64.0.1', Ports: { First: port, Last: port } }], IPProto: [6] })
const parsed = (rules: readonly FilterRule[]): FilterRule[] => [...filterChunks(rules).values()].flatMap((json) => JSON.parse(json) as FilterRule[])

test('a filter without rules is the empty chunk "base", for a client takes a missing filter for an unchanged one', () => {
  expect([...filterChunks([])]).toEqual([['base', '[]']])
})

test('a rule of few sources is one chunk', () => {
  expect([...filterChunks([rule(['*'], 80), rule(['100.64.0.2'], 81)]).keys()]).toEqual(['base', '1.0'])
})

test('all chunks together accept exactly what the rules accept, each source once for each rule, and "base" is always there', () => {
  const sources = fc.uniqueArray(fc.ipV4(), { maxLength: 200 })
  fc.assert(
    fc.property(fc.array(sources, { maxLength: 5 }), (lists) => {
      const rules = lists.map((list, i) => rule(list, i))
      const pairs = (from: readonly FilterRule[]): string[] => from.flatMap((each) => each.SrcIPs.map((source) => `${source} ${each.DstPorts?.[0]?.Ports.First}`)).sort()
      expect(pairs(parsed(rules))).toEqual(pairs(rules))
      expect(filterChunks(rules).has('base')).toBe(true)
    }),
  )
})

test('a source that is added changes one chunk of the rule, or the two of a split besides, and leaves the others as they are', () => {
  const sources = Array.from({ length: 300 }, (_, i) => `100.64.${i >> 4}.${i}`)
  let before = filterChunks([])
  for (let count = 0; count <= sources.length; count += 1) {
    const after = filterChunks([rule(sources.slice(0, count), 80)])
    expect([...after].filter(([name, json]) => before.get(name) !== json).length).toBeLessThanOrEqual(3)
    before = after
  }
  expect(before.size).toBeGreaterThan(30)
})
