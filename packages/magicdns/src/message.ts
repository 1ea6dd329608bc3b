import type { Ip } from '@meshwright/ip'
import type { DnsName } from './dns-name.ts'

/** Record types by number (IANA "DNS Parameters"). */
export const DNS_TYPE_A = 1
export const DNS_TYPE_NS = 2
export const DNS_TYPE_CNAME = 5
export const DNS_TYPE_SOA = 6
export const DNS_TYPE_PTR = 12
export const DNS_TYPE_HINFO = 13
export const DNS_TYPE_TXT = 16
export const DNS_TYPE_AAAA = 28
export const DNS_TYPE_SRV = 33
export const DNS_TYPE_OPT = 41
export const DNS_TYPE_AXFR = 252
/** In questions: every type. */
export const DNS_TYPE_ANY = 255

/** The class of everything here: Internet. */
export const DNS_CLASS_IN = 1

/** Response codes (RFC 1035 section 4.1.1). */
export const RCODE_NO_ERROR = 0
export const RCODE_FORMAT_ERROR = 1
export const RCODE_SERVER_FAILURE = 2
export const RCODE_NAME_ERROR = 3
export const RCODE_NOT_IMPLEMENTED = 4
export const RCODE_REFUSED = 5

/** What is asked. */
export interface DnsQuestion {
  readonly name: DnsName
  readonly type: number
  readonly class: number
}

/** The data of a record, by type; types that we do not know keep their bytes (names inside may be compressed: read them, never forward). */
export type DnsData =
  | { readonly type: 'A' | 'AAAA'; readonly address: Ip }
  | { readonly type: 'PTR' | 'CNAME' | 'NS'; readonly target: DnsName }
  | { readonly type: 'TXT'; readonly texts: readonly Uint8Array[] }
  | { readonly type: 'SRV'; readonly priority: number; readonly weight: number; readonly port: number; readonly target: DnsName }
  | {
      readonly type: 'SOA'
      readonly primary: DnsName
      readonly mailbox: DnsName
      readonly serial: number
      /** Seconds, as the three below. */
      readonly refresh: number
      readonly retry: number
      readonly expire: number
      readonly minimum: number
    }
  | { readonly type: 'other'; readonly code: number; readonly bytes: Uint8Array }

/** One resource record. */
export interface DnsRecord {
  readonly name: DnsName
  readonly class: number
  /** Seconds, unsigned 32 bits. */
  readonly ttl: number
  readonly data: DnsData
}

/** The OPT pseudo record (RFC 6891). */
export interface Edns {
  /** The largest UDP message that the sender takes. */
  readonly udpSize: number
  readonly version: number
  /** The DO bit: DNSSEC records wanted. */
  readonly dnssecOk: boolean
  /** Upper eight bits of the response code. */
  readonly extendedRcode: number
  /** Options as they stand. */
  readonly options: Uint8Array
}

/** A DNS message. */
export interface DnsMessage {
  /** 16 bits, chosen by who asks. */
  readonly id: number
  readonly response: boolean
  /** 0 for ordinary queries. */
  readonly opcode: number
  readonly authoritative?: boolean
  readonly truncated?: boolean
  readonly recursionDesired?: boolean
  readonly recursionAvailable?: boolean
  readonly authenticData?: boolean
  readonly checkingDisabled?: boolean
  /** Lower four bits of the response code. */
  readonly rcode: number
  readonly questions: readonly DnsQuestion[]
  readonly answers?: readonly DnsRecord[]
  readonly authorities?: readonly DnsRecord[]
  /** Without the OPT record, which is `edns`. */
  readonly additionals?: readonly DnsRecord[]
  readonly edns?: Edns
}
