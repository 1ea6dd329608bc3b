import { randomBytes } from 'node:crypto'
import dgram from 'node:dgram'
import { instant } from '@meshwright/core'
import { DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { parseEndpoint } from '@meshwright/ip'
import { classifyDatagram, decodeDiscoMessage, DiscoBox, type DiscoMessage, encodeDiscoMessage } from '@meshwright/nat-traversal'
import { nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { decodeMessage } from '@meshwright/wireguard'
import { CookieJar } from '../../packages/wireguard/src/cookie.ts'
import { createInitiation, createResponse, type InitiationSecrets, openInitiationStatic, openInitiationTimestamp, openResponse } from '../../packages/wireguard/src/handshake.ts'
import { Identity, mac1KeyOf } from '../../packages/wireguard/src/identity.ts'
import { encodeTimestamp, slotOfWall } from '../../packages/wireguard/src/tai64n.ts'
import { type Json, type NodeAsks, wireNode } from './liar-control.ts'

const provider = nodeCryptoProvider
const NO_PRESHARED_KEY = new Uint8Array(32)
const MAX_HEARD = 5_000
/** Two initiations of a peer within 20 ms count as a flood. */
const INITIATION_INTERVAL_MS = 25

/** A session, as far as a liar needs it. */
export interface LiarSession {
  readonly send: Uint8Array
  readonly receive: Uint8Array
  /** By which the victim is addressed. */
  readonly remoteIndex: number
  counter: bigint
}

/** A datagram of the victim, and where it was heard. */
interface Heard {
  readonly bytes: Buffer
  readonly port: number
}

/**
 * A peer of the mesh that speaks WireGuard and disco as our own engine does, from the same functions, and with whose words a script does what it
 * wants. It answers pings and handshakes like an honest one until told otherwise.
 */
export class LiarPeer {
  readonly nodeKey: NodePrivateKey = NodePrivateKey.generate(systemRandom)
  readonly #discoKey: DiscoPrivateKey = DiscoPrivateKey.generate(systemRandom)
  readonly box: DiscoBox = new DiscoBox({ privateKey: this.#discoKey, random: systemRandom, provider })
  readonly socket: dgram.Socket = dgram.createSocket('udp4')
  readonly #identity: Identity = new Identity(provider, this.nodeKey)
  readonly #pending: Map<number, { readonly secrets: InitiationSecrets; done(session: LiarSession): void }> = new Map()
  readonly #sessions: Map<number, LiarSession> = new Map()
  readonly cookies: CookieJar = new CookieJar()
  /** Inner packets, disco messages and raw datagrams that the victim has sent here. */
  readonly inner: Buffer[] = []
  readonly disco: DiscoMessage[] = []
  readonly cookieReplies: Buffer[] = []
  /** Handshakes that the victim has begun. */
  initiations = 0
  #session: LiarSession | undefined
  answersPings = true
  answersHandshakes = true
  #victimKey!: NodePublicKey
  #victimDisco!: DiscoPublicKey
  #victimPort = 0
  #slot = slotOfWall(Date.now())

  async start(): Promise<this> {
    this.socket.on('message', (bytes, from) => this.#hear({ bytes, port: from.port }))
    await new Promise<void>((resolve) => this.socket.bind(0, '127.0.0.66', resolve))
    return this
  }

  stop(): void {
    this.socket.close()
  }

  get endpoint(): string {
    return `127.0.0.66:${this.socket.address().port}`
  }

  get publicKey(): NodePublicKey {
    return this.#identity.publicKey
  }

  get victimKey(): NodePublicKey {
    return this.#victimKey
  }

  /** The newest session, whoever began it: the victim begins one by itself when it hears nothing for a while. */
  get session(): LiarSession {
    return this.#session ?? fail('there is no session')
  }

  /** As a map describes it. */
  describe(id: number, more: Json = {}): Json {
    return wireNode(id, 'liar', this.publicKey.text, { DiscoKey: this.box.publicKey.text, Endpoints: [this.endpoint], ...more })
  }

  /** Who is lied to. */
  aim(victim: NodeAsks): void {
    this.#victimKey = NodePublicKey.parse(victim.NodeKey) ?? fail('no node key')
    this.#victimDisco = DiscoPublicKey.parse(victim.DiscoKey ?? '') ?? fail('no disco key')
    this.#victimPort = Number(victim.Endpoints?.[0]?.split(':').at(-1))
  }

  /** Datagrams as they are; another socket than its own may send them. Waits until the system has taken them. */
  async send(...all: readonly Uint8Array[]): Promise<void> {
    for (const bytes of all) await this.sendFrom(this.socket, bytes)
  }

  sendFrom(socket: dgram.Socket, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => socket.send(bytes, this.#victimPort, '127.0.0.1', () => resolve()))
  }

  /** A disco message in its envelope. */
  seal(message: DiscoMessage | Uint8Array): Uint8Array {
    return this.box.seal(this.#victimDisco, message instanceof Uint8Array ? message : encodeDiscoMessage(message)) ?? fail('a low-order key')
  }

  /** An initiation with a timestamp that is newer than all before, or the one given; `ephemeral`: instead of a fresh key. */
  initiation(timestamp: Uint8Array = encodeTimestamp((this.#slot += 1)), identity: Identity = this.#identity): { readonly bytes: Uint8Array; readonly index: number; readonly secrets: InitiationSecrets } {
    const index = randomBytes(4).readUInt32LE(0)
    const staticStatic = identity.sharedSecret(provider, this.#victimKey.bytes) ?? fail('a low-order key')
    const made = createInitiation(provider, identity, this.#victimKey.bytes, staticStatic, randomBytes(32), index, timestamp) ?? fail('a low-order key')
    this.stamp(made.message)
    return { bytes: made.message, index, secrets: made.secrets }
  }

  /** Puts the macs on a handshake message. */
  stamp(message: Uint8Array): Uint8Array {
    this.cookies.stamp(instant(performance.now()), provider, mac1KeyOf(provider, this.#victimKey.bytes), message)
    return message
  }

  /** A session that it began; asked for again as long as no answer comes. */
  async handshake(): Promise<LiarSession> {
    for (let attempt = 0; attempt < 50; attempt += 1) {
      await new Promise((resolve) => setTimeout(resolve, INITIATION_INTERVAL_MS))
      const { bytes, index, secrets } = this.initiation()
      const answered = new Promise<LiarSession | undefined>((resolve) => {
        const timer = setTimeout(() => resolve(undefined), 1_000)
        this.#pending.set(index, { secrets, done: (session) => (clearTimeout(timer), resolve(session)) })
      })
      await this.send(bytes)
      const session = await answered
      this.#pending.delete(index)
      if (session === undefined) continue
      this.#session = session
      await this.send(this.transport(new Uint8Array(0), session))
      return session
    }
    return fail('the victim answers no handshake')
  }

  /** A transport message with whatever plaintext and number. */
  transport(plaintext: Uint8Array, session: LiarSession = this.session, counter: bigint = (session.counter += 1n)): Uint8Array {
    const head = Buffer.alloc(16)
    head[0] = 4
    head.writeUInt32LE(session.remoteIndex, 4)
    head.writeBigUInt64LE(counter, 8)
    return Buffer.concat([head, provider.aeadSeal(session.send, nonceOf(counter), plaintext)])
  }

  #hear({ bytes }: Heard): void {
    const kind = classifyDatagram(bytes)
    if (kind === 'disco') return this.#hearDisco(bytes)
    const message = kind === 'wireguard' ? decodeMessage(bytes) : undefined
    if (message === undefined) return
    if (message.type === 1) {
      this.initiations += 1
      const opened = this.answersHandshakes ? openInitiationStatic(provider, this.#identity, message) : undefined
      const staticStatic = this.#identity.sharedSecret(provider, this.#victimKey.bytes)
      const timed = opened && staticStatic && openInitiationTimestamp(opened.transcript, staticStatic, message)
      const index = randomBytes(4).readUInt32LE(0)
      const made = timed && createResponse(provider, timed.transcript, message, this.#victimKey.bytes, NO_PRESHARED_KEY, randomBytes(32), index)
      if (made === undefined) return
      this.#session = { ...made.keys, remoteIndex: message.sender, counter: -1n }
      this.#sessions.set(index, this.#session)
      void this.send(this.stamp(made.message))
    } else if (message.type === 2) {
      const pending = this.#pending.get(message.receiver)
      const keys = pending && openResponse(provider, this.#identity, pending.secrets, NO_PRESHARED_KEY, message)
      if (pending === undefined || keys === undefined) return
      const session = { ...keys, remoteIndex: message.sender, counter: -1n }
      this.#sessions.set(message.receiver, session)
      pending.done(session)
    } else if (message.type === 3) {
      this.cookies.consume(instant(performance.now()), provider, this.#victimKey.bytes, message)
      this.cookieReplies.push(bytes)
    } else {
      const session = this.#sessions.get(bytes.readUInt32LE(4))
      const plaintext = session && provider.aeadOpen(session.receive, nonceOf(bytes.readBigUInt64LE(8)), bytes.subarray(16))
      if (plaintext !== undefined && plaintext.length > 0 && this.inner.length < MAX_HEARD) this.inner.push(Buffer.from(plaintext))
    }
  }

  #hearDisco(bytes: Buffer): void {
    const plaintext = this.box.open(this.#victimDisco, bytes)
    const message = plaintext && decodeDiscoMessage(plaintext)
    if (message === undefined) return
    if (this.disco.length < MAX_HEARD) this.disco.push(message)
    if (message.type !== 'ping' || !this.answersPings) return
    const source = parseEndpoint(`127.0.0.1:${this.#victimPort}`) ?? fail('endpoint')
    void this.send(this.seal({ type: 'pong', txId: message.txId, source }))
  }
}

function nonceOf(counter: bigint): Uint8Array {
  const nonce = Buffer.alloc(12)
  nonce.writeBigUInt64LE(counter, 4)
  return nonce
}

function fail(what: string): never {
  throw new Error(what)
}
