import type dgram from 'node:dgram'
import { MeshwrightError } from '@meshwright/core'
import { type Endpoint, formatIp, type Ip, parseIp } from '@meshwright/ip'
import { type Outside, systemOutside } from './outside.ts'

/** Bytes that may wait in Node for the kernel, for each family; more is dropped, as a full network card would. */
const MAX_SEND_QUEUE_BYTES = 4 * 1024 * 1024
/** Asked of the kernel, which may give less (net.core.rmem_max). */
const KERNEL_BUFFER_BYTES = 2 * 1024 * 1024
const ATTEMPTS_FOR_SAME_PORT = 10
/** Addresses of senders that are remembered as parsed; more begin anew. */
const MAX_KNOWN_SENDERS = 4096
const MAX_PORT = 65_535

/** Why a UDP socket could not be had. */
export type UdpErrorCode = 'UDP_PORT_TAKEN' | 'UDP_NOT_ALLOWED' | 'UDP_UNAVAILABLE'

/** A UDP socket could not be had. */
export class UdpError extends MeshwrightError<UdpErrorCode> {}

/** How a UDP socket is opened. */
export interface UdpOptions {
  /** 0 or absent: any free port, the same for both families where possible. */
  readonly port?: number
  /** IPv4 address to bind (default all); `false` leaves IPv4 out. */
  readonly ipv4?: string | false
  /** IPv6 address to bind (default all, IPv6 only); `false` leaves IPv6 out. */
  readonly ipv6?: string | false
  /** A datagram has arrived; the bytes belong to the receiver. IPv4 comes with IPv4 addresses. */
  readonly onDatagram: (bytes: Uint8Array, from: Endpoint) => void
  /** An asynchronous error of a socket, which stays open: an unreachable network, for example. */
  readonly onError?: (error: Error) => void
  /** How sockets are opened; default: the system's way. */
  readonly outside?: Outside
  /** The sockets have buffers of the size they are to have. */
  readonly sized?: boolean
}

/** What went through a UDP socket. */
export interface UdpStats {
  readonly datagramsIn: number
  readonly datagramsOut: number
  /** Not handed to the kernel: the queue was full, or the family is not there. */
  readonly dropped: number
}

/** Nothing has yet. */
export const NO_UDP_STATS: UdpStats = { datagramsIn: 0, datagramsOut: 0, dropped: 0 }

/** Two sockets, one per family, as one. */
export interface UdpSocket {
  /** Bound port of IPv4; `undefined` without IPv4. */
  readonly portIpv4: number | undefined
  /** Bound port of IPv6; `undefined` without IPv6. */
  readonly portIpv6: number | undefined
  /** Sends a datagram, whose bytes must not change for a moment; `false` when it was dropped. Never throws for bad luck. */
  send(to: Endpoint, bytes: Uint8Array): boolean
  stats(): UdpStats
  /** Resolves when both sockets are gone. */
  close(): Promise<void>
}

/**
 * Opens UDP for IPv4 and IPv6 on one port. Without IPv6 on the machine IPv4 alone is fine, and the other way round.
 * @throws UdpError (the promise rejects with it) when the port is taken, or neither family is there
 */
export async function openUdp(options: UdpOptions): Promise<UdpSocket> {
  const wanted = options.port ?? 0
  for (let attempt = 1; ; attempt += 1) {
    const four = options.ipv4 === false ? undefined : await bind(options.outside, 'udp4', wanted, options.ipv4)
    if (four instanceof UdpError && four.code !== 'UDP_UNAVAILABLE') throw four
    const port = four instanceof UdpError ? wanted : (four?.address().port ?? wanted)
    const six = options.ipv6 === false ? undefined : await bind(options.outside, 'udp6', port, options.ipv6)
    if (six instanceof UdpError && six.code !== 'UDP_UNAVAILABLE') {
      if (!(four instanceof UdpError)) four?.close()
      if (wanted !== 0 || attempt === ATTEMPTS_FOR_SAME_PORT) throw six
      continue // the port that IPv4 was given is taken in IPv6: draw again
    }
    const problem = four instanceof UdpError ? four : six instanceof UdpError ? six : undefined
    const socket4 = four instanceof UdpError ? undefined : four
    const socket6 = six instanceof UdpError ? undefined : six
    if (socket4 === undefined && socket6 === undefined) throw problem ?? new UdpError('UDP_UNAVAILABLE', 'neither IPv4 nor IPv6 was asked for')
    return new TwoSockets(socket4, socket6, options)
  }
}

function bind(outside: Outside | undefined, type: 'udp4' | 'udp6', port: number, address: string | undefined): Promise<dgram.Socket | UdpError> {
  return (outside ?? systemOutside).bindUdp(type, port, address).catch((error: NodeJS.ErrnoException) => bindError(type, port, address, error))
}

function bindError(type: string, port: number, address: string | undefined, error: NodeJS.ErrnoException): UdpError {
  const where = `${type === 'udp4' ? 'IPv4' : 'IPv6'} UDP port ${port}${address === undefined ? '' : ` of ${address}`}`
  if (error.code === 'EADDRINUSE') {
    return new UdpError('UDP_PORT_TAKEN', `${where} is taken by another program`, { cause: error, remedy: 'Choose another port, or stop that program.' })
  }
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    return new UdpError('UDP_NOT_ALLOWED', `${where} may not be opened`, { cause: error, remedy: 'Choose a port above 1023, or run with more rights.' })
  }
  return new UdpError('UDP_UNAVAILABLE', `${where} cannot be opened: ${error.message}`, { cause: error })
}

/** Two sockets of Node's as one; see {@link openUdp}. */
export class TwoSockets implements UdpSocket {
  readonly portIpv4: number | undefined
  readonly portIpv6: number | undefined
  readonly #four: dgram.Socket | undefined
  readonly #six: dgram.Socket | undefined
  readonly #options: UdpOptions
  #closed = false
  #in = 0
  #out = 0
  #dropped = 0
  readonly #senders: Map<string, Ip | undefined> = new Map()
  // One for all sends: it is called for each datagram.
  readonly #onSent = (error: Error | null): void => {
    if (error && !this.#closed) this.#options.onError?.(error)
  }

  constructor(four: dgram.Socket | undefined, six: dgram.Socket | undefined, options: UdpOptions) {
    this.#four = four
    this.#six = six
    this.#options = options
    this.portIpv4 = four?.address().port
    this.portIpv6 = six?.address().port
    for (const socket of [four, six]) if (socket !== undefined) this.#listen(socket)
  }

  send(to: Endpoint, bytes: Uint8Array): boolean {
    const socket = to.ip.family === 4 ? this.#four : this.#six
    if (socket === undefined || this.#closed || !(to.port > 0 && to.port <= MAX_PORT) || socket.getSendQueueSize() + bytes.length > MAX_SEND_QUEUE_BYTES) {
      this.#dropped += 1
      return false
    }
    this.#out += 1
    socket.send(bytes, to.port, formatIp(to.ip), this.#onSent)
    return true
  }

  stats(): UdpStats {
    return { datagramsIn: this.#in, datagramsOut: this.#out, dropped: this.#dropped }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all([this.#four, this.#six].map((socket) => socket && new Promise<void>((resolve) => socket.close(() => resolve()))))
  }

  #listen(socket: dgram.Socket): void {
    for (const size of this.#options.sized === true ? [] : (['setRecvBufferSize', 'setSendBufferSize'] as const)) {
      try {
        socket[size](KERNEL_BUFFER_BYTES)
      } catch {
        continue // smaller kernel buffers cost speed, nothing else
      }
    }
    socket.on('error', (error) => this.#options.onError?.(error))
    socket.on('message', (bytes: Uint8Array, remote) => {
      const ip = this.#sender(remote.address)
      if (ip === undefined || this.#closed) return
      this.#in += 1
      this.#options.onDatagram(bytes, { ip, port: remote.port })
    })
  }

  // Parsing an address costs more than decrypting what came from it, and it is the same one again and again.
  #sender(address: string): Ip | undefined {
    const known = this.#senders.get(address)
    if (known !== undefined) return known
    if (this.#senders.size >= MAX_KNOWN_SENDERS) this.#senders.clear()
    // Link-local addresses come with a zone, which is of no use to peers elsewhere.
    const ip = parseIp(address.split('%', 1)[0] ?? '')
    this.#senders.set(address, ip)
    return ip
  }
}
