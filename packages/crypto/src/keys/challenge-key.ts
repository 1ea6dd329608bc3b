import { formatHex, parseHex, type RandomSource } from '@meshwright/core'
import { x25519 } from '@noble/curves/ed25519.js'
import { clampX25519, KEY_BYTES, PublicKeyBytes, SecretKeyBytes } from './key-bytes.ts'

const PUBLIC_PREFIX = 'chalpub:'
const PRIVATE_PREFIX = 'privkey:'

/** A control server's per-connection challenge key, public half. Text: `chalpub:` and 64 hex digits (tailscale/tailscale:types/key). */
export class ChallengePublicKey extends PublicKeyBytes {
  readonly kind = 'challenge-public' as const

  private constructor(bytes: Uint8Array) {
    super(PUBLIC_PREFIX, bytes)
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): ChallengePublicKey | undefined {
    return bytes.length === KEY_BYTES ? new ChallengePublicKey(bytes) : undefined
  }

  /** Reads the whole text form; `undefined` when it is not one. */
  static parse(text: string): ChallengePublicKey | undefined {
    const bytes = text.startsWith(PUBLIC_PREFIX) ? parseHex(text.slice(PUBLIC_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new ChallengePublicKey(bytes)
  }

  /** The all-zero key, which stands for "none". */
  static zero(): ChallengePublicKey {
    return new ChallengePublicKey(new Uint8Array(KEY_BYTES))
  }
}

/** A control server's per-connection challenge key, private half: an X25519 key. Its text form is written to state files only. */
export class ChallengePrivateKey extends SecretKeyBytes {
  readonly kind = 'challenge-private' as const
  #public: ChallengePublicKey | undefined

  private constructor(bytes: Uint8Array) {
    super('challenge private key', bytes)
  }

  /** A new key of 32 random bytes, clamped. */
  static generate(random: RandomSource): ChallengePrivateKey {
    return new ChallengePrivateKey(clampX25519(random(KEY_BYTES)))
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): ChallengePrivateKey | undefined {
    return bytes.length === KEY_BYTES ? new ChallengePrivateKey(bytes) : undefined
  }

  /** Reads what {@link ChallengePrivateKey.formatSecret} wrote; `undefined` when it is not that. */
  static parse(text: string): ChallengePrivateKey | undefined {
    const bytes = text.startsWith(PRIVATE_PREFIX) ? parseHex(text.slice(PRIVATE_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new ChallengePrivateKey(bytes)
  }

  /** The secret as text, for a state file with mode 0600 and nothing else. */
  formatSecret(): string {
    return PRIVATE_PREFIX + formatHex(this.secretBytes)
  }

  /** The public half; computed once. */
  publicKey(): ChallengePublicKey {
    this.#public ??= ChallengePublicKey.fromBytes(x25519.getPublicKey(this.secretBytes))
    if (this.#public === undefined) throw new TypeError('X25519 gave a public key of the wrong length')
    return this.#public
  }
}
