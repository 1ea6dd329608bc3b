import net from 'node:net'
import { TunError } from './tun-linux.ts'

// sys/socket.h, asm-generic/socket.h, netinet/in.h, fcntl.h of Linux; values of x86-64 and arm64.
const AF_INET = 2
const AF_INET6 = 10
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0x800
const SOCK_CLOEXEC = 0x80000
const SOL_SOCKET = 1
const SO_MARK = 36
const IPPROTO_IPV6 = 41
const IPV6_V6ONLY = 26
const EADDRINUSE = 98
const EACCES = 13

/** The functions of libc that marking needs. */
interface LibC {
  socket(family: number, type: number, protocol: number): number
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, length: number): number
  bind(fd: number, address: Uint8Array, length: number): number
  close(fd: number): number
  errno(): number
}

/**
 * Opens sockets whose packets carry a mark (SO_MARK, socket(7)), by which rules of the system lead them past the mesh's own device. Node
 * cannot set the mark itself; the descriptors are handed to it and are its own from then on.
 */
export class SocketMarker {
  readonly #libc: LibC
  readonly #mark: number

  private constructor(libc: LibC, mark: number) {
    this.#libc = libc
    this.#mark = mark
  }

  /** @throws TunError without koffi, and without the right to mark (the promise rejects) */
  static async open(mark: number, loadKoffi: () => Promise<unknown> = loadOptional): Promise<SocketMarker> {
    const marker = new SocketMarker(bindLibC(await loadKoffi()), mark)
    marker.#libc.close(marker.#socket(AF_INET, SOCK_DGRAM))
    return marker
  }

  /** A TCP socket that is not yet connected. */
  tcp(family: 4 | 6): net.Socket {
    const fd = this.#socket(family === 4 ? AF_INET : AF_INET6, SOCK_STREAM)
    // It must not begin to read before it is connected.
    return new net.Socket(Object.assign({ fd, readable: true, writable: true, allowHalfOpen: false }, { manualStart: true }))
  }

  /** The descriptor of a UDP socket that is bound; IPv6 sockets take IPv6 alone. @throws Error with Node's `code` */
  udp(family: 4 | 6, port: number, address: Uint8Array | undefined): number {
    const fd = this.#socket(family === 4 ? AF_INET : AF_INET6, SOCK_DGRAM)
    if (family === 6) this.#libc.setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, word(1), 4)
    const where = socketAddress(family, port, address)
    if (this.#libc.bind(fd, where, where.length) === 0) return fd
    const errno = this.#libc.errno()
    this.#libc.close(fd)
    throw Object.assign(new Error(`bind failed (errno ${errno})`), { code: errno === EADDRINUSE ? 'EADDRINUSE' : errno === EACCES ? 'EACCES' : 'EUNKNOWN' })
  }

  #socket(family: number, type: number): number {
    const fd = this.#libc.socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if (fd < 0) throw Object.assign(new Error(`no socket could be opened (errno ${this.#libc.errno()})`), { code: 'EAFNOSUPPORT' })
    if (this.#libc.setsockopt(fd, SOL_SOCKET, SO_MARK, word(this.#mark), 4) === 0) return fd
    const errno = this.#libc.errno()
    this.#libc.close(fd)
    throw new TunError('TUN_PERMISSION', `sockets cannot be marked (errno ${errno})`, { remedy: 'run as root or with CAP_NET_ADMIN, or use userspace networking' })
  }
}

/** `struct sockaddr_in` (16 bytes) or `struct sockaddr_in6` (28): family in the machine's order, port and address in the network's. */
function socketAddress(family: 4 | 6, port: number, address: Uint8Array | undefined): Uint8Array {
  const bytes = new Uint8Array(family === 4 ? 16 : 28)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, family === 4 ? AF_INET : AF_INET6, true)
  view.setUint16(2, port)
  if (address !== undefined) bytes.set(address, family === 4 ? 4 : 8)
  return bytes
}

function word(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}

async function loadOptional(): Promise<unknown> {
  // The name is not a literal, so that programs bundle without the optional package.
  const name: string = 'koffi'
  try {
    const loaded: unknown = await import(name)
    return typeof loaded === 'object' && loaded !== null && 'default' in loaded ? loaded.default : loaded
  } catch (cause) {
    throw new TunError('TUN_KOFFI_MISSING', 'the optional package "koffi" cannot be loaded, and marked sockets need it', { cause, remedy: 'npm install koffi, or use userspace networking' })
  }
}

/** koffi is untyped here because it is optional: whatever is not as expected counts as missing. */
function bindLibC(koffi: unknown): LibC {
  const member = (of: unknown, name: string): ((...args: unknown[]) => unknown) => {
    const found: unknown = (typeof of === 'object' || typeof of === 'function') && of !== null ? Reflect.get(of, name) : undefined
    if (typeof found !== 'function') throw new TunError('TUN_KOFFI_MISSING', 'the package "koffi" is not as expected', { remedy: 'npm install koffi@3' })
    return (...args) => Reflect.apply(found, of, args)
  }
  const library = member(koffi, 'load')(null)
  const declare = (definition: string): ((...args: unknown[]) => number) => {
    const call = member(library, 'func')(definition)
    if (typeof call !== 'function') throw new TunError('TUN_KOFFI_MISSING', 'the package "koffi" is not as expected', { remedy: 'npm install koffi@3' })
    return (...args) => Number(Reflect.apply(call, undefined, args))
  }
  const errno = member(koffi, 'errno')
  return {
    socket: declare('int socket(int family, int type, int protocol)'),
    setsockopt: declare('int setsockopt(int fd, int level, int name, void *value, uint32_t length)'),
    bind: declare('int bind(int fd, void *address, uint32_t length)'),
    close: declare('int close(int fd)'),
    errno: () => Number(errno()),
  }
}
