import { concatBytes, type Instant, type Machine, Outbox, type RandomSource } from '@meshwright/core'
import { ChallengePrivateKey, ChallengePublicKey, type CryptoProvider, type MachinePrivateKey, MachinePublicKey } from '@meshwright/crypto'
import { NoiseHandshake } from '@meshwright/crypto/noise'
import { CAPVER_EARLY_PAYLOAD } from './capability-version.ts'
import { encodeJson } from './json.ts'
import { NoiseFrameReader, RecordOpener, RecordSealer } from './noise-records.ts'
import { decodeInitiation, encodeEarlyPayload, encodeErrorFrame, encodeFrame, noisePrologue, TYPE_RECORD, TYPE_RESPONSE } from './noise-messages.ts'
import type { NoiseFailureCode } from './noise-initiator.ts'
import type { EarlyNoise } from './rpc.ts'

/** What a responder is fed: the initiation from the upgrade request first, then bytes of the raw stream (never kept). */
export type NoiseResponderInput = { readonly type: 'initiation' | 'received'; readonly bytes: Uint8Array }

/** What a responder owes. All arrays belong to the taker. */
export type NoiseResponderOutput =
  | { readonly type: 'transmit'; readonly bytes: Uint8Array }
  | {
      readonly type: 'established'
      /** Who the client is: proven by the handshake, the authentication of all that follows. */
      readonly machineKey: MachinePublicKey
      /** The client's capability version. */
      readonly version: number
      readonly handshakeHash: Uint8Array
      /** The challenge sent in the early payload, if one was. */
      readonly challenge: ChallengePrivateKey | undefined
    }
  | { readonly type: 'data'; readonly bytes: Uint8Array }
  | { readonly type: 'failed'; readonly code: NoiseFailureCode; readonly message: string }

/** What a responder starts from. */
export interface NoiseResponderOptions {
  readonly provider: CryptoProvider
  readonly random: RandomSource
  /** The server's Noise key. */
  readonly machineKey: MachinePrivateKey
  /** Whether clients that understand it get an early payload with a challenge; default true. False over WebSocket. */
  readonly earlyPayload?: boolean
}

/**
 * The server's end of the control channel. Response and early payload leave in one `transmit`. It has no timers: who accepts limits the time.
 *
 * | state | edge | to |
 * |---|---|---|
 * | waiting | a good initiation | open |
 * | any | anything not authentic, too long or out of place | failed |
 */
export class NoiseResponder implements Machine<NoiseResponderInput, NoiseResponderOutput> {
  readonly #outbox: Outbox<NoiseResponderOutput> = new Outbox()
  readonly #frames = new NoiseFrameReader()
  readonly #options: NoiseResponderOptions
  #state: 'waiting' | 'open' | 'failed' = 'waiting'
  #sealer: RecordSealer | undefined
  #opener: RecordOpener | undefined

  constructor(options: NoiseResponderOptions) {
    this.#options = options
  }

  /** The state by name: see the table above. */
  get state(): 'waiting' | 'open' | 'failed' {
    return this.#state
  }

  handleInput(_now: Instant, input: NoiseResponderInput): void {
    if (this.#state === 'failed') return
    if (input.type === 'initiation') return this.#accept(input.bytes)
    if (this.#state === 'waiting') return void this.#fail('NOISE_HANDSHAKE', 'bytes came before the initiation')
    const whole = this.#frames.push(input.bytes, (type, body) => {
      const plaintext = type === TYPE_RECORD ? this.#opener?.open(body) : undefined
      if (plaintext === undefined) return this.#fail('NOISE_RECORD', 'a record of the client is not authentic')
      if (plaintext.length > 0) this.#outbox.push({ type: 'data', bytes: plaintext })
      return true
    })
    if (!whole && this.state !== 'failed') this.#fail('NOISE_FRAME', 'the client sent a frame of more than 4096 bytes')
  }

  handleTimeout(_now: Instant): void {}

  pollOutput(): NoiseResponderOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): undefined {
    return undefined
  }

  /** Seals bytes for the client as one `transmit`. Nothing happens (and it gives `false`) unless the channel is established. */
  send(_now: Instant, plaintext: Uint8Array): boolean {
    if (this.#sealer === undefined) return false
    this.#outbox.push({ type: 'transmit', bytes: this.#sealer.seal(plaintext) })
    return true
  }

  #accept(bytes: Uint8Array): void {
    const initiation = decodeInitiation(bytes)
    if (initiation === undefined || this.#state !== 'waiting') return void this.#refuse('invalid handshake')
    const { provider, random, machineKey } = this.#options
    const handshake = new NoiseHandshake({
      pattern: 'IK',
      role: 'responder',
      provider,
      random,
      prologue: noisePrologue(initiation.version),
      staticPrivateKey: machineKey.secretBytes,
    })
    const read = handshake.readMessage(initiation.noise)
    const response = read && handshake.writeMessage()
    const remote = handshake.remoteStaticKey
    const client = remote && MachinePublicKey.fromBytes(remote)
    const keys = response && handshake.finish()
    if (client === undefined || keys === undefined || response === undefined) return void this.#refuse('handshake not authentic')
    this.#sealer = new RecordSealer(provider, keys.sendKey)
    this.#opener = new RecordOpener(provider, keys.receiveKey)
    this.#state = 'open'
    let first = encodeFrame(TYPE_RESPONSE, response)
    let challenge: ChallengePrivateKey | undefined
    if (this.#options.earlyPayload !== false && initiation.version >= CAPVER_EARLY_PAYLOAD) {
      challenge = ChallengePrivateKey.generate(random)
      // By the provider: the key's own way is slower than all else in this handshake.
      const publicKey = ChallengePublicKey.fromBytes(provider.publicKey(challenge.secretBytes)) ?? challenge.publicKey()
      const early: EarlyNoise = { nodeKeyChallenge: publicKey.text }
      first = concatBytes(first, this.#sealer.seal(encodeEarlyPayload(encodeJson(early))))
    }
    this.#outbox.push({ type: 'transmit', bytes: first })
    this.#outbox.push({ type: 'established', machineKey: client, version: initiation.version, handshakeHash: keys.handshakeHash, challenge })
  }

  #refuse(hint: string): void {
    this.#outbox.push({ type: 'transmit', bytes: encodeErrorFrame(hint) })
    this.#fail('NOISE_HANDSHAKE', `the client's handshake failed: ${hint}`)
  }

  #fail(code: NoiseFailureCode, message: string): false {
    this.#state = 'failed'
    this.#sealer?.destroy()
    this.#opener?.destroy()
    this.#sealer = undefined
    this.#opener = undefined
    this.#outbox.push({ type: 'failed', code, message })
    return false
  }
}
