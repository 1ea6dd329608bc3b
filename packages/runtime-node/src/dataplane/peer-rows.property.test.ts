import fc from 'fast-check'
import { expect, it } from 'vitest'
import { instant, PacketBatch } from '@meshwright/core'
import { BATCH_SLOTS } from './lane-context.ts'
import { MAX_UDP_PAYLOAD_BYTES, MAX_UDP_SEGMENTS } from './linux-abi.ts'
import { PEER_ROW_BYTES, PEER_ROW_MARGIN_BYTES, PEER_ROWS } from './peer-row-size.ts'
import { PeerRows } from './peer-rows.ts'

const NOW = instant(0)
const HEADER_BYTES = 16

/** Rows over a memory of their own, and what was sealed: for each datagram its peer, its class and its mark, row by row. */
function make(): { readonly rows: PeerRows, readonly memory: Uint8Array, readonly sealed: { peer: number, trafficClass: number, strides: number[], marks: number[] }[] } {
  const memory = new Uint8Array(PEER_ROWS * PEER_ROW_BYTES)
  const view = new DataView(memory.buffer)
  const sealed: { peer: number, trafficClass: number, strides: number[], marks: number[] }[] = []
  const rows = new PeerRows(() => new PacketBatch(memory, BATCH_SLOTS), 0, (_now, { owner, trafficClass, batch, at }) => {
    if (owner === undefined || !('id' in owner) || typeof owner.id !== 'number') throw new Error('no owner')
    const offsets = Array.from(batch.offset.subarray(0, batch.count))
    expect(offsets[0]).toBe(at + HEADER_BYTES)
    sealed.push({ peer: owner.id, trafficClass, strides: offsets.slice(1).map((offset, i) => offset - (offsets[i] ?? 0)), marks: offsets.map((offset) => view.getUint32(offset)) })
  })
  return { rows, memory, sealed }
}

const packets = fc.array(fc.record({ peer: fc.nat(PEER_ROWS + 4), trafficClass: fc.constantFrom(0, 0, 0, 3), count: fc.integer({ min: 1, max: 50 }), stride: fc.constantFrom(64, 96, 1_452, 1_452, 1_452), short: fc.constantFrom(0, 0, 0, 16) }), { maxLength: 120 })

it('whatever comes for whomever, each peer gets all of it in order, in rows that the kernel can cut, where no other row stands', () => {
  fc.assert(fc.property(packets, (input) => {
    const { rows, memory, sealed } = make()
    const view = new DataView(memory.buffer)
    const owners = Array.from({ length: PEER_ROWS + 5 }, (_, id) => ({ id }))
    const sent = owners.map((): number[] => [])
    let mark = 0
    for (const { peer, trafficClass, count: wanted, stride, short } of input) {
      const count = Math.min(wanted, MAX_UDP_SEGMENTS, Math.floor(MAX_UDP_PAYLOAD_BYTES / stride))
      const row = rows.rowFor(NOW, owners[peer] ?? {}, trafficClass, count, stride)
      const { place } = row
      for (let i = 0; i < count; i += 1) {
        const at = place + i * stride
        expect(at + stride).toBeLessThanOrEqual(row.at - PEER_ROW_MARGIN_BYTES + PEER_ROW_BYTES)
        view.setUint32(at, mark)
        row.batch.addSlot(at, stride - 32)
        sent[peer]?.push(mark)
        mark += 1
      }
      rows.filled(NOW, row, count * stride - short, short > 0 || stride < row.stride)
    }
    rows.flush(NOW)
    expect(owners.map(({ id }) => sealed.filter(({ peer }) => peer === id).flatMap(({ marks }) => marks))).toEqual(sent)
    for (const { strides } of sealed) expect(new Set(strides).size).toBeLessThanOrEqual(1)
  }), { numRuns: 60 })
})

it('what many peers get in turns is one row for each of them', () => {
  const { rows, sealed } = make()
  const owners = Array.from({ length: PEER_ROWS }, (_, id) => ({ id }))
  for (let round = 0; round < 3; round += 1) {
    for (const owner of owners) {
      const row = rows.rowFor(NOW, owner, 0, 4, 1_452)
      for (let i = 0; i < 4; i += 1) row.batch.addSlot(row.place + i * 1_452, 1_420)
      rows.filled(NOW, row, 4 * 1_452, false)
    }
  }
  expect(sealed).toEqual([])
  rows.flush(NOW)
  expect(sealed.map(({ peer, marks }) => [peer, marks.length])).toEqual(owners.map(({ id }) => [id, 12]))
  expect([rows.takeMost(), rows.takeMost()]).toEqual([PEER_ROWS, 0])
})

it('a packet of another class, or longer than those before, begins a row; a shorter one ends it', () => {
  const { rows, sealed } = make()
  const owner = { id: 1 }
  const add = (trafficClass: number, stride: number): void => {
    const row = rows.rowFor(NOW, owner, trafficClass, 1, stride)
    row.batch.addSlot(row.place, stride - 32)
    rows.filled(NOW, row, stride, stride < row.stride)
  }
  for (const [trafficClass, stride] of [[0, 200], [0, 200], [0, 100], [0, 100], [3, 100], [3, 200], [3, 200]] as const) add(trafficClass, stride)
  rows.flush(NOW)
  expect(sealed.map(({ trafficClass, marks }) => [trafficClass, marks.length])).toEqual([[0, 3], [0, 1], [3, 1], [3, 2]])
})
