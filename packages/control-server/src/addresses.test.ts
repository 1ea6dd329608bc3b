import { parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { AddressAllocator } from './addresses.ts'
import { freeLabel, labelProblem, nodeFqdn, sanitizeHostname } from './names.ts'

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

function allocator(text: string, order: 'sequential' | 'random' = 'sequential'): { next: (taken?: Set<string>) => string | undefined; it: AddressAllocator } {
  const random = new SeededRandom(1)
  const it = new AddressAllocator(prefix(text), order, (length) => random.bytes(length))
  return { it, next: (taken = new Set()) => it.allocate((address) => taken.has(address), taken.size)?.key }
}

test('addresses come in order, from the first behind the name of the network', () => {
  const { next } = allocator('100.64.0.0/10')
  expect([next(), next(), next()]).toEqual(['100.64.0.1', '100.64.0.2', '100.64.0.3'])
  const six = allocator('fd7a:115c:a1e0::/48')
  expect([six.next(), six.next()]).toEqual(['fd7a:115c:a1e0::1', 'fd7a:115c:a1e0::2'])
})

test('a full prefix gives nothing; a freed address comes back only after the others', () => {
  const { next } = allocator('10.0.0.0/29')
  const taken = new Set<string>()
  for (let address = next(taken); address !== undefined; address = next(taken)) taken.add(address)
  expect([...taken]).toEqual(['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6'])
  taken.delete('10.0.0.2')
  taken.delete('10.0.0.5')
  expect(next(taken)).toBe('10.0.0.2')
  taken.add('10.0.0.2')
  expect(next(taken)).toBe('10.0.0.5')
})

test('after a restart allocation goes on behind the highest address in use', () => {
  const { it, next } = allocator('100.64.0.0/10')
  const used = parseIp('100.64.7.9')
  if (used !== undefined) it.occupied(used)
  expect(next()).toBe('100.64.7.10')
})

test('the ranges that clients keep for themselves are never given', () => {
  const { it, next } = allocator('100.64.0.0/10')
  for (const [before, after] of [['100.100.99.255', '100.100.101.0'], ['100.115.91.255', '100.115.94.0']] as const) {
    const used = parseIp(before)
    if (used !== undefined) it.occupied(used)
    expect(next()).toBe(after)
  }
})

test('random allocation stays in the prefix and never gives an address twice', () => {
  const { next } = allocator('10.9.0.0/24', 'random')
  const taken = new Set<string>()
  for (let i = 0; i < 254; i += 1) taken.add(next(taken) ?? 'none')
  expect(taken.size).toBe(254)
  expect(taken.has('none')).toBe(false)
  expect(next(taken)).toBeUndefined()
})

test.each([
  ['laptop', 'laptop'], ['Laptop.local', 'laptop'], ['my pc', 'my-pc'], ['Alice\'s_Mac.lan', 'alices-mac'], ['a.b.c', 'a-b-c'], ['', 'node'], ['---', 'node'], ['日本', 'node'], ['x'.repeat(80), 'x'.repeat(63)], ['-a-', 'a'],
])('the host name %j becomes the label %j', (hostname, label) => {
  expect(sanitizeHostname(hostname)).toBe(label)
  expect(labelProblem(label)).toBeUndefined()
})

test('taken labels get the first free number, and stay labels', () => {
  const taken = new Set(['a', 'a-1', 'x'.repeat(63)])
  expect(freeLabel('a', (label) => taken.has(label))).toBe('a-2')
  expect(freeLabel('b', (label) => taken.has(label))).toBe('b')
  const long = freeLabel('x'.repeat(63), (label) => taken.has(label))
  expect(long).toBe(`${'x'.repeat(61)}-1`)
  expect(nodeFqdn('a', 'mesh.test')).toBe('a.mesh.test.')
})

test.each(['', 'A', 'a b', '-a', 'a-', 'a.b', 'x'.repeat(64), 'ü'])('%j cannot be a name', (label) => expect(labelProblem(label)).toBeDefined())
