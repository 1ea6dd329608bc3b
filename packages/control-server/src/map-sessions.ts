import { after, earlier, type Instant, type RandomSource, type UnixMillis, utf8Encode } from '@meshwright/core'
import { encodeKeepAliveChunk, encodeMapChunk, formatTime, frameMapPayload, type MapCompression } from '@meshwright/control-protocol'
import type { RequestId } from './context.ts'
import type { FrameParts } from './frame-parts.ts'
import { Delivered, type Difference, type MapComposer, type Receiver } from './map-composer.ts'

const KEEPALIVE_MS = 50_000
const KEEPALIVE_JITTER_MS = 9_000
const MAX_FRAMES_PER_MS = 4
/** Of the length in front of a frame: little-endian. */
const LENGTH_BYTES = 4

const EVERYTHING: Difference = { everything: true, access: true, peers: true, nodes: new Set() }

const NOBODY: ReadonlySet<number> = new Set()

/** Packs JSON into a zstd frame, where the runtime can do that: without it frames are stored uncompressed. */
export type Compressor = (json: Uint8Array) => Uint8Array

/** What sessions owe the world. */
export interface SessionSink {
  chunk(stream: RequestId, bytes: Uint8Array): void
  end(stream: RequestId): void
}

interface Session extends Receiver {
  readonly stream: RequestId
  readonly compression: MapCompression
  /** Nodes that changed while it was blocked, beside those of the running tick. */
  missed: Set<number> | undefined
  everything: boolean
  access: boolean
  peers: boolean
  pending: boolean
  /** The writer is full: nothing is composed until it drains. */
  blocked: boolean
  keepaliveDue: Instant
}

/**
 * The open polls. Changes are collected for `batchMs` and told in one frame for each receiver; a receiver that does not read costs
 * nothing but the list of what changed, and is dropped when it has not read for as long as a keepalive takes.
 */
export class MapSessions {
  readonly #sessions = new Map<RequestId, Session>()
  readonly #byNode = new Map<number, Session>()
  readonly #composer: MapComposer
  readonly #random: RandomSource
  readonly #sink: SessionSink
  readonly #compress: Compressor | undefined
  /** Nodes that changed since the last tick: one list for all receivers. */
  #dirty = new Set<number>()
  #tickDue: Instant | undefined
  #keepaliveDue: Instant | undefined

  constructor(composer: MapComposer, random: RandomSource, sink: SessionSink, compress: Compressor | undefined) {
    this.#composer = composer
    this.#random = random
    this.#sink = sink
    this.#compress = compress
  }

  get size(): number {
    return this.#sessions.size
  }

  /** See {@link MapComposer.peersCompared}. */
  get peersCompared(): number {
    return this.#composer.peersCompared
  }

  /** See {@link MapComposer.peersWritten}. */
  get peersWritten(): number {
    return this.#composer.peersWritten
  }

  /** See {@link MapComposer.sourcesWritten}. */
  get sourcesWritten(): number {
    return this.#composer.sourcesWritten
  }

  /** When changes are due to be told. */
  get tickDue(): Instant | undefined {
    return this.#tickDue
  }

  /** When the first keepalive is due. */
  get keepaliveDue(): Instant | undefined {
    return this.#keepaliveDue
  }

  /** Whether the stream is one of ours. */
  nodeOf(stream: RequestId): number | undefined {
    return this.#sessions.get(stream)?.nodeId
  }

  /** Opens a poll with a full frame and ends an older poll of the same node. Gives the stream that was ended. */
  open(now: Instant, stream: RequestId, nodeId: number, capVersion: number, zstd: boolean): RequestId | undefined {
    const older = this.#byNode.get(nodeId)
    const session: Session = {
      stream,
      nodeId,
      capVersion,
      compression: zstd ? 'zstd' : 'none',
      delivered: new Delivered(),
      omitPeers: false,
      missed: undefined,
      everything: true,
      access: true,
      peers: true,
      pending: true,
      blocked: false,
      keepaliveDue: now,
    }
    this.#sessions.set(stream, session)
    this.#byNode.set(nodeId, session)
    if (older !== undefined) {
      this.#sessions.delete(older.stream)
      this.#sink.end(older.stream)
    }
    this.#send(now, session, NOBODY)
    return older?.stream
  }

  /** One full frame and the end. */
  answerOnce(stream: RequestId, nodeId: number, capVersion: number, zstd: boolean, omitPeers: boolean): void {
    const frame = this.#composer.compose({ nodeId, capVersion, delivered: new Delivered(), omitPeers }, EVERYTHING)
    if (frame !== undefined) this.#sink.chunk(stream, this.#encode(frame, zstd ? 'zstd' : 'none'))
    this.#sink.end(stream)
  }

  /** The other side is gone. Gives the node whose poll it was. */
  close(stream: RequestId): number | undefined {
    const session = this.#sessions.get(stream)
    if (session === undefined) return undefined
    this.#drop(session)
    return session.nodeId
  }

  /** Ends the poll of a node that may have none any more. Gives whether there was one. */
  endNode(nodeId: number): boolean {
    const session = this.#byNode.get(nodeId)
    if (session === undefined) return false
    this.#drop(session)
    this.#sink.end(session.stream)
    return true
  }

  /** These nodes changed: everybody who may see them is told with the next tick. */
  changed(now: Instant, nodeIds: Iterable<number>, batchMs: number): void {
    for (const id of nodeIds) {
      this.#composer.changed(id)
      this.#dirty.add(id)
    }
    if (this.#dirty.size === 0) return
    this.#tickDue = earlier(this.#tickDue, after(now, this.#delay(batchMs)))
  }

  /**
   * What these nodes may see and do changed, and nothing else.
   * @param moved of a node among these any peer may look different; to the others, only these do
   */
  affected(nodeIds: ReadonlySet<number>, moved: ReadonlySet<number>): void {
    for (const id of nodeIds) {
      const session = this.#byNode.get(id)
      if (session === undefined) continue
      session.pending = true
      session.access = true
      if (moved.has(id)) session.peers = true
    }
    for (const id of moved) this.#dirty.add(id)
  }

  /** What anybody may see and do may have changed, and nothing else. */
  allAffected(): void {
    for (const session of this.#sessions.values()) {
      session.pending = true
      session.access = true
      session.peers = true
    }
  }

  /** Anything may look different to anybody. */
  allChanged(): void {
    this.#composer.allChanged()
    for (const session of this.#sessions.values()) {
      session.pending = true
      session.everything = true
    }
  }

  /** Something happened that may concern anybody: what it is, is asked when the tick comes. */
  stir(now: Instant, batchMs: number): void {
    this.#tickDue = earlier(this.#tickDue, after(now, this.#delay(batchMs)))
  }

  /** The writer of a stream is full (`true`) or has drained. */
  setBlocked(now: Instant, stream: RequestId, blocked: boolean): void {
    const session = this.#sessions.get(stream)
    if (session === undefined) return
    session.blocked = blocked
    if (!blocked && session.pending) this.#tickDue = earlier(this.#tickDue, now)
  }

  /** Tells everybody what changed. */
  tick(now: Instant): void {
    this.#tickDue = undefined
    const dirty = this.#dirty
    this.#dirty = new Set()
    for (const session of this.#sessions.values()) {
      if (session.blocked) {
        if (dirty.size === 0) continue
        session.missed ??= new Set()
        for (const id of dirty) session.missed.add(id)
        session.pending = true
      } else if (session.pending || dirty.size > 0) {
        this.#send(now, session, session.missed === undefined ? dirty : new Set([...session.missed, ...dirty]))
      }
    }
  }

  /** Sends what keeps quiet polls alive; gives the nodes whose readers have stalled and were dropped. */
  keepalive(now: Instant): number[] {
    const stalled: Session[] = []
    for (const session of this.#sessions.values()) {
      if (now < session.keepaliveDue) continue
      if (session.blocked) {
        stalled.push(session)
        continue
      }
      this.#sink.chunk(session.stream, encodeKeepAliveChunk(session.compression))
      this.#arm(now, session)
    }
    for (const session of stalled) {
      this.#drop(session)
      this.#sink.end(session.stream)
    }
    this.#keepaliveDue = undefined
    for (const session of this.#sessions.values()) this.#keepaliveDue = earlier(this.#keepaliveDue, session.keepaliveDue)
    return stalled.map((session) => session.nodeId)
  }

  /** Asks a node for a sign of life, if it has a poll that takes bytes. The host of the URL means nothing: the answer comes inside Noise. */
  ping(nodeId: number, url: string): void {
    const session = this.#byNode.get(nodeId)
    if (session === undefined || session.blocked) return
    const frame = utf8Encode(JSON.stringify({ KeepAlive: true, PingRequest: { URL: url, URLIsNoise: true } }))
    this.#sink.chunk(session.stream, encodeMapChunk(frame, session.compression))
  }

  /**
   * Tells everybody who reads what time it is here, without anything else.
   * @param domain the domain of the mesh: real clients build their whole map anew for it, and judge every key by the time that they know then
   */
  tellTime(wallNow: UnixMillis, domain?: string): void {
    const frame = utf8Encode(JSON.stringify({ ...(domain === undefined ? { KeepAlive: true } : { Domain: domain }), ControlTime: formatTime(wallNow) }))
    for (const session of this.#sessions.values()) if (!session.blocked) this.#sink.chunk(session.stream, encodeMapChunk(frame, session.compression))
  }

  // A storm of joins makes a frame for everybody in every tick: many receivers get longer ticks, so the frames of a second stay bounded.
  #delay(batchMs: number): number {
    return Math.max(batchMs, this.#sessions.size / MAX_FRAMES_PER_MS)
  }

  #send(now: Instant, session: Session, nodes: ReadonlySet<number>): void {
    const frame = this.#composer.compose(session, { everything: session.everything, access: session.access, peers: session.peers, nodes })
    session.pending = false
    session.everything = false
    session.access = false
    session.peers = false
    session.missed = undefined
    if (frame === undefined) return
    this.#sink.chunk(session.stream, this.#encode(frame, session.compression))
    this.#arm(now, session)
  }

  #encode(frame: FrameParts, compression: MapCompression): Uint8Array {
    if (compression === 'zstd') return this.#compress === undefined ? encodeMapChunk(frame.finish(), compression) : frameMapPayload(this.#compress(frame.finish()))
    // As encodeMapChunk does it, without its copy: most of a large network's traffic goes this way.
    const chunk = frame.finish(LENGTH_BYTES)
    new DataView(chunk.buffer).setUint32(0, chunk.length - LENGTH_BYTES, true)
    return chunk
  }

  #arm(now: Instant, session: Session): void {
    session.keepaliveDue = after(now, KEEPALIVE_MS + ((this.#random(1)[0] ?? 0) / 256) * KEEPALIVE_JITTER_MS)
    this.#keepaliveDue = earlier(this.#keepaliveDue, session.keepaliveDue)
  }

  #drop(session: Session): void {
    this.#sessions.delete(session.stream)
    if (this.#byNode.get(session.nodeId) === session) this.#byNode.delete(session.nodeId)
  }
}
