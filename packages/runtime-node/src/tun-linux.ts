import { isMeshwrightError, MeshwrightError } from '@meshwright/core'
import { TunReadErrors } from './tun-read-errors.ts'

// linux/if_tun.h, linux/if.h, fcntl.h, poll.h, sys/eventfd.h; values of x86-64 and arm64.
const TUNSETIFF = 0x400454ca
const TUNGETIFF = 0x800454d2
const IFF_TUN = 0x0001
const IFF_NO_PI = 0x1000
const IFF_VNET_HDR = 0x4000
const IFNAMSIZ = 16
const IFREQ_BYTES = 40
const IFREQ_FLAGS_AT = 16
const O_RDWR = 0x2
const O_NONBLOCK = 0x800
const O_CLOEXEC = 0x80000
const F_GETFL = 3
const F_SETFL = 4
const EFD_FLAGS = O_NONBLOCK | O_CLOEXEC
const POLLIN = 1
const POLLFD_BYTES = 8
const EPERM = 1
const ENOENT = 2
const EACCES = 13
const EBUSY = 16
const ENODEV = 19
/** The largest IP packet. */
const MAX_PACKET_BYTES = 65_535
/** How many packets are read before other work of the event loop gets its turn. */
const READS_PER_TURN = 64

/** Why a TUN device could not be opened or used. */
export type TunErrorCode =
  | 'TUN_UNSUPPORTED'
  | 'TUN_KOFFI_MISSING'
  | 'TUN_PERMISSION'
  | 'TUN_DEVICE_MISSING'
  | 'TUN_BUSY'
  | 'TUN_NAME_INVALID'
  | 'TUN_ROUTES_TAKEN'
  | 'TUN_FAILED'

/** The TUN device cannot be opened or used; `remedy` says what to do. */
export class TunError extends MeshwrightError<TunErrorCode> {
  override readonly name: string = 'TunError'
}

/** What to open, and who gets the packets. */
export interface TunOptions {
  /** Interface name, at most 15 bytes; `%d` in it is replaced by a number (default `mesh%d`). */
  readonly name?: string
  /** An open TUN descriptor to take over, as `WG_TUN_FD` passes it; `name` does not count then. It must give bare IP packets. */
  readonly fd?: number
  /** Gets packets that the kernel sends out of the interface, in order; the arrays are the receiver's to keep. */
  onPackets(packets: readonly Uint8Array[]): void
  /** The device broke (it was deleted, say): nothing more will come. */
  onError?(error: TunError): void
  /** Loads the optional package `koffi`; for tests, and for programs that keep it elsewhere. */
  loadKoffi?(): Promise<unknown>
}

/** What went through a TUN device. */
export interface TunStats {
  /** Packets that the kernel sent out of the interface. */
  readonly read: number
  /** Packets that were handed to the kernel, those that it refused too. */
  readonly written: number
  /** Of those: not taken. */
  readonly refused: number
  /** Errors of reading that are the end of a packet at most. */
  readonly lost: number
}

/** An open TUN interface. Addresses, MTU and routes are set by other means (`ip`). */
export interface TunDevice {
  /** The interface's name. */
  readonly name: string
  /** Hands the kernel one IP packet; false when it was refused (queue full, interface down, not an IP packet): count it as dropped. */
  write(packet: Uint8Array): boolean
  stats(): TunStats
  /** Stops reading and closes the descriptor: an interface that is not persistent is gone when this resolves. */
  close(): Promise<void>
}

/** @throws TUN_NAME_INVALID for what the kernel takes as no interface's name, or would cut short */
export function checkInterfaceName(name: string): void {
  if (/^[^\s/]{1,15}$/.test(name) && Buffer.byteLength(name) < IFNAMSIZ) return
  throw new TunError('TUN_NAME_INVALID', `not an interface name: ${JSON.stringify(name)}`, { remedy: 'use 1 to 15 bytes without spaces and slashes' })
}

/** The functions of libc that are needed, as koffi declares them. */
interface LibC {
  open(path: string, flags: number): number
  ioctl(fd: number, request: number, argument: Uint8Array): number
  fcntl(fd: number, command: number, argument: number): number
  read(fd: number, buffer: Uint8Array, length: number): number
  write(fd: number, buffer: Uint8Array, length: number): number
  close(fd: number): number
  eventfd(initial: number, flags: number): number
  /** Blocks in a thread of the pool until a descriptor is readable. */
  pollAsync(fds: Uint8Array, count: number, timeoutMs: number, done: (error: unknown, result: number) => void): void
  errno(): number
}

/**
 * Opens a TUN interface through the optional package `koffi`. The event loop is never blocked: a thread of the pool waits in `poll`, and
 * what is readable is then read until the device is empty.
 * @throws TunError; every code has a remedy
 */
export async function openTun(options: TunOptions): Promise<TunDevice> {
  const name = options.name ?? 'mesh%d'
  checkInterfaceName(name)
  if (process.platform !== 'linux') {
    throw new TunError('TUN_UNSUPPORTED', `TUN devices are supported on Linux, not on ${process.platform}`, {
      remedy: 'use userspace networking',
    })
  }
  const libc = bindLibC(await loadKoffi(options.loadKoffi))
  const fd = options.fd ?? openDevice(libc)
  try {
    const flags = libc.fcntl(fd, F_GETFL, 0)
    if (flags < 0 || libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) throw failure(libc.errno(), 'fcntl')
    return new LinuxTun(libc, fd, options.fd === undefined ? attach(libc, fd, name) : attached(libc, fd), options)
  } catch (error) {
    if (options.fd === undefined) libc.close(fd)
    throw error
  }
}

class LinuxTun implements TunDevice {
  readonly name: string
  readonly #libc: LibC
  readonly #fd: number
  readonly #wake: number
  readonly #options: TunOptions
  readonly #buffer: Uint8Array = new Uint8Array(MAX_PACKET_BYTES + 1)
  /** Two pollfd structures: descriptor i32, events i16, revents i16. */
  readonly #polled: Uint8Array = new Uint8Array(POLLFD_BYTES * 2)
  readonly #errors: TunReadErrors = new TunReadErrors()
  #read = 0
  #written = 0
  #refused = 0
  #lost = 0
  #closing = false
  #finished: () => void = () => undefined
  readonly #done: Promise<void>

  constructor(libc: LibC, fd: number, name: string, options: TunOptions) {
    this.#libc = libc
    this.#fd = fd
    this.name = name
    this.#options = options
    this.#wake = libc.eventfd(0, EFD_FLAGS)
    if (this.#wake < 0) throw failure(libc.errno(), 'eventfd')
    const view = new DataView(this.#polled.buffer)
    view.setInt32(0, fd, true)
    view.setInt16(4, POLLIN, true)
    view.setInt32(POLLFD_BYTES, this.#wake, true)
    view.setInt16(POLLFD_BYTES + 4, POLLIN, true)
    this.#done = new Promise((resolve) => {
      this.#finished = resolve
    })
    this.#wait()
  }

  write(packet: Uint8Array): boolean {
    this.#written += 1
    const isTaken = !this.#closing && packet.length > 0 && packet.length <= MAX_PACKET_BYTES && this.#libc.write(this.#fd, packet, packet.length) === packet.length
    if (!isTaken) this.#refused += 1
    return isTaken
  }

  stats(): TunStats {
    return { read: this.#read, written: this.#written, refused: this.#refused, lost: this.#lost }
  }

  close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true
      const one = new Uint8Array(8)
      one[0] = 1
      this.#libc.write(this.#wake, one, one.length)
    }
    return this.#done
  }

  #wait(): void {
    this.#libc.pollAsync(this.#polled, 2, -1, (error) => {
      // Interrupted or not: reading finds out what there is.
      if (error !== null && error !== undefined) this.#fail(new TunError('TUN_FAILED', 'waiting for packets failed', { cause: error }))
      this.#readSome()
    })
  }

  #readSome(): void {
    if (this.#closing) return this.#release()
    const packets: Uint8Array[] = []
    let failed = 0
    while (packets.length < READS_PER_TURN) {
      const length = this.#libc.read(this.#fd, this.#buffer, this.#buffer.length)
      if (length > 0 && length <= MAX_PACKET_BYTES) {
        this.#errors.read()
        this.#read += 1
        packets.push(this.#buffer.slice(0, length))
      } else if (!(length <= 0)) {
        this.#fail(new TunError('TUN_FAILED', 'the kernel gave a packet of an impossible length'))
        break
      } else {
        const errno = length < 0 ? this.#libc.errno() : 0
        const verdict = this.#errors.judge(errno)
        if (verdict === 'lost') {
          this.#lost += 1
          continue
        }
        if (verdict === 'gone') failed = errno
        break
      }
    }
    if (packets.length > 0) this.#options.onPackets(packets)
    if (failed !== 0) this.#fail(failure(failed, 'read'))
    if (this.#closing) return this.#release()
    // While packets come, the pool's thread is not worth its wake-up.
    if (packets.length > 0) setImmediate(() => this.#readSome())
    else this.#wait()
  }

  #fail(error: TunError): void {
    if (this.#closing) return
    this.#closing = true
    this.#options.onError?.(error)
  }

  #release(): void {
    this.#libc.close(this.#fd)
    this.#libc.close(this.#wake)
    this.#finished()
  }
}

function openDevice(libc: LibC): number {
  const fd = libc.open('/dev/net/tun', O_RDWR | O_NONBLOCK | O_CLOEXEC)
  if (fd < 0) throw failure(libc.errno(), 'open /dev/net/tun')
  return fd
}

/** Makes or joins the interface; gives its name. */
function attach(libc: LibC, fd: number, name: string): string {
  const request = new Uint8Array(IFREQ_BYTES)
  request.set(Buffer.from(name))
  new DataView(request.buffer).setUint16(IFREQ_FLAGS_AT, IFF_TUN | IFF_NO_PI, true)
  if (libc.ioctl(fd, TUNSETIFF, request) < 0) throw failure(libc.errno(), `make interface ${name}`)
  return nameIn(request)
}

/** The name of the interface behind a descriptor that was handed down, if its packets come as they are read here. */
function attached(libc: LibC, fd: number): string {
  const request = new Uint8Array(IFREQ_BYTES)
  if (libc.ioctl(fd, TUNGETIFF, request) < 0) throw new TunError('TUN_FAILED', `descriptor ${fd} is no TUN device (errno ${libc.errno()})`, { remedy: 'open /dev/net/tun and make it an interface first' })
  const flags = new DataView(request.buffer).getUint16(IFREQ_FLAGS_AT, true)
  if ((flags & IFF_TUN) === 0 || (flags & IFF_NO_PI) === 0 || (flags & IFF_VNET_HDR) !== 0) {
    throw new TunError('TUN_FAILED', `descriptor ${fd} does not give bare IP packets`, { remedy: 'make the interface with IFF_TUN and IFF_NO_PI, without IFF_VNET_HDR' })
  }
  return nameIn(request)
}

// At most 16 bytes, whatever the kernel wrote.
function nameIn(request: Uint8Array): string {
  const bytes = request.subarray(0, IFNAMSIZ)
  const end = bytes.indexOf(0)
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString()
}

function failure(errno: number, what: string): TunError {
  const text = `${what} failed (errno ${errno})`
  if (errno === EPERM || errno === EACCES) {
    return new TunError('TUN_PERMISSION', `${text}: not permitted`, {
      remedy: 'run as root or with CAP_NET_ADMIN, or use userspace networking',
    })
  }
  if (errno === ENOENT || errno === ENODEV) {
    return new TunError('TUN_DEVICE_MISSING', `${text}: no TUN driver`, {
      remedy: 'load the module "tun" (modprobe tun), or use userspace networking',
    })
  }
  if (errno === EBUSY) return new TunError('TUN_BUSY', `${text}: in use by another program`, { remedy: 'choose another interface name' })
  return new TunError('TUN_FAILED', text, { remedy: 'use userspace networking' })
}

async function loadKoffi(load: (() => Promise<unknown>) | undefined): Promise<unknown> {
  try {
    // The name is not a literal, so that programs bundle without the optional package.
    const name: string = 'koffi'
    const loaded: unknown = await (load === undefined ? import(name) : load())
    return isObject(loaded) && 'default' in loaded ? loaded.default : loaded
  } catch (cause) {
    throw new TunError('TUN_KOFFI_MISSING', 'the optional package "koffi" cannot be loaded, and TUN devices need it', {
      cause,
      remedy: 'npm install koffi, or use userspace networking',
    })
  }
}

type Callable = (...args: unknown[]) => unknown

/** Declares the functions. koffi is untyped here because it is optional: whatever is not as expected counts as missing. */
function bindLibC(koffi: unknown): LibC {
  try {
    const load = member(koffi, 'load')
    const errno = member(koffi, 'errno')
    const library = load(null)
    const declare = (definition: string): Callable & object => member(library, 'func')(definition) as Callable & object
    const int =
      (call: Callable): ((...args: unknown[]) => number) =>
      (...args) =>
        Number(call(...args))
    const poll = declare('int poll(void *fds, unsigned long count, int timeout)')
    return {
      open: int(declare('int open(const char *path, int flags)')),
      ioctl: int(declare('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)')),
      fcntl: int(declare('int fcntl(int fd, int command, int argument)')),
      read: int(declare('long read(int fd, _Out_ uint8_t *buffer, size_t length)')),
      write: int(declare('long write(int fd, const uint8_t *buffer, size_t length)')),
      close: int(declare('int close(int fd)')),
      eventfd: int(declare('int eventfd(unsigned int initial, int flags)')),
      pollAsync: (fds, count, timeoutMs, done) => void member(poll, 'async')(fds, count, timeoutMs, done),
      errno: int(errno),
    }
  } catch (cause) {
    if (isMeshwrightError(cause)) throw cause
    throw new TunError('TUN_KOFFI_MISSING', 'the package "koffi" does not work here', {
      cause,
      remedy: 'reinstall koffi, or use userspace networking',
    })
  }
}

function member(holder: unknown, name: string): Callable {
  const value: unknown = (isObject(holder) || typeof holder === 'function') && name in holder ? Reflect.get(holder, name) : undefined
  if (typeof value !== 'function')
    throw new TunError('TUN_KOFFI_MISSING', `the package "koffi" has no ${name}`, { remedy: 'install koffi 3' })
  return (...args) => Reflect.apply(value, holder, args)
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
