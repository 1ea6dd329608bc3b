import { DONE, HEADROOM_BYTES, isMeshwrightError, PacketBatch } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { type KernelBorder, linuxBorder } from './dataplane/kernel-border.ts'
import { isWasmProvider, type SocketPair } from './dataplane/lane-context.ts'
import { EAGAIN, EINVAL, EIO, EMSGSIZE, MSG_CONTROLLEN_AT, MSG_DONTWAIT, MSG_FLAGS_AT, MSG_IOV_AT, MSG_IOVLEN_AT, MSG_NAMELEN_AT, MSG_TRUNC, MSGHDR_BYTES } from './dataplane/linux-abi.ts'
import { MESSAGE_BYTES, SendMessage } from './dataplane/message-header.ts'
import { PathCache, type UdpPath, udpPathTo } from './dataplane/socket-address.ts'
import type { Scratch } from './dataplane/udp-pair.ts'
import { declare, findKoffi, type NativeFunction } from './koffi-functions.ts'

/** Datagrams that one call receives, and one row has. */
const SLOTS = 64
/** Longer datagrams than of a jumbo frame come over loopback alone, and of nobody who speaks WireGuard: they are dropped. */
const SLOT_BYTES = 9_216
const STRIDE: number = HEADROOM_BYTES + SLOT_BYTES + HEADROOM_BYTES
const ROW_BYTES = 66_000
/** struct mmsghdr: a msghdr, then the length that was received, padded. */
const MMSGHDR_BYTES = 64
const IOVEC_BYTES = 16
const NAME_BYTES = 32
const SCRATCH_BYTES = 512
/** For so long a path that refused a row gets single datagrams. */
const SINGLES_MS = 10_000
/** Endpoints that are remembered with their socket address; more begin anew. */
const MAX_KNOWN_PATHS = 4_096

/** What a {@link RowCalls} needs of memory. */
export const ROW_CALLS_BYTES: number = SLOTS * (STRIDE + MMSGHDR_BYTES + IOVEC_BYTES + NAME_BYTES) + ROW_BYTES + MESSAGE_BYTES + SCRATCH_BYTES

let shared: { readonly provider: CryptoProvider; readonly calls: RowCalls | undefined } | undefined

/**
 * `recvmmsg` and `sendmsg` on sockets that are somebody else's, with their memory: one for all sockets of the process, since each use is
 * over before the next begins.
 */
export class RowCalls {
  readonly border: KernelBorder
  /** For set-up calls. */
  readonly scratch: Scratch
  /** Where rows that are to be sent are laid out. */
  readonly row: PacketBatch
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #recvmmsg: NativeFunction
  readonly #batch: PacketBatch
  readonly #paths: PathCache = new PathCache()
  readonly #message: SendMessage
  readonly #rowAt: number
  readonly #headers: number
  readonly #names: number
  #first: Endpoint | undefined
  #firstBytes = 0
  #received = 0
  /** Datagrams that were longer than a slot. */
  tooLong = 0

  /** The one of the process, in a provider's memory; `undefined` where it cannot be had. */
  static of(provider: CryptoProvider): RowCalls | undefined {
    if (shared?.provider !== provider) shared = { provider, calls: RowCalls.#open(provider) }
    return shared.calls
  }

  static #open(provider: CryptoProvider): RowCalls | undefined {
    const koffi = process.platform === 'linux' && (process.arch === 'x64' || process.arch === 'arm64') && isWasmProvider(provider) ? findKoffi() : undefined
    if (koffi === undefined || !isWasmProvider(provider)) return undefined
    try {
      const arena = provider.instance.allocate(ROW_CALLS_BYTES)
      return new RowCalls(linuxBorder(koffi, arena), declare(koffi, 'recvmmsg', 5, 'int'), arena)
    } catch (error) {
      // A koffi or a C library that is not as expected, or no memory: the portable way is always there.
      if (error instanceof TypeError || error instanceof RangeError || isMeshwrightError(error, 'CRYPTO_WASM_MEMORY')) return undefined
      throw error
    }
  }

  /**
   * One of one's own, in {@link ROW_CALLS_BYTES}; for tests, whose kernel may lie.
   * @param recvmmsg as the C library has it: addresses are those of the border
   */
  constructor(border: KernelBorder, recvmmsg: NativeFunction, arena: Uint8Array) {
    const view = new DataView(arena.buffer, arena.byteOffset, arena.length)
    this.#bytes = arena
    this.#view = view
    this.border = border
    this.#recvmmsg = recvmmsg
    const row = SLOTS * STRIDE
    this.#batch = new PacketBatch(arena.subarray(0, row), SLOTS)
    this.row = new PacketBatch(arena.subarray(row, row + ROW_BYTES), SLOTS)
    this.#rowAt = row
    this.#headers = row + ROW_BYTES
    const vectors = this.#headers + SLOTS * MMSGHDR_BYTES
    this.#names = vectors + SLOTS * IOVEC_BYTES
    const message = this.#names + SLOTS * NAME_BYTES
    this.#message = new SendMessage(this.border, arena, view, message)
    this.scratch = { view, at: message + MESSAGE_BYTES }
    const { base } = this.border
    arena.fill(0, this.#headers, message)
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const header = this.#headers + slot * MMSGHDR_BYTES
      const vector = vectors + slot * IOVEC_BYTES
      this.#setAddress(header, base + this.#names + slot * NAME_BYTES)
      view.setUint32(header + MSG_NAMELEN_AT, NAME_BYTES, true)
      this.#setAddress(header + MSG_IOV_AT, base + vector)
      view.setUint32(header + MSG_IOVLEN_AT, 1, true)
      view.setUint32(header + MSG_CONTROLLEN_AT, 0, true)
      this.#setAddress(vector, base + slot * STRIDE + HEADROOM_BYTES)
      view.setUint32(vector + 8, SLOT_BYTES, true)
    }
  }

  /** Begins with a datagram that Node has received; `false` when it is too long for a slot. */
  put(bytes: Uint8Array, from: Endpoint): boolean {
    if (bytes.length > SLOT_BYTES) return false
    this.#bytes.set(bytes, HEADROOM_BYTES)
    this.#first = from
    this.#firstBytes = bytes.length
    this.#received = 0
    return true
  }

  /** Receives what else waits at a socket, as much as there is room for. */
  receive(fd: number): void {
    const received = this.#recvmmsg(fd, this.border.base + this.#headers + MMSGHDR_BYTES, SLOTS - 1, MSG_DONTWAIT, 0)
    // Errors that the network reports are taken by asking; what comes next counts.
    this.#received = received > 0 && received < SLOTS ? received : 0
  }

  /** Hands all of it over, in its order, the datagrams of one sender together. */
  handOver(onRow: (from: Endpoint, batch: PacketBatch) => void): void {
    const view = this.#view
    const batch = this.#batch
    let from = this.#first
    batch.reset()
    batch.addSlot(HEADROOM_BYTES, this.#firstBytes)
    for (let slot = 1; slot <= this.#received; slot += 1) {
      const header = this.#headers + slot * MMSGHDR_BYTES
      const length = view.getUint32(header + MSGHDR_BYTES, true)
      const nameBytes = view.getUint32(header + MSG_NAMELEN_AT, true)
      view.setUint32(header + MSG_NAMELEN_AT, NAME_BYTES, true)
      if (length > SLOT_BYTES || (view.getInt32(header + MSG_FLAGS_AT, true) & MSG_TRUNC) !== 0) {
        this.tooLong += 1
        continue
      }
      const path = nameBytes > NAME_BYTES ? undefined : this.#paths.find(view, this.#names + slot * NAME_BYTES, nameBytes)
      if (path === undefined) continue
      const { endpoint } = path
      if (from !== endpoint && from !== undefined && !(from.port === endpoint.port && from.ip.equals(endpoint.ip))) {
        onRow(from, batch)
        batch.reset()
      }
      from = endpoint // always the same object for one sender: what is made from it is kept with it
      batch.addSlot(slot * STRIDE + HEADROOM_BYTES, length)
    }
    if (from !== undefined) onRow(from, batch)
    this.#first = undefined
    this.#received = 0
  }

  /** A way to send rows by these sockets. @param later takes a datagram that the kernel has no room for now */
  sender(sockets: SocketPair, gso: boolean, later: (to: Endpoint, bytes: Uint8Array) => void): RowCallSender {
    return new RowCallSender({ border: this.border, message: this.#message, row: this.row, rowAt: this.#rowAt, sockets, gso, later })
  }

  #setAddress(at: number, address: number): void {
    this.#view.setUint32(at, address >>> 0, true)
    this.#view.setUint32(at + 4, Math.floor(address / 0x1_0000_0000), true)
  }
}

/** What a sender of rows is made of. */
export interface RowCallSenderOptions {
  readonly border: KernelBorder
  readonly message: SendMessage
  /** Where rows lie, and where that is in the memory of the border. */
  readonly row: PacketBatch
  readonly rowAt: number
  readonly sockets: SocketPair
  readonly gso: boolean
  /** Takes a datagram that the kernel has no room for now, or that lies elsewhere. */
  readonly later: (to: Endpoint, bytes: Uint8Array) => void
}

/**
 * Sends rows of datagrams by one system call each. Where the device below cannot (EIO), rows are given up for good; where a path is too
 * narrow for the segments (EINVAL, EMSGSIZE), for a while on that path.
 */
export class RowCallSender {
  readonly #by: RowCallSenderOptions
  #gso: boolean
  readonly #known: Map<string, UdpPath> = new Map()
  #last: UdpPath | undefined
  /** Datagrams that the kernel has taken. */
  sent = 0
  /** Datagrams that it has not. */
  dropped = 0

  constructor(by: RowCallSenderOptions) {
    this.#by = by
    this.#gso = by.gso
  }

  /** Whether rows leave as one message each. */
  get sendsRows(): boolean {
    return this.#gso
  }

  /** Sends the `DONE` slots of a batch: of the process's row, or singly of any other. */
  send(to: Endpoint, batch: PacketBatch): void {
    const path = this.#pathTo(to)
    const { sockets, message } = this.#by
    const fd = to.ip.family === 4 ? sockets.ipv4 : sockets.ipv6
    const { count, target, targetLength, verdict } = batch
    message.to(path.socketAddress)
    for (let slot = 0; slot < count; ) {
      if (verdict[slot] !== DONE) {
        slot += 1
        continue
      }
      const from = target[slot] ?? 0
      const segment = targetLength[slot] ?? 0
      let end = from + segment
      let next = slot + 1
      while (next < count && verdict[next] === DONE && target[next] === end && (targetLength[next] ?? 0) <= segment) {
        const length = targetLength[next] ?? 0
        end += length
        next += 1
        if (length < segment) break
      }
      this.#sendRun(fd, path, batch, from, end - from, segment)
      slot = next
    }
  }

  #sendRun(fd: number, path: UdpPath, batch: PacketBatch, from: number, length: number, segment: number): void {
    const datagrams = Math.ceil(length / segment)
    const isHere = batch === this.#by.row
    if (fd < 0 || !(path.endpoint.port > 0)) {
      this.dropped += datagrams
      return
    }
    if (isHere && datagrams > 1 && this.#gso && (path.singlesUntil === 0 || path.singlesUntil < performance.now())) {
      const sent = this.#call(fd, from, length, segment)
      if (sent >= 0) {
        this.sent += datagrams
        return
      }
      if (sent === -EIO) this.#gso = false
      else if (sent === -EINVAL || sent === -EMSGSIZE) path.singlesUntil = performance.now() + SINGLES_MS
    }
    for (let at = from; at < from + length; at += segment) {
      const bytes = Math.min(segment, from + length - at)
      const sent = isHere ? this.#call(fd, at, bytes, 0) : -EAGAIN
      if (sent >= 0) this.sent += 1
      else if (sent === -EAGAIN) this.#by.later(path.endpoint, batch.memory.slice(at, at + bytes))
      else this.dropped += 1
    }
  }

  #call(fd: number, from: number, length: number, segment: number): number {
    const { border, message, rowAt } = this.#by
    message.row(rowAt + from, length, segment, 0)
    return border.sendmsg(fd, message.at, MSG_DONTWAIT)
  }

  #pathTo(to: Endpoint): UdpPath {
    const last = this.#last
    if (last !== undefined && last.endpoint === to) return last
    const key = `${to.ip.key} ${to.port}`
    let path = this.#known.get(key)
    if (path === undefined || path.endpoint !== to) {
      if (this.#known.size >= MAX_KNOWN_PATHS) this.#known.clear()
      path = { ...udpPathTo(to), singlesUntil: path?.singlesUntil ?? 0 }
      this.#known.set(key, path)
    }
    this.#last = path
    return path
  }
}
