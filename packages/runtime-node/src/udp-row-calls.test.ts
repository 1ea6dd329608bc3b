import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { MSG_FLAGS_AT, MSG_IOV_AT, MSG_NAMELEN_AT } from './dataplane/linux-abi.ts'
import { MemoryKernel } from './dataplane/memory-kernel.ts'
import { encodeSocketAddress } from './dataplane/socket-address.ts'
import { ROW_CALLS_BYTES, RowCalls } from './udp-row-calls.ts'

// A kernel that receives many datagrams by one call, and lies about them: nothing beyond what it was given is read, nothing comes out that
// did not come in, and the next honest call is heard.
const GUARD_BYTES = 65_536
const MSGHDR_BYTES = 56
const MMSGHDR_BYTES = 64
const FROM: Endpoint = parseEndpoint('192.0.2.1:1000') ?? expect.fail('endpoint')
const FIRST: Endpoint = parseEndpoint('192.0.2.9:9') ?? expect.fail('endpoint')

/** One header of the call: where its parts are in memory. */
interface Header {
  readonly at: number
  readonly name: number
  readonly bytes: number
}

const memory = new Uint8Array(ROW_CALLS_BYTES + 2 * GUARD_BYTES)
const arena = memory.subarray(GUARD_BYTES, GUARD_BYTES + ROW_CALLS_BYTES)
const view = new DataView(arena.buffer, arena.byteOffset, arena.length)
let result = 0
/** What the kernel says of a datagram, after it has told the truth. */
let lie: (index: number, header: Header) => void = () => undefined
let asked: readonly number[] = []
let calls = make()

function make(): RowCalls {
  memory.fill(0xa5)
  const kernel = new MemoryKernel(arena)
  const offset = (at: number): number => view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000 - kernel.base
  return new RowCalls(kernel, (...args) => {
    asked = args
    const [, headers = 0, count = 0] = args
    for (let i = 0; i < count; i += 1) {
      const at = headers - kernel.base + i * MMSGHDR_BYTES
      const header = { at, name: offset(at), bytes: offset(offset(at + MSG_IOV_AT)) }
      arena.set(encodeSocketAddress(FROM), header.name)
      arena.fill(i + 1, header.bytes, header.bytes + 100)
      view.setUint32(at + MSG_NAMELEN_AT, 16, true)
      view.setInt32(at + MSG_FLAGS_AT, 0, true)
      view.setUint32(at + MSGHDR_BYTES, 100, true)
      lie(i, header)
    }
    return result
  }, arena)
}

/** What is handed over: senders, and the first byte and length of each datagram. */
function receive(): readonly string[] {
  const found: string[] = []
  expect(calls.put(Uint8Array.of(200, 200), FIRST)).toBe(true)
  calls.receive(7)
  calls.handOver((from, batch) => {
    for (let slot = 0; slot < batch.count; slot += 1) found.push(`${formatEndpoint(from)} ${batch.source(slot)[0]}x${batch.source(slot).length}`)
  })
  expect(memory.subarray(0, GUARD_BYTES).every((byte) => byte === 0xa5) && memory.subarray(GUARD_BYTES + ROW_CALLS_BYTES).every((byte) => byte === 0xa5)).toBe(true)
  return found
}

const OWN = '192.0.2.9:9 200x2'
const honest = (count: number): readonly string[] => [OWN, ...Array.from({ length: count }, (_, i) => `192.0.2.1:1000 ${i + 1}x100`)]

beforeEach(() => {
  calls = make()
  ;[result, lie] = [3, () => undefined]
})

test('what many datagrams are received with is what there is room for', () => {
  expect(receive()).toEqual(honest(3))
  expect(asked.slice(2)).toEqual([63, 0x40, 0])
  result = 63
  expect(receive()).toEqual(honest(63))
})

describe('what the kernel says of them and cannot be', () => {
  test.each([64, 65, 1_000, 2 ** 31, 2 ** 53, Number.POSITIVE_INFINITY, Number.NaN, 0, -1, -11])('a number of datagrams of %d: none but the one that Node has received', (said) => {
    result = said
    expect(receive()).toEqual([OWN])
  })
  const second = (change: (header: Header) => void): void => {
    lie = (index, header) => (index === 1 ? change(header) : undefined)
    expect(receive()).toEqual([OWN, '192.0.2.1:1000 1x100', '192.0.2.1:1000 3x100'])
    lie = () => undefined
    expect(receive()).toEqual(honest(3))
  }
  test.each([9_217, 65_535, 0x7fff_ffff, 0xffff_ffff])('a datagram of %d bytes, which is more than its room', (said) => {
    second(({ at }) => view.setUint32(at + MSGHDR_BYTES, said, true))
    expect(calls.tooLong).toBe(1)
  })
  test('a datagram that was cut', () => {
    second(({ at }) => view.setInt32(at + MSG_FLAGS_AT, 0x20, true))
    expect(calls.tooLong).toBe(1)
  })
  test.each([0, 15, 33, 999, 0xffff_ffff])('an address of %d bytes', (said) => second(({ at }) => view.setUint32(at + MSG_NAMELEN_AT, said, true)))
  test('an address of IPv6 that ends early', () => second(({ at, name }) => [view.setUint16(name, 10, true), view.setUint32(at + MSG_NAMELEN_AT, 27, true)]))
  test('an address of another family, as long as one of IPv6', () => second(({ at, name }) => [view.setUint16(name, 77, true), view.setUint32(at + MSG_NAMELEN_AT, 28, true)]))
  test('an address of another family', () => second(({ name }) => view.setUint16(name, 77, true)))
})

test('anything at all', () => {
  const u32 = fc.oneof(fc.constantFrom(0, 1, 15, 16, 27, 28, 32, 33, 100, 9_216, 9_217, 0xffff_ffff), fc.nat(0xffff_ffff))
  fc.assert(
    fc.property(fc.oneof(fc.integer(), fc.integer({ min: -2, max: 70 })), fc.array(fc.record({ length: u32, names: u32, flags: fc.constantFrom(0, 8, 0x20), family: fc.constantFrom(2, 10, 1, 77) }), { minLength: 63, maxLength: 63 }), (said, lies) => {
      result = said
      lie = (index, { at, name }) => {
        const { length, names, flags, family } = lies[index] ?? expect.fail('one of 63')
        view.setUint32(at + MSGHDR_BYTES, length, true)
        view.setUint32(at + MSG_NAMELEN_AT, names, true)
        view.setInt32(at + MSG_FLAGS_AT, flags, true)
        view.setUint16(name, family, true)
      }
      receive()
      lie = () => undefined
      result = 3
      expect(receive()).toEqual(honest(3))
    }),
    { numRuns: 200 },
  )
})
