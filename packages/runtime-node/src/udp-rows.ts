import type dgram from 'node:dgram'
import { DONE, PacketBatch } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { DATAPLANE_VARIABLE, parseLaneMode } from './dataplane/lane-mode.ts'
import { openUdpPair } from './dataplane/udp-pair.ts'
import { packetSlab } from './fast-crypto.ts'
import { adoptUdp, systemOutside } from './outside.ts'
import { openUdp, TwoSockets, type UdpOptions, type UdpSocket } from './udp.ts'
import { RowCalls } from './udp-row-calls.ts'

const ROW_SLOTS = 64
/** So that all slots together hold the longest row. */
const ROW_SLOT_BYTES = 1_024
/** What is longer goes singly. */
const GATHERED_SLOT_BYTES = 2_048

let sharedRow: { readonly provider: CryptoProvider; readonly row: PacketBatch } | undefined

/** How a UDP socket for rows is opened. */
export interface RowUdpOptions extends UdpOptions {
  /** In whose memory rows lie. */
  readonly provider: CryptoProvider
  /** Which ways may be tried, as `MESHWRIGHT_DATAPLANE` says it: `portable` is Node's, `no-gso` sends no rows. Default: that variable. */
  readonly lane?: string | undefined
  /** Datagrams of one sender have arrived, in the order of the slots; their memory is used again afterwards. */
  readonly onRow: (from: Endpoint, batch: PacketBatch) => void
}

/** A UDP socket that takes and gives many datagrams at a time. */
export interface RowUdpSocket extends UdpSocket {
  /** Where rows for {@link RowUdpSocket.sendRow} are best laid out: one behind the other. */
  readonly row: PacketBatch
  /** `calls`: many datagrams for each system call, `singles`: one, by Node. */
  readonly way: 'calls' | 'singles'
  /** Whether rows leave as one message each, until a device has refused one. */
  readonly sendsRows: boolean
  /** Sends the `DONE` slots of a batch; its memory is the caller's again afterwards. */
  sendRow(to: Endpoint, batch: PacketBatch): void
}

/**
 * Opens UDP as `openUdp` does, for rows. On Linux with the optional package `koffi` the sockets stay Node's, which tells when something has
 * come; what is behind the first datagram is taken by `recvmmsg`, and rows leave as one message that the kernel cuts (UDP_SEGMENT).
 * Elsewhere each datagram is a call of Node's, and what came in one turn of the event loop is handed over together.
 * @throws UdpError (the promise rejects with it)
 */
export async function openRowUdp(options: RowUdpOptions): Promise<RowUdpSocket> {
  return (await openByCalls(options)) ?? openSingles(options)
}

async function openByCalls(options: RowUdpOptions): Promise<RowUdpSocket | undefined> {
  const mode = parseLaneMode(options.lane ?? process.env[DATAPLANE_VARIABLE])
  const isPlain = options.ipv4 === undefined && options.ipv6 === undefined && (options.outside ?? systemOutside) === systemOutside
  const calls = isPlain && mode.lane !== 'portable' ? RowCalls.of(options.provider) : undefined
  if (calls === undefined) return undefined
  const pair = openUdpPair(calls.border, calls.scratch, { port: options.port ?? 0, mark: 0, gro: false })
  if (typeof pair === 'number') return undefined // the other way says in plain words what is wrong
  const adopt = (type: 'udp4' | 'udp6', fd: number): Promise<dgram.Socket> | undefined => (fd < 0 ? undefined : adoptUdp(type, fd))
  const [four, six] = await Promise.all([adopt('udp4', pair.ipv4), adopt('udp6', pair.ipv6)])
  let isOpen = true
  const take = (bytes: Uint8Array, from: Endpoint): void => {
    if (!calls.put(bytes, from)) return options.onDatagram(bytes, from)
    if (isOpen) calls.receive(from.ip.family === 4 ? pair.ipv4 : pair.ipv6)
    calls.handOver(options.onRow)
  }
  const sockets = new TwoSockets(four, six, { ...options, onDatagram: take, sized: true })
  const sender = calls.sender(pair, mode.gso && pair.gso, (to, bytes) => sockets.send(to, bytes))
  return {
    portIpv4: sockets.portIpv4,
    portIpv6: sockets.portIpv6,
    row: calls.row,
    way: 'calls',
    get sendsRows(): boolean {
      return sender.sendsRows
    },
    send: (to, bytes) => sockets.send(to, bytes),
    sendRow: (to, batch) => {
      if (isOpen) sender.send(to, batch)
    },
    stats: () => {
      const { datagramsIn, datagramsOut, dropped } = sockets.stats()
      return { datagramsIn, datagramsOut: datagramsOut + sender.sent, dropped: dropped + sender.dropped }
    },
    close: () => {
      isOpen = false // the descriptors are soon somebody else's
      return sockets.close()
    },
  }
}

async function openSingles(options: RowUdpOptions): Promise<RowUdpSocket> {
  const gathered = PacketBatch.slab(ROW_SLOTS, GATHERED_SLOT_BYTES)
  let sender: Endpoint | undefined
  let soon: NodeJS.Immediate | undefined
  const handOver = (): void => {
    soon = undefined
    const from = sender
    sender = undefined
    if (from !== undefined && gathered.count > 0) options.onRow(from, gathered)
    gathered.reset()
  }
  // The event loop reads many datagrams before immediates have their turn.
  const take = (bytes: Uint8Array, from: Endpoint): void => {
    if (sender !== undefined && (sender.ip !== from.ip || sender.port !== from.port || gathered.count === gathered.capacity)) handOver()
    if (gathered.addCopy(bytes) < 0) {
      handOver()
      return options.onDatagram(bytes, from)
    }
    sender = from
    soon ??= setImmediate(handOver)
  }
  const sockets = await openUdp({ ...options, onDatagram: take })
  return {
    portIpv4: sockets.portIpv4,
    portIpv6: sockets.portIpv6,
    row: rowOf(options.provider),
    way: 'singles',
    sendsRows: false,
    send: (to, bytes) => sockets.send(to, bytes),
    sendRow: (to, batch) => {
      // Node may send later.
      for (let slot = 0; slot < batch.count; slot += 1) if (batch.verdict[slot] === DONE) sockets.send(to, batch.result(slot).slice())
    },
    stats: () => sockets.stats(),
    close: () => {
      if (soon !== undefined) clearImmediate(soon)
      soon = undefined
      gathered.reset()
      return sockets.close()
    },
  }
}

// One for all sockets of the process: a row is sent before the next is laid out.
function rowOf(provider: CryptoProvider): PacketBatch {
  if (sharedRow?.provider !== provider) sharedRow = { provider, row: packetSlab(provider, ROW_SLOTS, ROW_SLOT_BYTES) }
  return sharedRow.row
}
