import { after, earlier, type Instant, type Machine, Outbox } from '@meshwright/core'
import { constantTimeEqual, type NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { packetKind } from './disco-shape.ts'
import { DerpError } from './errors.ts'
import * as T from './frame-types.ts'
import { decodeFrame, encodeFrame, encodePacketFrame } from './frames.ts'
import { DEFAULT_SERVER_INFO, type DerpClientInfo, openClientInfo, sealServerInfo } from './handshake.ts'
import { Region } from './region.ts'
import { type DerpConnectionId, type RegionPeer, ServerConnection } from './server-connection.ts'
import type { DerpServerInput, DerpServerOptions, DerpServerOutput } from './server-io.ts'
import { count, type DerpCloseReason, type DerpServerStats } from './server-stats.ts'
import { ServerNewcomers } from './server-newcomers.ts'
import { ServerTallies } from './server-tallies.ts'
import { ServerWriter } from './server-writer.ts'
import { TokenBucket } from './token-bucket.ts'

const HANDSHAKE_TIMEOUT_MS = 10_000
const KEEP_ALIVE_MS = 60_000
const KEEP_ALIVE_JITTER_MS = 5_000
const MAX_UNANSWERED_PINGS = 2
const NOT_HERE_PER_SECOND = 1
const NOT_HERE_BURST = 3
/** A burst below the largest frame could never let that frame through. */
const LEAST_RECEIVE_BURST_BYTES = 65_568
/** What may arrive while admission is being asked; the transport was told to pause. */
const MAX_HELD_BYTES = 1 << 17
const MAX_NEWCOMERS = 2_048

/**
 * A relay: all its connections, by number. It moves packets between clients that have proven their node keys, and knows nothing of
 * what is in them.
 *
 * | connection state | on | does | next |
 * |---|---|---|---|
 * | (new) | accepted | writes ServerKey | greeting |
 * | greeting | ClientInfo that opens | without admission or with the mesh key: writes ServerInfo | active |
 * | greeting | the same, with admission | `pause`, `verify` | verifying |
 * | greeting, verifying | anything else, 10 s, or the oldest of too many | closes | closed |
 * | verifying | verified: allow | writes ServerInfo, `resume` | active |
 * | active | SendPacket | routes it | active |
 * | active | a frame of wrong size, a privileged one without mesh key | closes | closed |
 * | active | nothing taken by the transport for the write time-out, two pings unanswered | closes | closed |
 *
 * A connection that has not been let in holds one ClientInfo of at most 16 KiB, while admission is being asked up to 128 KiB of what comes
 * behind it, and gives way where there are too many of them.
 * Memory per other connection: one frame, `windowBytes`, two queues of `queueDepth` packets of at most 64 KiB, and 1024 control frames
 * (65536 for other relays). Reading of one client never waits for the writing of another. Source:
 * tailscale/tailscale:derp/derpserver/derpserver.go.
 */
export class DerpServer implements Machine<DerpServerInput, DerpServerOutput> {
  readonly #options: DerpServerOptions
  readonly #outbox: Outbox<DerpServerOutput> = new Outbox()
  readonly #connections: Map<DerpConnectionId, ServerConnection> = new Map()
  readonly #tallies: ServerTallies = new ServerTallies()
  readonly #region: Region
  readonly #writer: ServerWriter
  readonly #newcomers: ServerNewcomers
  readonly #publicKey: NodePublicKey
  /** Never later than the earliest deadline of a connection; exact after each `handleTimeout`. */
  #due: Instant | undefined

  constructor(options: DerpServerOptions) {
    if (options.meshKey !== undefined && options.meshKey.length !== T.KEY_BYTES) {
      throw new DerpError('DERP_OPTION_INVALID', `a mesh key has ${T.KEY_BYTES} bytes, not ${options.meshKey.length}`)
    }
    this.#options = options
    this.#publicKey = options.privateKey.publicKey()
    this.#writer = new ServerWriter(this.#outbox, this.#tallies, options.windowBytes, options.writeTimeoutMs)
    this.#newcomers = new ServerNewcomers(options.maxNewcomers ?? MAX_NEWCOMERS)
    this.#region = new Region(options.random, this.#outbox, this.#tallies, this.#writer)
  }

  /** The key that clients seal their introduction to. */
  get publicKey(): NodePublicKey {
    return this.#publicKey
  }

  /** Counters and gauges. Costs a walk over all connections. */
  stats(): DerpServerStats {
    return this.#tallies.snapshot(this.#connections.values(), this.#region.census())
  }

  /** The keys that are connected here. */
  peers(): NodePublicKey[] {
    return this.#region.localKeys()
  }

  /**
   * Bytes of this connection's packets that went on to somebody, so far; `undefined`: it is gone, or not let in. For whoever shares out time among
   * connections: who says much that reaches nobody can wait.
   */
  carriedBytes(conn: DerpConnectionId): number | undefined {
    const connection = this.#connections.get(conn)
    return connection?.state === 'active' ? connection.carriedBytes : undefined
  }

  /** Closes every connection of a key: the node was deleted, or has lost its right. */
  closePeer(now: Instant, key: NodePublicKey): void {
    for (const conn of [...(this.#region.peer(key.bytes)?.connections ?? [])]) this.#close(now, conn, 'closed-by-request')
    this.#settle(now)
  }

  /** Tells all clients of a problem; without a text, that all is well again. */
  announceHealth(now: Instant, problem: string = ''): void {
    this.#announce(now, encodeFrame({ type: 'health', text: problem }))
  }

  /** Tells all clients when to come back, and for how long to try. */
  announceRestart(now: Instant, reconnectInMs: number, tryForMs: number): void {
    this.#announce(now, encodeFrame({ type: 'restarting', reconnectInMs, tryForMs }))
  }

  /** A link to another relay of the region has told that a key is there. @param link names the link in `forward` */
  addForwarder(now: Instant, link: number, peer: NodePublicKey): void {
    this.#region.addForwarder(now, link, peer)
  }

  /** A link has told that a key is not there any more. */
  removeForwarder(now: Instant, link: number, peer: NodePublicKey): void {
    this.#region.removeForwarder(now, link, peer)
    this.#settle(now)
  }

  /** A link is down: forgets all keys known by it. */
  removeLink(now: Instant, link: number): void {
    this.#region.removeLink(now, link)
    this.#settle(now)
  }

  handleInput(now: Instant, input: DerpServerInput): void {
    if (input.type === 'accepted') return this.#accept(now, input.conn, input.from, input.notIdeal ?? false)
    const conn = this.#connections.get(input.conn)
    if (conn === undefined) return
    switch (input.type) {
      case 'bytes':
        conn.heard = true
        conn.reader.push(input.bytes)
        this.#process(now, conn)
        break
      case 'writable':
        this.#writer.writable(now, conn, input.bytes)
        break
      case 'verified':
        if (conn.state === 'verifying') this.#decide(now, conn, input.allow)
        break
      case 'closed':
        this.#remove(now, conn)
        break
    }
    this.#settle(now)
  }

  handleTimeout(now: Instant): void {
    if (this.#due === undefined || now < this.#due) return
    for (const conn of this.#connections.values()) {
      const due = conn.due
      if (due !== undefined && now >= due) this.#expire(now, conn)
    }
    this.#settle(now)
    this.#due = undefined
    for (const conn of this.#connections.values()) this.#due = earlier(this.#due, conn.due)
  }

  pollOutput(): DerpServerOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.#due
  }

  #accept(now: Instant, id: DerpConnectionId, from: Endpoint | undefined, notIdeal: boolean): void {
    if (this.#connections.has(id)) throw new DerpError('DERP_CONNECTION_EXISTS', `connection ${id} exists already: number connections anew`)
    this.#tallies.accepts += 1
    if (this.#connections.size >= (this.#options.maxConnections ?? 100_000)) {
      this.#tallies.close('too-many-connections')
      this.#outbox.push({ type: 'close', conn: id, reason: 'too-many-connections' })
      return
    }
    const conn = new ServerConnection(id, from, notIdeal, this.#options.queueDepth ?? 32)
    this.#connections.set(id, conn)
    conn.handshakeDue = after(now, HANDSHAKE_TIMEOUT_MS)
    this.#due = earlier(this.#due, conn.handshakeDue)
    const inTheWay = this.#newcomers.add(conn)
    if (inTheWay !== undefined) this.#close(now, inTheWay, 'gave-way')
    this.#writer.write(now, conn, encodeFrame({ type: 'serverKey', key: this.#publicKey }))
    this.#settle(now)
  }

  #process(now: Instant, conn: ServerConnection): void {
    while (conn.state === 'greeting' || conn.state === 'active') {
      const raw = conn.reader.next()
      if (raw === undefined) break
      if (conn.state === 'greeting') this.#greet(now, conn, raw.payload)
      else this.#handleFrame(now, conn, raw.code, raw.payload)
    }
    if (conn.state === 'closed') return
    if (conn.reader.broken) this.#close(now, conn, conn.state === 'greeting' ? 'client-info-invalid' : 'frame-invalid')
    else if (conn.state === 'verifying' && conn.reader.pendingBytes > MAX_HELD_BYTES) this.#close(now, conn, 'frame-invalid')
  }

  #greet(now: Instant, conn: ServerConnection, payload: Uint8Array): void {
    const frame = decodeFrame(T.FRAME_CLIENT_INFO, payload)
    const info = frame?.type === 'clientInfo' ? openClientInfo(this.#options.privateKey, frame.key, frame.box, this.#options.provider) : undefined
    if (frame?.type !== 'clientInfo' || info === undefined) return this.#close(now, conn, 'client-info-invalid')
    conn.key = frame.key
    conn.info = info
    conn.trusted = this.#isTrusted(info)
    if (conn.trusted || this.#options.admission !== true) return this.#admit(now, conn)
    conn.state = 'verifying'
    conn.handshakeDue = after(now, HANDSHAKE_TIMEOUT_MS)
    this.#outbox.push({ type: 'pause', conn: conn.id })
    this.#outbox.push({ type: 'verify', conn: conn.id, nodeKey: frame.key, ...(conn.from && { from: conn.from }) })
  }

  #isTrusted(info: DerpClientInfo): boolean {
    const own = this.#options.meshKey
    return own !== undefined && info.meshKey !== undefined && constantTimeEqual(own, info.meshKey)
  }

  #decide(now: Instant, conn: ServerConnection, allow: boolean): void {
    if (!allow) return this.#close(now, conn, 'denied')
    this.#outbox.push({ type: 'resume', conn: conn.id })
    this.#admit(now, conn)
    this.#process(now, conn)
  }

  #admit(now: Instant, conn: ServerConnection): void {
    const key = conn.key
    const { privateKey, random, provider } = this.#options
    const box = key && sealServerInfo(privateKey, key, this.#options.serverInfo ?? DEFAULT_SERVER_INFO, random, provider)
    if (key === undefined || box === undefined) return this.#close(now, conn, 'client-info-invalid')
    conn.state = 'active'
    conn.handshakeDue = undefined
    this.#newcomers.remove(conn)
    const [low = 0, high = 0] = this.#options.random(2)
    conn.keepAliveMs = KEEP_ALIVE_MS + ((low | (high << 8)) / 0x1_0000) * KEEP_ALIVE_JITTER_MS
    conn.keepAliveDue = after(now, conn.keepAliveMs)
    this.#due = earlier(this.#due, conn.keepAliveDue)
    const limit = this.#options.receiveLimit
    if (limit !== undefined && !conn.trusted) {
      conn.limit = new TokenBucket(now, limit.bytesPerSecond, Math.max(limit.burstBytes, LEAST_RECEIVE_BURST_BYTES))
    }
    this.#writer.write(now, conn, encodeFrame({ type: 'serverInfo', box }))
    this.#region.join(now, conn, key)
  }

  #handleFrame(now: Instant, conn: ServerConnection, code: number, payload: Uint8Array): void {
    if (conn.peer !== undefined) conn.peer.active = conn
    if (code === T.FRAME_SEND_PACKET) return this.#handleSend(now, conn, payload)
    const frame = decodeFrame(code, payload)
    switch (frame?.type) {
      case 'ping':
        this.#tallies.gotPings += 1
        this.#writer.pong(now, conn, encodeFrame({ type: 'pong', data: frame.data }))
        return
      case 'notePreferred':
        if (frame.preferred && !conn.preferred) this.#tallies.homeMovesIn += 1
        if (!frame.preferred && conn.preferred) this.#tallies.homeMovesOut += 1
        conn.preferred = frame.preferred
        return
      case 'watchConns':
        if (!conn.trusted) return this.#close(now, conn, 'not-privileged')
        if (conn.key?.equals(this.#publicKey) === false) this.#region.watch(now, conn)
        return
      case 'closePeer':
        return conn.trusted ? this.closePeer(now, frame.peer) : this.#close(now, conn, 'not-privileged')
      case 'forwardPacket':
        return conn.trusted ? this.#handleForward(now, conn, frame.source, frame.destination, frame.packet) : this.#close(now, conn, 'not-privileged')
      default:
        return this.#close(now, conn, 'frame-invalid') // unknown types have been skipped by the reader
    }
  }

  #handleSend(now: Instant, conn: ServerConnection, payload: Uint8Array): void {
    if (payload.length < T.KEY_BYTES || conn.key === undefined) return this.#close(now, conn, 'frame-invalid')
    this.#limitReceive(now, conn, T.FRAME_HEADER_BYTES + payload.length)
    const packet = payload.subarray(T.KEY_BYTES)
    const kind = packetKind(packet)
    count(this.#tallies.received, kind, packet.length)
    const target = this.#region.peer(payload.subarray(0, T.KEY_BYTES))
    if (target?.active !== undefined) {
      conn.carriedBytes += T.FRAME_HEADER_BYTES + payload.length
      return this.#writer.deliver(now, target.active, conn.peer, encodePacketFrame(T.FRAME_RECV_PACKET, conn.key.bytes, packet), kind, packet.length)
    }
    const link = target?.forwarders[0]
    if (target !== undefined && link !== undefined) {
      this.#tallies.forwardedOut += 1
      conn.carriedBytes += T.FRAME_HEADER_BYTES + payload.length
      this.#outbox.push({ type: 'forward', link, source: conn.key, destination: target.key, packet })
      return
    }
    this.#tallies.drop('unknown_dest', kind, packet.length)
    if (kind === 'disco') this.#tellNotHere(now, conn, payload)
  }

  #handleForward(now: Instant, conn: ServerConnection, source: NodePublicKey, destination: NodePublicKey, packet: Uint8Array): void {
    this.#tallies.forwardedIn += 1
    const kind = packetKind(packet)
    const target = this.#region.peer(destination.bytes)?.active
    // Never forwarded again: a packet crosses the mesh once.
    if (target === undefined) return this.#tallies.drop('unknown_dest_on_fwd', kind, packet.length)
    conn.carriedBytes += T.FRAME_HEADER_BYTES + 2 * T.KEY_BYTES + packet.length
    const from: RegionPeer | undefined = this.#region.peer(source.bytes)
    this.#writer.deliver(now, target, from, encodePacketFrame(T.FRAME_RECV_PACKET, source.bytes, packet), kind, packet.length)
  }

  #tellNotHere(now: Instant, conn: ServerConnection, payload: Uint8Array): void {
    const frame = decodeFrame(T.FRAME_SEND_PACKET, payload)
    conn.notHereLimit ??= new TokenBucket(now, NOT_HERE_PER_SECOND, NOT_HERE_BURST)
    if (frame?.type !== 'sendPacket' || !conn.notHereLimit.tryTake(now, 1)) return
    if (this.#writer.control(now, conn, encodeFrame({ type: 'peerGone', peer: frame.destination, reason: T.PEER_GONE_NOT_HERE }))) {
      this.#tallies.peerGoneNotHere += 1
    }
  }

  #limitReceive(now: Instant, conn: ServerConnection, bytes: number): void {
    const resumeAt = conn.limit?.take(now, bytes)
    if (resumeAt === undefined) return
    if (conn.resumeDue === undefined) this.#outbox.push({ type: 'pause', conn: conn.id })
    conn.resumeDue = resumeAt
    this.#due = earlier(this.#due, resumeAt)
  }

  #expire(now: Instant, conn: ServerConnection): void {
    if (conn.handshakeDue !== undefined && now >= conn.handshakeDue) return this.#close(now, conn, 'handshake-timeout')
    if (conn.writeDue !== undefined && now >= conn.writeDue) return this.#close(now, conn, 'write-timeout')
    if (conn.resumeDue !== undefined && now >= conn.resumeDue) {
      conn.resumeDue = undefined
      this.#outbox.push({ type: 'resume', conn: conn.id })
    }
    if (conn.keepAliveDue !== undefined && now >= conn.keepAliveDue) this.#keepAlive(now, conn)
  }

  // Our own idle rule: without TCP_USER_TIMEOUT a client that vanished would stay until a write fails.
  #keepAlive(now: Instant, conn: ServerConnection): void {
    conn.keepAliveDue = after(now, conn.keepAliveMs)
    if (this.#options.pingSilentClients !== false && conn.info?.canAckPings === true) {
      if (conn.heard) conn.unansweredPings = 0
      else if (conn.unansweredPings >= MAX_UNANSWERED_PINGS) return this.#close(now, conn, 'silent')
      else {
        conn.unansweredPings += 1
        this.#writer.control(now, conn, encodeFrame({ type: 'ping', data: this.#options.random(T.PING_BYTES) }))
      }
      conn.heard = false
    }
    // A transport that takes nothing needs no keepalive: the write time-out decides.
    if (!conn.hasBacklog) this.#writer.control(now, conn, encodeFrame({ type: 'keepAlive' }))
  }

  #announce(now: Instant, frame: Uint8Array): void {
    for (const conn of this.#connections.values()) if (conn.state === 'active') this.#writer.control(now, conn, frame)
    this.#settle(now)
  }

  #close(now: Instant, conn: ServerConnection, reason: DerpCloseReason): void {
    if (conn.state === 'closed') return
    this.#tallies.close(reason)
    this.#outbox.push({ type: 'close', conn: conn.id, reason })
    this.#remove(now, conn)
  }

  #remove(now: Instant, conn: ServerConnection): void {
    this.#connections.delete(conn.id)
    this.#newcomers.remove(conn)
    conn.state = 'closed'
    this.#writer.discard(conn)
    this.#region.leave(now, conn)
  }

  // What writing has left to do: deadlines, and watchers that could not keep up.
  #settle(now: Instant): void {
    for (let conn = this.#writer.overflowed.pop(); conn !== undefined; conn = this.#writer.overflowed.pop()) this.#close(now, conn, 'watch-overflow')
    this.#due = earlier(this.#due, this.#writer.earliest)
    this.#writer.earliest = undefined
  }
}
