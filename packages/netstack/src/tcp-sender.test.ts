import { instant } from '@meshwright/core'
import { beforeEach, expect, test } from 'vitest'
import { TcpSender } from './tcp-sender.ts'

// What gVisor's and the kernel's TCP did to us on real lines, each by itself.
const MSS = 1_000
let sender: TcpSender
let sent: { start: number; length: number }[]

function send(at: number): void {
  sender.send(instant(at), (start, length) => sent.push({ start, length }))
}

beforeEach(() => {
  sender = new TcpSender(MSS, { maxBufferBytes: 1_000_000, maxRetries: 12 })
  sender.sackPermitted = true
  sender.setWindow(instant(0), 1_000_000)
  sender.rtt.sample(0, 20)
  sent = []
})

test('what seems lost and then comes, before anything was sent again, shrinks no window', () => {
  sender.write(new Uint8Array(10 * MSS))
  send(0)
  const before = sender.congestion.window
  for (let have = 2; have <= 10; have += 1) sender.acknowledge(instant(20), 1, [1 + MSS, 1 + have * MSS], true, 20)
  expect(sender.congestion.window).toBeLessThan(before)
  sender.acknowledge(instant(20), 1 + 10 * MSS, [], false, 20)
  expect(sender.congestion.window).toBeGreaterThanOrEqual(before)
  send(20)
  expect(sent).toHaveLength(10)
})

test('a loss that was repaired shrinks the window', () => {
  sender.write(new Uint8Array(10 * MSS))
  send(0)
  const before = sender.congestion.window
  for (let have = 2; have <= 10; have += 1) sender.acknowledge(instant(20), 1, [1 + MSS, 1 + have * MSS], true, 20)
  send(20)
  expect(sent.at(-1)).toEqual({ start: 1, length: MSS })
  sender.acknowledge(instant(40), 1 + 10 * MSS, [], false, 20)
  expect(sender.congestion.window).toBeLessThan(before)
})

for (const [what, echoRtt, shrinks] of [
  ['the first sending', 80, false],
  ['the probe', 20, true],
] as const) {
  test(`a tail loss probe, when the echo says that ${what} arrived: ${shrinks ? 'a loss is paid for' : 'nothing was lost'}`, () => {
    sender.write(new Uint8Array(2 * MSS))
    send(0)
    const before = sender.congestion.window
    const due = sender.due ?? instant(0)
    expect(due).toBeLessThan(60)
    sender.handleTimeout(due)
    send(due)
    expect(sent).toHaveLength(3)
    sender.write(new Uint8Array(MSS))
    send(due)
    sender.acknowledge(instant(80), 1 + 3 * MSS, [], false, echoRtt)
    if (shrinks) expect(sender.congestion.window).toBeLessThan(before)
    else expect(sender.congestion.window).toBeGreaterThanOrEqual(before)
  })
}

test('a peer that takes SACK but tells no blocks is heard by its duplicates', () => {
  sender.write(new Uint8Array(10 * MSS))
  send(0)
  for (let i = 0; i < 3; i += 1) sender.acknowledge(instant(20), 1, [], true, 20)
  send(20)
  expect(sent.slice(10)[0]).toEqual({ start: 1, length: MSS })
})

test('a peer that waits long with the acknowledgment of a lone segment is probed in vain once, not each time', () => {
  for (let at = 0; at < 20_000; at += 1_000) {
    sender.write(new Uint8Array(100))
    send(at)
    const end = sender.nxt
    for (let due = sender.due; due !== undefined && due < at + 150; due = sender.due) {
      sender.handleTimeout(due)
      send(due)
    }
    sender.acknowledge(instant(at + 150), end, [], false, 150)
  }
  expect(sent).toHaveLength(21)
})
