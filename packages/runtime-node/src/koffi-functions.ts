import { createRequire } from 'node:module'

/** A C function whose arguments are all numbers: addresses and lengths. */
export type NativeFunction = (...args: readonly number[]) => number

/** The optional package `koffi`; `undefined` where it is not installed. */
export function findKoffi(): unknown {
  try {
    // The name is not a literal, so that programs bundle without the optional package.
    const name: string = 'koffi'
    return createRequire(import.meta.url)(name)
  } catch {
    return undefined // optional
  }
}

/** Declares a function of the node executable. @throws when it does not export one of that name, or `koffi` is something else */
export function declare(koffi: unknown, name: string, parameters: number, returns: 'void' | 'int' | 'int64_t'): NativeFunction {
  const library = call(koffi, 'load', null)
  const declared = call(library, 'func', `${returns} ${name}(${Array.from({ length: parameters }, () => 'int64_t').join(', ')})`)
  if (!isNative(declared)) throw new TypeError(`koffi gives no function for ${name}`)
  return declared
}

/** Where memory that never moves begins. @throws when that is no usable number */
export function addressOf(koffi: unknown, memory: Uint8Array): number {
  const address = Number(call(koffi, 'address', memory))
  if (!Number.isSafeInteger(address) || address <= 0) throw new RangeError('the address of the WASM memory is not usable')
  return address
}

function call(holder: unknown, name: string, ...args: readonly unknown[]): unknown {
  if ((typeof holder !== 'object' && typeof holder !== 'function') || holder === null) throw new TypeError(`nothing to call ${name} on`)
  const method: unknown = Reflect.get(holder, name)
  if (typeof method !== 'function') throw new TypeError(`koffi has no ${name}`)
  return Reflect.apply(method, holder, args)
}

function isNative(value: unknown): value is NativeFunction {
  return typeof value === 'function'
}
