import { after, type Instant, instant } from '@meshwright/core'
import { addWords, complementSum } from './checksum.ts'
import type { IpPacket } from './ip-packet.ts'

/** RFC 8200 section 4.5. */
const REASSEMBLY_TIMEOUT_MS = 60_000
const MAX_DATAGRAMS = 64
const MAX_TOTAL_BYTES = 1_048_576
const MAX_PARTS = 64
const MAX_PAYLOAD_BYTES = 65_535 - 40

interface Datagram {
  readonly key: string
  readonly due: Instant
  readonly parts: { readonly start: number; readonly bytes: Uint8Array }[]
  bytes: number
  /** -1 until the last part has come. */
  total: number
}

/**
 * Puts fragmented IP packets together (RFC 791 section 3.2, RFC 8200 section 4.5). Bounded: 64 datagrams, 1 MiB in all, 64 parts each;
 * the oldest gives way. Overlapping parts spoil their datagram (RFC 5722).
 */
export class Reassembly {
  readonly #datagrams: Map<string, Datagram> = new Map()
  #bytes = 0

  /** When {@link expire} is next due. */
  get due(): Instant | undefined {
    for (const datagram of this.#datagrams.values()) return datagram.due
    return undefined
  }

  /** Datagrams that are not complete. */
  get count(): number {
    return this.#datagrams.size
  }

  /** Bytes kept. */
  get size(): number {
    return this.#bytes
  }

  /** Takes one fragment; gives the whole packet once it is complete. */
  add(now: Instant, packet: IpPacket): Uint8Array | undefined {
    const payload = packet.payload()
    const start = packet.fragmentOffset
    const key = `${packet.source().join('.')}>${packet.destination().join('.')}#${packet.protocol}/${packet.fragmentId}`
    if ((packet.moreFragments && payload.length % 8 !== 0) || payload.length === 0 || start + payload.length > MAX_PAYLOAD_BYTES)
      return undefined
    const known = this.#datagrams.get(key)
    const datagram = known ?? { key, due: after(now, REASSEMBLY_TIMEOUT_MS), parts: [], bytes: 0, total: -1 }
    const end = start + payload.length
    for (const part of datagram.parts) {
      const partEnd = part.start + part.bytes.length
      if (start === part.start && end === partEnd) return undefined // a plain duplicate
      if (start < partEnd && part.start < end) return this.#forget(datagram)
    }
    if (!packet.moreFragments) {
      if (datagram.total >= 0 && datagram.total !== end) return this.#forget(datagram)
      datagram.total = end
    }
    if ((datagram.total >= 0 && end > datagram.total) || datagram.parts.length >= MAX_PARTS) return this.#forget(datagram)
    if (known === undefined) this.#datagrams.set(key, datagram)
    datagram.parts.push({ start, bytes: payload.slice() })
    datagram.bytes += payload.length
    this.#bytes += payload.length
    if (datagram.bytes === datagram.total) {
      this.#forget(datagram)
      return join(packet, datagram)
    }
    for (const oldest of this.#datagrams.values()) {
      if (this.#datagrams.size <= MAX_DATAGRAMS && this.#bytes <= MAX_TOTAL_BYTES) break
      this.#forget(oldest)
    }
    return undefined
  }

  /** Forgets what did not complete in time. */
  expire(now: Instant): void {
    for (const datagram of this.#datagrams.values()) {
      if (datagram.due > instant(now)) return
      this.#forget(datagram)
    }
  }

  #forget(datagram: Datagram): undefined {
    if (this.#datagrams.delete(datagram.key)) this.#bytes -= datagram.bytes
    return undefined
  }
}

/** A new packet with plain headers around the joined payload. */
function join(packet: IpPacket, datagram: Datagram): Uint8Array {
  const headerLength = packet.family === 4 ? 20 : 40
  const bytes = new Uint8Array(headerLength + datagram.total)
  const view = new DataView(bytes.buffer)
  for (const part of datagram.parts) bytes.set(part.bytes, headerLength + part.start)
  if (packet.family === 4) {
    bytes.set(packet.bytes.subarray(0, 20))
    view.setUint8(0, 0x45)
    view.setUint16(2, bytes.length)
    view.setUint16(6, 0)
    view.setUint16(10, 0)
    view.setUint16(10, complementSum(addWords(0, view, 0, 20)))
  } else {
    bytes.set(packet.bytes.subarray(0, 40))
    view.setUint16(4, datagram.total)
    view.setUint8(6, packet.protocol)
  }
  return bytes
}
