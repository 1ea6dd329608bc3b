import type { KernelBorder } from './kernel-border.ts'
import {
  AF_INET, EAGAIN, EINVAL, IP_TOS, MSG_CONTROL_AT, MSG_CONTROLLEN_AT, MSG_FLAGS_AT, MSG_IOV_AT, MSG_NAMELEN_AT, POLLFD_BYTES, POLLIN, SOCKADDR4_BYTES, SOCKADDR6_BYTES, SOL_IP, SOL_IPV6, SOL_UDP, UDP_GRO, UDP_SEGMENT,
} from './linux-abi.ts'

/** Where the arenas of such kernels would be. */
const BASE = 0x7000_0000_0000

/** A datagram row on its way: who sent it, its bytes, the length of its segments, its traffic class. */
export interface WireRow {
  readonly from: Uint8Array
  readonly bytes: Uint8Array
  readonly segmentBytes: number
  readonly trafficClass: number
}

/**
 * A kernel made of arrays, for tests and benchmarks: one TUN device, one socket for each family, and an eventfd. What is written to the
 * device stands in `tunOut`, what is sent goes to `onSend`; what the program is to read is put into `tunIn` and `udpIn`. Where a hook
 * is set, it may lie: change what a call gives and what it wrote.
 */
export class MemoryKernel implements KernelBorder {
  readonly base: number = BASE
  static readonly TUN = 100
  static readonly IPV4 = 101
  static readonly IPV6 = 102
  static readonly WAKE = 103
  readonly tunIn: Uint8Array[] = []
  readonly udpIn: WireRow[] = []
  /** What was written to the TUN device; not kept when `undefined`. */
  tunOut: Uint8Array[] | undefined = []
  tunWrites = 0
  woken = false
  onSend: (to: Uint8Array, row: Omit<WireRow, 'from'>) => void = () => undefined
  /** Changes the result of a call, and what stands in memory at its address. */
  lie: ((call: 'read' | 'recvmsg' | 'write' | 'sendmsg' | 'poll', result: number, at: number) => number) | undefined
  /** The negative errno of sending and of writing, or 0. */
  sendErrno: (segmentBytes: number, length: number) => number = () => 0
  writeErrno: (at: number, length: number) => number = () => 0
  /** Every range that a call has touched. */
  touched: ((at: number, length: number) => void) | undefined
  readonly #bytes: Uint8Array
  readonly #view: DataView

  constructor(arena: Uint8Array) {
    this.#bytes = arena
    this.#view = new DataView(arena.buffer, arena.byteOffset, arena.length)
  }

  read(fd: number, at: number, length: number): number {
    this.touched?.(at, length)
    if (fd === MemoryKernel.WAKE) {
      this.woken = false
      return 8
    }
    const packet = fd === MemoryKernel.TUN ? this.tunIn.shift() : undefined
    if (packet === undefined) return -EAGAIN
    this.#bytes.set(packet.subarray(0, length), at)
    const result = Math.min(packet.length, length)
    return this.lie?.('read', result, at) ?? result
  }

  write(_fd: number, at: number, length: number): number {
    this.touched?.(at, length)
    const errno = this.writeErrno(at, length)
    if (errno < 0) return errno
    this.tunWrites += 1
    this.tunOut?.push(this.#bytes.slice(at, at + length))
    return this.lie?.('write', length, at) ?? length
  }

  sendmsg(_fd: number, header: number): number {
    const { from, length, name, nameBytes, control, controlBytes } = this.#message(header)
    let segmentBytes = 0
    let trafficClass = 0
    for (let at = 0; at + 16 <= controlBytes; at += 24) {
      const [level, type] = [this.#view.getInt32(control + at + 8, true), this.#view.getInt32(control + at + 12, true)]
      if (level === SOL_UDP && type === UDP_SEGMENT) segmentBytes = this.#view.getUint16(control + at + 16, true)
      else trafficClass = this.#view.getInt32(control + at + 16, true)
    }
    this.touched?.(from, length)
    const errno = this.sendErrno(segmentBytes, length)
    if (errno < 0) return errno
    this.onSend(this.#bytes.slice(name, name + nameBytes), { bytes: this.#bytes.slice(from, from + length), segmentBytes, trafficClass })
    return this.lie?.('sendmsg', length, header) ?? length
  }

  recvmsg(fd: number, header: number): number {
    const isIpv6 = fd === MemoryKernel.IPV6
    const at = this.udpIn.findIndex((row) => (row.from.length === SOCKADDR6_BYTES) === isIpv6)
    const [row] = at < 0 ? [] : this.udpIn.splice(at, 1)
    if (row === undefined) return -EAGAIN
    const { from, length, name, control } = this.#message(header)
    this.touched?.(from, length)
    const result = Math.min(length, row.bytes.length)
    this.#bytes.set(row.bytes.subarray(0, result), from)
    this.#bytes.set(row.from, name)
    this.#view.setUint32(header + MSG_NAMELEN_AT, row.from.length, true)
    const put = (place: number, level: number, type: number, value: number): void => {
      this.#view.setUint32(place, 20, true)
      this.#view.setUint32(place + 4, 0, true)
      this.#view.setInt32(place + 8, level, true)
      this.#view.setInt32(place + 12, type, true)
      this.#view.setInt32(place + 16, value, true)
    }
    put(control, isIpv6 ? SOL_IPV6 : SOL_IP, isIpv6 ? 67 : IP_TOS, row.trafficClass)
    if (row.segmentBytes > 0) put(control + 24, SOL_UDP, UDP_GRO, row.segmentBytes)
    this.#view.setUint32(header + MSG_CONTROLLEN_AT, row.segmentBytes > 0 ? 48 : 24, true)
    this.#view.setInt32(header + MSG_FLAGS_AT, 0, true)
    return this.lie?.('recvmsg', result, header) ?? result
  }

  poll(fds: number, count: number, _timeoutMs: number): number {
    let ready = 0
    for (let i = 0; i < count; i += 1) {
      const fd = this.#view.getInt32(fds + i * POLLFD_BYTES, true)
      const has =
        (fd === MemoryKernel.TUN && this.tunIn.length > 0) ||
        (fd === MemoryKernel.WAKE && this.woken) ||
        ((fd === MemoryKernel.IPV4 || fd === MemoryKernel.IPV6) && this.udpIn.some((row) => (row.from.length === SOCKADDR6_BYTES) === (fd === MemoryKernel.IPV6)))
      this.#view.setUint16(fds + i * POLLFD_BYTES + 6, has ? POLLIN : 0, true)
      if (has) ready += 1
    }
    return this.lie?.('poll', ready, fds) ?? ready
  }

  close(): number {
    return 0
  }

  open(): number {
    return -EINVAL
  }

  ioctl(): number {
    return -EINVAL
  }

  ioctlValue(): number {
    return -EINVAL
  }

  fcntl(): number {
    return -EINVAL
  }

  eventfd(): number {
    return MemoryKernel.WAKE
  }

  socket(family: number): number {
    return family === AF_INET ? MemoryKernel.IPV4 : MemoryKernel.IPV6
  }

  bind(): number {
    return 0
  }

  getsockname(_fd: number, address: number): number {
    this.#view.setUint16(address + 2, 5000)
    return 0
  }

  setsockopt(): number {
    return 0
  }

  #message(header: number): { readonly from: number; readonly length: number; readonly name: number; readonly nameBytes: number; readonly control: number; readonly controlBytes: number } {
    const offset = (at: number): number => this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 0x1_0000_0000 - BASE
    const iov = offset(header + MSG_IOV_AT)
    return {
      from: offset(iov),
      length: this.#view.getUint32(iov + 8, true),
      name: offset(header),
      nameBytes: this.#view.getUint32(header + MSG_NAMELEN_AT, true),
      control: offset(header + MSG_CONTROL_AT),
      controlBytes: this.#view.getUint32(header + MSG_CONTROLLEN_AT, true),
    }
  }
}

/** A socket address of IPv4, for rows that come. */
export function ipv4Address(host: number, port: number): Uint8Array {
  const bytes = new Uint8Array(SOCKADDR4_BYTES)
  bytes.set([AF_INET, 0, port >> 8, port & 255, 10, 87, 0, host])
  return bytes
}
