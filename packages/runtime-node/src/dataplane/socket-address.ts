import { type Endpoint, formatEndpoint, Ip } from '@meshwright/ip'
import type { WireGuardPath } from '@meshwright/wireguard'
import { AF_INET, AF_INET6, SOCKADDR4_BYTES, SOCKADDR6_BYTES } from './linux-abi.ts'

const PORT_AT = 2
const ADDRESS4_AT = 4
const ADDRESS6_AT = 8
const SCOPE_AT = 24
const MAX_KNOWN = 16_384
const HASH_SLOTS = 4_096

/** A path over UDP, with its address as the kernel takes it. */
export interface UdpPath extends WireGuardPath {
  readonly endpoint: Endpoint
  /** struct sockaddr_in or sockaddr_in6. */
  readonly socketAddress: Uint8Array
  /** Rows are sent one by one until this time: one was refused on this path. */
  singlesUntil: number
}

/** Writes an endpoint as struct sockaddr_in or sockaddr_in6. @param scope index of the interface, for link-local addresses */
export function encodeSocketAddress({ ip, port }: Endpoint, scope: number = 0): Uint8Array {
  const bytes = new Uint8Array(ip.family === 4 ? SOCKADDR4_BYTES : SOCKADDR6_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, ip.family === 4 ? AF_INET : AF_INET6, true)
  view.setUint16(PORT_AT, port)
  bytes.set(ip.bytes, ip.family === 4 ? ADDRESS4_AT : ADDRESS6_AT)
  if (ip.family === 6) view.setUint32(SCOPE_AT, scope, true)
  return bytes
}

/** Reads what the kernel wrote, `length` bytes of it; `undefined` for anything but a whole address of IPv4 or IPv6. */
export function decodeSocketAddress(view: DataView, at: number, length: number): Endpoint | undefined {
  if (length < SOCKADDR4_BYTES || at < 0 || at + length > view.byteLength) return undefined
  const family = view.getUint16(at, true)
  const isIpv4 = family === AF_INET
  if (!isIpv4 && (family !== AF_INET6 || length < SOCKADDR6_BYTES)) return undefined
  const memory = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  const ip = Ip.fromBytesAt(memory, at + (isIpv4 ? ADDRESS4_AT : ADDRESS6_AT), isIpv4 ? 4 : 6)
  return ip && { ip, port: view.getUint16(at + PORT_AT) }
}

/** The path to an endpoint: its bytes and port are what cookies are bound to. */
export function udpPathTo(endpoint: Endpoint): UdpPath {
  const address = endpoint.ip.bytes
  const cookieBytes = new Uint8Array(address.length + 2)
  cookieBytes.set(address)
  new DataView(cookieBytes.buffer).setUint16(address.length, endpoint.port)
  return { id: formatEndpoint(endpoint), cookieBytes, endpoint, socketAddress: encodeSocketAddress(endpoint), singlesUntil: 0 }
}

/**
 * The paths that datagrams came by, found by the kernel's own bytes: making one costs more than opening a packet. At most
 * {@link MAX_KNOWN} are remembered, then it begins anew.
 */
export class PathCache {
  #slots: (UdpPath | undefined)[] = new Array<UdpPath | undefined>(HASH_SLOTS).fill(undefined)
  #byId: Map<string, UdpPath> = new Map()

  /** The path of the socket address at `at`; `undefined` when it is none. */
  find(view: DataView, at: number, length: number): UdpPath | undefined {
    if (length < SOCKADDR4_BYTES || at + length > view.byteLength) return undefined
    const slot = hash(view, at, length) & (HASH_SLOTS - 1)
    const known = this.#slots[slot]
    if (known !== undefined && isSame(known.socketAddress, view, at, length)) return known
    const endpoint = decodeSocketAddress(view, at, length)
    if (endpoint === undefined) return undefined
    const id = formatEndpoint(endpoint)
    let path = this.#byId.get(id)
    if (path === undefined || !isSame(path.socketAddress, view, at, length)) {
      if (this.#byId.size >= MAX_KNOWN) this.#byId.clear()
      path = { ...udpPathTo(endpoint), socketAddress: encodeSocketAddress(endpoint, length >= SOCKADDR6_BYTES ? view.getUint32(at + SCOPE_AT, true) : 0) }
      this.#byId.set(id, path)
    }
    this.#slots[slot] = path
    return path
  }
}

function hash(view: DataView, at: number, length: number): number {
  // IPv6: the end of the address; the flow label and the scope do not matter.
  const address = length >= SOCKADDR6_BYTES ? view.getUint32(at + 20) ^ view.getUint32(at + 12) : view.getUint32(at + 4)
  const mixed = Math.imul(address ^ (view.getUint16(at + PORT_AT) << 7), 0x9e37_79b1)
  return (mixed >>> 16) ^ mixed
}

/** The same family, port, address and scope: the kernel may leave other fields unset. */
function isSame(known: Uint8Array, view: DataView, at: number, length: number): boolean {
  const isIpv6 = known.length === SOCKADDR6_BYTES
  if (isIpv6 !== length >= SOCKADDR6_BYTES) return false
  for (let i = 0; i < 4; i += 1) if (known[i] !== view.getUint8(at + i)) return false
  const [from, to] = isIpv6 ? [ADDRESS6_AT, SOCKADDR6_BYTES] : [ADDRESS4_AT, ADDRESS4_AT + 4]
  for (let i = from; i < to; i += 1) if (known[i] !== view.getUint8(at + i)) return false
  return true
}
