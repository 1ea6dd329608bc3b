import { randomFillSync } from 'node:crypto'
import type { RandomSource } from '@meshwright/core'

const POOL_BYTES = 4096
const LARGEST_FROM_POOL = 64

const pool: Uint8Array = new Uint8Array(POOL_BYTES)
let next = POOL_BYTES

/** Unpredictable bytes from the operating system. Short ones come from a pool that is filled by one call for many, and wiped as it is used. */
export const systemRandom: RandomSource = (length) => {
  if (length > LARGEST_FROM_POOL) return randomFillSync(new Uint8Array(length))
  if (next + length > POOL_BYTES) {
    randomFillSync(pool)
    next = 0
  }
  const bytes = pool.slice(next, next + length)
  pool.fill(0, next, next + length)
  next += length
  return bytes
}
