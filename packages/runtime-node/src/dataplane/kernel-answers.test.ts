import { describe, expect, test } from 'vitest'
import type { KernelBorder } from './kernel-border.ts'
import { AF_INET, AF_INET6, EINVAL, IFREQ_UNION_AT } from './linux-abi.ts'
import { MemoryKernel } from './memory-kernel.ts'
import { openTunDescriptor, setGsoMaxBytes } from './tun-descriptor.ts'
import { openUdpPair } from './udp-pair.ts'

// What the kernel answers while a lane is set up: lengths and numbers that are not as they must be are not believed.
const memory = new Uint8Array(1_024)
const scratch = { view: new DataView(memory.buffer), at: 256 }

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
  }), scratch, { name: 'tun%d', tso: true, uso: true })
  expect(name).toBe('x'.repeat(16))
})

test.each([['TCP', true], ['UDP', false]])('rows of %s that the kernel refuses are not in use', (_what, noTso) => {
  let asked = 0
  const { tso, uso } = openTunDescriptor(kernel({ ioctlValue: () => ((asked += 1) === (noTso ? 1 : 2) ? -EINVAL : 0) }), scratch, { name: 'tun0', tso: true, uso: true })
  expect([tso, uso]).toEqual([!noTso, false])
})

test('the port of a socket that does not tell it: none, and nothing beyond the address is read', () => {
  const pair = openUdpPair(kernel({ getsockname: () => -EINVAL }), scratch, { port: 0, mark: 0, gro: true })
  expect(pair).toMatchObject({ ipv4: MemoryKernel.IPV4, ipv6: MemoryKernel.IPV6, port: 0 })
})

test.each([[AF_INET, 'ipv4'], [AF_INET6, 'ipv6']] as const)('a family that is not there (%i): the other alone', (family, name) => {
  const border = kernel({})
  const pair = openUdpPair({ ...border, socket: (asked) => (asked === family ? -97 : border.socket(asked, 0, 0)) }, scratch, { port: 5_000, mark: 0, gro: true })
  expect(pair).toMatchObject({ [name]: -1, port: 5_000 })
})
