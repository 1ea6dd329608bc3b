import { after, BoundedQueue, DONE, earlier, equalBytes, type Instant, type Machine, Outbox, type PacketBatch, type RandomSource } from '@meshwright/core'
import { type CryptoProvider, type NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { FrameReader } from './frame-reader.ts'
import {
  DERP_VERSION, FRAME_HEADER_BYTES, FRAME_PING, FRAME_RECV_PACKET, FRAME_SEND_PACKET, FRAME_SERVER_INFO, KEY_BYTES, MAX_CLIENT_FRAME_BYTES,
  MAX_PACKET_BYTES, PING_BYTES,
} from './frame-types.ts'
import { decodeFrame, type DerpFrame, encodeFrame, encodePacketFrame, writePacketFrame } from './frames.ts'
import { type DerpServerInfo, openServerInfo, sealClientInfo } from './handshake.ts'
import { KeyMap } from './key-map.ts'
import { TokenBucket } from './token-bucket.ts'

/** How long a server may take from `opened` to its ServerInfo (tailscale/tailscale:derp/derphttp: the whole connect has 10 s). */
export const DERP_HANDSHAKE_TIMEOUT_MS = 10_000
/** A server says something at least each 65 s; a client that hears nothing for two keepalives hangs up. */
export const DERP_SILENCE_TIMEOUT_MS = 120_000
/** How long an answer to {@link DerpClient.ping} may take. */
export const DERP_PING_TIMEOUT_MS = 3_000

const SEND_QUEUE_FRAMES = 32
const DEFAULT_WINDOW_BYTES = 256 * 1024
const KNOWN_SOURCES = 4_096
/** What a packet's frame has besides the packet. */
const PACKET_FRAME_BYTES = FRAME_HEADER_BYTES + KEY_BYTES

/** What a client is made of. */
export interface DerpClientOptions {
  readonly privateKey: NodePrivateKey
  readonly random: RandomSource
  /** This region is the client's home from the start. */
  readonly preferred?: boolean
  /** The region's shared secret, 32 bytes: lets the client watch connections and forward packets. */
  readonly meshKey?: Uint8Array
  /** Ask at once to be told who comes and goes; needs `meshKey`. */
  readonly watchConnections?: boolean
  /** Answer pings of the server and say so (default true). */
  readonly canAckPings?: boolean
  readonly isProber?: boolean
  readonly appName?: string
  /** Who computes X25519 (default: noble). */
  readonly provider?: CryptoProvider
  /** Bytes that may be on their way to the transport before `writable` must be heard (default 262144). */
  readonly windowBytes?: number
}

/** What happens to the connection. */
export type DerpClientInput =
  /** The stream is ready for frames: the upgrade is answered, or fast start is used and the server's key is known from its metacert. */
  | { readonly type: 'opened'; readonly serverKey?: NodePublicKey }
  /** Bytes from the server; they must not change until outputs are drained. */
  | { readonly type: 'bytes'; readonly bytes: Uint8Array }
  /** The transport has taken all that was written. */
  | { readonly type: 'writable' }
  /** The stream has ended or broken. */
  | { readonly type: 'closed' }

/** Why a connection is over. */
export type DerpClientFailure =
  | 'closed'
  | 'handshake-timeout'
  | 'silent'
  | 'ping-timeout'
  | 'server-key-invalid'
  | 'server-info-invalid'
  | 'frame-too-long'

/** What the client wants done, and what it tells. */
export type DerpClientOutput =
  | { readonly type: 'write'; readonly bytes: Uint8Array }
  /** Close the stream: always right behind `failed`, unless the stream was closed already. */
  | { readonly type: 'close' }
  | { readonly type: 'connected'; readonly serverKey: NodePublicKey; readonly serverInfo: DerpServerInfo }
  /** A packet; the bytes are a view of what was fed. */
  | { readonly type: 'packet'; readonly source: NodePublicKey; readonly packet: Uint8Array }
  /** Forget the route to this peer. `reason`: the PEER_GONE constants. */
  | { readonly type: 'peerGone'; readonly peer: NodePublicKey; readonly reason: number }
  | { readonly type: 'peerPresent'; readonly peer: NodePublicKey; readonly from?: Endpoint; readonly flags?: number }
  /** The relay has a problem, or (without text) no longer has one. */
  | { readonly type: 'health'; readonly problem?: string }
  /** Advice: come back after `reconnectInMs`, then try for `tryForMs`. */
  | { readonly type: 'restarting'; readonly reconnectInMs: number; readonly tryForMs: number }
  | { readonly type: 'pong'; readonly roundTripMs: number }
  | { readonly type: 'failed'; readonly code: DerpClientFailure }

/** Where a connection stands. */
export type DerpClientState = 'idle' | 'greeting' | 'introduced' | 'connected' | 'closed'

/** What a connection has carried. Packets only, headers and keys not counted. */
export interface DerpClientStats {
  readonly packetsSent: number
  readonly bytesSent: number
  readonly packetsReceived: number
  readonly bytesReceived: number
  /** Packets of ours that were dropped, by reason. */
  readonly dropped: { readonly 'queue-full': number; readonly 'rate-limited': number; readonly closed: number }
  /** Frames that were passed over because they had not the form of their type. */
  readonly malformedFrames: number
}

/**
 * One connection to a relay, from the client's side, over any byte stream. For a new connection make a new client.
 *
 * | state | on | does | next |
 * |---|---|---|---|
 * | idle | opened without key | waits for ServerKey | greeting |
 * | idle | opened with key | sends ClientInfo | introduced |
 * | greeting | ServerKey | sends ClientInfo, then what was queued | introduced |
 * | introduced | ServerInfo | says `connected` | connected |
 * | greeting, introduced | 10 s | fails | closed |
 * | any | 120 s of silence, a frame over 1 MiB, a ServerInfo that does not open | fails | closed |
 *
 * Packets may be sent in every state but `closed`: before the introduction they wait in a queue of 32 frames, as they do while the
 * transport is full; the oldest gives way. Source: tailscale/tailscale:derp/derp_client.go, derp/derphttp/derphttp_client.go.
 */
export class DerpClient implements Machine<DerpClientInput, DerpClientOutput> {
  readonly #options: DerpClientOptions
  readonly #outbox: Outbox<DerpClientOutput> = new Outbox()
  readonly #reader: FrameReader = new FrameReader(() => MAX_CLIENT_FRAME_BYTES)
  readonly #queue: BoundedQueue<Uint8Array> = new BoundedQueue(SEND_QUEUE_FRAMES)
  readonly #sources: KeyMap<NodePublicKey>
  readonly #window: number
  #state: DerpClientState = 'idle'
  #serverKey: NodePublicKey | undefined
  #preferred: boolean
  #limit: TokenBucket | undefined
  #inFlight = 0
  #handshakeDue: Instant | undefined
  #silenceDue: Instant | undefined
  #ping: { data: Uint8Array; sentAt: Instant; due: Instant } | undefined
  #sent = { packets: 0, bytes: 0 }
  #received = { packets: 0, bytes: 0 }
  #dropped = { 'queue-full': 0, 'rate-limited': 0, closed: 0 }
  #malformed = 0

  constructor(options: DerpClientOptions) {
    this.#options = options
    this.#preferred = options.preferred ?? false
    this.#window = options.windowBytes ?? DEFAULT_WINDOW_BYTES
    this.#sources = new KeyMap(options.random)
  }

  /** Where the connection stands. */
  get state(): DerpClientState {
    return this.#state
  }

  /** The server's key, once known. */
  get serverKey(): NodePublicKey | undefined {
    return this.#serverKey
  }

  /** What the connection has carried so far. */
  stats(): DerpClientStats {
    return {
      packetsSent: this.#sent.packets,
      bytesSent: this.#sent.bytes,
      packetsReceived: this.#received.packets,
      bytesReceived: this.#received.bytes,
      dropped: { ...this.#dropped },
      malformedFrames: this.#malformed,
    }
  }

  /**
   * Sends a packet to a peer of the region; the bytes are copied. `false` when it was dropped at once.
   * @throws DERP_PACKET_TOO_LARGE over 65536 bytes
   */
  send(now: Instant, destination: NodePublicKey, packet: Uint8Array): boolean {
    return this.#sendPacket(now, encodePacketFrame(FRAME_SEND_PACKET, destination.bytes, packet), packet.length)
  }

  /**
   * As {@link send} for the results of all slots that are `DONE`, in their order: what may go to the transport at once is one `write`. Gives the
   * bytes of the packets that were not dropped at once.
   */
  sendBatch(now: Instant, destination: NodePublicKey, batch: PacketBatch): number {
    let sent = 0
    let slot = 0
    if (this.#introduced && this.#queue.size === 0 && this.#limit === undefined) {
      const room = this.#window - this.#inFlight
      let length = 0
      for (; slot < batch.count && length < room; slot += 1) if (batch.verdict[slot] === DONE) length += PACKET_FRAME_BYTES + (batch.targetLength[slot] ?? 0)
      sent = length > 0 ? this.#writeBatch(destination, batch, slot, length) : 0
    }
    for (; slot < batch.count; slot += 1) {
      if (batch.verdict[slot] === DONE && this.send(now, destination, batch.result(slot))) sent += batch.targetLength[slot] ?? 0
    }
    return sent
  }

  /** Hands a packet of another client to a relay of the same region; needs the mesh key. As {@link send} otherwise. */
  forward(now: Instant, source: NodePublicKey, destination: NodePublicKey, packet: Uint8Array): boolean {
    return this.#sendPacket(now, encodeFrame({ type: 'forwardPacket', source, destination, packet }), packet.length)
  }

  /** Says whether this region is the client's home. */
  setPreferred(_now: Instant, preferred: boolean): void {
    if (this.#preferred === preferred) return
    this.#preferred = preferred
    if (this.#introduced) this.#write(encodeFrame({ type: 'notePreferred', preferred }))
  }

  /** Asks the server to close every connection of a peer; needs the mesh key. */
  closePeer(_now: Instant, peer: NodePublicKey): void {
    if (this.#introduced) this.#write(encodeFrame({ type: 'closePeer', peer }))
  }

  /** Asks for a sign of life: `pong` follows, or `failed` after 3 s. One at a time; does nothing before the introduction. */
  ping(now: Instant): void {
    if (!this.#introduced || this.#ping !== undefined) return
    const data = this.#options.random(PING_BYTES)
    this.#ping = { data, sentAt: now, due: after(now, DERP_PING_TIMEOUT_MS) }
    this.#write(encodeFrame({ type: 'ping', data }))
  }

  handleInput(now: Instant, input: DerpClientInput): void {
    if (this.#state === 'closed') return
    switch (input.type) {
      case 'opened':
        return this.#open(now, input.serverKey)
      case 'bytes':
        return this.#read(now, input.bytes)
      case 'writable':
        this.#inFlight = 0
        return this.#flush()
      case 'closed':
        return this.#fail('closed')
    }
  }

  handleTimeout(now: Instant): void {
    if (this.#handshakeDue !== undefined && now >= this.#handshakeDue) return this.#fail('handshake-timeout')
    if (this.#ping !== undefined && now >= this.#ping.due) return this.#fail('ping-timeout')
    if (this.#silenceDue !== undefined && now >= this.#silenceDue) return this.#fail('silent')
  }

  pollOutput(): DerpClientOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return earlier(earlier(this.#handshakeDue, this.#silenceDue), this.#ping?.due)
  }

  get #introduced(): boolean {
    return this.#state === 'introduced' || this.#state === 'connected'
  }

  #open(now: Instant, serverKey: NodePublicKey | undefined): void {
    if (this.#state !== 'idle') return
    this.#state = 'greeting'
    this.#handshakeDue = after(now, DERP_HANDSHAKE_TIMEOUT_MS)
    this.#silenceDue = after(now, DERP_SILENCE_TIMEOUT_MS)
    if (serverKey !== undefined) this.#introduce(serverKey)
  }

  #introduce(serverKey: NodePublicKey): void {
    const { privateKey, meshKey, appName, random } = this.#options
    const info = {
      version: DERP_VERSION,
      canAckPings: this.#options.canAckPings ?? true,
      isProber: this.#options.isProber ?? false,
      ...(meshKey && { meshKey }),
      ...(appName !== undefined && { appName }),
    }
    const box = sealClientInfo(privateKey, serverKey, info, random, this.#options.provider)
    if (box === undefined) return this.#fail('server-key-invalid')
    this.#serverKey = serverKey
    this.#state = 'introduced'
    this.#write(encodeFrame({ type: 'clientInfo', key: privateKey.publicKey(), box }))
    if (this.#preferred) this.#write(encodeFrame({ type: 'notePreferred', preferred: true }))
    if (this.#options.watchConnections) this.#write(encodeFrame({ type: 'watchConns' }))
    this.#flush()
  }

  #read(now: Instant, bytes: Uint8Array): void {
    if (this.#state === 'idle') return
    if (bytes.length > 0) this.#silenceDue = after(now, DERP_SILENCE_TIMEOUT_MS)
    this.#reader.push(bytes)
    for (let raw = this.#reader.next(); raw !== undefined; raw = this.#reader.next()) {
      if (raw.code === FRAME_RECV_PACKET) this.#receive(raw.payload)
      else this.#handleFrame(now, raw.code, decodeFrame(raw.code, raw.payload), raw.payload)
      if (this.#state === 'closed') return
    }
    if (this.#reader.broken) this.#fail('frame-too-long')
  }

  #receive(payload: Uint8Array): void {
    if (payload.length < KEY_BYTES || payload.length > KEY_BYTES + MAX_PACKET_BYTES || !this.#introduced) {
      this.#malformed += 1
      return
    }
    const packet = payload.subarray(KEY_BYTES)
    this.#received.packets += 1
    this.#received.bytes += packet.length
    this.#outbox.push({ type: 'packet', source: this.#sourceKey(payload.subarray(0, KEY_BYTES)), packet })
  }

  // Peers repeat: one key object each spares the text form and the garbage.
  #sourceKey(bytes: Uint8Array): NodePublicKey {
    const known = this.#sources.get(bytes)
    if (known !== undefined) return known
    const key = NodePublicKey.fromBytes(bytes) ?? NodePublicKey.zero()
    if (this.#sources.size >= KNOWN_SOURCES) this.#sources.clear()
    this.#sources.set(bytes, key)
    return key
  }

  #handleFrame(now: Instant, code: number, frame: DerpFrame | undefined, payload: Uint8Array): void {
    if (this.#state === 'greeting') {
      // Nothing may come before the server's key.
      return frame?.type === 'serverKey' ? this.#introduce(frame.key) : this.#fail('server-key-invalid')
    }
    if (code === FRAME_SERVER_INFO) return this.#handleServerInfo(now, frame)
    switch (frame?.type) {
      case 'peerGone':
      case 'peerPresent':
      case 'restarting':
        this.#outbox.push(frame)
        return
      case 'ping':
        // Best effort, and never more than one window of answers.
        if ((this.#options.canAckPings ?? true) && this.#inFlight < this.#window) this.#write(encodeFrame({ type: 'pong', data: frame.data }))
        return
      case 'pong':
        return this.#handlePong(now, frame.data)
      case 'health':
        this.#outbox.push(frame.text === '' ? { type: 'health' } : { type: 'health', problem: frame.text })
        return
      case undefined:
        // A ping of less than 8 bytes is ignored, not wrong.
        if (code !== FRAME_PING || payload.length > 0) this.#malformed += 1
        return
      default:
        return // a keepalive, the server key again after fast start, or a type that is not for clients or not known yet
    }
  }

  #handleServerInfo(now: Instant, frame: DerpFrame | undefined): void {
    const key = this.#serverKey
    const info = frame?.type === 'serverInfo' && key ? openServerInfo(this.#options.privateKey, key, frame.box, this.#options.provider) : undefined
    if (info === undefined || key === undefined) return this.#fail('server-info-invalid')
    if (info.bytesPerSecond !== undefined) {
      this.#limit = new TokenBucket(now, info.bytesPerSecond, info.burstBytes ?? info.bytesPerSecond)
    }
    if (this.#state === 'connected') return
    this.#state = 'connected'
    this.#handshakeDue = undefined
    this.#outbox.push({ type: 'connected', serverKey: key, serverInfo: info })
  }

  #handlePong(now: Instant, data: Uint8Array): void {
    if (this.#ping === undefined || !equalBytes(data, this.#ping.data)) return
    this.#outbox.push({ type: 'pong', roundTripMs: now - this.#ping.sentAt })
    this.#ping = undefined
  }

  /** Writes the slots before `end` as frames of `length` bytes together. */
  #writeBatch(destination: NodePublicKey, batch: PacketBatch, end: number, length: number): number {
    const frames = new Uint8Array(length)
    let [at, packets] = [0, 0]
    for (let slot = 0; slot < end; slot += 1) {
      if (batch.verdict[slot] !== DONE) continue
      at = writePacketFrame(frames, at, FRAME_SEND_PACKET, destination.bytes, batch.result(slot))
      packets += 1
    }
    const bytes = length - packets * PACKET_FRAME_BYTES
    this.#sent.packets += packets
    this.#sent.bytes += bytes
    this.#write(frames)
    return bytes
  }

  #sendPacket(now: Instant, frame: Uint8Array, packetBytes: number): boolean {
    if (this.#state === 'closed') {
      this.#dropped.closed += 1
      return false
    }
    if (this.#limit !== undefined && !this.#limit.tryTake(now, frame.length)) {
      this.#dropped['rate-limited'] += 1
      return false
    }
    this.#sent.packets += 1
    this.#sent.bytes += packetBytes
    if (this.#introduced && this.#inFlight < this.#window && this.#queue.size === 0) this.#write(frame)
    else if (this.#queue.offerEvicting(frame) !== undefined) this.#dropped['queue-full'] += 1
    return true
  }

  #flush(): void {
    while (this.#introduced && this.#inFlight < this.#window) {
      const frame = this.#queue.poll()
      if (frame === undefined) return
      this.#write(frame)
    }
  }

  #write(bytes: Uint8Array): void {
    this.#inFlight += bytes.length
    this.#outbox.push({ type: 'write', bytes })
  }

  #fail(code: DerpClientFailure): void {
    this.#state = 'closed'
    this.#handshakeDue = undefined
    this.#silenceDue = undefined
    this.#ping = undefined
    this.#queue.clear()
    this.#outbox.push({ type: 'failed', code })
    if (code !== 'closed') this.#outbox.push({ type: 'close' })
  }
}
