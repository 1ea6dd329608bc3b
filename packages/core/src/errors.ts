const marker: unique symbol = Symbol.for('@meshwright/error') as never

/**
 * Misuse by the caller, or a local file or setting that cannot be used: thrown, with a stable `code` to tell it apart by. Hostile bytes
 * are never an error but a drop, and failures of the outside world are output events. The message names the thing and the remedy and
 * never holds a secret.
 */
export class MeshwrightError<Code extends string = string> extends Error {
  readonly code: Code
  /** What to do about it, where that is known: one sentence, shown behind the message. */
  readonly remedy: string | undefined

  constructor(code: Code, message: string, options: { cause?: unknown; remedy?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'MeshwrightError'
    this.code = code
    this.remedy = options.remedy
    Object.defineProperty(this, marker, { value: true, enumerable: false })
  }
}

/** True for a {@link MeshwrightError} of any installed version of this package, and of the given code when one is named. */
export function isMeshwrightError<Code extends string>(error: unknown, code?: Code): error is MeshwrightError<Code> {
  if (typeof error !== 'object' || error === null || !(marker in error)) return false
  return code === undefined || ('code' in error && error.code === code)
}

/** Ends a `switch` over a union: the compiler proves that no member is left. */
export function assertNever(value: never): never {
  throw new MeshwrightError('CORE_UNREACHABLE', `unexpected value of type ${typeof value}`)
}
