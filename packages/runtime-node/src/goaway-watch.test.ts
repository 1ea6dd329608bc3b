import fc from 'fast-check'
import { expect, test } from 'vitest'
import { GoawayWatch } from './goaway-watch.ts'

function frame(type: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  return Buffer.concat([head, payload])
}

const goaway = (code: number, more = 0): Buffer => {
  const payload = Buffer.alloc(8 + more)
  payload.writeUInt32BE(code, 4)
  return frame(7, payload)
}

/** Frames of any type and length, none of which is a GOAWAY with an error. */
const harmless = fc.array(
  fc.oneof(fc.record({ type: fc.integer({ min: 0, max: 255 }).filter((type) => type !== 7), payload: fc.uint8Array({ maxLength: 60 }) }).map(({ type, payload }) => frame(type, payload)), fc.constant(goaway(0)), fc.constant(goaway(0, 5)), fc.constant(frame(7, Buffer.alloc(3, 1)))),
  { maxLength: 8 },
)

test('a GOAWAY with an error is noticed wherever it stands and however the bytes are cut, and nothing else is', () => {
  fc.assert(
    fc.property(harmless, fc.integer({ min: 1, max: 0xffff_ffff }), fc.nat(9), fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 10 }), (frames, code, more, cuts) => {
      const watch = new GoawayWatch()
      let turn = 0
      const pour = (bytes: Uint8Array): boolean => {
        let seen = false
        for (let at = 0; at < bytes.length; ) {
          const size = cuts[(turn += 1) % cuts.length] ?? 1
          seen = watch.push(bytes.subarray(at, at + size))
          at += size
        }
        return seen
      }
      expect(pour(Buffer.concat(frames))).toBe(false)
      expect(pour(goaway(code, more))).toBe(true)
      expect(watch.push(new Uint8Array(20))).toBe(true)
    }),
    { numRuns: 500 },
  )
})
