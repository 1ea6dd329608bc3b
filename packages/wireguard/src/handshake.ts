import type { CryptoProvider } from '@meshwright/crypto'
import type { Identity } from './identity.ts'
import { initialTranscript } from './identity.ts'
import { kdf1, kdf2, kdf3 } from './kdf.ts'
import { encodeInitiation, encodeResponse, type InitiationMessage, type ResponseMessage } from './messages.ts'

const ZERO_NONCE: Uint8Array = new Uint8Array(12)
const EMPTY: Uint8Array = new Uint8Array(0)

/** The two keys that a finished handshake gives: the caller prepares them and overwrites these bytes. */
export interface SessionKeys {
  readonly send: Uint8Array
  readonly receive: Uint8Array
}

/** What has been said so far, as chaining key and hash (WireGuard paper, section 5.4). Never changed: every step gives a new one. */
export class Transcript {
  readonly #provider: CryptoProvider
  readonly chainingKey: Uint8Array
  readonly hash: Uint8Array

  constructor(provider: CryptoProvider, chainingKey: Uint8Array, hash: Uint8Array) {
    this.#provider = provider
    this.chainingKey = chainingKey
    this.hash = hash
  }

  /** The beginning of every handshake with this responder. */
  static towards(provider: CryptoProvider, responderPublic: Uint8Array): Transcript {
    const initial = initialTranscript(provider)
    return new Transcript(provider, initial.chainingKey, initial.hash).mixHash(responderPublic)
  }

  mixHash(data: Uint8Array): Transcript {
    return new Transcript(this.#provider, this.chainingKey, this.#provider.hash(this.hash, data))
  }

  /** An ephemeral public key: into both hash and chaining key. */
  mixEphemeral(publicKey: Uint8Array): Transcript {
    return this.mixHash(publicKey).mixKey(publicKey)
  }

  mixKey(secret: Uint8Array): Transcript {
    return new Transcript(this.#provider, kdf1(this.#provider, this.chainingKey, secret), this.hash)
  }

  /** Mixes in a secret and gives a key for the next sealed field. */
  mixKeyForSealing(secret: Uint8Array): { readonly transcript: Transcript; readonly key: Uint8Array } {
    const [chainingKey, key] = kdf2(this.#provider, this.chainingKey, secret)
    return { transcript: new Transcript(this.#provider, chainingKey, this.hash), key }
  }

  mixPresharedKey(presharedKey: Uint8Array): { readonly transcript: Transcript; readonly key: Uint8Array } {
    const [chainingKey, mixed, key] = kdf3(this.#provider, this.chainingKey, presharedKey)
    return { transcript: new Transcript(this.#provider, chainingKey, this.hash).mixHash(mixed), key }
  }

  seal(key: Uint8Array, plaintext: Uint8Array): Uint8Array {
    return this.#provider.aeadSeal(key, ZERO_NONCE, plaintext, this.hash)
  }

  open(key: Uint8Array, sealed: Uint8Array): Uint8Array | undefined {
    return this.#provider.aeadOpen(key, ZERO_NONCE, sealed, this.hash)
  }

  /** The session's keys, first the initiator's sending key. */
  split(): [Uint8Array, Uint8Array] {
    return kdf2(this.#provider, this.chainingKey, EMPTY)
  }

  /** Overwrites the chaining key. */
  wipe(): void {
    this.chainingKey.fill(0)
  }
}

/** What an initiator must remember until the answer comes. */
export interface InitiationSecrets {
  readonly transcript: Transcript
  readonly ephemeralPrivate: Uint8Array
}

/**
 * Makes an initiation, macs still zero; `undefined` when the peer's key is a low-order point.
 * @param staticStatic X25519 of our static key and the peer's
 */
export function createInitiation(
  provider: CryptoProvider,
  identity: Identity,
  peerPublic: Uint8Array,
  staticStatic: Uint8Array,
  ephemeralPrivate: Uint8Array,
  sender: number,
  timestamp: Uint8Array,
): { readonly message: Uint8Array; readonly secrets: InitiationSecrets } | undefined {
  const ephemeral = provider.publicKey(ephemeralPrivate)
  const es = provider.sharedSecret(ephemeralPrivate, peerPublic)
  if (es === undefined) return undefined
  const afterEs = Transcript.towards(provider, peerPublic).mixEphemeral(ephemeral).mixKeyForSealing(es)
  es.fill(0)
  const sealedStatic = afterEs.transcript.seal(afterEs.key, identity.publicKey.bytes)
  afterEs.key.fill(0)
  const afterSs = afterEs.transcript.mixHash(sealedStatic).mixKeyForSealing(staticStatic)
  const sealedTimestamp = afterSs.transcript.seal(afterSs.key, timestamp)
  afterSs.key.fill(0)
  const message = encodeInitiation({ sender, ephemeral, sealedStatic, sealedTimestamp })
  return { message, secrets: { transcript: afterSs.transcript.mixHash(sealedTimestamp), ephemeralPrivate } }
}

/** The first half of reading an initiation: who claims to speak. Not authenticated until the timestamp opens. */
export function openInitiationStatic(
  provider: CryptoProvider,
  identity: Identity,
  message: InitiationMessage,
): { readonly staticPublic: Uint8Array; readonly transcript: Transcript } | undefined {
  const es = identity.sharedSecret(provider, message.ephemeral)
  if (es === undefined) return undefined
  const afterEs = Transcript.towards(provider, identity.publicKey.bytes).mixEphemeral(message.ephemeral).mixKeyForSealing(es)
  es.fill(0)
  const staticPublic = afterEs.transcript.open(afterEs.key, message.sealedStatic)
  afterEs.key.fill(0)
  return staticPublic && { staticPublic, transcript: afterEs.transcript.mixHash(message.sealedStatic) }
}

/** The second half: the timestamp, which only the owner of the static key can have sealed. */
export function openInitiationTimestamp(
  transcript: Transcript,
  staticStatic: Uint8Array,
  message: InitiationMessage,
): { readonly timestamp: Uint8Array; readonly transcript: Transcript } | undefined {
  const afterSs = transcript.mixKeyForSealing(staticStatic)
  const timestamp = afterSs.transcript.open(afterSs.key, message.sealedTimestamp)
  afterSs.key.fill(0)
  return timestamp && { timestamp, transcript: afterSs.transcript.mixHash(message.sealedTimestamp) }
}

/** Answers an initiation, macs still zero; `undefined` when a key is a low-order point. Overwrites the ephemeral key. */
export function createResponse(
  provider: CryptoProvider,
  transcript: Transcript,
  initiation: InitiationMessage,
  peerPublic: Uint8Array,
  presharedKey: Uint8Array,
  ephemeralPrivate: Uint8Array,
  sender: number,
): { readonly message: Uint8Array; readonly keys: SessionKeys } | undefined {
  const ephemeral = provider.publicKey(ephemeralPrivate)
  const ee = provider.sharedSecret(ephemeralPrivate, initiation.ephemeral)
  const se = provider.sharedSecret(ephemeralPrivate, peerPublic)
  ephemeralPrivate.fill(0)
  if (ee === undefined || se === undefined) return undefined
  const afterPsk = transcript.mixEphemeral(ephemeral).mixKey(ee).mixKey(se).mixPresharedKey(presharedKey)
  ee.fill(0)
  se.fill(0)
  const sealedEmpty = afterPsk.transcript.seal(afterPsk.key, EMPTY)
  afterPsk.key.fill(0)
  const [receive, send] = afterPsk.transcript.split()
  afterPsk.transcript.wipe()
  return { message: encodeResponse({ sender, receiver: initiation.sender, ephemeral, sealedEmpty }), keys: { send, receive } }
}

/** Reads the answer to our initiation. `undefined` when it is not genuine; the secrets stay as they are then. */
export function openResponse(
  provider: CryptoProvider,
  identity: Identity,
  secrets: InitiationSecrets,
  presharedKey: Uint8Array,
  message: ResponseMessage,
): SessionKeys | undefined {
  const ee = provider.sharedSecret(secrets.ephemeralPrivate, message.ephemeral)
  const se = identity.sharedSecret(provider, message.ephemeral)
  if (ee === undefined || se === undefined) return undefined
  const afterPsk = secrets.transcript.mixEphemeral(message.ephemeral).mixKey(ee).mixKey(se).mixPresharedKey(presharedKey)
  ee.fill(0)
  se.fill(0)
  const opened = afterPsk.transcript.open(afterPsk.key, message.sealedEmpty)
  afterPsk.key.fill(0)
  if (opened === undefined) return undefined
  const [send, receive] = afterPsk.transcript.split()
  afterPsk.transcript.wipe()
  return { send, receive }
}

/** Overwrites what an initiator kept. */
export function wipeInitiation(secrets: InitiationSecrets): void {
  secrets.ephemeralPrivate.fill(0)
  secrets.transcript.wipe()
}
