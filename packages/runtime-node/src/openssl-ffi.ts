import { type KeyExchange, type PacketCiphers, WASM_KEY, WASM_NATIVE, WASM_NONCE, WASM_OPENED, WASM_RECEIVED_TAG, WASM_STAGED, WASM_TAG, type WasmProvider, wasmProviderWith } from '@meshwright/crypto/wasm'
import { addressOf, declare, findKoffi } from './koffi-functions.ts'
import { opensslX25519 } from './openssl-x25519.ts'

const TAG_BYTES = 16
const BLOCK_BYTES = 64
const NONCE_BYTES = 12
/** OpenSSL's numbers (openssl/evp.h). */
const EVP_CTRL_AEAD_GET_TAG = 16
const EVP_CTRL_AEAD_SET_TAG = 17
/** What the context of Poly1305 needs is about 250 bytes. */
const CONTEXT = WASM_NATIVE
const PROBED_LENGTHS: readonly number[] = [128, 192, 256, 320, 384, 512, 768, 1024, 1420]
const PROBE_PACKETS = 16
const PROBE_ROUNDS = 7

/** Settings of {@link opensslFfiProvider}. */
export interface OpensslFfiOptions {
  /** The package `koffi`; by default it is looked for, and not finding it is no error. */
  readonly koffi?: unknown
  /** `primitives` are the internal functions that Node's own OpenSSL exports, `evp` the public ones. Default: the first that works. */
  readonly functions?: 'primitives' | 'evp'
  /** Packets from this length on go to OpenSSL, shorter ones to WASM. Default: measured. */
  readonly breakEvenBytes?: number
}

/** A provider that uses the OpenSSL inside the Node executable. */
export interface OpensslFfiProvider extends WasmProvider {
  readonly functions: 'primitives' | 'evp'
  /** Packets from this length on go to OpenSSL, shorter ones to WASM. */
  readonly breakEvenBytes: number
}

/**
 * ChaCha20-Poly1305 by the OpenSSL that Node itself is linked with, called through the optional package `koffi`; packets under a length
 * that is measured now, single calls with additional data and everything else go to the WASM provider that it stands on, in whose memory
 * it works: no address of anything else ever leaves JavaScript, so no garbage collection can pull memory away under a call. A packet is
 * given out only when its tag was right. X25519 is OpenSSL's too, without the objects of `node:crypto`, where its functions are exported.
 *
 * `undefined` where koffi is missing, the functions are not there or give wrong answers (RFC 8439 and a comparison with noble), or
 * are slower than WASM at every length.
 */
export function opensslFfiProvider(wasm: WasmProvider, options: OpensslFfiOptions = {}): OpensslFfiProvider | undefined {
  const koffi = options.koffi ?? findKoffi()
  if (koffi === undefined) return undefined
  for (const functions of options.functions === undefined ? (['primitives', 'evp'] as const) : [options.functions]) {
    try {
      const native = functions === 'primitives' ? bindPrimitives(koffi, wasm) : bindEvp(koffi, wasm)
      // Everything by OpenSSL first: the known answers must not come from WASM.
      wasmProviderWith(wasm, 'openssl-ffi', { ...native, fromBytes: 0 })
      const breakEvenBytes = options.breakEvenBytes ?? breakEven(native, wasm)
      if (breakEvenBytes === undefined) continue
      const provider = wasmProviderWith(wasm, 'openssl-ffi', { ...native, fromBytes: breakEvenBytes }, workingX25519(koffi, wasm, native))
      return Object.assign(provider, { functions, breakEvenBytes })
    } catch {
      continue // these symbols are no public interface: whatever is wrong with them, there are other ways
    }
  }
  return undefined
}

/** X25519 by OpenSSL's own functions, if they are there and give the known answers. */
function workingX25519(koffi: unknown, wasm: WasmProvider, native: PacketCiphers): KeyExchange {
  try {
    const exchange = opensslX25519(koffi, wasm)
    wasmProviderWith(wasm, 'openssl-ffi', { ...native, fromBytes: 0 }, exchange)
    return exchange
  } catch {
    return wasm // these symbols are no public interface either
  }
}

/**
 * `ChaCha20_ctr32(out, in, length, key, counter)`, `Poly1305_Init(context, key)`, `_Update(context, data, length)` and
 * `_Final(context, tag)`: OpenSSL's own parts, exported by the official builds of Node. No context to fetch, no allocation. One call of
 * ChaCha20 gives the key of Poly1305 (64 zero bytes before the packet, block 0) and the packet. Every address is a number that was
 * boxed once: an argument that is new costs the engine an allocation, and `koffi` more to read.
 */
function bindPrimitives(koffi: unknown, { instance }: WasmProvider): PacketCiphers {
  const chacha20 = declare(koffi, 'ChaCha20_ctr32', 5, 'void')
  const polyInit = declare(koffi, 'Poly1305_Init', 2, 'void')
  const polyUpdate = declare(koffi, 'Poly1305_Update', 3, 'void')
  const polyFinal = declare(koffi, 'Poly1305_Final', 2, 'void')
  const base = addressOf(koffi, instance.memory)
  const [key, counter, context, tag] = [base + WASM_KEY, base + WASM_NONCE, base + CONTEXT, base + WASM_TAG]
  const [staged, zeros, polyKey] = [base + WASM_STAGED, base + WASM_STAGED - BLOCK_BYTES, base + WASM_OPENED - BLOCK_BYTES]
  return {
    seal(source, target, length, n0, n1, n2): number {
      instance.stage(source, length, n0, n1, n2)
      chacha20(zeros, zeros, length + BLOCK_BYTES, key, counter)
      polyInit(context, zeros)
      polyUpdate(context, staged, (length + 31) & ~15)
      polyFinal(context, tag)
      instance.sealed(target, length)
      return 1
    },
    open(source, target, length, n0, n1, n2): number {
      instance.stage(source, length, n0, n1, n2)
      chacha20(polyKey, zeros, length + BLOCK_BYTES, key, counter)
      polyInit(context, polyKey)
      polyUpdate(context, staged, (length + 31) & ~15)
      polyFinal(context, tag)
      return instance.opened(target, length)
    },
  }
}

/** The public functions of libcrypto, with one context that is kept: four calls a packet. */
function bindEvp(koffi: unknown, { instance }: WasmProvider): PacketCiphers {
  const cipher = Number(declare(koffi, 'EVP_chacha20_poly1305', 0, 'int64_t')())
  const contextNew = declare(koffi, 'EVP_CIPHER_CTX_new', 0, 'int64_t')
  const init = declare(koffi, 'EVP_CipherInit_ex', 6, 'int')
  const update = declare(koffi, 'EVP_CipherUpdate', 5, 'int')
  const final = declare(koffi, 'EVP_CipherFinal_ex', 3, 'int')
  const control = declare(koffi, 'EVP_CIPHER_CTX_ctrl', 4, 'int')
  const base = addressOf(koffi, instance.memory)
  const context = Number(contextNew())
  if (context === 0) throw new RangeError('OpenSSL makes no cipher context')
  const [key, nonce, outLength, tag] = [base + WASM_KEY, base + WASM_NONCE + 16 - NONCE_BYTES, base + CONTEXT, base + WASM_TAG]
  const [staged, opened, received] = [base + WASM_STAGED, base + WASM_OPENED, base + WASM_RECEIVED_TAG]
  return {
    seal(source, target, length, n0, n1, n2): number {
      instance.stage(source, length, n0, n1, n2)
      const isDone =
        init(context, cipher, 0, key, nonce, 1) === 1 &&
        update(context, staged, outLength, staged, length) === 1 &&
        final(context, opened, outLength) === 1 &&
        control(context, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, tag) === 1
      if (!isDone) throw new Error('OpenSSL refuses to seal')
      instance.sealed(target, length)
      return 1
    },
    open(source, target, length, n0, n1, n2): number {
      instance.stage(source, length, n0, n1, n2)
      const isAuthentic =
        init(context, cipher, 0, key, nonce, 0) === 1 &&
        control(context, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, received) === 1 &&
        update(context, opened, outLength, staged, length) === 1 &&
        final(context, tag, outLength) === 1
      if (isAuthentic) instance.memory.copyWithin(target, WASM_OPENED, WASM_OPENED + length)
      else instance.memory.fill(0, WASM_OPENED, WASM_OPENED + length)
      return isAuthentic ? 1 : 0
    },
  }
}

/** From which length on OpenSSL is faster, by the best of short bursts of each; `undefined` when it is not. Takes some milliseconds. */
function breakEven(native: PacketCiphers, { instance }: WasmProvider): number | undefined {
  const longest = PROBED_LENGTHS[PROBED_LENGTHS.length - 1] ?? 0
  const at = instance.allocate(longest + 2 * BLOCK_BYTES).byteOffset + BLOCK_BYTES
  const best = (ciphers: PacketCiphers, length: number): number => {
    let least = Infinity
    for (let round = 0; round < PROBE_ROUNDS; round += 1) {
      const begun = performance.now()
      for (let i = 0; i < PROBE_PACKETS; i += 1) ciphers.seal(at, at, length, 0, i, 0, 0)
      least = Math.min(least, performance.now() - begun)
    }
    return least
  }
  for (let warm = 0; warm < 20; warm += 1) for (const ciphers of [native, instance]) best(ciphers, longest)
  return PROBED_LENGTHS.find((length) => best(native, length) < best(instance, length))
}
