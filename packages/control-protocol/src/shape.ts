import { parseBase64 } from '@meshwright/core'
import { isRecord, parseJson, type WireInteger, withinDepth } from './json.ts'
import { parseTime } from './time.ts'

/** What a decoder gives: the value, or where in the document it is wrong and how. The problem never quotes the document. */
export type Decoded<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly path: string; readonly problem: string }

/** Decodes a JSON value (as {@link parseJson} gives it): unknown members are ignored, absent ones stay absent or become zero. */
export type JsonDecoder<T> = (value: unknown) => Decoded<T>

/** Decodes the JSON document in `bytes`. */
export function decodeDocument<T>(decode: JsonDecoder<T>, bytes: Uint8Array | string): Decoded<T> {
  const value = parseJson(bytes)
  return value === undefined ? { ok: false, path: '', problem: 'not a JSON document, or one that is too large' } : decode(value)
}

/** Makes a decoder of a shape. */
export function decoder<T>(shape: Shape<T>): JsonDecoder<T> {
  return (value) => {
    const fault = new Fault()
    const result = value === undefined || value === null ? fault.fail('expected a value') : shape(value, fault)
    if (fault.problem !== undefined) return { ok: false, path: fault.path, problem: fault.problem }
    return result === undefined ? { ok: false, path: '', problem: 'expected a value' } : { ok: true, value: result }
  }
}

/** Reads one JSON value that is neither absent nor null; `undefined` after it has told the fault. */
export type Shape<T> = (value: unknown, fault: Fault) => T | undefined

/** A member that is always there after decoding: zero when the document leaves it out or says null. */
export interface Zeroed<T> {
  readonly shape: Shape<T>
  readonly zero: T
}

/** How each member of an object is read: optional members by a shape, others by a shape and a zero. */
export type Members<T> = {
  readonly [K in keyof T]-?: Record<never, never> extends Pick<T, K> ? Shape<Exclude<T[K], undefined>> : Zeroed<T[K]>
}

/** The first thing found wrong, and the path to it, built while the readers return. */
export class Fault {
  problem: string | undefined
  #steps: string[] = []

  /** Notes a problem, unless there is one already. */
  fail(problem: string): undefined {
    this.problem ??= problem
    return undefined
  }

  /** Notes the step that led to the problem. */
  under(step: string | number): undefined {
    this.#steps.push(typeof step === 'number' ? `[${step}]` : `.${/^[A-Za-z_][A-Za-z0-9_]*$/.test(step) ? step : JSON.stringify(step.slice(0, 80))}`)
    return undefined
  }

  /** `Peers[3].Key`; empty for the document itself. */
  get path(): string {
    return this.#steps.toReversed().join('').replace(/^\./, '')
  }
}

/** A member that is always there: `zero` when the document leaves it out. */
export function required<T>(shape: Shape<T>, zero: T): Zeroed<T> {
  return { shape, zero }
}

/** An object with the named members; all others are ignored. */
export function object<T extends object>(members: Members<T>): Shape<T> {
  const fields: [string, Shape<unknown> | Zeroed<unknown>][] = Object.entries(members)
  return (value, fault) => {
    if (!isRecord(value)) return fault.fail('expected an object')
    const result: Record<string, unknown> = {}
    for (const [name, field] of fields) {
      const given = Object.hasOwn(value, name) ? value[name] : undefined
      const shape = typeof field === 'function' ? field : field.shape
      const item = given === undefined || given === null ? undefined : shape(given, fault)
      if (fault.problem !== undefined) return fault.under(name)
      if (item !== undefined) result[name] = item
      else if (typeof field !== 'function') result[name] = field.zero
    }
    // Sound because `Members<T>` names every member of T with a shape of its type; the compiler cannot follow that through the loop.
    return result as T
  }
}

/** Elements that are null are dropped. */
export function list<T>(shape: Shape<T>): Shape<readonly T[]> {
  return (value, fault) => {
    if (!Array.isArray(value)) return fault.fail('expected an array')
    const items: T[] = []
    for (let i = 0; i < value.length; i += 1) {
      const given: unknown = value[i]
      const item = given === null || given === undefined ? undefined : shape(given, fault)
      if (fault.problem !== undefined) return fault.under(i)
      if (item !== undefined) items.push(item)
    }
    return items
  }
}

/** An object with free member names; `whenNull` stands for members that are null, which are dropped when it is not given. */
export function record<T>(shape: Shape<T>, whenNull?: T): Shape<Readonly<Record<string, T>>> {
  return (value, fault) => {
    if (!isRecord(value)) return fault.fail('expected an object')
    const entries: [string, T][] = []
    for (const [name, given] of Object.entries(value)) {
      const item = given === null || given === undefined ? whenNull : shape(given, fault)
      if (fault.problem !== undefined) return fault.under(name)
      if (item !== undefined) entries.push([name, item])
    }
    return Object.fromEntries(entries) // defines own members, also one called __proto__
  }
}

/** A string. */
export const text: Shape<string> = (value, fault) => (typeof value === 'string' ? value : fault.fail('expected a string'))

/** True or false. */
export const flag: Shape<boolean> = (value, fault) => (typeof value === 'boolean' ? value : fault.fail('expected true or false'))

/** An integer that a double holds exactly. */
export const integer: Shape<number> = (value, fault) =>
  typeof value === 'number' && Number.isSafeInteger(value) ? value : fault.fail('expected an integer below 2^53')

/** Any number. */
export const float: Shape<number> = (value, fault) =>
  typeof value === 'number' ? value : typeof value === 'bigint' ? Number(value) : fault.fail('expected a number')

const INT64_END = 1n << 63n

/** A signed 64-bit integer: a `number` where that is exact, else a `bigint`. */
export const bigInteger: Shape<WireInteger> = (value, fault) => {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value
  if (typeof value === 'bigint' && value < INT64_END && value >= -INT64_END) return value
  return fault.fail('expected an integer of 64 bits')
}

/** RFC 3339, kept as text. */
export const time: Shape<string> = (value, fault) =>
  typeof value === 'string' && parseTime(value) !== undefined ? value : fault.fail('expected a time as in RFC 3339')

/** Padded standard base64, kept as text. */
export const base64: Shape<string> = (value, fault) =>
  typeof value === 'string' && parseBase64(value) !== undefined ? value : fault.fail('expected padded base64')

/** Any JSON, passed through unread, of bounded depth. */
export const raw: Shape<unknown> = (value, fault) => (withinDepth(value, 32) ? value : fault.fail('nested too deep'))

/** A key text of a prefix and hexadecimal digits; given in lower case. */
export function keyText(prefix: string, digits: number): Shape<string> {
  const pattern = new RegExp(`^${prefix}[0-9a-fA-F]{${digits}}$`)
  return (value, fault) => (typeof value === 'string' && pattern.test(value) ? value.toLowerCase() : fault.fail(`expected ${prefix} and ${digits} hex digits`))
}
