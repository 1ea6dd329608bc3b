import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { readWatch } from '../interop/outer-watch.ts'
import { PLAINTEXT_MARKER } from '../interop/wireguard-capture.ts'

// What the watch over a run of real programs finds, and what it lets pass.
const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-watch-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Sent {
  readonly counter?: number
  readonly fill?: number
  readonly hops?: number
  /** In units of 8 bytes. */
  readonly fragmentAt?: number
  readonly text?: string
}

/** An Ethernet frame with IPv4, UDP and a transport message. */
function frame({ counter = 0, fill = 1, hops = 64, fragmentAt = 0, text = '' }: Sent): Buffer {
  const payload = Buffer.alloc(64, fill)
  payload.writeUInt32LE(4, 0)
  payload.writeUInt32LE(77, 4)
  payload.writeBigUInt64LE(BigInt(counter), 8)
  payload.write(text, 32)
  const bytes = Buffer.alloc(14 + 20 + 8 + payload.length)
  bytes.writeUInt16BE(0x0800, 12)
  bytes[14] = 0x45
  bytes.writeUInt16BE(fragmentAt, 20)
  bytes[22] = hops
  bytes[23] = 17
  bytes.set([192, 0, 2, 1, 192, 0, 2, 2], 26)
  bytes.writeUInt16BE(5000, 34)
  bytes.writeUInt16BE(5001, 36)
  bytes.writeUInt16BE(8 + payload.length, 38)
  payload.copy(bytes, 42)
  return bytes
}

function watched(...sent: readonly Sent[]): ReturnType<typeof readWatch> {
  const parts: Buffer[] = [Buffer.alloc(24)]
  for (const [i, each] of sent.entries()) {
    const bytes = frame(each)
    const head = Buffer.alloc(16)
    head.writeUInt32LE(1_000, 0)
    head.writeUInt32LE(i * 250, 4)
    head.writeUInt32LE(bytes.length, 8)
    head.writeUInt32LE(bytes.length, 12)
    parts.push(head, bytes)
  }
  writeFileSync(path.join(folder, 'here-lo.pcap'), Buffer.concat(parts))
  return readWatch(folder)
}

test('a counter that comes twice is found, with what tells why: whose bytes, how much later, how many hops', () => {
  expect(watched({ counter: 1 }, { counter: 2 }, { counter: 3 })).toMatchObject({ datagrams: 3, messages: 3, findings: [] })
  expect(watched({ counter: 1 }, { counter: 1 }).findings).toEqual([expect.stringMatching(/^receiver index 77 and counter 1 came twice, with the same bytes, 0\.250 ms later, 64 and 64 hops left, from 192\.0\.2\.1:5000 to /)])
  expect(watched({ counter: 1 }, { counter: 1, fill: 2 }).findings).toEqual([expect.stringContaining('with other bytes')])
})

test('a datagram that a router sends out by the wire it came in by is seen twice and was sent once', () => {
  expect(watched({ counter: 1 }, { counter: 1, hops: 63 }).findings).toEqual([])
  expect(watched({ counter: 1 }, { counter: 1, hops: 63, fill: 2 }).findings).toHaveLength(1)
  expect(watched({ counter: 1, hops: 63 }, { counter: 1 }).findings).toHaveLength(1)
})

test('a fragment behind the first is no datagram; plaintext is found', () => {
  expect(watched({ counter: 1 }, { counter: 1, fragmentAt: 160 })).toMatchObject({ datagrams: 1, findings: [] })
  expect(watched({ text: PLAINTEXT_MARKER }).findings).toEqual([expect.stringContaining('plaintext')])
})
