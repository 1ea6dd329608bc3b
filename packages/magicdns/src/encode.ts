import { ByteWriter, MeshwrightError } from '@meshwright/core'
import { canonicalName, type DnsName, parentName, parseLabels } from './dns-name.ts'
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
  type DnsRecord,
} from './message.ts'

const MAX_MESSAGE_BYTES = 65_535
/** Pointers have 14 bits. */
const MAX_POINTER = 0x3fff

/** Codes of what this package throws. */
export type MagicDnsErrorCode = 'MAGICDNS_NAME' | 'MAGICDNS_MESSAGE' | 'MAGICDNS_CONFIG'

/**
 * Writes a DNS message with compressed names; layout as in {@link decodeDns}. When it would exceed `maxBytes` all records (the OPT record
 * apart) are left out and the TC bit is set: who asked asks again over TCP.
 * @throws MAGICDNS_NAME for a name that does not fit the wire, MAGICDNS_MESSAGE when the header alone exceeds the limit or data are too long
 */
export function encodeDns(message: DnsMessage, maxBytes: number = MAX_MESSAGE_BYTES): Uint8Array {
  const whole = encode(message)
  if (whole.length <= maxBytes) return whole
  const { answers: _answers, authorities: _authorities, additionals: _additionals, ...rest } = message
  const cut = encode({ ...rest, truncated: true })
  if (cut.length > maxBytes) throw new MeshwrightError<MagicDnsErrorCode>('MAGICDNS_MESSAGE', `a message of ${cut.length} bytes does not fit ${maxBytes}`)
  return cut
}

function encode(message: DnsMessage): Uint8Array {
  const { answers = [], authorities = [], additionals = [], edns } = message
  const writer = new ByteWriter(512)
  const names = new Map<DnsName, number>()
  const flags =
    (message.response ? 0x8000 : 0) |
    ((message.opcode & 15) << 11) |
    (message.authoritative ? 0x0400 : 0) |
    (message.truncated ? 0x0200 : 0) |
    (message.recursionDesired ? 0x0100 : 0) |
    (message.recursionAvailable ? 0x0080 : 0) |
    (message.authenticData ? 0x0020 : 0) |
    (message.checkingDisabled ? 0x0010 : 0) |
    (message.rcode & 15)
  writer.u16be(message.id).u16be(flags)
  writer.u16be(message.questions.length).u16be(answers.length).u16be(authorities.length)
  writer.u16be(additionals.length + (edns === undefined ? 0 : 1))
  for (const question of message.questions) {
    writeName(writer, names, question.name)
    writer.u16be(question.type).u16be(question.class)
  }
  for (const record of [...answers, ...authorities, ...additionals]) writeRecord(writer, names, record)
  if (edns !== undefined) {
    const ttl = (((edns.extendedRcode & 255) << 24) | ((edns.version & 255) << 16) | (edns.dnssecOk ? 0x8000 : 0)) >>> 0
    writer.u8(0).u16be(DNS_TYPE_OPT).u16be(edns.udpSize).u32be(ttl).u16be(edns.options.length).bytes(edns.options)
  }
  return writer.finish()
}

function writeRecord(writer: ByteWriter, names: Map<DnsName, number>, record: DnsRecord): void {
  writeName(writer, names, record.name)
  writer.u16be(typeOf(record.data)).u16be(record.class).u32be(record.ttl)
  const lengthAt = writer.length
  writer.u16be(0)
  writeData(writer, names, record.data)
  const length = writer.length - lengthAt - 2
  if (length > MAX_MESSAGE_BYTES) throw new MeshwrightError<MagicDnsErrorCode>('MAGICDNS_MESSAGE', `the data of a record have at most 65535 bytes, not ${length}`)
  writer.patchU16be(lengthAt, length)
}

function writeData(writer: ByteWriter, names: Map<DnsName, number>, data: DnsData): void {
  switch (data.type) {
    case 'A':
    case 'AAAA':
      writer.bytes(data.address.bytes)
      return
    case 'PTR':
    case 'CNAME':
    case 'NS':
      writeName(writer, names, data.target)
      return
    case 'TXT':
      for (const text of data.texts) {
        if (text.length > 255) throw new MeshwrightError<MagicDnsErrorCode>('MAGICDNS_MESSAGE', `one text of a TXT record has at most 255 bytes, not ${text.length}`)
        writer.u8(text.length).bytes(text)
      }
      return
    case 'SRV':
      // RFC 2782: the target is never compressed.
      writer.u16be(data.priority).u16be(data.weight).u16be(data.port)
      writeName(writer, undefined, data.target)
      return
    case 'SOA':
      writeName(writer, names, data.primary)
      writeName(writer, names, data.mailbox)
      writer.u32be(data.serial).u32be(data.refresh).u32be(data.retry).u32be(data.expire).u32be(data.minimum)
      return
    case 'other':
      writer.bytes(data.bytes)
  }
}

function typeOf(data: DnsData): number {
  switch (data.type) {
    case 'A':
      return DNS_TYPE_A
    case 'AAAA':
      return DNS_TYPE_AAAA
    case 'PTR':
      return DNS_TYPE_PTR
    case 'CNAME':
      return DNS_TYPE_CNAME
    case 'NS':
      return DNS_TYPE_NS
    case 'TXT':
      return DNS_TYPE_TXT
    case 'SRV':
      return DNS_TYPE_SRV
    case 'SOA':
      return DNS_TYPE_SOA
    case 'other':
      return data.code
  }
}

function writeName(writer: ByteWriter, names: Map<DnsName, number> | undefined, text: DnsName): void {
  const labels = parseLabels(text)
  if (labels === undefined) throw new MeshwrightError<MagicDnsErrorCode>('MAGICDNS_NAME', `not a domain name: ${JSON.stringify(text.slice(0, 300))}`)
  let rest: DnsName | undefined = canonicalName(text)
  for (const label of labels) {
    const known = rest === undefined ? undefined : names?.get(rest)
    if (known !== undefined) {
      writer.u16be(0xc000 | known)
      return
    }
    if (rest !== undefined && names !== undefined && writer.length <= MAX_POINTER) names.set(rest, writer.length)
    writer.u8(label.length).bytes(label)
    rest = rest === undefined ? undefined : parentName(rest)
  }
  writer.u8(0)
}
