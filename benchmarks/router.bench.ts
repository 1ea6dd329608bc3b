import { CryptokeyRouter } from '@meshwright/cryptokey-router'
import { Ip, type IpFamily, type Prefix, prefixOf } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { type Arms, cpuTime, type Measurement, median, type Question } from './measure.ts'

const SIZES = [10, 1000, 100_000]
const LOOKUPS = 1024
/** So many that neither branches nor caches know them by heart. */
const ADDRESSES = 65_536
const COMMON = 0xfd
/**
 * Tables and addresses do not fit a core's own cache together, and neighbours on the machine decide how much the shared one holds of them: the
 * same look-ups among 100,000 prefixes were seen at 12 and at 41 times the map within a day, others at 31 and 58.
 */
const NEIGHBOURS = 0.35
const RATE_ROUNDS = 7
const RATE_ROUND_MS = 100

/** How many look-ups of a packet's owner, against a map for each prefix length, asked from the longest down? */
export function questions(): readonly Question[] {
  return ([4, 6] as const).flatMap((family) =>
    SIZES.map((size) => ({ name: `router/ipv${family}-${size}`, unit: 'look-ups', tolerance: NEIGHBOURS, setup: (): Arms => arms(family, size) })),
  ).concat(
    // As a mesh has them: all under one prefix.
    { name: 'router/ipv4-60000-one-16', unit: 'look-ups', tolerance: NEIGHBOURS, setup: (): Arms => arms(4, 60_000, 16) },
    { name: 'router/ipv6-100000-one-48', unit: 'look-ups', tolerance: NEIGHBOURS, setup: (): Arms => arms(6, 100_000, 48) },
  )
}

/** How many look-ups in a second of CPU time, with nothing else in between that empties the caches? */
export function measurements(): readonly Measurement[] {
  const rate = (name: string, family: IpFamily, size: number, common?: number): Measurement => ({
    name: `lookup/${name}`,
    unit: 'look-ups/s',
    measure: (): Promise<number> => Promise.resolve(rateOf(arms(family, size, common).contenders[0])),
  })
  return [rate('ipv4-100000', 4, 100_000), rate('ipv6-100000', 6, 100_000), rate('ipv6-100000-one-48', 6, 100_000, 48)]
}

function rateOf(contender: Arms['baseline'] | undefined): number {
  if (contender === undefined) throw new Error('nothing to measure')
  const rates: number[] = []
  for (let round = 0; round <= RATE_ROUNDS; round += 1) {
    const begun = cpuTime()
    let runs = 0
    for (; cpuTime() - begun < RATE_ROUND_MS; runs += 16) for (let i = 0; i < 16; i += 1) contender.run()
    if (round > 0) rates.push((runs * LOOKUPS * 1000) / (cpuTime() - begun))
  }
  return median(rates)
}

function arms(family: IpFamily, size: number, common: number = 0): Arms {
  const random = new SeededRandom(size + family)
  const width = family === 4 ? 4 : 16
  const prefixes = Array.from({ length: size }, () => randomPrefix(random, width, common))
  const router = new CryptokeyRouter<number>()
  router.replace(prefixes.map((prefix, peer) => ({ prefix, peer })))
  const maps = new MapForEachLength(prefixes)
  // Half of the addresses are anywhere, half in some prefix.
  const addresses = new Uint8Array(ADDRESSES * width)
  for (let i = 0; i < ADDRESSES; i += 1) addresses.set(i % 2 === 0 ? random.bytes(width).fill(COMMON, 0, common / 8) : inside(random, random.pick(prefixes)), i * width)
  for (let i = 0; i < ADDRESSES; i += 16) {
    if (router.peerForBytes(addresses, i * width, family) !== maps.find(addresses, i * width)) throw new Error('the two ways disagree')
  }
  const timed = (name: string, find: (offset: number) => number | undefined): Arms['baseline'] => {
    let from = 0
    return {
      name,
      count: LOOKUPS,
      run(): void {
        let sum = 0
        for (let i = from; i < from + LOOKUPS; i += 1) sum += find(i * width) ?? 0
        if (sum < 0) throw new Error('no peer has a negative number')
        from = (from + LOOKUPS) % ADDRESSES
      },
    }
  }
  return {
    baseline: timed('map for each length', (offset) => maps.find(addresses, offset)),
    contenders: [timed('CryptokeyRouter', (offset) => router.peerForBytes(addresses, offset, family))],
  }
}

interface Owned {
  readonly words: readonly number[]
  readonly peer: number
}

/** The naive way. Later prefixes win, as in the router. */
class MapForEachLength {
  readonly #maps: { readonly masks: readonly number[]; readonly bits: number; readonly owned: Map<number, Owned[]> }[] = []
  readonly #words: number[]

  constructor(prefixes: readonly Prefix[]) {
    const width = (prefixes[0]?.ip.bytes.length ?? 4) / 4
    this.#words = new Array<number>(width).fill(0)
    for (let bits = width * 32; bits >= 0; bits -= 1) {
      const masks = this.#words.map((_, i) => -(2 ** (32 - Math.max(0, Math.min(32, bits - 32 * i)))) | 0)
      this.#maps.push({ masks, bits, owned: new Map() })
    }
    prefixes.forEach((prefix, peer) => {
      const words = this.#words.map((_, i) => read32(prefix.ip.bytes, 4 * i))
      const owned = this.#maps[width * 32 - prefix.bits]?.owned
      const hash = words.reduce(mix, 0)
      const list = (owned?.get(hash) ?? []).filter((each) => each.words.some((word, i) => word !== words[i]))
      owned?.set(hash, [...list, { words, peer }])
    })
    this.#maps = this.#maps.filter(({ owned }) => owned.size > 0)
  }

  find(memory: Uint8Array, offset: number): number | undefined {
    const words = this.#words
    for (let i = 0; i < words.length; i += 1) words[i] = read32(memory, offset + 4 * i)
    for (const { masks, owned } of this.#maps) {
      let hash = 0
      for (let i = 0; i < words.length; i += 1) hash = mix(hash, (words[i] ?? 0) & (masks[i] ?? 0))
      for (const each of owned.get(hash) ?? NONE) {
        let same = true
        for (let i = 0; i < words.length; i += 1) same &&= each.words[i] === ((words[i] ?? 0) & (masks[i] ?? 0))
        if (same) return each.peer
      }
    }
    return undefined
  }
}

const NONE: readonly Owned[] = []

function mix(hash: number, word: number): number {
  return Math.imul(hash ^ word, 0x9e3779b1) ^ (word >>> 15)
}

function read32(memory: Uint8Array, offset: number): number {
  return ((memory[offset] ?? 0) << 24) | ((memory[offset + 1] ?? 0) << 16) | ((memory[offset + 2] ?? 0) << 8) | (memory[offset + 3] ?? 0)
}

function randomPrefix(random: SeededRandom, width: number, common: number): Prefix {
  const least = common === 0 ? width * 2 : common
  const prefix = prefixOf(Ip.fromOwnedBytes(random.bytes(width).fill(COMMON, 0, common / 8)), least + random.below(width * 8 - least + 1))
  if (prefix === undefined) throw new Error('a prefix length out of range')
  return prefix
}

function inside(random: SeededRandom, prefix: Prefix): Uint8Array {
  return random.bytes(prefix.ip.bytes.length).map((byte, i) => {
    const kept = Math.max(0, Math.min(8, prefix.bits - 8 * i))
    const mask = 255 >> kept
    return ((prefix.ip.bytes[i] ?? 0) & ~mask) | (byte & mask)
  })
}
