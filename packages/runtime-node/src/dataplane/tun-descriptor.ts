import { checkInterfaceName, TunError } from '../tun-linux.ts'
import type { KernelBorder } from './kernel-border.ts'
import {
  AF_NETLINK, EBADFD, EINVAL, ENODEV, ENOENT, EPERM, F_GETFL, F_SETFL, IFF_NO_PI, IFF_TUN, IFF_VNET_HDR, IFLA_GSO_MAX_SIZE, IFNAMSIZ, IFREQ_BYTES, IFREQ_UNION_AT, MAX_UDP_PAYLOAD_BYTES,
  MAX_UDP_SEGMENTS, NETLINK_ROUTE, NLM_F_ACK, NLM_F_REQUEST, O_CLOEXEC, O_NONBLOCK, O_RDWR, RTM_NEWLINK, SIOCGIFINDEX, SOCK_CLOEXEC, SOCK_RAW, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4,
  TUN_F_USO6, TUNGETIFF, TUNSETIFF, TUNSETOFFLOAD,
} from './linux-abi.ts'
import type { Scratch } from './udp-pair.ts'

const EACCES = 13
const EBUSY = 16
/** IPv4 and TCP with timestamps. */
const SEGMENT_HEADERS_BYTES = 52
/** What TCP keeps free of that limit for headers (MAX_TCP_HEADER of Linux, 320 bytes), and some. */
const TCP_RESERVE_BYTES = 400
const OVERHEAD_BYTES = 32
const LEAST_GSO_BYTES = 16_384
const MOST_GSO_BYTES = 65_536

/** An open TUN device. */
export interface TunDescriptor {
  readonly fd: number
  readonly name: string
  readonly hasVnetHeader: boolean
  /** Rows of TCP come out of it. */
  readonly tso: boolean
  /** Rows of UDP, too (Linux 6.2). */
  readonly uso: boolean
}

/** What is wanted of it. */
export interface TunDescriptorOptions {
  readonly name: string
  readonly tso: boolean
  readonly uso: boolean
  /** Rows of UDP may go into it. */
  readonly udpJoin: boolean
}

/** Makes an interface, with the offloads that are wanted and that the kernel has. @throws TunError */
export function openTunDescriptor(border: KernelBorder, scratch: Scratch, options: TunDescriptorOptions): TunDescriptor {
  checkInterfaceName(options.name)
  putText(scratch, '/dev/net/tun')
  const fd = border.open(scratch.at, O_RDWR | O_NONBLOCK | O_CLOEXEC)
  if (fd < 0) throw failure(-fd, 'open /dev/net/tun')
  const attach = (flags: number): number => {
    putRequest(scratch, options.name, flags)
    return border.ioctl(fd, TUNSETIFF, scratch.at)
  }
  const base = IFF_TUN | IFF_NO_PI
  // Each kind of row needs it.
  let hasVnetHeader = options.tso || options.uso || options.udpJoin
  let attached = attach(hasVnetHeader ? base | IFF_VNET_HDR : base)
  if (attached === -EINVAL && hasVnetHeader) {
    hasVnetHeader = false
    attached = attach(base)
  }
  if (attached < 0) {
    border.close(fd)
    throw failure(-attached, `make interface ${options.name}`)
  }
  return { fd, name: nameIn(scratch), hasVnetHeader, ...(hasVnetHeader ? askOffloads(border, fd, options) : { tso: false, uso: false }) }
}

/** Takes a descriptor over that was handed down, as it is: with vnet headers or without. @throws TunError when it is no TUN device */
export function adoptTunDescriptor(border: KernelBorder, scratch: Scratch, fd: number, options: TunDescriptorOptions): TunDescriptor {
  putRequest(scratch, '', 0)
  const got = border.ioctl(fd, TUNGETIFF, scratch.at)
  const flags = scratch.view.getUint16(scratch.at + IFREQ_UNION_AT, true)
  if (got < 0 || (flags & IFF_TUN) === 0 || (flags & IFF_NO_PI) === 0) {
    throw new TunError('TUN_FAILED', `descriptor ${fd} is no TUN device that gives IP packets`, { remedy: 'open /dev/net/tun and make it an interface with IFF_TUN and IFF_NO_PI first' })
  }
  const name = nameIn(scratch)
  const status = border.fcntl(fd, F_GETFL, 0)
  if (status < 0 || border.fcntl(fd, F_SETFL, status | O_NONBLOCK) < 0) throw failure(EBADFD, 'fcntl')
  const hasVnetHeader = (flags & IFF_VNET_HDR) !== 0
  return { fd, name, hasVnetHeader, ...(hasVnetHeader ? askOffloads(border, fd, options) : { tso: false, uso: false }) }
}

/**
 * How long a row of TCP may be so that its segments, sealed, are one row of datagrams to the byte (one more segment would cost a second
 * sending, receiving and writing).
 */
export function gsoMaxBytes(mtu: number): number {
  const segments = Math.min(MAX_UDP_SEGMENTS, Math.floor(MAX_UDP_PAYLOAD_BYTES / (mtu + OVERHEAD_BYTES)))
  const bytes = segments * (mtu - SEGMENT_HEADERS_BYTES) + TCP_RESERVE_BYTES
  return Math.max(LEAST_GSO_BYTES, Math.min(MOST_GSO_BYTES, bytes))
}

/** Asks the kernel for rows of at most this length (netlink, RTM_NEWLINK with IFLA_GSO_MAX_SIZE); `false` when it will not. */
export function setGsoMaxBytes(border: KernelBorder, scratch: Scratch, name: string, bytes: number): boolean {
  const { view, at } = scratch
  const fd = border.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
  if (fd < 0) return false
  try {
    putRequest(scratch, name, 0)
    if (border.ioctl(fd, SIOCGIFINDEX, at) < 0) return false
    const index = view.getInt32(at + IFREQ_UNION_AT, true)
    // struct nlmsghdr (16), struct ifinfomsg (16), struct rtattr with a u32 (8).
    for (let i = 0; i < 40; i += 1) view.setUint8(at + i, 0)
    view.setUint32(at, 40, true)
    view.setUint16(at + 4, RTM_NEWLINK, true)
    view.setUint16(at + 6, NLM_F_REQUEST | NLM_F_ACK, true)
    view.setInt32(at + 20, index, true)
    view.setUint16(at + 32, 8, true)
    view.setUint16(at + 34, IFLA_GSO_MAX_SIZE, true)
    view.setUint32(at + 36, bytes, true)
    if (border.write(fd, at, 40) !== 40) return false
    // The acknowledgment: header, then the errno, 0 for none.
    const answered = border.read(fd, at, 64)
    return answered >= 20 && view.getInt32(at + 16, true) === 0
  } finally {
    border.close(fd)
  }
}

/** Asks for each kind of row alone: what is refused, or not wanted, leaves the other one. */
function askOffloads(border: KernelBorder, fd: number, wanted: TunDescriptorOptions): { readonly tso: boolean; readonly uso: boolean } {
  const tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
  const tso = wanted.tso && border.ioctlValue(fd, TUNSETOFFLOAD, tcp) >= 0
  const uso = wanted.uso && border.ioctlValue(fd, TUNSETOFFLOAD, (tso ? tcp : TUN_F_CSUM) | TUN_F_USO4 | TUN_F_USO6) >= 0
  // Whoever has handed the device down may have asked for some.
  if (!tso && !uso) border.ioctlValue(fd, TUNSETOFFLOAD, 0)
  return { tso, uso }
}

function putText({ view, at }: Scratch, text: string): void {
  const bytes = Buffer.from(`${text}\0`)
  for (const [i, byte] of bytes.entries()) view.setUint8(at + i, byte)
}

/** struct ifreq with a name and flags. */
function putRequest({ view, at }: Scratch, name: string, flags: number): void {
  for (let i = 0; i < IFREQ_BYTES; i += 1) view.setUint8(at + i, 0)
  for (const [i, byte] of Buffer.from(name).subarray(0, IFNAMSIZ - 1).entries()) view.setUint8(at + i, byte)
  view.setUint16(at + IFREQ_UNION_AT, flags, true)
}

function nameIn({ view, at }: Scratch): string {
  const bytes = Buffer.from(view.buffer, view.byteOffset + at, IFNAMSIZ)
  const end = bytes.indexOf(0)
  return bytes.subarray(0, end < 0 ? IFNAMSIZ : end).toString()
}

function failure(errno: number, what: string): TunError {
  const text = `${what} failed (errno ${errno})`
  if (errno === EPERM || errno === EACCES) return new TunError('TUN_PERMISSION', `${text}: not permitted`, { remedy: 'run as root or with CAP_NET_ADMIN, or use userspace networking' })
  if (errno === ENOENT || errno === ENODEV) return new TunError('TUN_DEVICE_MISSING', `${text}: no TUN driver`, { remedy: 'load the module "tun" (modprobe tun), or use userspace networking' })
  if (errno === EBUSY) return new TunError('TUN_BUSY', `${text}: in use by another program`, { remedy: 'choose another interface name' })
  return new TunError('TUN_FAILED', text, { remedy: 'use userspace networking' })
}
