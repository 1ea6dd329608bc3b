import type { MeshStatus } from '@meshwright/mesh'
import { NO_OFFLOADS } from './dataplane/give-up-offloads.ts'
import type { LaneCounters } from './dataplane/lane-context.ts'
import type { TunStats } from './tun-linux.ts'
import type { DataPlaneReport } from './running-node.ts'
import type { UdpStats } from './udp.ts'
import type { RowUdpSocket } from './udp-rows.ts'

/**
 * What a lane of the event loop has carried, by the names that a worker's counters have: each packet is a reading or a writing of its own, and
 * each datagram a sending or a receiving. What there is none of, rows and lengths that a kernel tells, is 0.
 */
export function portableCounters(tun: TunStats, udp: UdpStats): LaneCounters {
  return {
    tunReads: tun.read,
    tunPackets: tun.read,
    udpSends: udp.datagramsOut,
    udpReceives: udp.datagramsIn,
    udpDatagrams: udp.datagramsIn,
    tunWrites: tun.written,
    readDrops: tun.lost,
    sendDrops: udp.dropped,
    writeDrops: tun.refused,
    kernelLies: 0,
    splitRows: 0,
  }
}

/** What the data plane of a node without a device shows: its packets are those of its stack. */
export function userspaceReport({ packetsIn, packetsOut }: Pick<MeshStatus, 'packetsIn' | 'packetsOut'>, udp: UdpStats, rows: Pick<RowUdpSocket, 'way' | 'sendsRows'> | undefined): DataPlaneReport {
  const counters = portableCounters({ read: packetsOut, written: packetsIn, refused: 0, lost: 0 }, udp)
  return { lane: 'userspace', ...(rows && { datagrams: rows.way }), offloads: { ...NO_OFFLOADS, gso: rows?.sendsRows === true }, counters: { ...counters }, restarts: 0 }
}
