import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
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
function echoRequest(): Uint8Array {
  const packet = Uint8Array.of(0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 10, 77, 9, 2, 10, 77, 9, 1, 8, 0, 0, 0, 0, 7, 0, 1)
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
