import { formatHex, parseHex, type RandomSource } from '@meshwright/core'
import { x25519 } from '@noble/curves/ed25519.js'
import { clampX25519, KEY_BYTES, PublicKeyBytes, SecretKeyBytes } from './key-bytes.ts'

const PUBLIC_PREFIX = 'nodekey:'
const PRIVATE_PREFIX = 'privkey:'

/** The key of a node: its WireGuard key, its identity in the mesh and at relays, public half. Text: `nodekey:` and 64 hex digits (tailscale/tailscale:types/key). */
export class NodePublicKey extends PublicKeyBytes {
  readonly kind = 'node-public' as const

  private constructor(bytes: Uint8Array) {
    super(PUBLIC_PREFIX, bytes)
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): NodePublicKey | undefined {
    return bytes.length === KEY_BYTES ? new NodePublicKey(bytes) : undefined
  }

  /** Reads the whole text form; `undefined` when it is not one. */
  static parse(text: string): NodePublicKey | undefined {
    const bytes = text.startsWith(PUBLIC_PREFIX) ? parseHex(text.slice(PUBLIC_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new NodePublicKey(bytes)
  }

  /** The all-zero key, which stands for "none". */
  static zero(): NodePublicKey {
    return new NodePublicKey(new Uint8Array(KEY_BYTES))
  }
}

/** The key of a node: its WireGuard key, its identity in the mesh and at relays, private half: an X25519 key. Its text form is written to state files only. */
export class NodePrivateKey extends SecretKeyBytes {
  readonly kind = 'node-private' as const
  #public: NodePublicKey | undefined

  private constructor(bytes: Uint8Array) {
    super('node private key', bytes)
  }

  /** A new key of 32 random bytes, clamped. */
  static generate(random: RandomSource): NodePrivateKey {
    return new NodePrivateKey(clampX25519(random(KEY_BYTES)))
  }

  /** Copies 32 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): NodePrivateKey | undefined {
    return bytes.length === KEY_BYTES ? new NodePrivateKey(bytes) : undefined
  }

  /** Reads what {@link NodePrivateKey.formatSecret} wrote; `undefined` when it is not that. */
  static parse(text: string): NodePrivateKey | undefined {
    const bytes = text.startsWith(PRIVATE_PREFIX) ? parseHex(text.slice(PRIVATE_PREFIX.length), KEY_BYTES) : undefined
    return bytes && new NodePrivateKey(bytes)
  }

  /** The secret as text, for a state file with mode 0600 and nothing else. */
  formatSecret(): string {
    return PRIVATE_PREFIX + formatHex(this.secretBytes)
  }

  /** The public half; computed once. */
  publicKey(): NodePublicKey {
    this.#public ??= NodePublicKey.fromBytes(x25519.getPublicKey(this.secretBytes))
    if (this.#public === undefined) throw new TypeError('X25519 gave a public key of the wrong length')
    return this.#public
  }
}
