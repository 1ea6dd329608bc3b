/**
 * A small assembler for WebAssembly modules: what the cryptographic code of this folder is written in. Expressions carry their type, so
 * that the compiler of TypeScript refuses most wrong code; statements are pushed into the function under construction.
 *
 * Source of all numbers: WebAssembly Core Specification 2.0, section 5 (binary format).
 */

/** The types of values in use. */
export type ValueType = 'i32' | 'i64' | 'v128'

/** Bytes of code, nested as they were put together. */
export type Code = number | readonly Code[]

/** Code that leaves one value of type `T` on the stack. */
export interface Expr<T extends ValueType> {
  readonly type: T
  readonly code: Code
}

/** A local variable or parameter; as an expression it is its value. */
export interface Local<T extends ValueType> extends Expr<T> {
  readonly index: number
}

const TYPE_CODES: Readonly<Record<ValueType, number>> = { i32: 0x7f, i64: 0x7e, v128: 0x7b }
const SIMD = 0xfd
const MAGIC: Code = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0] // and version

/** Unsigned LEB128. */
export function unsigned(value: number): number[] {
  const bytes: number[] = []
  let rest = value
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80)
  bytes.push(rest)
  return bytes
}

/** Signed LEB128 of a 32-bit number. */
export function signed(value: number): number[] {
  const bytes: number[] = []
  let rest = value | 0
  for (;;) {
    const low = rest & 0x7f
    rest >>= 7
    if ((rest === 0 && low < 64) || (rest === -1 && low >= 64)) return [...bytes, low]
    bytes.push(low | 0x80)
  }
}

/** A constant. Numbers from 2^31 on stand for their bit pattern. */
export function i32(value: number): Expr<'i32'> {
  return { type: 'i32', code: [0x41, signed(value)] }
}

/** A constant of at most 31 bits. */
export function i64(value: number): Expr<'i64'> {
  return { type: 'i64', code: [0x42, signed(value)] }
}

/** A constant of four words. */
export function words(a: number, b: number, c: number, d: number): Expr<'v128'> {
  return { type: 'v128', code: [SIMD, 0x0c, [a, b, c, d].flatMap((word) => [word & 255, (word >>> 8) & 255, (word >>> 16) & 255, word >>> 24])] }
}

function binary<T extends ValueType>(type: T, code: Code): (a: Expr<T>, b: Expr<T>) => Expr<T> {
  return (a, b) => ({ type, code: [a.code, b.code, code] })
}

function compare(code: Code): (a: Expr<'i32'>, b: Expr<'i32'>) => Expr<'i32'> {
  return binary('i32', code)
}

/** Instructions on 32-bit integers. */
export const w32: Readonly<Record<'add' | 'sub' | 'mul' | 'divU' | 'and' | 'or' | 'xor' | 'shl' | 'shrS' | 'shrU' | 'rotr' | 'ltU' | 'gtU' | 'leU' | 'geU', (a: Expr<'i32'>, b: Expr<'i32'>) => Expr<'i32'>>> = {
  add: binary('i32', 0x6a),
  sub: binary('i32', 0x6b),
  mul: binary('i32', 0x6c),
  divU: binary('i32', 0x6e),
  and: binary('i32', 0x71),
  or: binary('i32', 0x72),
  xor: binary('i32', 0x73),
  shl: binary('i32', 0x74),
  shrS: binary('i32', 0x75),
  shrU: binary('i32', 0x76),
  rotr: binary('i32', 0x78),
  ltU: compare(0x49),
  gtU: compare(0x4b),
  leU: compare(0x4d),
  geU: compare(0x4f),
}

/** Instructions on 64-bit integers. */
export const w64: Readonly<Record<'add' | 'mul' | 'and' | 'shrU', (a: Expr<'i64'>, b: Expr<'i64'>) => Expr<'i64'>>> = {
  add: binary('i64', 0x7c),
  mul: binary('i64', 0x7e),
  and: binary('i64', 0x83),
  shrU: binary('i64', 0x88),
}

/** The unsigned 64-bit value of a 32-bit one. */
export function extend(value: Expr<'i32'>): Expr<'i64'> {
  return { type: 'i64', code: [value.code, 0xad] }
}

/** The lower half. */
export function wrap(value: Expr<'i64'>): Expr<'i32'> {
  return { type: 'i32', code: [value.code, 0xa7] }
}

/** 1 when zero, else 0. */
export function isZero(value: Expr<'i32'>): Expr<'i32'> {
  return { type: 'i32', code: [value.code, 0x45] }
}

function simd(opcode: number): (a: Expr<'v128'>, b: Expr<'v128'>) => Expr<'v128'> {
  return binary('v128', [SIMD, unsigned(opcode)])
}

/** Instructions on vectors of 128 bits; the name says which lanes: bits, `16` x 8, `32` x 4, `64` x 2. */
export const vec: Readonly<Record<'and' | 'or' | 'xor' | 'add16' | 'add32' | 'add64' | 'dot16' | 'mulLow32' | 'mulHigh32', (a: Expr<'v128'>, b: Expr<'v128'>) => Expr<'v128'>>> = {
  and: simd(0x4e),
  or: simd(0x50),
  xor: simd(0x51),
  add16: simd(0x8e),
  add32: simd(0xae),
  add64: simd(0xce),
  /** Products of signed 16-bit lanes, summed in pairs to 32-bit lanes. */
  dot16: simd(0xba),
  /** Unsigned products of the two lower 32-bit lanes. */
  mulLow32: simd(0xde),
  /** Unsigned products of the two upper 32-bit lanes. */
  mulHigh32: simd(0xdf),
}

function shift(opcode: number): (value: Expr<'v128'>, bits: number) => Expr<'v128'> {
  return (value, bits) => ({ type: 'v128', code: [value.code, i32(bits).code, SIMD, unsigned(opcode)] })
}

/** Shifts of all lanes by a constant. */
export const vecShift: Readonly<Record<'left32' | 'signed32' | 'right32' | 'left64' | 'right64', (value: Expr<'v128'>, bits: number) => Expr<'v128'>>> = {
  left32: shift(0xab),
  signed32: shift(0xac),
  right32: shift(0xad),
  left64: shift(0xcb),
  right64: shift(0xcd),
}

/** Bytes of `a` (0 to 15) and `b` (16 to 31) in a new order. */
export function shuffleBytes(a: Expr<'v128'>, b: Expr<'v128'>, ...bytes: readonly number[]): Expr<'v128'> {
  return { type: 'v128', code: [a.code, b.code, SIMD, 0x0d, bytes] }
}

/** Bytes of `a` in a new order, by a constant vector of indices: one instruction where a shuffle of bytes takes several. */
export function swizzleBytes(a: Expr<'v128'>, ...bytes: readonly number[]): Expr<'v128'> {
  return { type: 'v128', code: [a.code, SIMD, 0x0c, bytes, SIMD, 0x0e] }
}

/** 32-bit lanes of `a` (0 to 3) and `b` (4 to 7) in a new order. */
export function shuffleWords(a: Expr<'v128'>, b: Expr<'v128'>, ...lanes: readonly number[]): Expr<'v128'> {
  return shuffleBytes(a, b, ...lanes.flatMap((lane) => [0, 1, 2, 3].map((byte) => 4 * lane + byte)))
}

/** Bits of `a` where `mask` has ones, of `b` elsewhere. */
export function select(mask: Expr<'v128'>, a: Expr<'v128'>, b: Expr<'v128'>): Expr<'v128'> {
  return { type: 'v128', code: [a.code, b.code, mask.code, SIMD, 0x52] }
}

/** 1 when any bit is set. */
export function anyBit(value: Expr<'v128'>): Expr<'i32'> {
  return { type: 'i32', code: [value.code, SIMD, 0x53] }
}

/** Four lanes of one value. */
export function splat32(value: Expr<'i32'>): Expr<'v128'> {
  return { type: 'v128', code: [value.code, SIMD, 0x11] }
}

/** A vector with one 32-bit lane changed. */
export function withLane(vector: Expr<'v128'>, lane: number, value: Expr<'i32'>): Expr<'v128'> {
  return { type: 'v128', code: [vector.code, value.code, SIMD, 0x1c, lane] }
}

/** One 64-bit lane. */
export function lane64(vector: Expr<'v128'>, lane: number): Expr<'i64'> {
  return { type: 'i64', code: [vector.code, SIMD, 0x1d, lane] }
}

/** Four words of memory as a vector; unaligned addresses are fine. */
export function load128(address: Expr<'i32'>, offset: number = 0): Expr<'v128'> {
  return { type: 'v128', code: [address.code, SIMD, 0x00, 0, unsigned(offset)] }
}

/** A little-endian word of memory. */
export function load32(address: Expr<'i32'>, offset: number = 0): Expr<'i32'> {
  return { type: 'i32', code: [address.code, 0x28, 0, unsigned(offset)] }
}

/** A function under construction. */
export class Body {
  readonly #parameters: number
  readonly #locals: ValueType[] = []
  #code: Code[] = []

  constructor(parameters: number) {
    this.#parameters = parameters
  }

  /** A new local variable, zero at first. */
  local<T extends ValueType>(type: T): Local<T> {
    return localAt(type, this.#parameters + this.#locals.push(type) - 1)
  }

  /** A new local variable with a value. */
  let<T extends ValueType>(value: Expr<T>): Local<T> {
    const local = this.local(value.type)
    this.set(local, value)
    return local
  }

  set<T extends ValueType>(local: Local<T>, value: Expr<T>): void {
    this.#code.push(value.code, 0x21, unsigned(local.index))
  }

  store128(address: Expr<'i32'>, offset: number, value: Expr<'v128'>): void {
    this.#code.push(address.code, value.code, SIMD, 0x0b, 0, unsigned(offset))
  }

  store32(address: Expr<'i32'>, offset: number, value: Expr<'i32'>): void {
    this.#code.push(address.code, value.code, 0x36, 0, unsigned(offset))
  }

  /** Moves bytes; the ranges may overlap. */
  copyMemory(to: Expr<'i32'>, from: Expr<'i32'>, length: Expr<'i32'>): void {
    this.#code.push(to.code, from.code, length.code, 0xfc, 0x0a, 0, 0)
  }

  /** Sets bytes to one value. */
  fillMemory(at: Expr<'i32'>, value: Expr<'i32'>, length: Expr<'i32'>): void {
    this.#code.push(at.code, value.code, length.code, 0xfc, 0x0b, 0)
  }

  call(index: number, ...args: readonly Expr<ValueType>[]): void {
    this.#code.push(args.map((arg) => arg.code), 0x10, unsigned(index))
  }

  /** The value that a function gives; it is called where the value is used. */
  callFor(index: number, ...args: readonly Expr<ValueType>[]): Expr<'i32'> {
    return { type: 'i32', code: [args.map((arg) => arg.code), 0x10, unsigned(index)] }
  }

  if(condition: Expr<'i32'>, then: () => void): void {
    this.#code.push(condition.code, 0x04, 0x40, this.#nested(then), 0x0b)
  }

  while(condition: Expr<'i32'>, body: () => void): void {
    // block { loop { break unless condition; body; continue } }
    this.#code.push(0x02, 0x40, 0x03, 0x40, isZero(condition).code, 0x0d, 1, this.#nested(body), 0x0c, 0, 0x0b, 0x0b)
  }

  /** Leaves the function with a value. */
  return(value: Expr<'i32'>): void {
    this.#code.push(value.code, 0x0f)
  }

  /** The body as it stands in the code section. */
  finish(): number[] {
    const locals = this.#locals.map((type) => [1, TYPE_CODES[type]])
    const bytes = flatten([unsigned(locals.length), locals, this.#code, 0x0b])
    return [...unsigned(bytes.length), ...bytes]
  }

  #nested(build: () => void): Code {
    const outer = this.#code
    this.#code = []
    build()
    const inner = this.#code
    this.#code = outer
    return inner
  }
}

function localAt<T extends ValueType>(type: T, index: number): Local<T> {
  return { type, index, code: [0x20, unsigned(index)] }
}

/** A module under construction: functions over one memory of fixed size. */
export class ModuleBuilder {
  readonly #functions: { readonly name: string | undefined; readonly parameters: number; readonly returns: boolean; readonly body: number[] }[] = []

  /**
   * Adds a function of `parameters` 32-bit integers and gives its index for `call`.
   * @param name the name it is exported by; without one it is internal
   * @param returns whether it gives a 32-bit integer: then its body must end by `return`
   */
  func(name: string | undefined, parameters: number, returns: boolean, build: (f: Body, ...parameters: Local<'i32'>[]) => void): number {
    const f = new Body(parameters)
    build(f, ...Array.from({ length: parameters }, (_, i) => localAt('i32', i)))
    if (returns) f.return(i32(0))
    return this.#functions.push({ name, parameters, returns, body: f.finish() }) - 1
  }

  /** The module's bytes; its memory has `pages` of 64 KiB, exported as `memory`, with `data` at address 0. */
  finish(pages: number, data: readonly number[]): Uint8Array {
    const { types, functions, exports, code } = this.#parts()
    return Uint8Array.from(
      flatten([
        MAGIC,
        types,
        functions,
        section(5, [1, 1, unsigned(pages), unsigned(pages)]), // one memory, min = max
        section(7, [unsigned(exports.length + 1), text('memory'), 2, 0, exports]),
        code,
        section(11, [1, 0, i32(0).code, 0x0b, unsigned(data.length), data]),
      ]),
    )
  }

  /** The bytes of a module that works in the memory of another one: `pages` of 64 KiB, imported as `memory` of `shared`. */
  finishOn(pages: number): Uint8Array {
    const { types, functions, exports, code } = this.#parts()
    const memory = section(2, [1, text('shared'), text('memory'), 2, 1, unsigned(pages), unsigned(pages)])
    return Uint8Array.from(flatten([MAGIC, types, memory, functions, section(7, [unsigned(exports.length), exports]), code]))
  }

  #parts(): { readonly types: Code; readonly functions: Code; readonly exports: readonly Code[]; readonly code: Code } {
    const functions = this.#functions
    const types = functions.map(({ parameters, returns }) => [0x60, unsigned(parameters), Array.from({ length: parameters }, () => 0x7f), returns ? [1, 0x7f] : 0])
    return {
      types: section(1, [unsigned(types.length), types]),
      functions: section(3, [unsigned(functions.length), functions.map((_, index) => unsigned(index))]),
      exports: functions.flatMap(({ name }, index) => (name === undefined ? [] : [[text(name), 0, unsigned(index)]])),
      code: section(10, [unsigned(functions.length), functions.map(({ body }) => body)]),
    }
  }
}

function section(id: number, content: Code): Code {
  const bytes = flatten(content)
  return [id, unsigned(bytes.length), bytes]
}

function text(name: string): Code {
  return [unsigned(name.length), Array.from(name, (character) => character.charCodeAt(0))]
}

function flatten(code: Code, into: number[] = []): number[] {
  if (typeof code === 'number') into.push(code)
  else for (const part of code) flatten(part, into)
  return into
}
