import { randomFillSync } from 'node:crypto'
import type { RandomSource } from '@meshwright/core'

/** Unpredictable bytes from the operating system. */
export const systemRandom: RandomSource = (length) => randomFillSync(new Uint8Array(length))
