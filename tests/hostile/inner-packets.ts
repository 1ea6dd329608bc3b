import { addToChecksum, checksum, finishChecksum, parseIp } from '@meshwright/ip'

/** What an IPv4 header says when it lies; what is left out is right. */
export interface Ipv4Lies {
  readonly id?: number
  /** The 16 bits of flags and fragment offset. */
  readonly fragment?: number
  readonly totalLength?: number
  readonly headerWords?: number
  readonly version?: number
}

const address = (text: string): Uint8Array => parseIp(text)?.bytes ?? new Uint8Array(4)
const u16 = (bytes: Buffer, at: number, value: number): void => void bytes.writeUInt16BE(value & 0xffff, at)

/** An inner packet of IPv4, or of IPv6 when the addresses are. */
export function ipPacket(source: string, destination: string, protocol: number, payload: Uint8Array, lies: Ipv4Lies = {}): Buffer {
  const [from, to] = [address(source), address(destination)]
  if (from.length === 16) {
    const head = Buffer.alloc(40)
    head[0] = 0x60
    u16(head, 4, lies.totalLength ?? payload.length)
    head[6] = protocol
    head[7] = 64
    head.set(from, 8)
    head.set(to, 24)
    return Buffer.concat([head, payload])
  }
  const head = Buffer.alloc(20)
  head[0] = ((lies.version ?? 4) << 4) | (lies.headerWords ?? 5)
  u16(head, 2, lies.totalLength ?? 20 + payload.length)
  u16(head, 4, lies.id ?? 1)
  u16(head, 6, lies.fragment ?? 0)
  head[8] = 64
  head[9] = protocol
  head.set(from, 12)
  head.set(to, 16)
  u16(head, 10, checksum(head))
  return Buffer.concat([head, payload])
}

/** What a TCP segment says. */
export interface TcpWords {
  readonly sequence?: number
  readonly acknowledgment?: number
  readonly flags: number
  readonly window?: number
  readonly urgent?: number
  /** Length of the header in words, where it lies. */
  readonly headerWords?: number
  /** A multiple of four bytes. */
  readonly options?: Uint8Array
  readonly body?: Uint8Array
}

export const [FIN, SYN, RST, ACK]: readonly [1, 2, 4, 16] = [1, 2, 4, 16]

/** A TCP segment in its IP packet. */
export function tcpPacket(source: string, sourcePort: number, destination: string, port: number, words: TcpWords): Buffer {
  const options = words.options ?? new Uint8Array(0)
  const head = Buffer.alloc(20 + options.length)
  u16(head, 0, sourcePort)
  u16(head, 2, port)
  head.writeUInt32BE((words.sequence ?? 0) >>> 0, 4)
  head.writeUInt32BE((words.acknowledgment ?? 0) >>> 0, 8)
  head[12] = (words.headerWords ?? head.length / 4) << 4
  head[13] = words.flags
  u16(head, 14, words.window ?? 65_535)
  u16(head, 18, words.urgent ?? 0)
  head.set(options, 20)
  const segment = Buffer.concat([head, words.body ?? new Uint8Array(0)])
  u16(segment, 16, transportSum(source, destination, 6, segment))
  return ipPacket(source, destination, 6, segment)
}

/** A UDP datagram in its IP packet. @param length what its header says, where it lies */
export function udpPacket(source: string, sourcePort: number, destination: string, port: number, body: Uint8Array, length: number = 8 + body.length): Buffer {
  const head = Buffer.alloc(8)
  u16(head, 0, sourcePort)
  u16(head, 2, port)
  u16(head, 4, length)
  const datagram = Buffer.concat([head, body])
  u16(datagram, 6, transportSum(source, destination, 17, datagram))
  return ipPacket(source, destination, 17, datagram)
}

/** An ICMP message of IPv4 in its packet. @param word the four bytes behind the checksum */
export function icmpPacket(source: string, destination: string, type: number, code: number, word: number, body: Uint8Array): Buffer {
  const message = Buffer.concat([Buffer.from([type, code, 0, 0, word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]), body])
  u16(message, 2, checksum(message))
  return ipPacket(source, destination, 1, message)
}

/** What a TCP segment in an IPv4 packet of the other side says. */
export function readTcp(packet: Uint8Array): { readonly port: number; readonly flags: number; readonly sequence: number; readonly acknowledgment: number } | undefined {
  const bytes = Buffer.from(packet)
  if (bytes.length < 40 || bytes[0] !== 0x45 || bytes[9] !== 6) return undefined
  return { port: bytes.readUInt16BE(20), flags: bytes[33] ?? 0, sequence: bytes.readUInt32BE(24), acknowledgment: bytes.readUInt32BE(28) }
}

function transportSum(source: string, destination: string, protocol: number, segment: Uint8Array): number {
  const [from, to] = [address(source), address(destination)]
  return finishChecksum(addToChecksum(segment, 0, segment.length, addToChecksum(from, 0, from.length, addToChecksum(to, 0, to.length, protocol + segment.length))))
}
