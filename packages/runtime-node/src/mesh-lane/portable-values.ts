import { MeshwrightError } from '@meshwright/core'
import { DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { Ip, IpSet } from '@meshwright/ip'

declare const original: unique symbol

/** A value in a form that may be posted to another thread: what `structuredClone` copies, with our classes written as tagged bytes. */
export interface Portable<T> {
  readonly [original]: T
}

const TAG = '#class'
const OBJECT = 'object'

// Each kind: what it is called in a message, how to know it, its plain form, and the way back.
interface Kind {
  readonly name: string
  readonly write: (value: object) => unknown
  readonly read: (plain: unknown) => unknown
}

const bytesOf = (plain: unknown): Uint8Array => (plain instanceof Uint8Array ? plain : new Uint8Array(0))

/** Copies: a posted view would carry the whole memory that it looks into. */
const copy = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes)

const KINDS: ReadonlyMap<unknown, Kind> = new Map<unknown, Kind>([
  [Ip, { name: 'ip', write: (value) => (value instanceof Ip ? copy(value.bytes) : undefined), read: (plain) => Ip.fromBytes(bytesOf(plain)) }],
  [NodePublicKey, { name: 'node', write: (value) => (value instanceof NodePublicKey ? copy(value.bytes) : undefined), read: (plain) => NodePublicKey.fromBytes(bytesOf(plain)) }],
  [DiscoPublicKey, { name: 'disco', write: (value) => (value instanceof DiscoPublicKey ? copy(value.bytes) : undefined), read: (plain) => DiscoPublicKey.fromBytes(bytesOf(plain)) }],
  [NodePrivateKey, { name: 'node secret', write: (value) => (value instanceof NodePrivateKey ? copy(value.secretBytes) : undefined), read: (plain) => secret(bytesOf(plain), NodePrivateKey) }],
  [DiscoPrivateKey, { name: 'disco secret', write: (value) => (value instanceof DiscoPrivateKey ? copy(value.secretBytes) : undefined), read: (plain) => secret(bytesOf(plain), DiscoPrivateKey) }],
  [
    IpSet,
    {
      name: 'ips',
      write: (value) => (value instanceof IpSet ? value.ranges().map(({ first, last }) => [copy(first.bytes), copy(last.bytes)]) : undefined),
      read: (plain) => IpSet.from((Array.isArray(plain) ? plain : []).map((range: unknown) => rangeOf(range))),
    },
  ],
])

const BY_NAME: ReadonlyMap<string, Kind> = new Map([...KINDS.values()].map((kind) => [kind.name, kind]))

// The bytes that came in the message are of no use any more.
function secret<Key>(bytes: Uint8Array, of: { fromBytes(bytes: Uint8Array): Key | undefined }): Key | undefined {
  const key = of.fromBytes(bytes)
  bytes.fill(0)
  return key
}

function rangeOf(plain: unknown): { readonly first: Ip; readonly last: Ip } {
  const [first, last] = (Array.isArray(plain) ? plain : []).map((bytes: unknown) => Ip.fromBytes(bytesOf(bytes)))
  if (first === undefined || last === undefined) throw broken('ips')
  return { first, last }
}

/**
 * Writes a value for another thread: plain objects, arrays, maps and sets of plain values, bytes, addresses, sets of addresses, and node and disco keys.
 * Secret keys are copied with it: post it, and keep it nowhere.
 * @throws MeshwrightError `PORTABLE_CLASS` for an object of any other class: a value that would arrive as something else is a mistake
 * @param given takes the memory of bytes that have one to themselves: they are not copied, and are no more once the message is posted with it
 */
export function toPortable<T>(value: T, given?: ArrayBuffer[]): Portable<T> {
  return write(value, given) as Portable<T> // the phantom of the interface has no value
}

/** Reads what {@link toPortable} wrote. @throws MeshwrightError `PORTABLE_BROKEN` when it did not */
export function fromPortable<T>(value: Portable<T>): T {
  return read(value) as T // written by toPortable, which knows T
}

function write(value: unknown, given: ArrayBuffer[] | undefined): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((each) => write(each, given))
  if (value instanceof Uint8Array) return give(value, given) ?? copy(value)
  if (value instanceof Map) return new Map([...value].map(([key, each]) => [write(key, given), write(each, given)]))
  if (value instanceof Set) return new Set([...value].map((each) => write(each, given)))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype === Object.prototype || prototype === null) {
    const plain = Object.fromEntries(Object.entries(value).map(([key, each]) => [key, write(each, given)]))
    // Values that others sent may have such a field themselves.
    return TAG in value ? { [TAG]: OBJECT, plain: Object.entries(plain) } : plain
  }
  const kind = KINDS.get(value.constructor)
  if (kind === undefined) throw new MeshwrightError('PORTABLE_CLASS', `a ${value.constructor.name} cannot be posted to another thread`)
  return { [TAG]: kind.name, plain: kind.write(value) }
}

function give(bytes: Uint8Array, given: ArrayBuffer[] | undefined): Uint8Array | undefined {
  const { buffer } = bytes
  if (given === undefined || !(buffer instanceof ArrayBuffer) || buffer.byteLength !== bytes.length || given.includes(buffer)) return undefined
  given.push(buffer)
  return bytes
}

function read(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value
  if (Array.isArray(value)) return value.map(read)
  if (value instanceof Map) return new Map([...value].map(([key, each]) => [read(key), read(each)]))
  if (value instanceof Set) return new Set([...value].map(read))
  if (!(TAG in value)) return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, read(each)]))
  const name = String(value[TAG])
  const plain = 'plain' in value ? value.plain : undefined
  if (name === OBJECT && Array.isArray(plain)) return Object.fromEntries(plain.map((entry: unknown) => (Array.isArray(entry) ? [String(entry[0]), read(entry[1])] : ['', undefined])))
  const found = BY_NAME.get(name)?.read(plain)
  if (found === undefined) throw broken(name)
  return found
}

function broken(name: string): MeshwrightError {
  return new MeshwrightError('PORTABLE_BROKEN', `a posted value is no ${name}`)
}
