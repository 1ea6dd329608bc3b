/** What a figure must reach, and what it is meant to. */
export interface Target {
  /** Name of a figure or of a measurement. */
  readonly name: string
  readonly must: number
  readonly aim: number
  readonly lessIsBetter?: boolean
}

const MILLION = 1e6
const KIB = 1024

/** The figures that are held to something. */
export const TARGETS: readonly Target[] = [
  ...['seal', 'open'].flatMap((way): Target[] => [
    { name: `aead/${way}-1420/wasm`, must: 9, aim: 12 },
    { name: `aead/${way}-64/wasm`, must: 25, aim: 35 },
    { name: `native/${way}-1420/openssl-ffi`, must: 1.7, aim: 2.1 },
    { name: `libsodium/${way}-1420/wasm`, must: 2, aim: 2.5 },
    { name: `libsodium/${way}-1420/openssl-ffi`, must: 2, aim: 2.5 },
  ]),
  { name: 'handshake/answered/wasm', must: 6, aim: 14 },
  { name: 'handshake/answered/openssl-ffi', must: 6, aim: 14 },
  ...['noble', 'wasm', 'openssl-ffi'].map((provider): Target => ({ name: `packet/1420-${provider}/engine`, must: 0.75, aim: 0.9 })),
  ...['wasm', 'openssl-ffi'].map((provider): Target => ({ name: `dgram/1420-${provider}`, must: 0.5, aim: 0.7 })),
  { name: 'lookup/ipv4-100000', must: 8 * MILLION, aim: 20 * MILLION },
  { name: 'lookup/ipv6-100000', must: 4 * MILLION, aim: 10 * MILLION },
  { name: 'lookup/ipv6-100000-one-48', must: 4 * MILLION, aim: 10 * MILLION },
  { name: 'memory/peer-configured', must: 4 * KIB, aim: 2 * KIB, lessIsBetter: true },
  { name: 'memory/peer-with-session', must: 8 * KIB, aim: 4 * KIB, lessIsBetter: true },
  { name: 'memory/10000-peers-configured', must: 2, aim: 0.5, lessIsBetter: true },
  ...['wasm', 'openssl-ffi'].map((provider): Target => ({ name: `memory/transient-${provider}`, must: 64, aim: 0, lessIsBetter: true })),
  { name: 'policy/5000-grants-1000-nodes', must: 2, aim: 0.5, lessIsBetter: true },
  ...['join', 'tag', 'route', 'offline', 'leave'].map((change): Target => ({ name: `policy/update-${change}`, must: 20, aim: 5, lessIsBetter: true })),
  { name: 'policy/memory-10000-nodes', must: 200, aim: 80, lessIsBetter: true },
  { name: 'policy/check-cold', must: 300, aim: 150, lessIsBetter: true },
  { name: 'policy/bundle-browser', must: 45, aim: 30, lessIsBetter: true },
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

/** The ratio of a figure, or the value of a measurement, held to its target; `undefined` where there is none. */
export function held(name: string, unit: string, value: number): Held | undefined {
  const target = TARGETS.find((each) => each.name === name)
  if (target === undefined) return undefined
  return { name, value, unit, must: target.must, aim: target.aim, met: target.lessIsBetter === true ? value <= target.must : value >= target.must }
}

/** One line of the table. */
export function heldLine({ name, value, unit, must, aim, met }: Held): string {
  return `${name.padEnd(46)} ${short(value).padStart(9)} ${unit.padEnd(26)} must ${short(must).padStart(7)}  aim ${short(aim).padStart(7)}  ${met ? 'met' : 'NOT MET'}`
}

function short(value: number): string {
  return Math.abs(value) >= MILLION ? `${(value / MILLION).toFixed(2)} M` : Math.abs(value) >= 1000 ? value.toFixed(0) : value.toFixed(2)
}
