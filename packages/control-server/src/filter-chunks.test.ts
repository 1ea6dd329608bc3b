import type { FilterRule } from '@meshwright/packet-filter'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { collectGarbage } from '../test/garbage.ts'
import { FilterChunks } from './filter-chunks.ts'

const rule = (SrcIPs: readonly string[], port: number): FilterRule => ({ SrcIPs, DstPorts: [{ IP: '100.64.0.1', Ports: { First: port, Last: port } }], IPProto: [6] })
/** The chunks that a client holds after it was told of one filter after another. */
function chunksOf(filters: readonly (readonly FilterRule[])[], encoder: FilterChunks = new FilterChunks()): ReadonlyMap<string, string> {
  const chunks = new Map<string, string>()
  let before: readonly FilterRule[] | undefined
  for (const filter of filters) {
    for (const { name, json } of encoder.changes(before, filter)) {
      if (json === 'null') expect(chunks.delete(name)).toBe(true)
      else chunks.set(name, json)
    }
    before = filter
  }
  return chunks
}
const filterChunks = (rules: readonly FilterRule[]): ReadonlyMap<string, string> => chunksOf([rules])
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

test('whatever a receiver was told before, it then holds what one holds that is told of the last filter alone', () => {
  const sources = fc.uniqueArray(fc.ipV4(), { maxLength: 40 })
  const lists = fc.array(sources, { minLength: 1, maxLength: 4 })
  const shape = fc.array(fc.record({ list: fc.nat(3), port: fc.nat(2), kind: fc.constantFrom('ports', 'protocol', 'capability', 'bits') }), { maxLength: 5 })
  fc.assert(
    fc.property(lists, fc.array(shape, { minLength: 1, maxLength: 5 }), (shared, shapes) => {
      // As the policy gives them: the same objects stand in many rules.
      const ports = [0, 1, 2].map((port) => rule([], port).DstPorts ?? [])
      const filters = shapes.map((rules) =>
        rules.map(({ list, port, kind }): FilterRule => {
          const SrcIPs = shared[list % shared.length] ?? []
          const DstPorts = ports[port] ?? []
          if (kind === 'capability') return { SrcIPs, CapGrant: [{ Dsts: [`100.64.0.${port}/32`], CapMap: { 'example.com/cap/x': null } }] }
          return { SrcIPs, DstPorts, ...(kind === 'protocol' && { IPProto: [17] }), ...(kind === 'bits' && { SrcBits: SrcIPs.map(() => 32) }) }
        }),
      )
      const byName = (chunks: ReadonlyMap<string, string>): readonly (readonly [string, string])[] => [...chunks].sort(([a], [b]) => (a < b ? -1 : 1))
      expect(byName(chunksOf(filters))).toEqual(byName(chunksOf(filters.slice(-1))))
    }),
  )
})

test('a list is written once for all rules and receivers that it stands in', () => {
  const encoder = new FilterChunks()
  const [before, after] = [100, 101].map((count) => Array.from({ length: count }, (_, i) => `100.64.1.${i}`))
  if (before === undefined || after === undefined) throw new Error('two lists')
  const filter = (SrcIPs: readonly string[], node: number): readonly FilterRule[] => [80, 81, 82].map((port) => ({ ...rule([], port + node), SrcIPs }))
  for (let node = 0; node < 50; node += 1) chunksOf([filter(before, node), filter(after, node)], encoder)
  expect(encoder.sourcesWritten).toBe(before.length + after.length)
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

test('lists that no filter has any more are let go of, though what came after them is known by them', async () => {
  const encoder = new FilterChunks()
  const sources = (last: number): readonly string[] => Array.from({ length: 40 }, (_, i) => `100.64.0.${i === 0 ? last : i + 100}`)
  const [first, second] = [[rule(sources(1), 80)], [rule(sources(2), 80)]]
  encoder.changes(first, second)
  const early = new WeakRef(first[0]?.SrcIPs ?? expect.fail())
  first.length = 0
  await new Promise((resolve) => setTimeout(resolve, 0))
  collectGarbage()
  expect(early.deref()).toBeUndefined()
  expect(encoder.changes(second, [rule(sources(3), 80)]).length).toBeGreaterThan(0)
})
