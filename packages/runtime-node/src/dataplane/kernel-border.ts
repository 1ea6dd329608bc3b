import { addressOf, declare } from '../koffi-functions.ts'

/**
 * The system calls of the data plane. All addresses are offsets into one arena that never moves; a structure that holds a pointer holds
 * `base` plus an offset. Every function gives what the call gave, or the negative errno. Tests put a border of their own here.
 */
export interface KernelBorder {
  /** The address of the arena's first byte. */
  readonly base: number
  open(path: number, flags: number): number
  close(fd: number): number
  /** With the address of a structure. */
  ioctl(fd: number, request: number, at: number): number
  /** With a number. */
  ioctlValue(fd: number, request: number, value: number): number
  fcntl(fd: number, command: number, value: number): number
  eventfd(): number
  socket(family: number, type: number, protocol: number): number
  bind(fd: number, address: number, length: number): number
  getsockname(fd: number, address: number, length: number): number
  setsockopt(fd: number, level: number, name: number, value: number, length: number): number
  read(fd: number, at: number, length: number): number
  write(fd: number, at: number, length: number): number
  sendmsg(fd: number, header: number, flags: number): number
  recvmsg(fd: number, header: number, flags: number): number
  poll(fds: number, count: number, timeoutMs: number): number
}

const EFD_NONBLOCK = 0x800
const EFD_CLOEXEC = 0x80000

/**
 * The kernel itself, through the package `koffi`.
 * @param arena part of a WASM memory that is as large as it may ever be
 * @throws where koffi is something else, or the C library lacks a function
 */
export function linuxBorder(koffi: unknown, arena: Uint8Array): KernelBorder {
  const base = addressOf(koffi, arena)
  const errno = errnoOf(koffi)
  const function_ = (name: string, parameters: number, returns: 'int' | 'int64_t' = 'int'): ((...args: readonly number[]) => number) => {
    const call = declare(koffi, name, parameters, returns)
    return (...args) => {
      const result = Number(call(...args))
      return result < 0 ? -errno() : result
    }
  }
  const three = (name: string, returns: 'int' | 'int64_t'): ((a: number, b: number, c: number) => number) => {
    // Without spreading: these are called for every row.
    const call = declare(koffi, name, 3, returns)
    return (a, b, c) => {
      const result = Number(call(a, b, c))
      return result < 0 ? -errno() : result
    }
  }
  const open = function_('open', 2)
  const close = function_('close', 1)
  const ioctl = function_('ioctl', 3)
  const fcntl = function_('fcntl', 3)
  const eventfd = function_('eventfd', 2)
  const socket = function_('socket', 3)
  const bind = function_('bind', 3)
  const getsockname = function_('getsockname', 3)
  const setsockopt = function_('setsockopt', 5)
  const read = three('read', 'int64_t')
  const write = three('write', 'int64_t')
  const sendmsg = three('sendmsg', 'int64_t')
  const recvmsg = three('recvmsg', 'int64_t')
  const poll = three('poll', 'int')
  return {
    base,
    open: (path, flags) => open(base + path, flags),
    close: (fd) => close(fd),
    ioctl: (fd, request, at) => ioctl(fd, request, base + at),
    ioctlValue: (fd, request, value) => ioctl(fd, request, value),
    fcntl: (fd, command, value) => fcntl(fd, command, value),
    eventfd: () => eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
    socket: (family, type, protocol) => socket(family, type, protocol),
    bind: (fd, address, length) => bind(fd, base + address, length),
    getsockname: (fd, address, length) => getsockname(fd, base + address, base + length),
    setsockopt: (fd, level, name, value, length) => setsockopt(fd, level, name, base + value, length),
    read: (fd, at, length) => read(fd, base + at, length),
    write: (fd, at, length) => write(fd, base + at, length),
    sendmsg: (fd, header, flags) => sendmsg(fd, base + header, flags),
    recvmsg: (fd, header, flags) => recvmsg(fd, base + header, flags),
    poll: (fds, count, timeoutMs) => poll(base + fds, count, timeoutMs),
  }
}

function errnoOf(koffi: unknown): () => number {
  const errno: unknown = typeof koffi === 'object' && koffi !== null ? Reflect.get(koffi, 'errno') : undefined
  if (typeof errno !== 'function') throw new TypeError('koffi has no errno')
  return () => Number(Reflect.apply(errno, koffi, []))
}
