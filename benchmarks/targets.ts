import type { Figure } from './measure.ts'

/** What a figure must reach, and what it is meant to. */
export interface Target {
  /** Name of a figure or of a measurement. */
  readonly name: string
  /** Which number of a figure counts: its ratio to the baseline, or its own rate, which depends on the machine. */
  readonly of: 'ratio' | 'rate' | 'value'
  readonly must: number
  readonly aim: number
  readonly lessIsBetter?: boolean
}

const MILLION = 1e6
const KIB = 1024

/** The figures of the WireGuard hot path that are held to something. */
export const TARGETS: readonly Target[] = [
  ...['seal', 'open'].flatMap((way): Target[] => [
    { name: `aead/${way}-1420/wasm`, of: 'ratio', must: 9, aim: 12 },
    { name: `aead/${way}-64/wasm`, of: 'ratio', must: 25, aim: 35 },
    { name: `native/${way}-1420/openssl-ffi`, of: 'ratio', must: 1.7, aim: 2.1 },
    { name: `libsodium/${way}-1420/wasm`, of: 'ratio', must: 2, aim: 2.5 },
    { name: `libsodium/${way}-1420/openssl-ffi`, of: 'ratio', must: 2, aim: 2.5 },
  ]),
  { name: 'handshake/answered/wasm', of: 'ratio', must: 6, aim: 14 },
  { name: 'handshake/answered/openssl-ffi', of: 'ratio', must: 6, aim: 14 },
  ...['noble', 'wasm', 'openssl-ffi'].map((provider): Target => ({ name: `packet/1420-${provider}/engine`, of: 'ratio', must: 0.75, aim: 0.9 })),
  ...['wasm', 'openssl-ffi'].map((provider): Target => ({ name: `dgram/1420-${provider}`, of: 'value', must: 0.5, aim: 0.7 })),
  { name: 'router/ipv4-100000/CryptokeyRouter', of: 'rate', must: 8 * MILLION, aim: 20 * MILLION },
  { name: 'router/ipv6-100000/CryptokeyRouter', of: 'rate', must: 4 * MILLION, aim: 10 * MILLION },
  { name: 'memory/peer-configured', of: 'value', must: 4 * KIB, aim: 2 * KIB, lessIsBetter: true },
  { name: 'memory/peer-with-session', of: 'value', must: 8 * KIB, aim: 4 * KIB, lessIsBetter: true },
  { name: 'memory/10000-peers-configured', of: 'value', must: 2, aim: 0.5, lessIsBetter: true },
  ...['wasm', 'openssl-ffi'].map((provider): Target => ({ name: `memory/transient-${provider}`, of: 'value', must: 64, aim: 0, lessIsBetter: true })),
]

/** A figure beside what it must reach. */
export interface Held {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly must: number
  readonly aim: number
  readonly met: boolean
}

/** The value of a measurement, or a ratio or rate, held to its target; `undefined` where there is none. */
export function held(name: string, unit: string, valueOf: (of: Target['of']) => number): Held | undefined {
  const target = TARGETS.find((each) => each.name === name)
  if (target === undefined) return undefined
  const value = valueOf(target.of)
  return { name, value, unit, must: target.must, aim: target.aim, met: target.lessIsBetter === true ? value <= target.must : value >= target.must }
}

/** As {@link held}, of a figure. */
export function heldFigure(figure: Figure): Held | undefined {
  const isRate = TARGETS.some(({ name, of }) => name === figure.name && of === 'rate')
  return held(figure.name, isRate ? `${figure.unit}/s` : `x ${figure.baseline}`, (of) => (of === 'rate' ? figure.rate : figure.ratio))
}

/** One line of the table. */
export function heldLine({ name, value, unit, must, aim, met }: Held): string {
  return `${name.padEnd(46)} ${short(value).padStart(9)} ${unit.padEnd(26)} must ${short(must).padStart(7)}  aim ${short(aim).padStart(7)}  ${met ? 'met' : 'NOT MET'}`
}

function short(value: number): string {
  return Math.abs(value) >= MILLION ? `${(value / MILLION).toFixed(2)} M` : Math.abs(value) >= 1000 ? value.toFixed(0) : value.toFixed(2)
}
