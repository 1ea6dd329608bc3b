import { concatBytes, type Instant, type Machine, MeshwrightError, Outbox, type RandomSource } from '@meshwright/core'
import { type CryptoProvider, type MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { NoiseHandshake } from '@meshwright/crypto/noise'
import { NoiseFrameReader, RecordOpener, RecordSealer } from './noise-records.ts'
import {
  decodeEarlyHeader,
  EARLY_HEADER_BYTES,
  encodeInitiation,
  errorFrameText,
  MAX_EARLY_PAYLOAD_BYTES,
  noisePrologue,
  TYPE_ERROR,
  TYPE_RECORD,
  TYPE_RESPONSE,
} from './noise-messages.ts'
import { type EarlyNoise, decodeEarlyNoise } from './rpc.ts'
import { decodeDocument } from './shape.ts'

/** Why a Noise channel ended. All of them are final for the connection. */
export type NoiseFailureCode = 'NOISE_HANDSHAKE' | 'NOISE_REFUSED' | 'NOISE_FRAME' | 'NOISE_RECORD' | 'NOISE_EARLY_PAYLOAD'

/** What a Noise channel is fed: bytes of the raw stream (never kept). */
export interface NoiseReceived {
  readonly type: 'received'
  readonly bytes: Uint8Array
}

/** What an initiator owes. All arrays belong to the taker. */
export type NoiseInitiatorOutput =
  | { readonly type: 'transmit'; readonly bytes: Uint8Array }
  | { readonly type: 'established'; readonly handshakeHash: Uint8Array }
  | { readonly type: 'early'; readonly payload: EarlyNoise }
  | { readonly type: 'data'; readonly bytes: Uint8Array }
  | { readonly type: 'failed'; readonly code: NoiseFailureCode; readonly message: string }

/** What an initiator starts from. */
export interface NoiseInitiatorOptions {
  readonly provider: CryptoProvider
  readonly random: RandomSource
  readonly machineKey: MachinePrivateKey
  /** The server's key as `GET /key` gave it over TLS. */
  readonly serverKey: MachinePublicKey
  /** Capability version, 1 to 65535. */
  readonly version: number
}

/**
 * The client's end of the control channel ("ts2021"): `Noise_IK_25519_ChaChaPoly_BLAKE2s`, then records, of which the first may be an
 * early payload (tailscale/tailscale:control/controlbase, control/ts2021). It has no timers: who dials limits the time.
 *
 * | state | edge | to |
 * |---|---|---|
 * | handshaking | a good response | early |
 * | early | 9 bytes and what they announce have come | open |
 * | any | anything not authentic, too long or out of place | failed |
 */
export class NoiseInitiator implements Machine<NoiseReceived, NoiseInitiatorOutput> {
  /** The 101 bytes that go into the upgrade request. */
  readonly initiation: Uint8Array
  readonly #outbox: Outbox<NoiseInitiatorOutput> = new Outbox()
  readonly #frames = new NoiseFrameReader()
  readonly #provider: CryptoProvider
  readonly #handshake: NoiseHandshake
  #state: 'handshaking' | 'early' | 'open' | 'failed' = 'handshaking'
  #sealer: RecordSealer | undefined
  #opener: RecordOpener | undefined
  #early: Uint8Array = new Uint8Array(0)

  /** @throws CONTROL_SERVER_KEY when the server's key cannot be used for an agreement (it is zero, say) */
  constructor(options: NoiseInitiatorOptions) {
    this.#provider = options.provider
    this.#handshake = new NoiseHandshake({
      pattern: 'IK',
      role: 'initiator',
      provider: options.provider,
      random: options.random,
      prologue: noisePrologue(options.version),
      staticPrivateKey: options.machineKey.secretBytes,
      remoteStaticKey: options.serverKey.bytes,
    })
    const message = this.#handshake.writeMessage()
    if (message === undefined) throw new MeshwrightError('CONTROL_SERVER_KEY', `the control server's key ${options.serverKey.short} is not a usable X25519 key`)
    this.initiation = encodeInitiation(options.version, message)
  }

  /** The state by name: see the table above. */
  get state(): 'handshaking' | 'early' | 'open' | 'failed' {
    return this.#state
  }

  handleInput(_now: Instant, input: NoiseReceived): void {
    if (this.#state === 'failed') return
    const whole = this.#frames.push(input.bytes, (type, body) => this.#frame(type, body))
    if (!whole && this.state !== 'failed') this.#fail('NOISE_FRAME', 'the control server sent a frame of more than 4096 bytes')
  }

  handleTimeout(_now: Instant): void {}

  pollOutput(): NoiseInitiatorOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): undefined {
    return undefined
  }

  /** Seals bytes for the server as one `transmit`. Nothing happens (and it gives `false`) unless the channel is established. */
  send(_now: Instant, plaintext: Uint8Array): boolean {
    if (this.#sealer === undefined) return false
    this.#outbox.push({ type: 'transmit', bytes: this.#sealer.seal(plaintext) })
    return true
  }

  #frame(type: number, body: Uint8Array): boolean {
    if (this.#state === 'handshaking') {
      if (type === TYPE_ERROR) return this.#fail('NOISE_REFUSED', `the control server refused the handshake: ${errorFrameText(body)}`)
      if (type !== TYPE_RESPONSE || this.#handshake.readMessage(body) === undefined) {
        return this.#fail('NOISE_HANDSHAKE', 'the control server does not hold the key that it published, or something stands between')
      }
      const keys = this.#handshake.finish()
      if (keys === undefined) return this.#fail('NOISE_HANDSHAKE', 'the handshake did not complete')
      this.#sealer = new RecordSealer(this.#provider, keys.sendKey)
      this.#opener = new RecordOpener(this.#provider, keys.receiveKey)
      this.#state = 'early'
      this.#outbox.push({ type: 'established', handshakeHash: keys.handshakeHash })
      return true
    }
    const plaintext = type === TYPE_RECORD ? this.#opener?.open(body) : undefined
    if (plaintext === undefined) return this.#fail('NOISE_RECORD', 'a record of the control server is not authentic')
    if (this.#state === 'open') {
      if (plaintext.length > 0) this.#outbox.push({ type: 'data', bytes: plaintext })
      return true
    }
    return this.#readEarly(plaintext)
  }

  #readEarly(plaintext: Uint8Array): boolean {
    this.#early = concatBytes(this.#early, plaintext)
    if (this.#early.length < EARLY_HEADER_BYTES) return true
    const length = decodeEarlyHeader(this.#early)
    if (length === undefined) return this.#open(this.#early)
    if (length > MAX_EARLY_PAYLOAD_BYTES) return this.#fail('NOISE_EARLY_PAYLOAD', 'the early payload of the control server is too long')
    const end = EARLY_HEADER_BYTES + length
    if (this.#early.length < end) return true
    const payload = decodeDocument(decodeEarlyNoise, this.#early.subarray(EARLY_HEADER_BYTES, end))
    if (!payload.ok) return this.#fail('NOISE_EARLY_PAYLOAD', `the early payload of the control server cannot be read: ${payload.path} ${payload.problem}`)
    this.#outbox.push({ type: 'early', payload: payload.value })
    return this.#open(this.#early.slice(end))
  }

  #open(rest: Uint8Array): boolean {
    this.#state = 'open'
    this.#early = new Uint8Array(0)
    if (rest.length > 0) this.#outbox.push({ type: 'data', bytes: rest })
    return true
  }

  #fail(code: NoiseFailureCode, message: string): false {
    this.#state = 'failed'
    this.#sealer?.destroy()
    this.#opener?.destroy()
    this.#sealer = undefined
    this.#opener = undefined
    this.#early = new Uint8Array(0)
    this.#outbox.push({ type: 'failed', code, message })
    return false
  }
}
