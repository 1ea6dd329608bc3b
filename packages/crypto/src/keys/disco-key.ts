import { formatHex, parseHex, type RandomSource } from '@meshwright/core'
import { x25519 } from '@noble/curves/ed25519.js'
import { clampX25519, KEY_BYTES, PublicKeyBytes, SecretKeyBytes } from './key-bytes.ts'

const PUBLIC_PREFIX = 'discokey:'
const PRIVATE_PREFIX = 'privkey:'

/** The key of disco messages; new at every start of a node, public half. Text: `discokey:` and 64 hex digits (tailscale/tailscale:types/key). */
export class DiscoPublicKey extends PublicKeyBytes {
  readonly kind = 'disco-public' as const

  private constructor(bytes: Uint8Array) {
    super(PUBLIC_PREFIX, bytes)
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): DiscoPublicKey | undefined {
    return bytes.length === KEY_BYTES ? new DiscoPublicKey(bytes) : undefined
  }

  /** Reads the whole text form; `undefined` when it is not one. */
  static parse(text: string): DiscoPublicKey | undefined {
    const bytes = text.startsWith(PUBLIC_PREFIX) ? parseHex(text.slice(PUBLIC_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new DiscoPublicKey(bytes)
  }

  /** The all-zero key, which stands for "none". */
  static zero(): DiscoPublicKey {
    return new DiscoPublicKey(new Uint8Array(KEY_BYTES))
  }
}

/** The key of disco messages; new at every start of a node, private half: an X25519 key. Its text form is written to state files only. */
export class DiscoPrivateKey extends SecretKeyBytes {
  readonly kind = 'disco-private' as const
  #public: DiscoPublicKey | undefined

  private constructor(bytes: Uint8Array) {
    super('disco private key', bytes)
  }

  /** A new key of 32 random bytes, clamped. */
  static generate(random: RandomSource): DiscoPrivateKey {
    return new DiscoPrivateKey(clampX25519(random(KEY_BYTES)))
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): DiscoPrivateKey | undefined {
    return bytes.length === KEY_BYTES ? new DiscoPrivateKey(bytes) : undefined
  }

  /** Reads what {@link DiscoPrivateKey.formatSecret} wrote; `undefined` when it is not that. */
  static parse(text: string): DiscoPrivateKey | undefined {
    const bytes = text.startsWith(PRIVATE_PREFIX) ? parseHex(text.slice(PRIVATE_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new DiscoPrivateKey(bytes)
  }

  /** The secret as text, for a state file with mode 0600 and nothing else. */
  formatSecret(): string {
    return PRIVATE_PREFIX + formatHex(this.secretBytes)
  }

  /** The public half; computed once. */
  publicKey(): DiscoPublicKey {
    this.#public ??= DiscoPublicKey.fromBytes(x25519.getPublicKey(this.secretBytes))
    if (this.#public === undefined) throw new TypeError('X25519 gave a public key of the wrong length')
    return this.#public
  }
}
