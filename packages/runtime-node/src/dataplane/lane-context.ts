import { PacketBatch } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import type { WasmProvider } from '@meshwright/crypto/wasm'
import type { KernelBorder } from './kernel-border.ts'
import type { LaneEngine } from './lane-engine.ts'
import { MESSAGE_BYTES } from './message-header.ts'
import type { RowMemory } from './row-cutter.ts'
import { PEER_ROW_BYTES, PEER_ROWS } from './peer-row-size.ts'
import { JOINER_ROW_BYTES, JOINER_ROWS } from './row-joiner.ts'
import { sumsFor } from './sum-module.ts'

/** Free bytes before and behind every region: for headers, tags, and what copies overwrite. */
const MARGIN_BYTES = 256
/** One row from the TUN device with its vnet header, or from a socket. */
export const ROW_BYTES = 65_600
const POLL_BYTES = 256
const SCRATCH_BYTES = 512
/** Slots of a batch: as many as the kernel joins or cuts at a time. */
export const BATCH_SLOTS = 128

/** Where everything lies in the arena. All offsets are multiples of 64. */
export interface ArenaMap {
  /** What the TUN device gives. */
  readonly in: number
  /** Rows for peers, put together; behind them room for what is read next to where it would belong. */
  readonly peerRows: number
  /** A packet of a row that the device did not take. */
  readonly cut: number
  /** What a socket gives. */
  readonly received: number
  /** Rows that are being joined. */
  readonly rows: number
  /** One datagram of the engine's own. */
  readonly single: number
  readonly send: number
  readonly receive: number
  readonly poll: number
  /** For set-up calls. */
  readonly scratch: number
  readonly bytes: number
}

/** The map of the arena: the order is that of use. */
export function arenaMap(): ArenaMap {
  let at = 0
  const take = (bytes: number): number => {
    const place = at + MARGIN_BYTES
    at = Math.ceil((place + bytes + MARGIN_BYTES) / 64) * 64
    return place
  }
  const places = {
    in: take(ROW_BYTES),
    peerRows: take(PEER_ROWS * PEER_ROW_BYTES + ROW_BYTES),
    cut: take(ROW_BYTES),
    received: take(ROW_BYTES),
    rows: take(JOINER_ROWS * JOINER_ROW_BYTES),
    single: take(ROW_BYTES),
    send: take(MESSAGE_BYTES),
    receive: take(MESSAGE_BYTES),
    poll: take(POLL_BYTES),
    scratch: take(SCRATCH_BYTES),
  }
  return { ...places, bytes: at }
}

/** Which offloads are in use. Each is tried, and given up alone. */
export interface LaneOffloads {
  /** The TUN device has vnet headers: rows of TCP come out of it and go into it. */
  tso: boolean
  /** Rows of UDP come out of it. */
  uso: boolean
  /** Rows of UDP go into it. */
  udpJoin: boolean
  /** Rows of datagrams are sent at once. */
  gso: boolean
  /** Rows of datagrams are received at once. */
  gro: boolean
}

/** What went through a lane, and what did not. */
export interface LaneCounters {
  tunReads: number
  tunPackets: number
  udpSends: number
  udpReceives: number
  udpDatagrams: number
  tunWrites: number
  /** Errors of reading the TUN device that are the end of a packet at most, not of the device. */
  readDrops: number
  /** Datagrams that the kernel did not take. */
  sendDrops: number
  /** Packets that the TUN device did not take. */
  writeDrops: number
  /** Rows whose lengths, as the kernel gave them, did not fit together; nothing of them was used. */
  kernelLies: number
  /** Rows that had to be sent or written one by one. */
  splitRows: number
}

/** Two sockets of one port; -1 where a family is not there. */
export interface SocketPair {
  readonly ipv4: number
  readonly ipv6: number
  readonly port: number
}

/** What both ways of a lane share. */
export interface LaneContext extends RowMemory {
  readonly border: KernelBorder
  readonly map: ArenaMap
  readonly engine: LaneEngine
  readonly offloads: LaneOffloads
  readonly counters: LaneCounters
  readonly tun: { readonly fd: number; readonly hasVnetHeader: boolean }
  sockets: SocketPair | undefined
  mtu: number
}

/** Counters at zero. */
export function noLaneCounters(): LaneCounters {
  return { tunReads: 0, tunPackets: 0, udpSends: 0, udpReceives: 0, udpDatagrams: 0, tunWrites: 0, readDrops: 0, sendDrops: 0, writeDrops: 0, kernelLies: 0, splitRows: 0 }
}

/** The arena inside a provider's memory, with sums over it. @throws CRYPTO_WASM_MEMORY */
export function arenaIn(provider: WasmProvider): RowMemory & { readonly map: ArenaMap } {
  const map = arenaMap()
  const bytes = provider.instance.allocate(map.bytes)
  return { map, bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length), sums: sumsFor(provider, bytes.byteOffset) }
}

/** A batch over the whole arena. */
export function arenaBatch(memory: RowMemory): PacketBatch {
  return new PacketBatch(memory.bytes, BATCH_SLOTS)
}

/** Whether a provider works in a memory that others may use. */
export function isWasmProvider(provider: CryptoProvider): provider is WasmProvider {
  return 'instance' in provider
}
