import { formatBase64, formatHex, MeshwrightError } from '@meshwright/core'
import { constantTimeEqual, isAllZero } from '../constant-time.ts'

/** Codes of the errors that `@meshwright/crypto` throws on misuse. */
export type CryptoErrorCode = 'CRYPTO_KEY_LENGTH' | 'CRYPTO_KEY_DESTROYED'

/** Misuse of a key: wrong length, or use after `destroy`. */
export class CryptoError extends MeshwrightError<CryptoErrorCode> {}

/** Length of every Curve25519 key and symmetric key here, in bytes. */
export const KEY_BYTES = 32

/** What all public keys share: 32 bytes, a full text form, a short one for people. Immutable. */
export abstract class PublicKeyBytes {
  /** Which kind of key it is: keeps the kinds apart for the compiler. */
  abstract readonly kind: string
  readonly #bytes: Uint8Array
  readonly #prefix: string
  #text: string | undefined

  protected constructor(prefix: string, bytes: Uint8Array) {
    if (bytes.length !== KEY_BYTES) throw new CryptoError('CRYPTO_KEY_LENGTH', `a ${prefix} key has ${KEY_BYTES} bytes, not ${bytes.length}`)
    this.#prefix = prefix
    this.#bytes = Uint8Array.from(bytes)
  }

  /** The 32 bytes, as a view: do not change them. */
  get bytes(): Uint8Array {
    return this.#bytes
  }

  /** The whole text form, prefix and lower-case hex: also the right key for a `Map`. */
  get text(): string {
    this.#text ??= this.format()
    return this.#text
  }

  /** The whole text form, as the protocols write it. */
  format(): string {
    return this.#prefix + formatHex(this.#bytes)
  }

  /** The short form of logs: `[` and five characters of base64 and `]` (tailscale/tailscale:types/key/node.go). */
  get short(): string {
    return `[${formatBase64(this.#bytes).slice(0, 5)}]`
  }

  /** True for the all-zero key, which stands for "none" on the control wire. */
  get isZero(): boolean {
    return isAllZero(this.#bytes)
  }

  /** Same kind and same bytes, in constant time. */
  equals(other: this): boolean {
    return this.kind === other.kind && constantTimeEqual(this.#bytes, other.bytes)
  }

  toString(): string {
    return `${this.#prefix}${this.short}`
  }

  toJSON(): string {
    return this.toString()
  }

  static {
    showOnInspection(this.prototype)
  }
}

/** What all secret keys share: 32 bytes that no text form, JSON or inspection shows. */
export abstract class SecretKeyBytes {
  abstract readonly kind: string
  readonly #bytes: Uint8Array
  #destroyed = false

  protected constructor(name: string, bytes: Uint8Array) {
    if (bytes.length !== KEY_BYTES) throw new CryptoError('CRYPTO_KEY_LENGTH', `a ${name} has ${KEY_BYTES} bytes, not ${bytes.length}`)
    this.#bytes = Uint8Array.from(bytes)
  }

  /**
   * The secret itself, as a view: never log it, copy it or turn it into a string, except to store it.
   * @throws CRYPTO_KEY_DESTROYED after `destroy`
   */
  get secretBytes(): Uint8Array {
    if (this.#destroyed) throw new CryptoError('CRYPTO_KEY_DESTROYED', `this ${this.kind} key has been destroyed`)
    return this.#bytes
  }

  /** Same kind and same bytes, in constant time. */
  equals(other: this): boolean {
    return this.kind === other.kind && constantTimeEqual(this.secretBytes, other.secretBytes)
  }

  /** Overwrites the secret. Best effort: the engine may hold copies that cannot be reached. */
  destroy(): void {
    this.#bytes.fill(0)
    this.#destroyed = true
  }

  toString(): string {
    return `${this.kind}:[secret]`
  }

  toJSON(): string {
    return this.toString()
  }

  static {
    showOnInspection(this.prototype)
  }
}

/** Sets the bits that X25519 private keys have on creation (RFC 7748 section 5), in place. */
export function clampX25519(bytes: Uint8Array): Uint8Array {
  bytes[0] = (bytes[0] ?? 0) & 248
  bytes[31] = ((bytes[31] ?? 0) & 127) | 64
  return bytes
}

// Node's `util.inspect` and `console.log` ask for this symbol; without it they would print the class's public fields.
function showOnInspection(prototype: object): void {
  Object.defineProperty(prototype, Symbol.for('nodejs.util.inspect.custom'), {
    value(this: object): string {
      return String(this)
    },
  })
}
