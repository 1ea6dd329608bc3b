import type { LaneCounters } from './dataplane/lane-context.ts'
import type { TunStats } from './tun-linux.ts'
import type { UdpStats } from './udp.ts'

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
