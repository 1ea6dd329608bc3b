import { formatEndpoint, formatIp, PacketView } from '@meshwright/ip'
import type { DeniedPacket, MeshStatus } from '@meshwright/mesh'
import type { JsonObject } from './netmap-json.ts'

/** TCP, UDP and SCTP. */
const WITH_PORTS: readonly number[] = [6, 17, 132]

/** The packets that a node refused lately, oldest first: `debug denied` shows them. */
export function deniedJson(status: Pick<MeshStatus, 'denied' | 'peers'>): JsonObject {
  const names = new Map(status.peers.map((peer) => [peer.nodeKey.text, peer.name]))
  return { Packets: status.denied.map((packet) => packetJson(packet, packet.peer === undefined ? '' : (names.get(packet.peer.text) ?? ''))) }
}

function packetJson({ at, direction, reason, filter, peer, length, bytes }: DeniedPacket, name: string): JsonObject {
  // Lengths within it are those of the whole packet.
  const whole = new Uint8Array(Math.max(length, bytes.length))
  whole.set(bytes)
  const view = new PacketView()
  const isPacket = view.at(whole)
  // ICMP, for one, has no ports.
  const [src, dst] = isPacket && WITH_PORTS.includes(view.protocol) ? [view.srcEndpoint(), view.dstEndpoint()] : []
  const [from, to] = isPacket ? [view.src(), view.dst()] : []
  return {
    Time: new Date(at).toISOString(),
    Direction: direction,
    Reason: reason,
    ...(filter !== undefined && { Filter: filter }),
    ...(peer !== undefined && { NodeKey: peer.toString(), Node: name }),
    ...(from !== undefined && { Protocol: view.protocol, Src: src === undefined ? formatIp(from) : formatEndpoint(src) }),
    ...(to !== undefined && { Dst: dst === undefined ? formatIp(to) : formatEndpoint(dst) }),
    Length: length,
    Bytes: Buffer.from(bytes).toString('base64'),
  }
}

const PCAP_MAGIC_MICROSECONDS = 0xa1b2c3d4
/** Packets begin with their IP header (LINKTYPE_RAW of the pcap link types). */
const LINKTYPE_RAW = 101
const SNAP_BYTES = 65_535
const FILE_HEADER_BYTES = 24
const RECORD_HEADER_BYTES = 16

/** What `debug denied` has shown, as a file for tcpdump and Wireshark (the pcap format, version 2.4: draft-ietf-opsawg-pcap). */
export function deniedPcap(shown: JsonObject): Uint8Array {
  const header = Buffer.alloc(FILE_HEADER_BYTES)
  header.writeUInt32LE(PCAP_MAGIC_MICROSECONDS, 0)
  header.writeUInt16LE(2, 4)
  header.writeUInt16LE(4, 6)
  header.writeUInt32LE(SNAP_BYTES, 16)
  header.writeUInt32LE(LINKTYPE_RAW, 20)
  const packets: readonly unknown[] = Array.isArray(shown['Packets']) ? shown['Packets'] : []
  const records = packets.flatMap((packet) => {
    if (typeof packet !== 'object' || packet === null || !('Bytes' in packet) || !('Time' in packet) || !('Length' in packet)) return []
    const [bytes, at] = [Buffer.from(String(packet.Bytes), 'base64'), Date.parse(String(packet.Time))]
    const record = Buffer.alloc(RECORD_HEADER_BYTES)
    record.writeUInt32LE(Math.floor(at / 1000), 0)
    record.writeUInt32LE((at % 1000) * 1000, 4)
    record.writeUInt32LE(bytes.length, 8)
    record.writeUInt32LE(Number(packet.Length), 12)
    return [record, bytes]
  })
  return Buffer.concat([header, ...records])
}
