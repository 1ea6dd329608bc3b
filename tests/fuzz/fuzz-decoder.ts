import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { collect, type FuzzReport, type FuzzTarget } from './targets.ts'

const INPUTS = Number(process.env.FUZZ_INPUTS ?? 20_000)
const MARGIN = 64
const MAX_LENGTH = 600
const GROWTH_BYTES = 64 * 1024 * 1024

/**
 * Feeds a decoder random and mutated inputs, seeded. It must not throw; what it gives must not depend on the bytes around the input
 * (an over-read would); and the process must not grow by more than 64 MB.
 * @param samples well-formed messages to mutate; they must decode
 * @param decode the decoder; what it returns is compared as JSON
 */
export function fuzzDecoder(name: string, samples: readonly Uint8Array[], decode: (bytes: Uint8Array) => unknown, seed: number = 1): void {
  const run = (inputs: number, seed: number, progress: (done: number) => void): FuzzReport => fuzz(name, samples, decode, inputs, seed, progress)
  if (collect({ name, run })) return
  test(`${name}: ${INPUTS} random and mutated inputs never throw, over-read or grow`, () => {
    run(INPUTS, seed, () => undefined)
  })
}

/** A target with rules of its own; the test runner gives it as many inputs as a decoder. */
export function fuzzTarget(target: FuzzTarget): void {
  if (collect(target)) return
  test(`${target.name}: ${INPUTS} inputs`, () => {
    target.run(INPUTS, 1, () => undefined)
  })
}

/** A test that is no target for more inputs: only the test runner runs it. */
export function fuzzRule(name: string, body: () => void): void {
  if (!collect(undefined)) test(name, body)
}

function fuzz(name: string, samples: readonly Uint8Array[], decode: (bytes: Uint8Array) => unknown, inputs: number, seed: number, progress: (done: number) => void): FuzzReport {
  for (const sample of samples) expect(decode(sample)).toBeDefined()
  const random = new SeededRandom(seed)
  const before = process.memoryUsage().arrayBuffers
  for (let round = 0; round < inputs; round += 1) {
    const input = round % 4 === 0 || samples.length === 0 ? random.bytes(random.below(MAX_LENGTH)) : mutate(random, random.pick(samples), samples)
    const results = [0x00, 0xff].map((poison) => {
      const memory = new Uint8Array(input.length + 2 * MARGIN).fill(poison)
      memory.set(input, MARGIN)
      const view = memory.subarray(MARGIN, MARGIN + input.length)
      let result: unknown
      try {
        result = decode(view)
      } catch (error) {
        throw new Error(`${name}: threw on ${Buffer.from(input).toString('hex')} (seed ${seed}, round ${round})`, { cause: error })
      }
      for (let i = 0; i < MARGIN; i += 1) {
        if (memory[i] !== poison || memory[MARGIN + input.length + i] !== poison) throw new Error(`${name}: wrote outside its input (seed ${seed}, round ${round})`)
      }
      return show(result)
    })
    if (results[0] !== results[1]) throw new Error(`${name}: read outside its input ${Buffer.from(input).toString('hex')} (seed ${seed}, round ${round})`)
    if (round % 1_000 === 999) progress(round + 1)
  }
  const grown = process.memoryUsage().arrayBuffers - before
  if (grown > GROWTH_BYTES) throw new Error(`${name}: grew by ${grown} bytes (seed ${seed}, ${inputs} inputs)`)
  return { inputs, grownBytes: grown }
}

/** One random change or some: bits, bytes, cuts, repeats, splices, lengths set to extremes. */
export function mutate(random: SeededRandom, sample: Uint8Array, samples: readonly Uint8Array[]): Uint8Array {
  let bytes = Uint8Array.from(sample)
  for (let changes = 1 + random.below(4); changes > 0; changes -= 1) {
    const at = random.below(Math.max(1, bytes.length))
    const kind = random.below(7)
    if (kind === 0 && bytes.length > 0) bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8))
    else if (kind === 1 && bytes.length > 0) bytes[at] = random.below(256)
    else if (kind === 2) bytes = bytes.slice(0, at)
    else if (kind === 3) bytes = Uint8Array.from([...bytes.subarray(0, at), ...random.bytes(random.below(16)), ...bytes.subarray(at)])
    else if (kind === 4 && bytes.length > 0) bytes[at] = random.pick([0, 1, 0x7f, 0x80, 0xff])
    else if (kind === 5) bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(Math.min(bytes.length, at + 1 + random.below(8)))])
    else bytes = Uint8Array.from([...bytes.subarray(0, at), ...random.pick(samples).subarray(at)])
  }
  return bytes
}

function show(value: unknown): string {
  return (
    JSON.stringify(value, (_key, item: unknown) => {
      if (item instanceof Uint8Array) return Buffer.from(item).toString('hex')
      if (item instanceof Map) return [...item]
      return typeof item === 'bigint' ? `${item}n` : item
    }) ?? 'undefined'
  )
}
