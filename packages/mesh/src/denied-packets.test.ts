import { expect, test } from 'vitest'
import { DENIED_PACKET_BYTES, DeniedPackets, MAX_DENIED_PACKETS } from './denied-packets.ts'

const noted = (denied: DeniedPackets, count: number, length: number = 40): void => {
  const memory = new Uint8Array(2_000)
  for (let i = 0; i < count; i += 1) {
    memory.fill(i & 255)
    denied.note(1_000 + i, 'in', 'filter-in', 'acl', undefined, memory, 100, length)
  }
}

test('what was refused is told, oldest first, with its bytes as they were then', () => {
  const denied = new DeniedPackets()
  expect(denied.list()).toEqual([])
  noted(denied, 3)
  expect(denied.list().map(({ at, direction, reason, filter, peer, length, bytes }) => [at, direction, reason, filter, peer, length, [...bytes]])).toEqual(
    [0, 1, 2].map((i) => [1_000 + i, 'in', 'filter-in', 'acl', undefined, 40, new Array<number>(40).fill(i)]),
  )
})

test('of a long packet its beginning is kept, with its length', () => {
  const denied = new DeniedPackets()
  noted(denied, 1, 1_500)
  expect(denied.list().map(({ length, bytes }) => [length, bytes.length])).toEqual([[1_500, DENIED_PACKET_BYTES]])
})

test('however many there are, the newest are kept, and no more than there is room for', () => {
  const denied = new DeniedPackets()
  for (const more of [MAX_DENIED_PACKETS, 1, 1_000]) noted(denied, more)
  expect(denied.size).toBe(MAX_DENIED_PACKETS)
  const list = denied.list()
  expect([list.length, list[0]?.at, list.at(-1)?.at]).toEqual([MAX_DENIED_PACKETS, 1_000 + 1_000 - MAX_DENIED_PACKETS, 1_999])
  expect(list.every(({ at, bytes }) => bytes.every((byte) => byte === ((at - 1_000) & 255)))).toBe(true)
})

test('a length that goes beyond the memory reads nothing there', () => {
  const denied = new DeniedPackets()
  denied.note(1, 'out', 'malformed', undefined, undefined, Uint8Array.of(1, 2, 3), 1, 100)
  expect(denied.list()[0]?.bytes.length).toBe(100)
  expect([...(denied.list()[0]?.bytes.subarray(0, 4) ?? [])]).toEqual([2, 3, 0, 0])
})
