import type { KernelBorder } from './kernel-border.ts'
import type { SocketPair } from './lane-context.ts'
import {
  AF_INET, AF_INET6, EADDRINUSE, IP_RECVTOS, IPV6_RECVTCLASS, IPV6_V6ONLY, SO_MARK, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_DGRAM,
  SOCKADDR4_BYTES, SOCKADDR6_BYTES, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_UDP, UDP_GRO, UDP_SEGMENT,
} from './linux-abi.ts'

/** 7 MB, as wireguard-go asks for. */
const KERNEL_BUFFER_BYTES = 7 * 1024 * 1024
const ATTEMPTS_FOR_SAME_PORT = 10
/** A full queue is waited for, as TCP through the tunnel wants it; but not for ever. */
const SEND_TIMEOUT_US = 50_000

/** How sockets are to be. */
export interface UdpPairOptions {
  /** 0: any. */
  readonly port: number
  /** SO_MARK; 0 for none. */
  readonly mark: number
  /** Whether rows are to be received. */
  readonly gro: boolean
}

/** The sockets, and which offloads they take. */
export interface OpenedUdpPair extends SocketPair {
  readonly gso: boolean
  readonly gro: boolean
}

/** Memory for the arguments of calls: `at` and 64 bytes behind it. */
export interface Scratch {
  readonly view: DataView
  readonly at: number
}

/** Opens UDP for IPv4 and IPv6 on one port, IPv4 alone where there is no IPv6; gives a negative errno when it cannot be had. */
export function openUdpPair(border: KernelBorder, scratch: Scratch, options: UdpPairOptions): OpenedUdpPair | number {
  for (let attempt = 1; ; attempt += 1) {
    const ipv4 = openSocket(border, scratch, AF_INET, options.port)
    const port = ipv4 < 0 ? options.port : portOf(border, scratch, ipv4)
    if (ipv4 === -EADDRINUSE) return ipv4
    const ipv6 = openSocket(border, scratch, AF_INET6, port)
    if (ipv6 === -EADDRINUSE && ipv4 >= 0) {
      border.close(ipv4)
      if (options.port !== 0 || attempt === ATTEMPTS_FOR_SAME_PORT) return ipv6
      continue // the port that IPv4 was given is taken in IPv6: draw again
    }
    if (ipv4 < 0 && ipv6 < 0) return ipv4
    const pair = { ipv4: Math.max(-1, ipv4), ipv6: Math.max(-1, ipv6), port: ipv4 < 0 ? portOf(border, scratch, ipv6) : port }
    if (options.mark !== 0 && !markSockets(border, scratch, pair, options.mark)) {
      for (const fd of [pair.ipv4, pair.ipv6]) if (fd >= 0) border.close(fd)
      return -EADDRINUSE
    }
    const fds = [pair.ipv4, pair.ipv6].filter((fd) => fd >= 0)
    const gro = options.gro && fds.every((fd) => setNumber(border, scratch, fd, SOL_UDP, UDP_GRO, 1))
    // A kernel that knows rows lets their default length be set; 0 is none.
    const gso = fds.every((fd) => setNumber(border, scratch, fd, SOL_UDP, UDP_SEGMENT, 0))
    return { ...pair, gro, gso }
  }
}

/** Closes sockets that nobody reads any more. */
export function closeSockets(border: KernelBorder, pair: SocketPair | undefined): void {
  for (const fd of [pair?.ipv4 ?? -1, pair?.ipv6 ?? -1]) if (fd >= 0) border.close(fd)
}

/** Marks both sockets; `false` when the kernel refuses. */
export function markSockets(border: KernelBorder, scratch: Scratch, pair: SocketPair, mark: number): boolean {
  return [pair.ipv4, pair.ipv6].every((fd) => fd < 0 || setNumber(border, scratch, fd, SOL_SOCKET, SO_MARK, mark))
}

function openSocket(border: KernelBorder, scratch: Scratch, family: number, port: number): number {
  const fd = border.socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) return fd
  const { view, at } = scratch
  if (family === AF_INET6) setNumber(border, scratch, fd, SOL_IPV6, IPV6_V6ONLY, 1)
  setNumber(border, scratch, fd, family === AF_INET ? SOL_IP : SOL_IPV6, family === AF_INET ? IP_RECVTOS : IPV6_RECVTCLASS, 1)
  for (const [forced, asked] of [[SO_RCVBUFFORCE, SO_RCVBUF], [SO_SNDBUFFORCE, SO_SNDBUF]] as const) {
    if (!setNumber(border, scratch, fd, SOL_SOCKET, forced, KERNEL_BUFFER_BYTES)) setNumber(border, scratch, fd, SOL_SOCKET, asked, KERNEL_BUFFER_BYTES)
  }
  // struct timeval: seconds, microseconds.
  view.setBigInt64(at, 0n, true)
  view.setBigInt64(at + 8, BigInt(SEND_TIMEOUT_US), true)
  border.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, at, 16)
  const length = family === AF_INET ? SOCKADDR4_BYTES : SOCKADDR6_BYTES
  for (let i = 0; i < length; i += 1) view.setUint8(at + i, 0)
  view.setUint16(at, family, true)
  view.setUint16(at + 2, port)
  const bound = border.bind(fd, at, length)
  if (bound >= 0) return fd
  border.close(fd)
  return bound
}

function portOf(border: KernelBorder, { view, at }: Scratch, fd: number): number {
  view.setUint32(at + 32, SOCKADDR6_BYTES, true)
  return border.getsockname(fd, at, at + 32) < 0 ? 0 : view.getUint16(at + 2)
}

function setNumber(border: KernelBorder, { view, at }: Scratch, fd: number, level: number, name: number, value: number): boolean {
  view.setInt32(at + 48, value | 0, true)
  return border.setsockopt(fd, level, name, at + 48, 4) >= 0
}
