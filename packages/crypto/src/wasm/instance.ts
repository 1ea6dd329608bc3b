import { MeshwrightError } from '@meshwright/core'
import { ENTRY_BYTES, INPUT, KEY, OPENED, SLACK_BYTES, STAGED, STAGING, TABLE, USER } from './layout.ts'

/** Codes of what the WASM provider throws. */
export type WasmCryptoErrorCode = 'CRYPTO_WASM_INSTANCE' | 'CRYPTO_WASM_SELF_TEST' | 'CRYPTO_WASM_MEMORY'

/** Something is wrong with the instance that the caller made. */
export class WasmCryptoError extends MeshwrightError<WasmCryptoErrorCode> {}

/** Exports of an instance of the module, as `WebAssembly.Instance` gives them. */
export type WasmExports = Readonly<Record<string, unknown>>

/**
 * Seals or opens one packet in the instance's memory with the key that is loaded: see `wasmModuleBytes`. Gives 1 when a packet was
 * opened.
 */
export type PacketCipher = (source: number, target: number, length: number, n0: number, n1: number, n2: number, additional: number) => number

/** Both ways of a cipher. */
export interface PacketCiphers {
  readonly seal: PacketCipher
  readonly open: PacketCipher
}

/** Ciphers of native code on the instance's memory, for packets of `fromBytes` and more. They are not asked about additional data. */
export interface NativeCiphers extends PacketCiphers {
  readonly fromBytes: number
}

/** The module's functions and its memory, with types. */
export class WasmInstance implements PacketCiphers {
  readonly seal: PacketCipher
  readonly open: PacketCipher
  /** Packets of the table, `count` of them. */
  readonly sealMany: (count: number) => number
  readonly openMany: (count: number) => number
  readonly blake2s: (parameters: number, length: number) => number
  /** All of the module's memory. */
  readonly memory: Uint8Array
  /** The memory as an object of the language, to be imported by other modules (`ModuleBuilder.finishOn`). */
  readonly sharedMemory: object
  /** Where the last packet may end: rows are read whole, up to 15 bytes further. */
  readonly end: number
  /** The same as words, little-endian as the module is on every machine that Node runs on. */
  readonly words: Int32Array
  /** For native code on the same memory: see `wasmModuleBytes`. */
  readonly stage: (source: number, length: number, n0: number, n1: number, n2: number) => number
  readonly sealed: (target: number, length: number) => number
  readonly opened: (target: number, length: number) => number
  #used: number = USER
  #loaded: WasmKey | undefined

  /** @throws CRYPTO_WASM_INSTANCE for anything but the exports of this package's module */
  constructor(exports: WasmExports) {
    const { seal, open, sealMany, openMany, blake2s, stage, sealed, opened, memory } = exports
    const areFunctions = isFunction(seal) && isFunction(open) && isFunction(sealMany) && isFunction(openMany) && isFunction(blake2s) && isFunction(stage) && isFunction(sealed) && isFunction(opened)
    if (!areFunctions || !isMemory(memory) || memory.buffer.byteLength < USER + SLACK_BYTES) {
      throw new WasmCryptoError('CRYPTO_WASM_INSTANCE', 'these are not the exports of an instance made from wasmModuleBytes()')
    }
    this.seal = seal
    this.open = open
    this.sealMany = sealMany
    this.openMany = openMany
    this.blake2s = blake2s
    this.memory = new Uint8Array(memory.buffer)
    this.sharedMemory = memory
    this.end = this.memory.length - SLACK_BYTES
    this.words = new Int32Array(memory.buffer)
    this.stage = stage
    this.sealed = sealed
    this.opened = opened
  }

  /** The next `bytes` of the callers' memory, for good. @throws CRYPTO_WASM_MEMORY when there is not enough left */
  allocate(bytes: number): Uint8Array {
    if (this.#used + bytes > this.end) {
      throw new WasmCryptoError('CRYPTO_WASM_MEMORY', `${bytes} bytes are wanted and ${this.end - this.#used} are left; give wasmModuleBytes() more memory`)
    }
    const memory = this.memory.subarray(this.#used, this.#used + bytes)
    this.#used = Math.ceil((this.#used + bytes) / 64) * 64
    return memory
  }

  /** Puts a key where `seal` and `open` take it from; free of charge when it is there already. */
  load(key: WasmKey): void {
    if (this.#loaded === key) return
    this.#loaded = key
    for (let i = 0; i < 8; i += 1) this.words[KEY / 4 + i] = key.words[i] ?? 0
  }

  /** Writes a packet into the table of `sealMany` and `openMany`, 0 to `TABLE_ENTRIES - 1`. */
  list(entry: number, source: number, target: number, length: number, low: number, high: number): void {
    const { words } = this
    const at = TABLE / 4 + entry * (ENTRY_BYTES / 4)
    words[at] = source
    words[at + 1] = target
    words[at + 2] = length
    words[at + 6] = low
    words[at + 7] = high
  }

  /** Whether `openMany` has opened the packet of an entry. */
  wasOpened(entry: number): boolean {
    return this.words[TABLE / 4 + entry * (ENTRY_BYTES / 4) + 3] === 1
  }

  /** Forgets a key and the key stream of the last packet, if it was that key's. */
  unload(key: WasmKey): void {
    if (this.#loaded !== key) return
    this.#loaded = undefined
    this.memory.fill(0, KEY, INPUT)
    this.memory.fill(0, STAGING, STAGED)
    this.memory.fill(0, OPENED - (STAGED - STAGING), OPENED)
  }
}

/** A ChaCha20 key as eight words. */
export class WasmKey {
  readonly words: Int32Array

  /** @param bytes 32 bytes, copied */
  constructor(bytes: Uint8Array) {
    this.words = new Int32Array(8)
    new Uint8Array(this.words.buffer).set(bytes.subarray(0, 32))
  }
}

function isFunction(value: unknown): value is (...args: readonly number[]) => number {
  return typeof value === 'function'
}

function isMemory(value: unknown): value is { readonly buffer: ArrayBuffer } {
  return typeof value === 'object' && value !== null && 'buffer' in value && value.buffer instanceof ArrayBuffer
}
