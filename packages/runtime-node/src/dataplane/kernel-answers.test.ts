import { describe, expect, test } from 'vitest'
import type { KernelBorder } from './kernel-border.ts'
import {
  AF_INET, AF_INET6, EINVAL, F_SETFL, IFF_NO_PI, IFF_TUN, IFF_VNET_HDR, IFREQ_UNION_AT, SO_MARK, SOL_UDP, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6, UDP_GRO, UDP_SEGMENT,
} from './linux-abi.ts'
import { MemoryKernel } from './memory-kernel.ts'
import { adoptTunDescriptor, openTunDescriptor, setGsoMaxBytes } from './tun-descriptor.ts'
import { openUdpPair } from './udp-pair.ts'

// What the kernel answers while a lane is set up: lengths and numbers that are not as they must be are not believed.
const memory = new Uint8Array(1_024)
const scratch = { view: new DataView(memory.buffer), at: 256 }

const WANTED = { name: 'tun0', tso: true, uso: true, udpJoin: true }

/** A kernel that takes all, but for what is given. */
function kernel(more: Partial<KernelBorder>): KernelBorder {
  const base = new MemoryKernel(memory)
  const taking: KernelBorder = {
    base: 0, open: () => 7, close: () => 0, ioctl: () => 0, ioctlValue: () => 0, fcntl: () => 0, eventfd: () => 9, socket: (family) => base.socket(family), bind: () => 0, getsockname: (fd, at) => base.getsockname(fd, at),
    setsockopt: () => 0, read: (_fd, _at, length) => length, write: (_fd, _at, length) => length, sendmsg: () => 0, recvmsg: () => 0, poll: () => 0,
  }
  memory.fill(0)
  return { ...taking, ...more }
}

describe('the acknowledgment of netlink, for the length of rows', () => {
  const told = (answered: number, errno: number, written: number = 40): boolean =>
    setGsoMaxBytes(kernel({
      write: () => written,
      read: (_fd, at) => {
        scratch.view.setInt32(at + 16, errno, true)
        return answered
      },
    }), scratch, 'tun0', 65_000)

  test('whole, and without an error: taken', () => expect(told(36, 0)).toBe(true))
  test.each([-EINVAL, 0, 1, 16, 19])('of %i bytes: not taken, whatever stands there', (answered) => expect(told(answered, 0)).toBe(false))
  test('with an error: not taken', () => expect(told(36, -EINVAL)).toBe(false))
  test('a request that went out in part: not taken', () => expect(told(36, 0, 39)).toBe(false))
  test('no index of that name: not taken', () => expect(setGsoMaxBytes(kernel({ ioctl: () => -19 }), scratch, 'tun0', 65_000)).toBe(false))
})

test('a name of an interface that does not end: 16 bytes of it', () => {
  const { name } = openTunDescriptor(kernel({
    ioctl: (_fd, _request, at) => {
      memory.fill(0x78, at, at + IFREQ_UNION_AT + 8)
      return 0
    },
  }), scratch, { ...WANTED, name: 'tun%d' })
  expect(name).toBe('x'.repeat(16))
})

const TCP_ROWS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
const UDP_ROWS = TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6

/** Opens a device of a kernel that refuses some rows, and some flags; what it was asked for. */
function device(wanted: Partial<typeof WANTED>, refuses: (flags: number) => boolean, vnet: boolean = true) {
  const asked: number[] = []
  const made: boolean[] = []
  const border = kernel({
    ioctl: (_fd, _request, at) => {
      const hasVnetHeader = (scratch.view.getUint16(at + IFREQ_UNION_AT, true) & IFF_VNET_HDR) !== 0
      made.push(hasVnetHeader)
      return hasVnetHeader && !vnet ? -EINVAL : 0
    },
    ioctlValue: (_fd, _request, flags) => {
      asked.push(flags)
      return refuses(flags) ? -EINVAL : 0
    },
  })
  const { hasVnetHeader, tso, uso } = openTunDescriptor(border, scratch, { ...WANTED, ...wanted })
  return { hasVnetHeader, tso, uso, made, asked }
}

describe('each kind of row of a device is asked for alone', () => {
  test.each([['TCP', TUN_F_TSO4, [false, true]], ['UDP', TUN_F_USO4, [true, false]]] as const)('rows of %s that the kernel refuses are not in use, the others are', (_what, flag, inUse) => {
    const { tso, uso, hasVnetHeader } = device({}, (flags) => (flags & flag) !== 0)
    expect([tso, uso, hasVnetHeader]).toEqual([...inUse, true])
  })
  test('both refused: none, and joined rows of UDP may still go in', () => expect(device({}, (flags) => flags !== 0)).toMatchObject({ hasVnetHeader: true, tso: false, uso: false, asked: [TCP_ROWS, UDP_ROWS, 0] }))
  test('those that are not wanted are not asked for', () => {
    expect(device({ tso: false }, () => false)).toMatchObject({ hasVnetHeader: true, tso: false, uso: true, asked: [UDP_ROWS] })
    expect(device({ uso: false }, () => false)).toMatchObject({ hasVnetHeader: true, tso: true, uso: false, asked: [TCP_ROWS] })
    expect(device({ tso: false, uso: false }, () => false)).toMatchObject({ hasVnetHeader: true, tso: false, uso: false, asked: [0] })
    expect(device({ tso: false, uso: false, udpJoin: false }, () => false)).toMatchObject({ hasVnetHeader: false, made: [false], asked: [] })
  })
  test('a kernel without vnet headers: bare packets', () => expect(device({}, () => false, false)).toEqual({ hasVnetHeader: false, tso: false, uso: false, made: [true, false], asked: [] }))
})

describe('a device that was handed down', () => {
  const adopted = (flags: number, more: Partial<KernelBorder> = {}) =>
    adoptTunDescriptor(kernel({
      ioctl: (_fd, _request, at) => {
        scratch.view.setUint16(at + IFREQ_UNION_AT, flags, true)
        return 0
      },
      ...more,
    }), scratch, 7, { ...WANTED, tso: false, uso: false, udpJoin: false })

  test('rows that somebody else has asked for come no more', () => {
    const asked: number[] = []
    expect(adopted(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, { ioctlValue: (_fd, _request, flags) => asked.push(flags) })).toMatchObject({ hasVnetHeader: true, tso: false, uso: false })
    expect(asked).toEqual([0])
  })
  test.each([0, IFF_TUN, IFF_NO_PI])('flags of %i: none that gives IP packets', (flags) => expect(() => adopted(flags)).toThrow(expect.objectContaining({ code: 'TUN_FAILED' })))
  test('that is none at all', () => expect(() => adopted(IFF_TUN | IFF_NO_PI, { ioctl: () => -EINVAL })).toThrow(expect.objectContaining({ code: 'TUN_FAILED' })))
  test('whose flags cannot be had or set', () => {
    expect(() => adopted(IFF_TUN | IFF_NO_PI, { fcntl: () => -EINVAL })).toThrow(expect.objectContaining({ code: 'TUN_FAILED' }))
    expect(() => adopted(IFF_TUN | IFF_NO_PI, { fcntl: (_fd, command) => (command === F_SETFL ? 0 : -EINVAL) })).toThrow(expect.objectContaining({ code: 'TUN_FAILED' }))
    expect(() => adopted(IFF_TUN | IFF_NO_PI, { fcntl: (_fd, command) => (command === F_SETFL ? -EINVAL : 0) })).toThrow(expect.objectContaining({ code: 'TUN_FAILED' }))
  })
})

test.each([['sent', UDP_SEGMENT, [false, true]], ['received', UDP_GRO, [true, false]]] as const)('rows of datagrams that cannot be %s are not in use, the others are', (_what, option, [gso, gro]) => {
  const refusing = kernel({ setsockopt: (_fd, level, name) => (level === SOL_UDP && name === option ? -EINVAL : 0) })
  expect(openUdpPair(refusing, scratch, { port: 0, mark: 0, gro: true })).toMatchObject({ gso, gro })
})

test('the port of a socket that does not tell it: none, and nothing beyond the address is read', () => {
  const pair = openUdpPair(kernel({ getsockname: (_fd, at) => (scratch.view.setUint16(at + 2, 777), -EINVAL) }), scratch, { port: 0, mark: 0, gro: true })
  expect(pair).toMatchObject({ ipv4: MemoryKernel.IPV4, ipv6: MemoryKernel.IPV6, port: 0 })
})

test.each([[AF_INET, 'ipv4'], [AF_INET6, 'ipv6']] as const)('a family that is not there (%i): the other alone', (family, name) => {
  const border = kernel({})
  const pair = openUdpPair({ ...border, socket: (asked) => (asked === family ? -97 : border.socket(asked, 0, 0)) }, scratch, { port: 5_000, mark: 0, gro: true })
  expect(pair).toMatchObject({ [name]: -1, port: 5_000 })
})

test.each([[-1, 'TUN_PERMISSION'], [-2, 'TUN_DEVICE_MISSING'], [-16, 'TUN_BUSY'], [-5, 'TUN_FAILED']])('a device that cannot be opened or made (%i) says why, and leaves no descriptor', (errno, code) => {
  const closed: number[] = []
  const close = (fd: number): number => closed.push(fd)
  expect(() => openTunDescriptor(kernel({ open: () => errno, close }), scratch, WANTED)).toThrow(expect.objectContaining({ code }))
  expect(closed).toEqual([])
  expect(() => openTunDescriptor(kernel({ ioctl: () => errno, close }), scratch, WANTED)).toThrow(expect.objectContaining({ code }))
  expect(closed).toEqual([7])
})

test('sockets that cannot be bound or marked: none is left open', () => {
  const closed: number[] = []
  const close = (fd: number): number => closed.push(fd)
  expect(openUdpPair(kernel({ bind: () => -98, close }), scratch, { port: 5, mark: 0, gro: true })).toBe(-98)
  expect(closed.splice(0)).toEqual([MemoryKernel.IPV4])
  expect(openUdpPair(kernel({ setsockopt: (_fd, _level, name) => (name === SO_MARK ? -1 : 0), close }), scratch, { port: 5, mark: 9, gro: true })).toBe(-98)
  expect(closed).toEqual([MemoryKernel.IPV4, MemoryKernel.IPV6])
})
