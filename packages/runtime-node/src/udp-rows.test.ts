import { DONE, type PacketBatch } from '@meshwright/core'
import { type Endpoint, type Ip, parseIp } from '@meshwright/ip'
import { afterEach, expect, test } from 'vitest'
import { fastCryptoProvider } from './fast-crypto.ts'
import { findKoffi } from './koffi-functions.ts'
import { openRowUdp, type RowUdpSocket } from './udp-rows.ts'

const loopback: Ip = parseIp('127.0.0.1') ?? expect.fail('address')
const provider = fastCryptoProvider()
/** Every way there is: by system calls with and without rows where koffi is, by Node alone. */
const WAYS = ['best', 'best,no-gso', 'portable']
const open: RowUdpSocket[] = []

afterEach(async () => {
  await Promise.all(open.splice(0).map((socket) => socket.close()))
})

interface Heard {
  readonly socket: RowUdpSocket
  /** By the sender's port: the datagrams, in order, as hexadecimal text. */
  readonly datagrams: Map<number, string[]>
  readonly batches: number[]
  until(count: number): Promise<void>
}

async function listen(lane: string): Promise<Heard> {
  const datagrams = new Map<number, string[]>()
  const batches: number[] = []
  let count = 0
  let wake = (): void => undefined
  const take = (bytes: Uint8Array, from: Endpoint): void => {
    datagrams.set(from.port, [...(datagrams.get(from.port) ?? []), Buffer.from(bytes).toString('hex')])
    count += 1
    wake()
  }
  const onRow = (from: Endpoint, batch: PacketBatch): void => {
    batches.push(batch.count)
    for (let slot = 0; slot < batch.count; slot += 1) take(batch.source(slot), from)
  }
  const socket = await openRowUdp({ provider, lane, onRow, onDatagram: take })
  open.push(socket)
  const until = async (wanted: number): Promise<void> => {
    while (count < wanted) await new Promise<void>((resolve) => (wake = resolve))
  }
  return { socket, datagrams, batches, until }
}

/** Lays datagrams of these lengths out as a sealed row has them, each of a byte of its own. */
function layOut(row: PacketBatch, lengths: readonly number[], first: number): string[] {
  row.reset()
  let at = 64
  return lengths.map((length, i) => {
    row.memory.fill((first + i) & 255, at, at + length)
    const slot = row.addSlot(at, length)
    row.target[slot] = at
    row.targetLength[slot] = length
    row.verdict[slot] = DONE
    at += length
    return Buffer.from(row.result(slot)).toString('hex')
  })
}

for (const lane of WAYS) {
  for (const to of WAYS) {
    test(`rows of many, of one, of unequal and of empty slots arrive whole and in order: ${lane} to ${to}`, async () => {
      const a = await listen(lane)
      const b = await listen(to)
      const endpoint = { ip: loopback, port: b.socket.portIpv4 ?? 0 }
      const sent: string[] = []
      const rows = [Array.from({ length: 40 }, () => 1_312), [1_312], [1_312, 1_312, 96], [96, 1_312, 32, 32], Array.from({ length: 64 }, () => 148)]
      for (const lengths of rows) {
        sent.push(...layOut(a.socket.row, lengths, sent.length))
        a.socket.sendRow(endpoint, a.socket.row)
        await b.until(sent.length)
      }
      layOut(a.socket.row, [100, 100, 100], 0)
      a.socket.row.verdict[1] = 2
      a.socket.sendRow(endpoint, a.socket.row)
      await b.until(sent.length + 2)
      expect([...b.datagrams]).toEqual([[a.socket.portIpv4, [...sent, '00'.repeat(100), '02'.repeat(100)]]])
      expect(a.socket.stats()).toMatchObject({ datagramsOut: sent.length + 2, dropped: 0 })
    })
  }

  test(`datagrams of several senders are told apart: ${lane}`, async () => {
    const to = await listen(lane)
    const from = await Promise.all([listen('best'), listen('portable'), listen('best,no-gso')])
    const endpoint = { ip: loopback, port: to.socket.portIpv4 ?? 0 }
    for (let round = 0; round < 20; round += 1) for (const [i, { socket }] of from.entries()) socket.send(endpoint, Uint8Array.of(i, round))
    await to.until(60)
    const wanted = from.map(({ socket }, i): [number, string[]] => [socket.portIpv4 ?? 0, Array.from({ length: 20 }, (_, round) => Buffer.of(i, round).toString('hex'))])
    expect(new Map(to.datagrams)).toEqual(new Map(wanted))
  })

  test(`a datagram longer than a slot is no reason to lose others: ${lane}`, async () => {
    const [from, to] = [await listen('portable'), await listen(lane)]
    const endpoint = { ip: loopback, port: to.socket.portIpv4 ?? 0 }
    from.socket.send(endpoint, new Uint8Array(20_000))
    for (let i = 0; i < 5; i += 1) from.socket.send(endpoint, Uint8Array.of(i))
    await to.until(5)
    const got = to.datagrams.get(from.socket.portIpv4 ?? 0) ?? []
    expect(got.filter((text) => text.length === 2)).toEqual(['00', '01', '02', '03', '04'])
  })

  test(`nobody hears of a socket that is closed, and what it is asked to send is dropped: ${lane}`, async () => {
    const [a, b] = [await listen(lane), await listen(lane)]
    const endpoint = { ip: loopback, port: b.socket.portIpv4 ?? 0 }
    await a.socket.close()
    layOut(a.socket.row, [50, 50], 0)
    a.socket.sendRow(endpoint, a.socket.row)
    expect(a.socket.send(endpoint, Uint8Array.of(1))).toBe(false)
    expect(a.socket.stats().datagramsOut).toBe(0)
    expect(b.batches).toEqual([])
  })
}

test('system calls are used where koffi is, and nowhere else', async () => {
  const can = process.platform === 'linux' && findKoffi() !== undefined && 'instance' in provider
  for (const lane of WAYS) expect((await listen(lane)).socket.way).toBe(can && lane !== 'portable' ? 'calls' : 'singles')
})

test('a port that is taken says so, whichever way would have been taken', async () => {
  const { socket } = await listen('best')
  for (const lane of WAYS) await expect(openRowUdp({ provider, lane, port: socket.portIpv4 ?? 0, onRow: () => undefined, onDatagram: () => undefined })).rejects.toMatchObject({ code: 'UDP_PORT_TAKEN' })
})

test('what came together is handed over together', async () => {
  for (const lane of WAYS) {
    const [a, b] = [await listen('best'), await listen(lane)]
    layOut(a.socket.row, Array.from({ length: 50 }, () => 1_000), 0)
    a.socket.sendRow({ ip: loopback, port: b.socket.portIpv4 ?? 0 }, a.socket.row)
    await b.until(50)
    expect(b.batches.length).toBeLessThan(50)
  }
})
