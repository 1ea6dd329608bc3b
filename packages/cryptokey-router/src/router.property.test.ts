import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { Ip, type Prefix, prefixContains, prefixOf } from '@meshwright/ip'
import { CryptokeyRouter } from './index.ts'
import { PrefixTrie } from './prefix-trie.ts'

/** The rule itself, written as a list: what the router must agree with. */
class NaiveRouter {
  entries: { prefix: Prefix; peer: string }[] = []

  insert(prefix: Prefix, peer: string): void {
    // Inserting again for the same peer keeps its place.
    if (this.entries.some((entry) => sameName(entry.prefix, prefix) && entry.peer === peer)) return
    this.remove(prefix)
    this.entries.push({ prefix, peer })
  }

  remove(prefix: Prefix, peer?: string): boolean {
    const before = this.entries.length
    this.entries = this.entries.filter((entry) => !(sameName(entry.prefix, prefix) && (peer === undefined || entry.peer === peer)))
    return this.entries.length < before
  }

  peerFor(ip: Ip): string | undefined {
    let best: { prefix: Prefix; peer: string } | undefined
    for (const entry of this.entries) if (prefixContains(entry.prefix, ip) && (best === undefined || entry.prefix.bits > best.prefix.bits)) best = entry
    return best?.peer
  }
}

const sameName = (a: Prefix, b: Prefix): boolean => a.bits === b.bits && a.ip.equals(b.ip)

/** Prefixes that nest and collide: a few fixed beginnings, then random bits. */
function randomPrefix(random: SeededRandom): Prefix {
  const bytes = random.bytes(random.chance(0.5) ? 4 : 16)
  if (random.chance(0.8)) bytes.fill(random.pick([0, 10, 255]), 0, random.below(bytes.length + 1))
  const ip = Ip.fromBytes(bytes)
  const prefix = ip && prefixOf(ip, random.below(ip.bits + 1))
  if (prefix === undefined) throw new Error('a random prefix must be one')
  return prefix
}

function randomAddress(random: SeededRandom, prefixes: readonly Prefix[]): Ip {
  const near = prefixes.length > 0 ? random.pick(prefixes) : randomPrefix(random)
  const bytes = Uint8Array.from(near.ip.bytes)
  for (let flips = random.below(4); flips > 0; flips -= 1) {
    const bit = random.below(bytes.length * 8)
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7))
  }
  const ip = Ip.fromBytes(bytes)
  if (ip === undefined) throw new Error('an address must be one')
  return ip
}

test.each([1, 2, 3, 4, 5, 6])('random inserts, moves, removals and look-ups agree with a plain list (seed %i)', (seed) => {
  const random = new SeededRandom(seed)
  const router = new CryptokeyRouter<string>()
  const naive = new NaiveRouter()
  for (let step = 0; step < 3000; step += 1) {
    const prefix = naive.entries.length > 0 && random.chance(0.3) ? random.pick(naive.entries).prefix : randomPrefix(random)
    const peer = `peer${random.below(8)}`
    const what = random.below(100)
    // Grows over the size at which the first table is enlarged, then shrinks again.
    if (what < (step < 2000 ? 60 : 20)) {
      router.insert(prefix, peer)
      naive.insert(prefix, peer)
    } else if (what < 90) {
      expect(router.remove(prefix, peer)).toBe(naive.remove(prefix, peer))
    } else if (what < 91 && random.chance(0.1)) {
      router.removePeer(peer)
      naive.entries = naive.entries.filter((entry) => entry.peer !== peer)
    }
    const ip = randomAddress(random, naive.entries.map((entry) => entry.prefix))
    expect(router.peerForIp(ip)).toBe(naive.peerFor(ip))
    expect(router.size).toBe(naive.entries.length)
  }
  for (let peer = 0; peer < 8; peer += 1) {
    const key = (entries: readonly Prefix[]): string[] => entries.map((each) => `${each.ip.key}/${each.bits}`)
    expect(key(router.list(`peer${peer}`))).toEqual(key(naive.entries.filter((entry) => entry.peer === `peer${peer}`).map((entry) => entry.prefix)))
  }
  const rebuilt = new CryptokeyRouter<string>()
  rebuilt.replace(naive.entries)
  for (let probe = 0; probe < 500; probe += 1) {
    const ip = randomAddress(random, naive.entries.map((entry) => entry.prefix))
    expect(rebuilt.peerForIp(ip)).toBe(naive.peerFor(ip))
  }
})

test.each([
  ['under one /48', 48, 128, 3000],
  ['under one /100', 100, 128, 600],
  ['under one 10.9.0.0/20', 20, 32, 1500],
  ['anywhere, more than fit the middle first table', 0, 128, 33_000],
  ['of IPv4, more than fit the middle first table', 0, 32, 33_000],
] as const)('many prefixes %s: look-ups agree with a map for each length, while prefixes come and go', (_, common, width, count) => {
  const random = new SeededRandom(common + width)
  const trie = new PrefixTrie(width)
  const known = new Map<string, number>()
  const beginning = Int32Array.from({ length: 4 }, () => random.u32())
  const cut = (key: Int32Array, bits: number): Int32Array => key.map((word, i) => (bits <= 32 * i ? 0 : word & (bits >= 32 * (i + 1) ? -1 : -1 << (32 * (i + 1) - bits))))
  const anyKey = (): Int32Array => {
    const key = Int32Array.from({ length: 4 }, () => random.u32())
    const kept = cut(beginning, common)
    const other = cut(key, common)
    return width === 32 ? cut(key.map((word, i) => word ^ (other[i] ?? 0) ^ (kept[i] ?? 0)), 32) : key.map((word, i) => word ^ (other[i] ?? 0) ^ (kept[i] ?? 0))
  }
  const expected = (key: Int32Array): number => {
    for (let bits: number = width; bits >= 0; bits -= 1) {
      const value = known.get(`${cut(key, bits).join()}/${bits}`)
      if (value !== undefined) return value
    }
    return 0
  }
  const keys: { key: Int32Array; bits: number }[] = []
  const add = (value: number): void => {
    const bits = common + random.below(width - common + 1)
    const key = cut(anyKey(), bits)
    trie.set(key, bits, value)
    known.set(`${key.join()}/${bits}`, value)
    keys.push({ key, bits })
  }
  for (let i = 1; i <= count; i += 1) add(i)
  for (let round = 0; round < 6; round += 1) {
    for (let i = 0; i < 2500; i += 1) {
      const near = random.pick(keys)
      const tail = anyKey()
      const key = random.chance(0.2) ? tail : random.chance(0.1) ? Int32Array.from({ length: 4 }, () => random.u32()) : tail.map((word, n) => word ^ (cut(tail, near.bits)[n] ?? 0) ^ (near.key[n] ?? 0))
      const found = width === 32 ? trie.find32(key[0] ?? 0) : trie.find128(key[0] ?? 0, key[1] ?? 0, key[2] ?? 0, key[3] ?? 0)
      // The comparison costs more than the look-up: every long walk counts, not every one is judged.
      if (i % 10 === 0 || i > 2300) expect(found).toBe(expected(width === 32 ? cut(key, 32) : key))
    }
    for (let i = 0; i < 20; i += 1) {
      const victim = keys[random.below(keys.length)]
      if (victim !== undefined && random.chance(0.5)) {
        trie.delete(victim.key, victim.bits)
        known.delete(`${victim.key.join()}/${victim.bits}`)
      } else add(count + round * 100 + i + 1)
    }
  }
})

test('a trie that has lost every prefix holds no node, however they came and went', () => {
  for (let seed = 1; seed <= 5; seed += 1) {
    const random = new SeededRandom(seed)
    const trie = new PrefixTrie(128)
    const keys: { key: Int32Array; bits: number }[] = []
    for (let i = 0; i < 700; i += 1) {
      const bits = random.below(129)
      const key = Int32Array.from({ length: 4 }, (_, word) => {
        const kept = Math.min(32, Math.max(0, bits - word * 32))
        return kept === 0 ? 0 : random.u32() & random.pick([-1, 0, 0xff]) & (-1 << (32 - kept))
      })
      trie.set(key, bits, i + 1)
      expect(trie.get(key, bits)).toBe(i + 1)
      keys.push({ key, bits })
    }
    while (keys.length > 0) {
      const [victim] = keys.splice(random.below(keys.length), 1)
      if (victim !== undefined) trie.delete(victim.key, victim.bits)
    }
    expect(trie.size).toBe(0)
    expect(trie.nodeCount).toBe(0)
  }
})
