import type { Socket } from 'node:net'
import { type Ip, parseIp } from '@meshwright/ip'

/** Connections of one address that have proved nothing, and of all together. The oldest gives way to the newest. */
const MAX_OF_SOURCE = 1_024
const MAX_OF_ALL = 2_048
/** How long a connection may owe its request head, its TLS handshake or its Noise handshake. */
const PATIENCE_MS = 10_000
/** Few at a time, so that ending thousands holds nobody up. */
const ROUND_MS = 20
const ENDED_IN_ROUND = 25
const IPV6_SITE_BYTES = 8
const MAX_KNOWN_SOURCES = 4_096

/**
 * TLS handshakes that are not complete, of one address and of all: each may hold 0.2 MB, because a ClientHello may say that it has 128 KiB, and
 * OpenSSL then makes room for it. An honest client is through after one round trip.
 */
export const HANDSHAKE_LIMITS: NewcomerLimits = { ofSource: 256, ofAll: 512 }

interface Newcomer {
  readonly socket: Socket
  readonly key: string
  readonly source: string | undefined
  /** `Infinity`: who knows when it must go is somebody else. */
  readonly due: number
}

/** How many there may be, and for how long; the defaults are those of the program. */
export interface NewcomerLimits {
  readonly ofSource?: number
  readonly ofAll?: number
  readonly patienceMs?: number
}

/**
 * The connections that have proved nothing yet: no request head read, no TLS or Noise handshake done, or a machine key that holds no
 * node. Their number is bounded as a whole and for each address (for each /64 in IPv6), and the oldest gives way, of the whole that of
 * the address with the most: an honest client is through in a second, so what is old only holds a place, and it has few connections.
 * Half-open connections thus cost a bounded amount of memory and keep nobody out.
 *
 * | a connection | is here |
 * |---|---|
 * | came, and its head or handshake is not complete | until its time is over |
 * | asked something and is kept alive | as one that came |
 * | proved a machine key that holds no node | until its time with the node API is over |
 * | proved a machine key that holds a node | no longer |
 */
export class Newcomers {
  /** By both ends of the connection: a TLS socket and the socket under it are one. */
  readonly #all = new Map<string, Newcomer>()
  /** Those with a time of their own, in the order of it. */
  readonly #owing = new Set<Newcomer>()
  readonly #bySource = new Map<string, Set<Newcomer>>()
  /** Those that are listened to, and what they are here by. */
  readonly #watched = new Map<Socket, string>()
  readonly #closed: (this: Socket) => void
  readonly #limits: Required<NewcomerLimits>
  readonly #shared: (address: Ip) => boolean
  /** What addresses were found to be: to parse one costs more than all else that is done here. */
  readonly #sources = new Map<string | undefined, { readonly source: string | undefined }>()
  #timer: NodeJS.Timeout | undefined
  #evicted = 0
  #overdue = 0

  /** @param shared whether an address stands for many (a trusted proxy): it has no limit of its own */
  constructor(shared: (address: Ip) => boolean, limits: NewcomerLimits = {}) {
    this.#shared = shared
    this.#limits = { ofSource: MAX_OF_SOURCE, ofAll: MAX_OF_ALL, patienceMs: PATIENCE_MS, ...limits }
    const gone = (socket: Socket): void => this.#gone(socket)
    // The same function for all connections: a flood of them is garbage that somebody must collect.
    this.#closed = function (this: Socket): void {
      gone(this)
    }
  }

  /** Connections that have proved nothing, those that gave way, and those whose time was over: for metrics. */
  get figures(): { readonly waiting: number; readonly evicted: number; readonly overdue: number } {
    return { waiting: this.#all.size, evicted: this.#evicted, overdue: this.#overdue }
  }

  /** A connection came, or owes something again. */
  add(socket: Socket): void {
    this.#put(socket, performance.now() + this.#limits.patienceMs)
  }

  /** It shook hands with a key that holds no node: it may give way, but is no longer waited for here. */
  addStranger(socket: Socket): void {
    this.#put(socket, Number.POSITIVE_INFINITY)
  }

  /** It has proved itself. */
  remove(socket: Socket): void {
    const key = keyOf(socket)
    if (key !== undefined) this.#forget(this.#all.get(key))
  }

  /** Who its connections count for together, as text; `undefined`: an address that stands for many, or one that is gone. */
  sourceOf(socket: Socket): string | undefined {
    const { remoteAddress } = socket
    const known = this.#sources.get(remoteAddress)
    if (known !== undefined) return known.source
    const ip = parseIp(remoteAddress ?? '')?.unmapped()
    const source = ip === undefined || this.#shared(ip) ? undefined : siteText(ip)
    if (this.#sources.size >= MAX_KNOWN_SOURCES) this.#sources.clear()
    this.#sources.set(remoteAddress, { source })
    return source
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #put(socket: Socket, due: number): void {
    const key = keyOf(socket)
    if (key === undefined) return void socket.destroy() // reset before it was looked at
    this.#forget(this.#all.get(key))
    const source = this.sourceOf(socket)
    const newcomer: Newcomer = { socket, key, source, due }
    this.#all.set(key, newcomer)
    if (due !== Number.POSITIVE_INFINITY) this.#owing.add(newcomer)
    if (!this.#watched.has(socket)) {
      this.#watched.set(socket, key)
      socket.on('close', this.#closed)
    }
    const siblings = source === undefined ? undefined : this.#siblings(source)
    siblings?.add(newcomer)
    if (siblings !== undefined && siblings.size > this.#limits.ofSource) this.#evict(siblings.values().next().value)
    if (this.#all.size > this.#limits.ofAll) this.#evict((this.#largest() ?? this.#all.values()).next().value)
    this.#timer ??= setInterval(() => this.#endOverdue(), ROUND_MS).unref()
  }

  #gone(socket: Socket): void {
    const key = this.#watched.get(socket)
    this.#watched.delete(socket)
    if (key !== undefined) this.#forget(this.#all.get(key))
  }

  #forget(newcomer: Newcomer | undefined): void {
    if (newcomer === undefined) return
    this.#all.delete(newcomer.key)
    this.#owing.delete(newcomer)
    const siblings = newcomer.source === undefined ? undefined : this.#bySource.get(newcomer.source)
    siblings?.delete(newcomer)
    if (newcomer.source !== undefined && siblings?.size === 0) this.#bySource.delete(newcomer.source)
  }

  #evict(oldest: Newcomer | undefined): void {
    if (oldest === undefined) return
    this.#evicted += 1
    this.#forget(oldest)
    oldest.socket.destroy()
  }

  #endOverdue(): void {
    const now = performance.now()
    let left = ENDED_IN_ROUND
    for (const newcomer of this.#owing) {
      if (newcomer.due > now || left === 0) break
      left -= 1
      this.#overdue += 1
      this.#forget(newcomer)
      newcomer.socket.destroy()
    }
    if (this.#owing.size === 0) this.stop()
  }

  /** Those of the address that has the most of all; `undefined`: none has more than one. */
  #largest(): Iterator<Newcomer> | undefined {
    let most: ReadonlySet<Newcomer> | undefined
    for (const siblings of this.#bySource.values()) if (siblings.size > (most?.size ?? 1)) most = siblings
    return most?.values()
  }

  #siblings(source: string): Set<Newcomer> {
    const known = this.#bySource.get(source)
    if (known !== undefined) return known
    const siblings = new Set<Newcomer>()
    this.#bySource.set(source, siblings)
    return siblings
  }
}

/** Who connections of an address count for together, as text: an IPv4 address, or a /64 of IPv6; `undefined` where there is no address. */
export function siteOf(address: string | undefined): string | undefined {
  const ip = parseIp(address ?? '')?.unmapped()
  return ip && siteText(ip)
}

function siteText(ip: Ip): string {
  return Buffer.from(ip.family === 4 ? ip.bytes : ip.bytes.subarray(0, IPV6_SITE_BYTES)).toString('hex')
}

// Of both ends: from one port of theirs somebody may connect with each address of ours.
function keyOf(socket: Socket): string | undefined {
  const { remoteAddress, remotePort, localAddress, localPort } = socket
  return remoteAddress === undefined || remotePort === undefined ? undefined : `${remoteAddress} ${remotePort} ${localAddress ?? ''} ${localPort ?? ''}`
}
