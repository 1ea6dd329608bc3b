import { formatHex, parseHex, type RandomSource } from '@meshwright/core'
import { x25519 } from '@noble/curves/ed25519.js'
import { clampX25519, KEY_BYTES, PublicKeyBytes, SecretKeyBytes } from './key-bytes.ts'

const PUBLIC_PREFIX = 'mkey:'
const PRIVATE_PREFIX = 'privkey:'

/** The Noise static key of a device (or of a control server), one for all nodes on it, public half. Text: `mkey:` and 64 hex digits (tailscale/tailscale:types/key). */
export class MachinePublicKey extends PublicKeyBytes {
  readonly kind = 'machine-public' as const

  private constructor(bytes: Uint8Array) {
    super(PUBLIC_PREFIX, bytes)
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): MachinePublicKey | undefined {
    return bytes.length === KEY_BYTES ? new MachinePublicKey(bytes) : undefined
  }

  /** Reads the whole text form; `undefined` when it is not one. */
  static parse(text: string): MachinePublicKey | undefined {
    const bytes = text.startsWith(PUBLIC_PREFIX) ? parseHex(text.slice(PUBLIC_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new MachinePublicKey(bytes)
  }

  /** The all-zero key, which stands for "none". */
  static zero(): MachinePublicKey {
    return new MachinePublicKey(new Uint8Array(KEY_BYTES))
  }
}

/** The Noise static key of a device (or of a control server), one for all nodes on it, private half: an X25519 key. Its text form is written to state files only. */
export class MachinePrivateKey extends SecretKeyBytes {
  readonly kind = 'machine-private' as const
  #public: MachinePublicKey | undefined

  private constructor(bytes: Uint8Array) {
    super('machine private key', bytes)
  }

  /** A new key of 32 random bytes, clamped. */
  static generate(random: RandomSource): MachinePrivateKey {
    return new MachinePrivateKey(clampX25519(random(KEY_BYTES)))
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): MachinePrivateKey | undefined {
    return bytes.length === KEY_BYTES ? new MachinePrivateKey(bytes) : undefined
  }

  /** Reads what {@link MachinePrivateKey.formatSecret} wrote; `undefined` when it is not that. */
  static parse(text: string): MachinePrivateKey | undefined {
    const bytes = text.startsWith(PRIVATE_PREFIX) ? parseHex(text.slice(PRIVATE_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new MachinePrivateKey(bytes)
  }

  /** The secret as text, for a state file with mode 0600 and nothing else. */
  formatSecret(): string {
    return PRIVATE_PREFIX + formatHex(this.secretBytes)
  }

  /** The public half; computed once. */
  publicKey(): MachinePublicKey {
    this.#public ??= MachinePublicKey.fromBytes(x25519.getPublicKey(this.secretBytes))
    if (this.#public === undefined) throw new TypeError('X25519 gave a public key of the wrong length')
    return this.#public
  }
}
