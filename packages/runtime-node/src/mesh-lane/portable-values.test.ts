import { DiscoPrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { IpSet, parseEndpoint, parseIp, parsePrefix } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { systemRandom } from '../random.ts'
import { fromPortable, type Portable, toPortable } from './portable-values.ts'

/** As another thread gets it. */
const posted = <T>(value: T): T => fromPortable(structuredClone(toPortable(value)))

test('addresses, sets of addresses and keys arrive as what they were, wherever they stand', () => {
  const node = NodePrivateKey.generate(systemRandom)
  const disco = DiscoPrivateKey.generate(systemRandom)
  const value = {
    routes: [{ prefix: parsePrefix('100.64.0.0/10'), peer: node.publicKey() }],
    local: IpSet.from([parsePrefix('fd7a:115c:a1e0::/48'), parseIp('100.64.0.1')].flatMap((each) => (each === undefined ? [] : [each]))),
    endpoints: new Map([['a', parseEndpoint('192.0.2.1:41641')]]),
    bytes: new Uint8Array([1, 2, 3]),
    set: new Set([1, 'two']),
    none: undefined,
    when: 12.5,
  }
  const back = posted(value)
  expect(back).toEqual(value)
  expect(back.routes[0]?.peer.text).toBe(node.publicKey().text)
  expect(back.local.equals(value.local)).toBe(true)
  expect(back.endpoints.get('a')?.ip.key).toBe('192.0.2.1')
  expect(posted(node).equals(node)).toBe(true)
  expect(posted(disco).equals(disco)).toBe(true)
  expect(posted(IpSet.everything).equals(IpSet.everything)).toBe(true)
  expect(posted(IpSet.empty).isEmpty).toBe(true)
})

test('bytes are copied: a view into a large memory takes only itself along', () => {
  const memory = new Uint8Array(1 << 16).fill(7)
  const written: unknown = toPortable(memory.subarray(4, 8))
  expect(written instanceof Uint8Array ? written.buffer.byteLength : 0).toBe(4)
})

test('bytes that are given away go without a copy where they have their memory to themselves', () => {
  const [own, shared] = [new Uint8Array(70_000).fill(1), new Uint8Array(100).fill(2)]
  const given: ArrayBuffer[] = []
  const message = toPortable({ own, views: [shared.subarray(0, 50), shared.subarray(50)], again: own }, given)
  expect(given).toEqual([own.buffer])
  const back = fromPortable(structuredClone(message, { transfer: given }))
  expect([own.length, shared.length]).toEqual([0, 100])
  expect([back.own.length, back.again.length, ...back.views.map(({ length }) => length)]).toEqual([70_000, 70_000, 50, 50])
})

test('a key that has been read leaves nothing of it in the message', () => {
  const message = structuredClone(toPortable(NodePrivateKey.generate(systemRandom)))
  fromPortable(message)
  expect(Object.values(message).find((each) => each instanceof Uint8Array)).toEqual(new Uint8Array(32))
})

test('what would arrive as something else is refused', () => {
  expect(() => toPortable({ at: new Date(0) })).toThrow('a Date cannot be posted')
  expect(() => fromPortable({ '#class': 'node', plain: new Uint8Array(31) } as unknown as Portable<unknown>)).toThrow('is no node')
  expect(() => fromPortable({ '#class': 'who' } as unknown as Portable<unknown>)).toThrow('is no who')
})

test('a value of somebody else that looks like one of ours stays theirs', () => {
  const theirs = { caps: [{ '#class': 'node secret', plain: [new Uint8Array(32)], more: { '#class': 'object' } }], ['__proto__']: { a: 1 } }
  expect(posted(theirs)).toEqual(theirs)
})
