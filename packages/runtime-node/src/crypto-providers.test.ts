import { createRequire } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { DONE, DROPPED, PacketBatch, PENDING } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { wasmModuleBytes, type WasmProvider, wasmProvider } from '@meshwright/crypto/wasm'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { chooseCryptoProvider, fastCryptoProvider, packetSlab } from './fast-crypto.ts'
import { nodeCryptoProvider } from './node-crypto.ts'
import { opensslFfiProvider } from './openssl-ffi.ts'
import { wasmCryptoProvider } from './wasm-crypto.ts'

const MEMORY_BYTES = 2_097_152
const LENGTHS = 2049
const TAG_BYTES = 16

function wasm(): WasmProvider {
  const provider = wasmCryptoProvider(nodeCryptoProvider, MEMORY_BYTES)
  if (provider === undefined) throw new Error('no WebAssembly SIMD')
  return provider
}

/** `undefined` where koffi is not installed, or this Node is linked with another libcrypto. */
function openssl(functions: 'primitives' | 'evp', breakEvenBytes: number = 0): WasmProvider | undefined {
  return opensslFfiProvider(wasm(), { functions, breakEvenBytes })
}

const PROVIDERS: readonly (readonly [string, CryptoProvider | undefined])[] = [
  ['node', nodeCryptoProvider],
  ['wasm', wasm()],
  ['openssl-ffi by its primitives', openssl('primitives')],
  ['openssl-ffi by EVP', openssl('evp')],
  ['openssl-ffi with a break-even at 512 bytes', openssl('primitives', 512)],
]

describe.each(PROVIDERS)('%s', (_, found) => {
  const tested = test.skipIf(found === undefined)
  const provider = found ?? nobleProvider

  tested('seals what noble seals, at all lengths from 0 to 2048 and counters up to 2^64 - 1, in place and out of place, in its memory and elsewhere', () => {
    const random = new SeededRandom(7)
    const batches = [packetSlab(provider, 2, 2048 + TAG_BYTES), PacketBatch.slab(2, 2048 + TAG_BYTES)]
    for (let length = 0; length < LENGTHS; length += 1) {
      const key = length % 5 === 0 ? new Uint8Array(32).fill(255) : random.bytes(32)
      const packet = length % 7 === 0 ? new Uint8Array(length).fill(255) : random.bytes(length)
      const counter = length % 3 === 0 ? 2n ** 64n - 1n - BigInt(length) : length % 3 === 1 ? 0xffff_ffffn : BigInt(random.u32())
      const expected = nobleProvider.aeadSeal(key, nonceOf(counter), packet)
      const slot = provider.keySlot(key)
      for (const batch of batches) {
        const outOfPlace = length % 2 === 0
        batch.reset()
        batch.memory.set(random.bytes(64), 64)
        batch.addCopy(packet)
        const stride = batch.memory.length / batch.capacity
        if (outOfPlace) batch.target[0] = 64 + stride
        const behind = (batch.target[0] ?? 0) + length + TAG_BYTES
        batch.memory.fill(0xee, behind, behind + 32)
        provider.sealBatch(slot, counter, batch)
        if (batch.verdict[0] !== DONE || !same(batch.result(0), expected)) throw new Error(`${length} bytes, counter ${counter}: not what noble seals`)
        if (batch.memory.subarray(behind, behind + 32).some((byte) => byte !== 0xee)) throw new Error(`${length} bytes: bytes behind the tag are changed`)
        if (batch.counterLow[0] !== Number(counter & 0xffff_ffffn) || batch.counterHigh[0] !== Number(counter >> 32n)) throw new Error(`${length} bytes: wrong counter`)
        expectOpens(provider, slot, batch, packet, expected)
      }
      slot.destroy()
    }
  })

  tested('a forged packet is dropped and none of its plaintext can be read', () => {
    const random = new SeededRandom(8)
    const slot = provider.keySlot(random.bytes(32))
    for (const length of [1, 16, 63, 64, 200, 511, 512, 1420, 1421, 2000]) {
      const batch = packetSlab(provider, 2, 2048)
      const packet = new Uint8Array(length).fill(0x5a)
      batch.addCopy(packet)
      provider.sealBatch(slot, 9n, batch)
      const stride = batch.memory.length / batch.capacity
      const forgedAt = 64 + random.below(length + TAG_BYTES)
      batch.memory[forgedAt] = (batch.memory[forgedAt] ?? 0) ^ (1 << random.below(8))
      const target = length % 2 === 0 ? 64 : 64 + stride
      batch.length[0] = length + TAG_BYTES
      batch.target[0] = target
      batch.verdict[0] = PENDING
      provider.openBatch(slot, batch)
      expect(batch.verdict[0]).toBe(DROPPED)
      const shown = batch.memory.subarray(target, target + length)
      if (length > 16) expect(shown.reduce((sum, byte) => sum + Number(byte === 0x5a), 0)).toBeLessThan(length / 2)
    }
  })

  tested('counters run on over pending slots only, and packets that do not fit are dropped', () => {
    const batch = packetSlab(provider, 4, 100)
    const slot = provider.keySlot(new Uint8Array(32).fill(1))
    for (let i = 0; i < 4; i += 1) batch.addCopy(new Uint8Array(10).fill(i))
    batch.verdict[1] = DROPPED
    batch.length[3] = batch.memory.length
    provider.sealBatch(slot, 0xffff_ffffn, batch)
    expect([...batch.verdict]).toEqual([DONE, DROPPED, DONE, DROPPED])
    expect([batch.counterLow[0], batch.counterHigh[0], batch.counterLow[2], batch.counterHigh[2]]).toEqual([0xffff_ffff, 0, 0, 1])
  })

  tested('a slot that is destroyed, or another provider\'s, seals and opens nothing', () => {
    const batch = packetSlab(provider, 2, 100)
    const slot = provider.keySlot(new Uint8Array(32).fill(1))
    batch.addCopy(new Uint8Array(10))
    slot.destroy()
    provider.sealBatch(slot, 0n, batch)
    batch.addCopy(new Uint8Array(10))
    provider.sealBatch({ destroy: () => undefined }, 0n, batch)
    expect([...batch.verdict]).toEqual([DROPPED, DROPPED])
  })

  tested('X25519 agrees with noble, keys that are not clamped and points off the curve included; points of low order give no secret', () => {
    const random = new SeededRandom(13)
    for (let i = 0; i < 20; i += 1) {
      const [own, peer] = [random.bytes(32), random.bytes(32)]
      expect(provider.publicKey(own)).toEqual(nobleProvider.publicKey(own))
      expect(provider.sharedSecret(own, peer)).toEqual(nobleProvider.sharedSecret(own, peer))
    }
    const low = [new Uint8Array(32), Uint8Array.of(1, ...new Uint8Array(31)), Uint8Array.from(Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex'))]
    for (const point of low) expect(provider.sharedSecret(random.bytes(32), point)).toBeUndefined()
    for (const [own, peer] of [[31, 32], [32, 33], [0, 32]] as const) expect(provider.sharedSecret(random.bytes(own), random.bytes(peer))).toBeUndefined()
  })

  tested('X25519 goes by what stands in the array of a private key now, not by what stood there', () => {
    const random = new SeededRandom(14)
    const own = random.bytes(32)
    const peer = nobleProvider.publicKey(random.bytes(32))
    for (let i = 0; i < 4; i += 1) {
      expect(provider.publicKey(own)).toEqual(nobleProvider.publicKey(own))
      expect(provider.sharedSecret(own, peer)).toEqual(nobleProvider.sharedSecret(own, peer))
      own.set(random.bytes(32))
    }
  })

  tested('single calls, hashes and MACs agree with noble, additional data and long input included', () => {
    const random = new SeededRandom(9)
    for (let i = 0; i < 200; i += 1) {
      const [key, nonce, additional] = [random.bytes(32), random.bytes(12), random.bytes(i % 80)]
      const plaintext = random.bytes(i === 199 ? 70_000 : random.below(600))
      const sealed = provider.aeadSeal(key, nonce, plaintext, additional)
      expect(same(sealed, nobleProvider.aeadSeal(key, nonce, plaintext, additional))).toBe(true)
      expect(same(provider.aeadOpen(key, nonce, sealed, additional), plaintext)).toBe(true)
      expect(provider.aeadOpen(key, nonce, sealed, random.bytes(i % 80 === 0 ? 1 : i % 80))).toBeUndefined()
      expect(provider.aeadOpen(key, nonce, sealed.subarray(0, i % 16))).toBeUndefined()
      const parts = [random.bytes(random.below(200)), random.bytes(i === 5 ? 9000 : random.below(200))]
      expect(same(provider.hash(...parts), nobleProvider.hash(...parts))).toBe(true)
      expect(same(provider.hmac(key.subarray(0, i % 33), ...parts), nobleProvider.hmac(key.subarray(0, i % 33), ...parts))).toBe(true)
      expect(same(provider.mac(key.subarray(0, (i % 32) + 1), ...parts), nobleProvider.mac(key.subarray(0, (i % 32) + 1), ...parts))).toBe(true)
    }
  })

  tested('the source of an out-of-place batch stays as it was', () => {
    const batch = packetSlab(provider, 2, 1600)
    const slot = provider.keySlot(new Uint8Array(32).fill(4))
    batch.addCopy(new Uint8Array(1420).fill(9))
    batch.target[0] = 64 + batch.memory.length / 2
    const before = batch.memory.slice(0, batch.memory.length / 2)
    provider.sealBatch(slot, 1n, batch)
    expect(same(batch.memory.subarray(0, batch.memory.length / 2), before)).toBe(true)
  })

  tested('a row of datagrams that touch each other is sealed and opened without harm to neighbours', () => {
    const stride = 1420 + 32
    const row = packetSlab(provider, 1, stride * 8)
    const batch = new PacketBatch(row.memory, 8)
    for (let i = 0; i < 8; i += 1) {
      row.memory.fill(i + 1, 64 + i * stride, 64 + i * stride + 16 + 1420)
      batch.addSlot(64 + i * stride + 16, 1420)
    }
    const slot = provider.keySlot(new Uint8Array(32).fill(6))
    provider.sealBatch(slot, 5n, batch)
    for (let i = 0; i < 8; i += 1) {
      expect(same(batch.result(i), nobleProvider.aeadSeal(new Uint8Array(32).fill(6), nonceOf(5n + BigInt(i)), new Uint8Array(1420).fill(i + 1)))).toBe(true)
      expect(same(row.memory.subarray(64 + i * stride, 64 + i * stride + 16), new Uint8Array(16).fill(i + 1))).toBe(true)
      batch.length[i] = 1420 + TAG_BYTES
    }
    batch.verdict.fill(PENDING)
    provider.openBatch(slot, batch)
    for (let i = 0; i < 8; i += 1) expect(same(batch.result(i), new Uint8Array(1420).fill(i + 1))).toBe(true)
  })

  tested('batches of mixed lengths, more than fit into one table: each is what noble makes; forged ones are dropped and show no plaintext, their neighbours open', () => {
    const random = new SeededRandom(12)
    const key = random.bytes(32)
    const slot = provider.keySlot(key)
    for (let round = 0; round < 12; round += 1) {
      const count = 1 + random.below(70)
      const batch = round % 2 === 0 ? packetSlab(provider, 70, 700) : PacketBatch.slab(70, 700)
      const packets = Array.from({ length: count }, () => new Uint8Array(random.below(4) === 0 ? random.below(701) : random.below(66)).fill(0x5a))
      for (const packet of packets) batch.addCopy(packet)
      const first = 0xffff_fff0n + BigInt(round) * 0x1_0000_0000n
      provider.sealBatch(slot, first, batch)
      packets.forEach((packet, i) => expect(same(batch.result(i), nobleProvider.aeadSeal(key, nonceOf(first + BigInt(i)), packet))).toBe(true))
      const forged = packets.map(() => random.below(5) === 0)
      for (let i = 0; i < count; i += 1) {
        const length = batch.targetLength[i] ?? 0
        batch.length[i] = length
        const at = (batch.offset[i] ?? 0) + random.below(length)
        if (forged[i] === true) batch.memory[at] = (batch.memory[at] ?? 0) ^ (1 << random.below(8))
      }
      batch.verdict.fill(PENDING)
      provider.openBatch(slot, batch)
      expect([...batch.verdict.subarray(0, count)]).toEqual(forged.map((isForged) => (isForged ? DROPPED : DONE)))
      packets.forEach((packet, i) => {
        const offset = batch.offset[i] ?? 0
        const shown = batch.memory.subarray(offset, offset + packet.length)
        if (forged[i] !== true) expect(same(batch.result(i), packet)).toBe(true)
        else if (packet.length > 16) expect(shown.reduce((sum, byte) => sum + Number(byte === 0x5a), 0)).toBeLessThan(packet.length / 2)
      })
    }
  })

  tested('slots are worked on in order: the target of one may be where an earlier one was read', () => {
    const slot = provider.keySlot(new Uint8Array(32).fill(6))
    const lengths = [10, 20, 600, 30, 64, 64, 64, 700, 5]
    const row = packetSlab(provider, 1, 16_384)
    const batch = new PacketBatch(row.memory, lengths.length)
    lengths.forEach((length, i) => {
      row.memory.fill(i + 1, 1024 * (i + 1), 1024 * (i + 1) + length)
      batch.addSlot(1024 * (i + 1), length)
    })
    provider.sealBatch(slot, 0n, batch)
    const back = new PacketBatch(row.memory, lengths.length)
    lengths.forEach((length, i) => {
      back.addSlot(1024 * (i + 1), length + TAG_BYTES, 1024 * i + 100)
      back.counterLow[i] = i
    })
    provider.openBatch(slot, back)
    lengths.forEach((length, i) => expect(same(back.result(i), new Uint8Array(length).fill(i + 1))).toBe(true))
  })

  tested('source and target may overlap by any distance', () => {
    const slot = provider.keySlot(new Uint8Array(32).fill(6))
    const row = packetSlab(provider, 1, 4096)
    for (const shift of [-700, -48, -16, -5, 3, 16, 33, 64, 699, 800]) {
      const packet = new SeededRandom(shift).bytes(700)
      const batch = new PacketBatch(row.memory, 1)
      row.memory.set(packet, 1000)
      batch.addSlot(1000, 700, 1000 + shift)
      provider.sealBatch(slot, 1n, batch)
      expect(same(batch.result(0), nobleProvider.aeadSeal(new Uint8Array(32).fill(6), nonceOf(1n), packet))).toBe(true)
      const back = new PacketBatch(row.memory, 1)
      back.addSlot(1000 + shift, 716, 1000)
      back.counterLow[0] = 1
      provider.openBatch(slot, back)
      expect(same(back.result(0), packet)).toBe(true)
    }
  })
})

describe('choosing', () => {
  test('the fastest provider seals what noble seals and exchanges keys by OpenSSL', () => {
    const provider = fastCryptoProvider()
    expect(provider).toBe(fastCryptoProvider())
    expect(['openssl-ffi', 'wasm']).toContain(provider.name)
    const [a, b] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)]
    expect(provider.sharedSecret(a, provider.publicKey(b))).toEqual(nobleProvider.sharedSecret(b, nobleProvider.publicKey(a)))
    expect(provider.sharedSecret(a, new Uint8Array(32))).toBeUndefined()
  })

  test('every provider can be forced by name', () => {
    for (const name of ['noble', 'node', 'wasm']) expect(chooseCryptoProvider(name).name).toBe(name)
    if (openssl('primitives') !== undefined) expect(chooseCryptoProvider('openssl-ffi').name).toBe('openssl-ffi')
    expect(() => chooseCryptoProvider('rot13')).toThrow('none of noble, node, wasm, openssl-ffi')
  })

  test('without koffi, and with a package that is not koffi, there is no openssl-ffi', () => {
    for (const koffi of [{}, { load: () => ({}) }, { load: () => ({ func: () => () => 0 }), address: () => 0n }, 'koffi']) expect(opensslFfiProvider(wasm(), { koffi })).toBeUndefined()
  })

  test('an instance of another module is refused', () => {
    expect(() => wasmProvider({})).toThrow('not the exports')
    const { instance } = wasm()
    const broken = { ...instance, memory: { buffer: instance.memory.buffer }, seal: () => 0 }
    expect(() => wasmProvider({ ...broken, open: instance.open, sealMany: instance.sealMany, openMany: instance.openMany, blake2s: instance.blake2s, stage: instance.stage, sealed: instance.sealed, opened: instance.opened })).toThrow('wrong answers')
  })

  test('memory of the instance ends with a clear error, and slabs then lie elsewhere', () => {
    const provider = wasm()
    expect(() => provider.slab(1000, 65_000)).toThrow('more memory')
    expect(packetSlab(provider, 1000, 6500).memory.buffer).not.toBe(provider.instance.memory.buffer)
    expect(packetSlab(provider, 10, 1500).memory.buffer).toBe(provider.instance.memory.buffer)
  })

  test('the module is the same at every assembly', () => {
    expect(same(wasmModuleBytes(), wasmModuleBytes())).toBe(true)
  })
})

describe.skipIf(openssl('primitives') === undefined || openssl('evp') === undefined)('functions of OpenSSL that are no good', () => {
  interface Koffi {
    readonly load: (name: string | null) => { readonly func: (declaration: string) => (...args: readonly number[]) => unknown }
    readonly address: (memory: Uint8Array) => bigint
  }
  const real = createRequire(import.meta.url)('koffi') as Koffi // the parts that are used
  type Native = (...args: readonly number[]) => unknown
  /**
   * A provider by functions of which some are others: `undefined` is one that is not exported.
   * @param isMeasured whether it must be faster than WASM somewhere, which the public functions are not everywhere
   */
  function provided(change: (name: string, call: Native, bytesAt: (address: number) => Uint8Array) => Native | undefined, isMeasured: boolean = false) {
    const own = wasm()
    const base = Number(real.address(own.instance.memory))
    const koffi = {
      address: (memory: Uint8Array) => real.address(memory),
      load: (library: string | null) => {
        const loaded = real.load(library)
        return {
          func: (declaration: string) => {
            const name = /(\w+)\(/.exec(declaration)?.[1] ?? ''
            const changed = change(name, loaded.func(declaration), (address) => own.instance.memory.subarray(address - base))
            if (changed === undefined) throw new Error(`no ${name}`)
            return changed
          },
        }
      },
    }
    return opensslFfiProvider(own, { koffi, ...(!isMeasured && { breakEvenBytes: 0 }) })
  }
  const PRIMITIVES = ['ChaCha20_ctr32', 'Poly1305_Init', 'Poly1305_Update', 'Poly1305_Final']
  const EVP = ['EVP_chacha20_poly1305', 'EVP_CIPHER_CTX_new', 'EVP_CipherInit_ex', 'EVP_CipherUpdate', 'EVP_CipherFinal_ex', 'EVP_CIPHER_CTX_ctrl']
  const sealsRight = (provider: CryptoProvider | undefined): void => {
    const [key, nonce, packet] = [new Uint8Array(32).fill(3), new Uint8Array(12).fill(4), new Uint8Array(1420).fill(5)]
    expect(provider?.aeadSeal(key, nonce, packet)).toEqual(nobleProvider.aeadSeal(key, nonce, packet))
    expect(provider?.sharedSecret(key, new Uint8Array(32).fill(9))).toEqual(nobleProvider.sharedSecret(key, new Uint8Array(32).fill(9)))
  }

  test.each(PRIMITIVES)('without %s: the public ones', (missing) => {
    const provider = provided((name, call) => (name === missing ? undefined : call))
    expect(provider?.functions).toBe('evp')
    sealsRight(provider)
  })
  test.each([['ChaCha20_ctr32', 70], ['ChaCha20_ctr32', 0], ['Poly1305_Final', 0], ['Poly1305_Final', 15]])('a byte of %s that is wrong (%i): the public ones', (wrong, at) => {
    const provider = provided((name, call, bytesAt) => (name !== wrong ? call : (...args) => {
      call(...args)
      const out = bytesAt(args[name === 'Poly1305_Final' ? 1 : 0] ?? 0)
      out[at] = (out[at] ?? 0) ^ 1
    }))
    expect(provider?.functions).toBe('evp')
    sealsRight(provider)
  })
  test.each(EVP)('without the primitives and %s: none', (missing) => expect(provided((name, call) => (name === missing || PRIMITIVES.includes(name) ? undefined : call))).toBeUndefined())
  test.each([0, 1])('public ones that say %i to everything: none', (answer) => expect(provided((name, call) => (PRIMITIVES.includes(name) ? undefined : EVP.slice(2).includes(name) ? () => answer : call))).toBeUndefined())
  test('no context: none', () => expect(provided((name, call) => (PRIMITIVES.includes(name) ? undefined : name === 'EVP_CIPHER_CTX_new' ? () => 0 : call))).toBeUndefined())
  test('slower than WASM at every length: none', () => {
    const slowly = (call: Native): Native => (...args) => {
      for (const until = performance.now() + 0.2; performance.now() < until; );
      return call(...args)
    }
    expect(provided((name, call) => (['ChaCha20_ctr32', 'EVP_CipherInit_ex'].includes(name) ? slowly(call) : call), true)).toBeUndefined()
  })
  test('without its X25519: that of Node', () => {
    const provider = provided((name, call) => (/25519/.test(name) ? undefined : call))
    expect(provider?.functions).toBe('primitives')
    sealsRight(provider)
  })
})

test.skipIf(openssl('primitives') === undefined)('native calls stay sound while garbage is collected all the time', () => {
  setFlagsFromString('--expose-gc')
  const collect: unknown = runInNewContext('gc')
  if (typeof collect !== 'function') throw new Error('no forced garbage collection')
  const koffi: unknown = createRequire(import.meta.url)('koffi')
  for (const functions of ['primitives', 'evp'] as const) {
    const provider = opensslFfiProvider(wasm(), { functions, breakEvenBytes: 0, koffi })
    if (provider === undefined) throw new Error(`no openssl-ffi by ${functions}`)
    const random = new SeededRandom(10)
    for (let i = 0; i < 8; i += 1) {
      const key = random.bytes(32)
      const slot = provider.keySlot(key)
      const batch = i % 2 === 0 ? PacketBatch.slab(4, 1600) : provider.slab(4, 1600)
      const packets = Array.from({ length: 4 }, () => random.bytes(1 + random.below(1500)))
      for (const packet of packets) batch.addCopy(packet)
      collect()
      provider.sealBatch(slot, BigInt(i), batch)
      collect()
      packets.forEach((packet, n) => expect(same(batch.result(n), nobleProvider.aeadSeal(key, nonceOf(BigInt(i + n)), packet))).toBe(true))
      for (let n = 0; n < 4; n += 1) batch.length[n] = batch.targetLength[n] ?? 0
      batch.verdict.fill(PENDING)
      provider.openBatch(slot, batch)
      collect()
      packets.forEach((packet, n) => expect(same(batch.result(n), packet)).toBe(true))
      slot.destroy()
    }
  }
})

function expectOpens(provider: CryptoProvider, slot: ReturnType<CryptoProvider['keySlot']>, batch: PacketBatch, packet: Uint8Array, sealed: Uint8Array): void {
  const at = batch.target[0] ?? 0
  batch.offset[0] = at
  batch.length[0] = sealed.length
  batch.verdict[0] = PENDING
  provider.openBatch(slot, batch)
  if (batch.verdict[0] !== DONE || !same(batch.result(0), packet)) throw new Error(`${packet.length} bytes: does not open`)
}

function nonceOf(counter: bigint): Uint8Array {
  const nonce = new Uint8Array(12)
  new DataView(nonce.buffer).setBigUint64(4, counter, true)
  return nonce
}

function same(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && Buffer.compare(a, b) === 0
}
