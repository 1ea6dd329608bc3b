import { execFileSync } from 'node:child_process'
import { closeSync, existsSync, openSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isMeshwrightError } from '@meshwright/core'
import { describe, expect, test } from 'vitest'
import { openTun, type TunError } from './tun-linux.ts'

const ready =
  process.platform === 'linux' &&
  process.getuid?.() === 0 &&
  existsSync('/dev/net/tun') &&
  (await import('koffi').then(
    () => true,
    () => false,
  ))

async function refusal(open: Promise<unknown>): Promise<TunError> {
  return open.then(
    () => {
      throw new Error('it opened')
    },
    (error: TunError) => error,
  )
}

describe('a TUN device that cannot be opened', () => {
  test.runIf(process.platform === 'linux')('says what to install when koffi is missing', async () => {
    const error = await refusal(openTun({ onPackets: () => undefined, loadKoffi: () => Promise.reject(new Error('not found')) }))
    expect(isMeshwrightError(error, 'TUN_KOFFI_MISSING')).toBe(true)
    expect(error.remedy).toContain('npm install koffi')
  })

  test.runIf(process.platform === 'linux')('takes a package that is not koffi for a missing one', async () => {
    const error = await refusal(openTun({ onPackets: () => undefined, loadKoffi: () => Promise.resolve({ load: 1 }) }))
    expect(error.code).toBe('TUN_KOFFI_MISSING')
  })

  test('refuses names that no interface can have', async () => {
    for (const name of ['', 'a b', 'a/b', 'sixteen-bytes-xx']) {
      expect((await refusal(openTun({ name, onPackets: () => undefined }))).code).toBe('TUN_NAME_INVALID')
    }
  })
})

/** A libc whose kernel writes and answers what a test says; reading gives `lengths` in turn, or fails with an errno where they are negative, then "nothing there". */
function lyingKoffi(lengths: readonly number[], name: Uint8Array = new Uint8Array(16)): object {
  const left = [...lengths]
  let errno = 0
  const functions: Readonly<Record<string, (...args: never[]) => number>> = {
    open: () => 77,
    ioctl: (_fd: number, _request: number, argument: Uint8Array) => {
      argument.set(name)
      return 0
    },
    read: (_fd: number, buffer: Uint8Array) => {
      buffer.fill(0x45)
      const next = left.shift() ?? -11
      if (next < 0) errno = -next
      return next < 0 ? -1 : next
    },
    eventfd: () => 78,
    poll: () => 0,
  }
  const func = (declaration: string): object => {
    const call = functions[/(\w+)\(/.exec(declaration)?.[1] ?? ''] ?? (() => 0)
    return Object.assign(call, { async: (...args: readonly unknown[]) => setTimeout(() => (args.at(-1) as (error: null, result: number) => void)(null, 1), 1) })
  }
  return { default: { load: () => ({ func }), errno: () => errno } }
}

describe.runIf(process.platform === 'linux')('lengths that the kernel tells are never believed', () => {
  test.each([65_536, 65_537, 2 ** 31, 2 ** 53, Number.POSITIVE_INFINITY, Number.NaN])('a packet of %d bytes ends the device, and no byte of it is given out', async (length) => {
    const given: number[] = []
    const failed = await new Promise<TunError>((resolve, reject) => {
      openTun({ onPackets: (packets) => given.push(...packets.map((packet) => packet.length)), onError: resolve, loadKoffi: () => Promise.resolve(lyingKoffi([20, 65_535, length])) }).catch(reject)
    })
    expect(failed.code).toBe('TUN_FAILED')
    expect(given).toEqual([20, 65_535])
  })

  test('errors of reading that cost a packet at most are counted, and packets go on; that the device is no more ends it', async () => {
    const given: number[] = []
    let told: (error: TunError) => void = () => undefined
    const failed = new Promise<TunError>((resolve) => (told = resolve))
    const tun = await openTun({ onPackets: (packets) => given.push(...packets.map((packet) => packet.length)), onError: told, loadKoffi: () => Promise.resolve(lyingKoffi([20, -22, 30, -12, -4, 40, -5, 50, -11, 60, -77, 70])) })
    expect((await failed).message).toContain('errno 77')
    expect(given).toEqual([20, 30, 40, 50, 60])
    expect(tun.stats()).toEqual({ read: 5, written: 0, refused: 0, lost: 2 })
    // It takes nothing any more.
    expect([tun.write(new Uint8Array(20)), tun.stats()]).toEqual([false, { read: 5, written: 1, refused: 1, lost: 2 }])
  })

  test('a device that gives nothing but errors has ended', async () => {
    const failed = await new Promise<TunError>((resolve, reject) => {
      openTun({ onPackets: () => undefined, onError: resolve, loadKoffi: () => Promise.resolve(lyingKoffi(new Array<number>(2_000).fill(-22))) }).catch(reject)
    })
    expect(failed.message).toContain('errno 22')
  })

  test('an interface name without an end is as long as its field', async () => {
    const tun = await openTun({ onPackets: () => undefined, loadKoffi: () => Promise.resolve(lyingKoffi([], new Uint8Array(40).fill(0x61))) })
    expect(tun.name).toBe('a'.repeat(16))
    await tun.close()
  })
})

describe.runIf(ready)('a TUN device (needs root, /dev/net/tun and koffi)', () => {
  test('carries packets both ways, keeps the event loop free, and is gone after close', async () => {
    const seen: Uint8Array[] = []
    let arrived: () => void = () => undefined
    const waiting = new Promise<void>((resolve) => {
      arrived = resolve
    })
    const tun = await openTun({
      name: 'mwtest%d',
      onPackets: (packets) => {
        for (const packet of packets) {
          // An ICMP echo request of the kernel to 10.77.9.2, or its echo reply to us.
          if (packet[9] !== 1) continue
          seen.push(packet)
          if (packet[20] === 8) expect(tun.write(answer(packet))).toBe(true)
          arrived()
        }
      },
    })
    expect(tun.name).toMatch(/^mwtest\d+$/)
    try {
      execFileSync('ip', ['addr', 'add', '10.77.9.1/30', 'dev', tun.name])
      execFileSync('ip', ['link', 'set', tun.name, 'up'])
      expect(tun.write(echoRequest())).toBe(true)
      await waiting
      expect(seen[0]?.subarray(12, 20)).toEqual(Uint8Array.of(10, 77, 9, 1, 10, 77, 9, 2))
      expect(tun.write(new Uint8Array(0))).toBe(false)
    } finally {
      await tun.close()
    }
    expect(existsSync(`/sys/class/net/${tun.name}`)).toBe(false)
    expect(tun.write(echoRequest())).toBe(false)
  })

  test('keeps its memory when garbage is collected at every turn', async () => {
    setFlagsFromString('--expose-gc')
    const collect: unknown = runInNewContext('gc')
    if (typeof collect !== 'function') throw new Error('no forced garbage collection')
    const replies: string[] = []
    const tun = await openTun({ name: 'mwgc%d', onPackets: (packets) => {
      collect()
      for (const packet of packets) if (packet[9] === 1 && packet[20] === 0) replies.push(Buffer.from(packet.subarray(28)).toString())
    } })
    try {
      execFileSync('ip', ['addr', 'add', '10.77.9.1/30', 'dev', tun.name])
      execFileSync('ip', ['link', 'set', tun.name, 'up'])
      for (let i = 0; i < 40; i += 1) {
        collect()
        expect(tun.write(echoRequest(Buffer.from(`payload ${i} `.repeat(i + 1))))).toBe(true)
        // Garbage that would be given the place of anything that nobody holds.
        for (let j = 0; j < 20; j += 1) new Uint8Array(j).fill(j)
        await new Promise((resolve) => setImmediate(resolve))
      }
      await expect.poll(() => replies.length).toBe(40)
      expect(replies).toEqual(Array.from({ length: 40 }, (_, i) => `payload ${i} `.repeat(i + 1)))
    } finally {
      await tun.close()
    }
  })

  test('takes over a descriptor that gives bare IP packets, under the name that it has, and no other', async () => {
    const koffi = createRequire(import.meta.url)('koffi')
    const ioctl = koffi.load(null).func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)')
    const opened = (name: string, flags: number): number => {
      const fd = openSync('/dev/net/tun', 'r+')
      const request = Buffer.alloc(40)
      request.write(name)
      request.writeUInt16LE(flags, 16)
      if (ioctl(fd, 0x400454ca, request) < 0) throw new Error('no TUN device')
      return fd
    }
    const tun = await openTun({ fd: opened('mwfd%d', 0x1001), name: 'ignored', onPackets: () => undefined })
    expect(tun.name).toMatch(/^mwfd\d+$/)
    await tun.close()
    for (const fd of [openSync('/dev/null', 'r+'), opened('mwfd%d', 0x5001), opened('mwfd%d', 0x1002)]) {
      const error = await refusal(openTun({ fd, onPackets: () => undefined }))
      expect(error.code).toBe('TUN_FAILED')
      expect(error.remedy).toBeDefined()
      closeSync(fd)
    }
  })

  test('says so when another program holds the interface', async () => {
    const first = await openTun({ name: 'mwbusy0', onPackets: () => undefined })
    try {
      const error = await refusal(openTun({ name: 'mwbusy0', onPackets: () => undefined }))
      expect(error.code).toBe('TUN_BUSY')
    } finally {
      await first.close()
    }
  })
})

/** 10.77.9.2 pings 10.77.9.1. */
function echoRequest(payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const packet = Uint8Array.of(0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 10, 77, 9, 2, 10, 77, 9, 1, 8, 0, 0, 0, 0, 7, 0, 1, ...payload)
  new DataView(packet.buffer).setUint16(2, packet.length)
  return withChecksums(packet)
}

function answer(request: Uint8Array): Uint8Array {
  const packet = request.slice()
  packet.set(request.subarray(16, 20), 12)
  packet.set(request.subarray(12, 16), 16)
  packet[20] = 0
  return withChecksums(packet)
}

function withChecksums(packet: Uint8Array): Uint8Array {
  const sum = (from: number, to: number, at: number): void => {
    packet[at] = 0
    packet[at + 1] = 0
    let total = 0
    for (let i = from; i < to; i += 2) total += ((packet[i] ?? 0) << 8) | (packet[i + 1] ?? 0)
    while (total > 0xffff) total = (total & 0xffff) + (total >>> 16)
    packet[at] = (~total >> 8) & 255
    packet[at + 1] = ~total & 255
  }
  sum(0, 20, 10)
  sum(20, packet.length, 22)
  return packet
}
