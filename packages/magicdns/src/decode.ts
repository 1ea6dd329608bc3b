import { ByteReader } from '@meshwright/core'
import { Ip } from '@meshwright/ip'
import { type DnsName, formatLabel, MAX_NAME_BYTES } from './dns-name.ts'
import {
  DNS_TYPE_A,
  DNS_TYPE_AAAA,
  DNS_TYPE_CNAME,
  DNS_TYPE_NS,
  DNS_TYPE_OPT,
  DNS_TYPE_PTR,
  DNS_TYPE_SOA,
  DNS_TYPE_SRV,
  DNS_TYPE_TXT,
  type DnsData,
  type DnsMessage,
  type DnsQuestion,
  type DnsRecord,
  type Edns,
} from './message.ts'

/** A name has at most 127 labels, so no honest one needs more pointers; without this edge a chain of them would cost a reader dearly. */
const MAX_POINTERS = 127
/** Header length of a message. */
export const DNS_HEADER_BYTES = 12

/** A read name and where the bytes behind it begin. */
interface ReadName {
  readonly name: DnsName
  readonly next: number
}

/**
 * Reads a DNS message (RFC 1035 section 4.1); `undefined` when any part is malformed or bytes are left over. Never throws.
 *
 * | offset | size | field (big endian) |
 * |---|---|---|
 * | 0 | 2 | id |
 * | 2 | 2 | QR, opcode (4 bits), AA, TC, RD, RA, zero, AD, CD, rcode (4 bits) |
 * | 4 | 2 each | counts of questions, answers, authorities, additionals |
 * | 12 | | questions: name, type, class; then records: name, type, class, TTL (4), length, data |
 *
 * Names may end in pointers. A pointer must lead to before the piece of name that it ends, so every step goes back and loops end; a
 * name has at most 255 bytes and 127 pointers.
 */
export function decodeDns(bytes: Uint8Array): DnsMessage | undefined {
  if (bytes.length < DNS_HEADER_BYTES) return undefined
  const header = new ByteReader(bytes)
  const id = header.u16be()
  const flags = header.u16be()
  const counts = [header.u16be(), header.u16be(), header.u16be(), header.u16be()] as const
  let at: number = DNS_HEADER_BYTES
  const questions: DnsQuestion[] = []
  for (let i = 0; i < counts[0]; i += 1) {
    const read = readName(bytes, at)
    if (read === undefined || read.next + 4 > bytes.length) return undefined
    questions.push({ name: read.name, type: u16(bytes, read.next), class: u16(bytes, read.next + 2) })
    at = read.next + 4
  }
  const sections: DnsRecord[][] = [[], [], []]
  let edns: Edns | undefined
  for (const [section, records] of sections.entries()) {
    for (let i = 0; i < (counts[section + 1] ?? 0); i += 1) {
      const read = readName(bytes, at)
      if (read === undefined || read.next + 10 > bytes.length) return undefined
      const fixed = new ByteReader(bytes.subarray(read.next, read.next + 10))
      const [type, dnsClass, ttl, length] = [fixed.u16be(), fixed.u16be(), fixed.u32be(), fixed.u16be()]
      const start = read.next + 10
      at = start + length
      if (at > bytes.length) return undefined
      if (type === DNS_TYPE_OPT) {
        // RFC 6891 section 6.1.1: one OPT at most, of the root, among the additional records.
        if (section !== 2 || edns !== undefined || read.name !== '.') return undefined
        edns = { udpSize: dnsClass, extendedRcode: ttl >>> 24, version: (ttl >>> 16) & 255, dnssecOk: (ttl & 0x8000) !== 0, options: bytes.slice(start, at) }
        continue
      }
      const data = readData(bytes, type, start, at)
      if (data === undefined) return undefined
      records.push({ name: read.name, class: dnsClass, ttl, data })
    }
  }
  if (at !== bytes.length) return undefined
  const [answers = [], authorities = [], additionals = []] = sections
  return {
    id,
    response: (flags & 0x8000) !== 0,
    opcode: (flags >>> 11) & 15,
    authoritative: (flags & 0x0400) !== 0,
    truncated: (flags & 0x0200) !== 0,
    recursionDesired: (flags & 0x0100) !== 0,
    recursionAvailable: (flags & 0x0080) !== 0,
    authenticData: (flags & 0x0020) !== 0,
    checkingDisabled: (flags & 0x0010) !== 0,
    rcode: flags & 15,
    questions,
    answers,
    authorities,
    additionals,
    ...(edns === undefined ? {} : { edns }),
  }
}

/** Position of the UDP size field of a message's OPT record; -1 when there is none. The message must be decodable. */
export function ednsSizeOffset(bytes: Uint8Array): number {
  let at: number = DNS_HEADER_BYTES
  for (let i = u16(bytes, 4); i > 0; i -= 1) {
    const read = readName(bytes, at)
    if (read === undefined) return -1
    at = read.next + 4
  }
  for (let i = u16(bytes, 6) + u16(bytes, 8) + u16(bytes, 10); i > 0; i -= 1) {
    const read = readName(bytes, at)
    if (read === undefined || read.next + 10 > bytes.length) return -1
    if (u16(bytes, read.next) === DNS_TYPE_OPT) return read.next + 2
    at = read.next + 10 + u16(bytes, read.next + 8)
  }
  return -1
}

/** End of the one question of a decodable message. */
export function endOfQuestion(bytes: Uint8Array): number {
  const read = readName(bytes, DNS_HEADER_BYTES)
  return read === undefined ? DNS_HEADER_BYTES : Math.min(bytes.length, read.next + 4)
}

function readData(bytes: Uint8Array, type: number, start: number, end: number): DnsData | undefined {
  const length = end - start
  switch (type) {
    case DNS_TYPE_A:
    case DNS_TYPE_AAAA: {
      const address = length === (type === DNS_TYPE_A ? 4 : 16) ? Ip.fromBytes(bytes.subarray(start, end)) : undefined
      return address && { type: type === DNS_TYPE_A ? 'A' : 'AAAA', address }
    }
    case DNS_TYPE_PTR:
    case DNS_TYPE_CNAME:
    case DNS_TYPE_NS: {
      const target = readName(bytes, start)
      if (target === undefined || target.next !== end) return undefined
      return { type: type === DNS_TYPE_PTR ? 'PTR' : type === DNS_TYPE_CNAME ? 'CNAME' : 'NS', target: target.name }
    }
    case DNS_TYPE_TXT: {
      const texts: Uint8Array[] = []
      for (let at = start; at < end; ) {
        const next = at + 1 + (bytes[at] ?? 0)
        if (next > end) return undefined
        texts.push(bytes.slice(at + 1, next))
        at = next
      }
      return { type: 'TXT', texts }
    }
    case DNS_TYPE_SRV: {
      const target = length > 6 ? readName(bytes, start + 6) : undefined
      if (target === undefined || target.next !== end) return undefined
      return { type: 'SRV', priority: u16(bytes, start), weight: u16(bytes, start + 2), port: u16(bytes, start + 4), target: target.name }
    }
    case DNS_TYPE_SOA: {
      const primary = readName(bytes, start)
      const mailbox = primary && readName(bytes, primary.next)
      if (primary === undefined || mailbox === undefined || mailbox.next + 20 !== end) return undefined
      const r = new ByteReader(bytes.subarray(mailbox.next, end))
      return { type: 'SOA', primary: primary.name, mailbox: mailbox.name, serial: r.u32be(), refresh: r.u32be(), retry: r.u32be(), expire: r.u32be(), minimum: r.u32be() }
    }
    default:
      return { type: 'other', code: type, bytes: bytes.slice(start, end) }
  }
}

function readName(bytes: Uint8Array, start: number): ReadName | undefined {
  let name = ''
  let wireBytes = 1
  let at = start
  let next = -1
  // Each pointer must lead to before the piece that it ends.
  let limit = start
  let pointers = 0
  for (;;) {
    const length = bytes[at]
    if (length === undefined) return undefined
    if (length === 0) return { name: name === '' ? '.' : name, next: next < 0 ? at + 1 : next }
    if (length >= 0xc0) {
      const low = bytes[at + 1]
      if (low === undefined) return undefined
      const target = ((length & 0x3f) << 8) | low
      pointers += 1
      if (target >= limit || target < DNS_HEADER_BYTES || pointers > MAX_POINTERS) return undefined
      if (next < 0) next = at + 2
      at = target
      limit = target
      continue
    }
    if (length >= 0x40 || at + 1 + length > bytes.length) return undefined
    wireBytes += length + 1
    if (wireBytes > MAX_NAME_BYTES) return undefined
    name += `${formatLabel(bytes.subarray(at + 1, at + 1 + length))}.`
    at += 1 + length
  }
}

function u16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
}
