// Loaded into a program before its own code (`--import`), in all its threads: writes down every key that it works with. One line for each: kind and hex.
// It stands at every border that keys cross: node:crypto (with which MESHWRIGHT_CRYPTO=node does all of its work), the memory of our WebAssembly module,
// and the functions of OpenSSL that are called through koffi. Kinds: private keys, `chain` (keys of HMAC: handshakes) and `session` (keys of packets).
// A file that KEY_RECORDER_PLANT names makes the next packet of a worker thread fail with its key in the message: whoever searches must find that.
import crypto from 'node:crypto'
import { appendFileSync, existsSync, unlinkSync } from 'node:fs'
import Module, { syncBuiltinESMExports } from 'node:module'
import { isMainThread } from 'node:worker_threads'

const file = process.env['KEY_RECORDER_FILE']
const planted = process.env['KEY_RECORDER_PLANT']
const seen = new Set()
const KEY_BYTES = 32

function note(kind, bytes) {
  if (file === undefined || bytes.length < 16 || bytes.every((byte) => byte === 0)) return
  const line = `${kind} ${Buffer.from(bytes).toString('hex')}\n`
  if (seen.has(line) || seen.size > 100_000) return
  seen.add(line)
  appendFileSync(file, line)
}

// node:crypto.
for (const name of ['createCipheriv', 'createDecipheriv']) {
  const made = crypto[name]
  crypto[name] = (cipher, key, ...rest) => {
    if (cipher === 'chacha20-poly1305') note('session', key)
    return made(cipher, key, ...rest)
  }
}
const { createHmac, createPrivateKey } = crypto
crypto.createHmac = (hash, key, ...rest) => {
  if (hash === 'blake2s256' && key instanceof Uint8Array) note('chain', key)
  return createHmac(hash, key, ...rest)
}
crypto.createPrivateKey = (wanted) => {
  // PKCS #8 of X25519 ends in the 32 bytes of the key (RFC 8410).
  if (wanted?.format === 'der' && wanted.key instanceof Uint8Array) note('private', wanted.key.subarray(-KEY_BYTES))
  return createPrivateKey(wanted)
}
syncBuiltinESMExports()

// Our WebAssembly module: where its keys stand, as packages/crypto/src/wasm/layout.ts says.
const [KEY, INPUT, BLOCK_BYTES, INNER_PAD] = [32, 512, 64, 0x36]
const memories = []

/** The key that a packet is sealed or opened with; the same one again and again costs a comparison. */
function watchKey(memory) {
  const words = new Int32Array(memory.buffer, KEY, KEY_BYTES / 4)
  const last = new Int32Array(KEY_BYTES / 4)
  return () => {
    if (!words.every((word, i) => word === last[i])) {
      last.set(words)
      note('session', new Uint8Array(memory.buffer, KEY, KEY_BYTES))
    }
    if (isMainThread || planted === undefined || !existsSync(planted)) return
    unlinkSync(planted)
    throw new Error(`a fault that says more than it should: ${Buffer.from(memory.buffer, KEY, KEY_BYTES).toString('hex')}`)
  }
}

const RealInstance = WebAssembly.Instance
WebAssembly.Instance = class {
  constructor(module, imports) {
    const real = new RealInstance(module, imports)
    const { memory, blake2s } = real.exports
    if (!(memory instanceof WebAssembly.Memory) || blake2s === undefined) return real
    memories.push(new Uint8Array(memory.buffer))
    const look = watchKey(memory)
    const exports = { ...real.exports }
    for (const name of ['seal', 'open', 'sealMany', 'openMany']) {
      exports[name] = (...args) => {
        look()
        return real.exports[name](...args)
      }
    }
    exports.blake2s = (parameters, length) => {
      // The inner hash of HMAC begins with a block that is the key, filled up with zeros, and each byte changed by 0x36 (RFC 2104).
      const block = Uint8Array.from(new Uint8Array(memory.buffer, INPUT, BLOCK_BYTES), (byte) => byte ^ INNER_PAD)
      if (length >= BLOCK_BYTES && block.subarray(KEY_BYTES).every((byte) => byte === 0)) note('chain', block.subarray(0, KEY_BYTES))
      return blake2s(parameters, length)
    }
    memories.at(-1).look = look
    return { exports }
  }
}

// Functions of OpenSSL: which argument is the address of a key. All of it stands in the memory of the module.
const NATIVE = { ossl_x25519: ['private', 1], ossl_x25519_public_from_private: ['private', 1], ChaCha20_ctr32: ['session', 3], EVP_CipherInit_ex: ['session', 3] }

function watchNative(koffi, declaration, native) {
  const [kind, argument] = NATIVE[/(\w+)\(/.exec(declaration)?.[1]] ?? []
  if (kind === undefined) return native
  const bases = new Map()
  return (...args) => {
    for (const memory of memories) {
      if (!bases.has(memory)) bases.set(memory, Number(koffi.address(memory)))
      const at = args[argument] - bases.get(memory)
      if (!(at >= 0 && at + KEY_BYTES <= memory.length)) continue
      if (kind === 'session') memory.look() // in its place, and quick
      else note(kind, memory.subarray(at, at + KEY_BYTES))
    }
    return native(...args)
  }
}

const through = (target, change) => new Proxy(target, {
  get(_target, name) {
    const value = Reflect.get(target, name)
    return typeof value === 'function' ? change(name, (...args) => Reflect.apply(value, target, args), value) : value
  },
})
let watched
const { _load } = Module
Module._load = (request, ...rest) => {
  const loaded = _load(request, ...rest)
  if (request !== 'koffi') return loaded
  watched ??= through(loaded, (name, call, value) => {
    if (name !== 'load') return value
    return (...args) => through(call(...args), (method, inner) => (method === 'func' ? (...words) => watchNative(loaded, words.join(' '), inner(...words)) : inner))
  })
  return watched
}
