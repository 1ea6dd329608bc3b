import { instant } from '@meshwright/core'
import { SeededRandom } from '@meshwright/testkit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addWords, complementSum, foldSum } from './checksum.ts'
import { DeadlineHeap } from './deadline-heap.ts'
import { decodeIpPacket, IpPacket, PacketBuilder } from './ip-packet.ts'
import { Reassembly } from './reassembly.ts'
import { Scoreboard } from './scoreboard.ts'
import { ChunkPool, SendBuffer } from './send-buffer.ts'
import { TcpReceiver } from './tcp-receiver.ts'

test('the checksum equals a sum word by word, for every length and offset', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(7), (bytes, offset) => {
      const memory = new Uint8Array(bytes.length + offset)
      memory.set(bytes, offset)
      let slow = 0
      for (let i = 0; i < bytes.length; i += 2) {
        slow += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0)
        if (slow > 0xffff) slow -= 0xffff
      }
      const fast = foldSum(addWords(0, new DataView(memory.buffer), offset, memory.length))
      expect(fast % 0xffff).toBe(slow % 0xffff)
      expect(foldSum(fast + complementSum(fast))).toBe(0xffff)
    }),
  )
})

test('the checksum of the largest packet, of the largest words, is right', () => {
  for (const length of [65_535, 65_534, 65_520, 16, 15]) {
    const words = Math.floor(length / 2) * 0xffff + (length % 2) * 0xff00
    expect(foldSum(addWords(0xffff, new DataView(new Uint8Array(length).fill(0xff).buffer), 0, length))).toBe(foldSum(0xffff + words))
  }
})

test('send buffers that share a pool never see each other', () => {
  const random = new SeededRandom(3)
  const pool = new ChunkPool()
  const kept = [1, 2, 3].map((mark) => ({ mark, buffer: new SendBuffer(1, pool), released: 1 }))
  for (let step = 0; step < 400; step += 1) {
    const each = random.pick(kept)
    each.buffer.append(new Uint8Array(random.below(40_000)).fill(each.mark))
    if (random.chance(0.6)) each.released += random.below(each.buffer.tail - each.released + 1)
    each.buffer.release(each.released)
    if (random.chance(0.02)) {
      each.buffer.clear()
      each.buffer = new SendBuffer(1, pool)
      each.released = 1
    }
    for (const { mark, buffer, released } of kept) {
      const copy = new Uint8Array(buffer.tail - released)
      buffer.copyTo(released, buffer.tail, copy, 0)
      expect(copy.every((byte) => byte === mark)).toBe(true)
    }
  }
})

test('a packet stays as it is until its memory is given back, and then costs no new memory', () => {
  const builder = new PacketBuilder(1)
  const [from, to] = [new Uint8Array(4).fill(1), new Uint8Array(4).fill(2)]
  const fill = (mark: number): Uint8Array[] => Array.from({ length: 150 }, () => builder.packet(from, to, 17, new Uint8Array(1_200).fill(mark)))
  for (let round = 0; round < 5; round += 1) {
    const packets = [...fill(3), ...fill(4)]
    expect(packets.every((packet, i) => packet.subarray(20).every((byte) => byte === (i < 150 ? 3 : 4)))).toBe(true)
    builder.recycle()
  }
  const seen = new Set(fill(5).map(({ buffer }) => buffer))
  builder.recycle()
  for (const { buffer } of fill(6)) expect(seen).toContain(buffer)
})

test('the send buffer gives back any part of what was written', () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const random = new SeededRandom(seed)
    const buffer = new SendBuffer(1)
    let all: number[] = []
    let released = 1
    for (let step = 0; step < 100; step += 1) {
      const bytes = random.bytes(random.below(3_000))
      buffer.append(bytes)
      all = [...all, ...bytes]
      const start = released + random.below(buffer.tail - released + 1)
      const end = start + random.below(buffer.tail - start + 1)
      const target = new Uint8Array(end - start + 3)
      buffer.copyTo(start, end, target, 3)
      expect(Buffer.compare(target.subarray(3), Uint8Array.from(all.slice(start - 1, end - 1)))).toBe(0)
      released += random.below(buffer.tail - released + 1)
      buffer.release(released)
      expect(buffer.size).toBe(buffer.tail - released)
    }
  }
})

test('the receiver delivers every byte once and in order, whatever pieces come in whatever order', () => {
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = new SeededRandom(seed)
    const stream = random.bytes(4_000)
    const receiver = new TcpReceiver(65_536)
    receiver.advertise(536, true)
    const got: number[] = []
    for (let step = 0; receiver.nxt <= stream.length; step += 1) {
      const start = step > 2_000 ? receiver.nxt - 1 : random.below(stream.length)
      const piece = stream.subarray(start, start + 1 + random.below(200))
      const memory = piece.slice()
      receiver.accept(start + 1, memory, start + piece.length === stream.length, (bytes) => got.push(...bytes))
      memory.fill(0)
      const edges = receiver.sackEdges()
      for (let i = 0; i + 1 < edges.length; i += 2) expect(edges[i]).toBeLessThan(edges[i + 1] ?? 0)
    }
    expect(got).toEqual([...stream])
    expect(receiver.finished).toBe(true)
    expect(receiver.hasHoles).toBe(false)
  }
})

test('the scoreboard counts each byte in flight once, whatever is acknowledged, lost and sent again', () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const random = new SeededRandom(seed)
    const board = new Scoreboard()
    const delivery = { bytes: 0, rtt: -1, repeatedAt: -1, duplicate: false }
    let nxt = 1
    let una = 1
    let now = 0
    let delivered = 0
    for (let step = 0; step < 400; step += 1) {
      now += random.below(20)
      const kind = random.below(5)
      if (kind <= 1) {
        const length = 1 + random.below(1_000)
        board.sent(now, nxt, nxt + length)
        nxt += length
      } else if (kind === 2) {
        const piece = board.nextLost()
        if (piece !== undefined) {
          if (random.chance(0.3)) board.split(piece, 1 + random.below(500))
          board.resent(now, piece)
        }
      } else {
        if (random.chance(0.4)) una += random.below(nxt - una + 1)
        const edges: number[] = []
        for (let i = random.below(4); i > 0; i -= 1) {
          const start = random.below(nxt + 10)
          edges.push(start, start + random.below(2_000))
        }
        board.acknowledge(now, una, nxt, edges, delivery)
        delivered += delivery.bytes
        board.detectLost(now, random.chance(0.5), 5, 10)
        if (random.chance(0.05)) board.markAllLost()
      }
      expect(board.inFlight).toBeGreaterThanOrEqual(0)
      expect(board.inFlight).toBeLessThanOrEqual(nxt - una)
    }
    board.acknowledge(now, nxt, nxt, [], delivery)
    delivered += delivery.bytes
    expect(board.inFlight).toBe(0)
    expect(board.empty).toBe(true)
    expect(delivered).toBeGreaterThanOrEqual(nxt - 1)
  }
})

test('the heap gives deadlines in order, whatever is set, moved and cleared', () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const random = new SeededRandom(seed)
    const heap = new DeadlineHeap<{ heapIndex: number; heapDue: number }>()
    const items = Array.from({ length: 50 }, () => ({ heapIndex: -1, heapDue: 0 }))
    const oracle = new Map<object, number>()
    for (let step = 0; step < 500; step += 1) {
      const item = random.pick(items)
      const due = random.chance(0.3) ? undefined : random.below(100)
      heap.set(item, due === undefined ? undefined : instant(due))
      if (due === undefined) oracle.delete(item)
      else oracle.set(item, due)
      expect(heap.size).toBe(oracle.size)
      expect(heap.due).toBe(oracle.size === 0 ? undefined : Math.min(...oracle.values()))
    }
  }
})

describe('reassembly', () => {
  const from = Uint8Array.of(1, 1, 1, 1)
  const to = Uint8Array.of(2, 2, 2, 2)
  const parse = (bytes: Uint8Array): IpPacket => {
    const packet = new IpPacket()
    expect(decodeIpPacket(bytes, packet)).toBe(true)
    return packet
  }

  test('fragments in any order make the datagram, duplicates included', () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const random = new SeededRandom(seed)
      const payload = random.bytes(5_000)
      const fragments = new PacketBuilder(seed).packets(from, to, 17, payload, 1280)
      const reassembly = new Reassembly()
      let whole: Uint8Array | undefined
      for (const fragment of [...fragments, ...fragments].sort(() => random.u32() - 0x8000_0000))
        whole ??= reassembly.add(instant(0), parse(fragment))
      expect(Buffer.compare(whole?.subarray(20) ?? from, payload)).toBe(0)
    }
  })

  test('overlapping fragments spoil their datagram', () => {
    const fragments = new PacketBuilder(1).packets(from, to, 17, new Uint8Array(2_000), 1280)
    const other = new PacketBuilder(1).packets(from, to, 17, new Uint8Array(2_000), 900)
    const reassembly = new Reassembly()
    for (const fragment of [fragments[0], other[1], fragments[1]])
      if (fragment !== undefined) expect(reassembly.add(instant(0), parse(fragment))).toBeUndefined()
  })

  test('memory is bounded and freed after 60 s', () => {
    const reassembly = new Reassembly()
    const builder = new PacketBuilder(1)
    for (let i = 0; i < 5_000; i += 1) {
      const first = builder.packets(from, to, 17, new Uint8Array(60_000), 40_000)[0]
      if (first !== undefined) reassembly.add(instant(i), parse(first))
    }
    expect(reassembly.size).toBeLessThanOrEqual(1_048_576)
    reassembly.expire(instant(70_000))
    expect(reassembly.size).toBe(0)
    expect(reassembly.due).toBeUndefined()
  })
})
