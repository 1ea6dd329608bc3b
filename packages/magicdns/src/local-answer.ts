import type { Ip } from '@meshwright/ip'
import { canonicalName, type DnsName } from './dns-name.ts'
import {
  DNS_CLASS_IN,
  DNS_TYPE_A,
  DNS_TYPE_AAAA,
  DNS_TYPE_ANY,
  DNS_TYPE_AXFR,
  DNS_TYPE_HINFO,
  DNS_TYPE_NS,
  DNS_TYPE_PTR,
  DNS_TYPE_SOA,
  type DnsMessage,
  type DnsQuestion,
  type DnsRecord,
  RCODE_NAME_ERROR,
  RCODE_NO_ERROR,
  RCODE_NOT_IMPLEMENTED,
} from './message.ts'
import type { DnsNames } from './records.ts'
import { isBonjourReverse, parseReverseName } from './reverse.ts'

/** Seconds for which an answer about the mesh holds (tailscale/tailscale:net/dns/resolver/tsdns.go). */
export const POSITIVE_TTL_S = 5
/** Seconds for which "there is none" holds. */
export const NEGATIVE_TTL_S = 10

/** What the mesh itself says to a question, or where it must be sent. */
export type Decision =
  | { readonly type: 'answer'; readonly rcode: number; readonly answers: readonly DnsRecord[]; readonly authorities: readonly DnsRecord[] }
  | { readonly type: 'forward'; readonly upstreams: readonly string[]; readonly loops: boolean }

/**
 * Decides a question. Known names: their first address of the family asked for; without one "no data". Names inside an authoritative
 * zone that are not known do not exist. All else is forwarded by the longest suffix.
 * @param unixSeconds the wall clock: serial number of negative answers
 */
export function decide(names: DnsNames, question: DnsQuestion, unixSeconds: number): Decision {
  const name = canonicalName(question.name)
  if (question.class !== DNS_CLASS_IN && question.class !== DNS_TYPE_ANY) return answer(RCODE_NOT_IMPLEMENTED)
  if (name === 'onion.' || name.endsWith('.onion.') || isBonjourReverse(name)) return answer(RCODE_NAME_ERROR)
  const route = names.routeFor(name)
  const zone = route.type === 'authoritative' ? route.zone : undefined
  const reverse = question.type === DNS_TYPE_PTR || question.type === DNS_TYPE_ANY ? parseReverseName(name) : undefined
  if (reverse !== undefined) {
    const target = names.nameOf(reverse)
    if (target !== undefined) return answer(RCODE_NO_ERROR, [{ name: question.name, class: DNS_CLASS_IN, ttl: POSITIVE_TTL_S, data: { type: 'PTR', target } }])
  }
  const addresses = names.addressesOf(name)
  if (addresses !== undefined) return answerKnown(question, addresses, zone, unixSeconds)
  return route.type === 'forward' ? route : answer(RCODE_NAME_ERROR, [], startOfAuthority(route.zone, unixSeconds))
}

function answerKnown(question: DnsQuestion, addresses: readonly Ip[], zone: DnsName | undefined, unixSeconds: number): Decision {
  switch (question.type) {
    case DNS_TYPE_NS:
    case DNS_TYPE_SOA:
    case DNS_TYPE_AXFR:
    case DNS_TYPE_HINFO:
      return answer(RCODE_NOT_IMPLEMENTED)
  }
  const family = question.type === DNS_TYPE_A ? 4 : question.type === DNS_TYPE_AAAA ? 6 : undefined
  const address = question.type === DNS_TYPE_ANY ? addresses[0] : addresses.find((each) => each.family === family)
  if (address === undefined) return answer(RCODE_NO_ERROR, [], zone === undefined ? [] : startOfAuthority(zone, unixSeconds))
  return answer(RCODE_NO_ERROR, [{ name: question.name, class: DNS_CLASS_IN, ttl: POSITIVE_TTL_S, data: { type: address.family === 4 ? 'A' : 'AAAA', address } }])
}

function startOfAuthority(zone: DnsName, unixSeconds: number): DnsRecord[] {
  const ttl = NEGATIVE_TTL_S
  const data = { type: 'SOA', primary: zone, mailbox: zone, serial: unixSeconds >>> 0, refresh: ttl, retry: ttl, expire: ttl, minimum: ttl } as const
  return [{ name: zone, class: DNS_CLASS_IN, ttl, data }]
}

function answer(rcode: number, answers: readonly DnsRecord[] = [], authorities: readonly DnsRecord[] = []): Decision {
  return { type: 'answer', rcode, answers, authorities }
}

/** The message that answers `query` from the mesh's own knowledge. */
export function localMessage(query: DnsMessage, rcode: number, answers: readonly DnsRecord[] = [], authorities: readonly DnsRecord[] = []): DnsMessage {
  const { id, opcode, recursionDesired = false, questions } = query
  return { id, response: true, opcode, authoritative: rcode === RCODE_NO_ERROR || rcode === RCODE_NAME_ERROR, recursionDesired, recursionAvailable: recursionDesired, rcode, questions, answers, authorities }
}
