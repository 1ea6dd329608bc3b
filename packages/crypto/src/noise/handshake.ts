import { ByteReader, ByteWriter, type RandomSource, utf8Encode } from '@meshwright/core'
import { clampX25519, CryptoError, KEY_BYTES } from '../keys/key-bytes.ts'
import type { CryptoProvider } from '../provider.ts'
import { SymmetricState } from './symmetric-state.ts'

/** The Noise patterns that Meshwright's protocols use: IK (Tailscale control), IKpsk2 (WireGuard), IKpsk1 (vectors only). */
export type NoisePattern = 'IK' | 'IKpsk1' | 'IKpsk2'

type Token = 'e' | 's' | 'ee' | 'es' | 'se' | 'ss' | 'psk'

const MESSAGES: Readonly<Record<NoisePattern, readonly (readonly Token[])[]>> = {
  IK: [['e', 'es', 's', 'ss'], ['e', 'ee', 'se']],
  IKpsk1: [['e', 'es', 's', 'ss', 'psk'], ['e', 'ee', 'se']],
  IKpsk2: [['e', 'es', 's', 'ss'], ['e', 'ee', 'se', 'psk']],
}

const TAG_BYTES = 16

/**
 * What a handshake starts from. All keys are 32 raw bytes and are copied, but for `staticPrivateKey`: providers remember what they
 * prepared for an array of key bytes, and a server shakes hands with one key all day.
 */
export interface NoiseHandshakeOptions {
  readonly pattern: NoisePattern
  readonly role: 'initiator' | 'responder'
  readonly provider: CryptoProvider
  readonly random: RandomSource
  readonly prologue: Uint8Array
  /** Read where it is, and never changed; a handshake whose key is overwritten meanwhile fails. */
  readonly staticPrivateKey: Uint8Array
  /** The responder's public key: the initiator must know it. */
  readonly remoteStaticKey?: Uint8Array
  /** Pre-shared key of the psk patterns, 32 bytes. */
  readonly psk?: Uint8Array
}

/** Keys of the finished handshake: the caller owns and wipes them. */
export interface NoiseSessionKeys {
  readonly sendKey: Uint8Array
  readonly receiveKey: Uint8Array
  /** Binds the session to this handshake. */
  readonly handshakeHash: Uint8Array
}

/**
 * One Noise handshake of the IK family over X25519, ChaCha20-Poly1305 and BLAKE2s (Noise specification, revision 34, section 5.3):
 * the initiator calls `writeMessage`, `readMessage`, `finish`; the responder `readMessage`, `writeMessage`, `finish`.
 *
 * | state | edge | to |
 * |---|---|---|
 * | running | both messages done | complete |
 * | running | a message that is not authentic | failed |
 * | complete | `finish` | finished |
 */
export class NoiseHandshake {
  readonly #options: NoiseHandshakeOptions
  readonly #symmetric: SymmetricState
  readonly #staticPrivate: Uint8Array
  readonly #staticPublic: Uint8Array
  readonly #psk: Uint8Array | undefined
  #ephemeralPrivate: Uint8Array | undefined
  #remoteStatic: Uint8Array | undefined
  #remoteEphemeral: Uint8Array | undefined
  #message = 0
  #state: 'running' | 'complete' | 'failed' | 'finished' = 'running'

  constructor(options: NoiseHandshakeOptions) {
    const psk = options.pattern === 'IK' ? undefined : (options.psk ?? new Uint8Array(KEY_BYTES))
    for (const key of [options.staticPrivateKey, options.remoteStaticKey, psk]) {
      if (key !== undefined && key.length !== KEY_BYTES) throw new CryptoError('CRYPTO_KEY_LENGTH', `a Noise key has ${KEY_BYTES} bytes, not ${key.length}`)
    }
    if (options.role === 'initiator' && options.remoteStaticKey === undefined) {
      throw new CryptoError('CRYPTO_KEY_LENGTH', 'the initiator of an IK handshake needs the public key of the responder')
    }
    this.#options = options
    this.#staticPrivate = options.staticPrivateKey
    this.#staticPublic = options.provider.publicKey(this.#staticPrivate)
    this.#psk = psk && Uint8Array.from(psk)
    this.#symmetric = new SymmetricState(options.provider, utf8Encode(`Noise_${options.pattern}_25519_ChaChaPoly_BLAKE2s`))
    this.#symmetric.mixHash(options.prologue)
    this.#remoteStatic = options.role === 'initiator' ? options.remoteStaticKey : undefined
    this.#symmetric.mixHash(options.role === 'initiator' && options.remoteStaticKey ? options.remoteStaticKey : this.#staticPublic)
  }

  /** The peer's static public key, once known; authentic only after the message that carried it has been read. */
  get remoteStaticKey(): Uint8Array | undefined {
    return this.#remoteStatic && Uint8Array.from(this.#remoteStatic)
  }

  /** `failed` handshakes must be thrown away. */
  get state(): 'running' | 'complete' | 'failed' | 'finished' {
    return this.#state
  }

  /** The next message to send, with `payload` sealed in it; `undefined` when a key of the peer cannot be used or it is not our turn. */
  writeMessage(payload: Uint8Array = new Uint8Array(0)): Uint8Array | undefined {
    if (!this.#ourTurn(true)) return undefined
    const writer = new ByteWriter(160 + payload.length)
    for (const token of this.#tokens()) {
      if (token === 'e') {
        this.#ephemeralPrivate = clampX25519(this.#options.random(KEY_BYTES))
        const ephemeral = this.#options.provider.publicKey(this.#ephemeralPrivate)
        writer.bytes(ephemeral)
        this.#mixEphemeral(ephemeral)
      } else if (token === 's') {
        writer.bytes(this.#symmetric.encryptAndHash(this.#staticPublic))
      } else if (!this.#mixToken(token)) return this.#fail()
    }
    writer.bytes(this.#symmetric.encryptAndHash(payload))
    this.#advance()
    return writer.finish()
  }

  /** Takes the peer's next message and gives its payload; `undefined` when it is not authentic: the handshake has failed. */
  readMessage(message: Uint8Array): Uint8Array | undefined {
    if (!this.#ourTurn(false)) return undefined
    const reader = new ByteReader(message)
    for (const token of this.#tokens()) {
      if (token === 'e') {
        this.#remoteEphemeral = Uint8Array.from(reader.bytes(KEY_BYTES))
        if (!reader.ok) return this.#fail()
        this.#mixEphemeral(this.#remoteEphemeral)
      } else if (token === 's') {
        const sealed = reader.bytes(KEY_BYTES + TAG_BYTES)
        const key = reader.ok ? this.#symmetric.decryptAndHash(sealed) : undefined
        if (key === undefined) return this.#fail()
        this.#remoteStatic = key
      } else if (!this.#mixToken(token)) return this.#fail()
    }
    const payload = this.#symmetric.decryptAndHash(reader.rest())
    if (payload === undefined) return this.#fail()
    this.#advance()
    return payload
  }

  /** The session's keys, once, after both messages; `undefined` before, and when the handshake has failed. */
  finish(): NoiseSessionKeys | undefined {
    if (this.#state !== 'complete') return undefined
    const handshakeHash = this.#symmetric.hash
    const [forward, back] = this.#symmetric.split()
    this.#state = 'finished'
    this.#wipe()
    return this.#options.role === 'initiator'
      ? { sendKey: forward, receiveKey: back, handshakeHash }
      : { sendKey: back, receiveKey: forward, handshakeHash }
  }

  #ourTurn(writing: boolean): boolean {
    const initiatorSpeaks = this.#message === 0
    return this.#state === 'running' && writing === (initiatorSpeaks === (this.#options.role === 'initiator'))
  }

  #tokens(): readonly Token[] {
    return MESSAGES[this.#options.pattern][this.#message] ?? []
  }

  #advance(): void {
    this.#message += 1
    if (this.#message === MESSAGES[this.#options.pattern].length) this.#state = 'complete'
  }

  // With a psk, ephemeral keys are mixed into the key too (section 9.2).
  #mixEphemeral(ephemeral: Uint8Array): void {
    this.#symmetric.mixHash(ephemeral)
    if (this.#psk !== undefined) this.#symmetric.mixKey(ephemeral)
  }

  #mixToken(token: 'ee' | 'es' | 'se' | 'ss' | 'psk'): boolean {
    if (token === 'psk') {
      if (this.#psk === undefined) return false
      this.#symmetric.mixKeyAndHash(this.#psk)
      return true
    }
    const initiator = this.#options.role === 'initiator'
    const localKind = initiator ? token.charAt(0) : token.charAt(1)
    const remoteKind = initiator ? token.charAt(1) : token.charAt(0)
    const local = localKind === 'e' ? this.#ephemeralPrivate : this.#staticPrivate
    const remote = remoteKind === 'e' ? this.#remoteEphemeral : this.#remoteStatic
    const secret = local && remote && this.#options.provider.sharedSecret(local, remote)
    if (secret === undefined) return false
    this.#symmetric.mixKey(secret)
    secret.fill(0)
    return true
  }

  #fail(): undefined {
    this.#state = 'failed'
    this.#symmetric.destroy()
    this.#wipe()
    return undefined
  }

  #wipe(): void {
    this.#ephemeralPrivate?.fill(0)
    this.#psk?.fill(0)
  }
}
