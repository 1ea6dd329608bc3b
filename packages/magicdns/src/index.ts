export { canonicalName, isUnder, type DnsName } from './dns-name.ts'
export {
  DNS_TYPE_A,
  DNS_TYPE_NS,
  DNS_TYPE_CNAME,
  DNS_TYPE_SOA,
  DNS_TYPE_PTR,
  DNS_TYPE_HINFO,
  DNS_TYPE_TXT,
  DNS_TYPE_AAAA,
  DNS_TYPE_SRV,
  DNS_TYPE_OPT,
  DNS_TYPE_AXFR,
  DNS_TYPE_ANY,
  DNS_CLASS_IN,
  RCODE_NO_ERROR,
  RCODE_FORMAT_ERROR,
  RCODE_SERVER_FAILURE,
  RCODE_NAME_ERROR,
  RCODE_NOT_IMPLEMENTED,
  RCODE_REFUSED,
  type DnsData,
  type DnsMessage,
  type DnsQuestion,
  type DnsRecord,
  type Edns,
} from './message.ts'
export { decodeDns } from './decode.ts'
export { encodeDns, type MagicDnsErrorCode } from './encode.ts'
export { parseReverseName, reverseName, TAILNET_REVERSE_ZONES } from './reverse.ts'
export { DnsNames, type DnsConfig, type DnsRoute, type ExtraRecord } from './records.ts'
export {
  MAX_ANSWER_BYTES,
  MAX_PENDING,
  MAX_QUERY_BYTES,
  QUERY_TIMEOUT_MS,
  Resolver,
  type DnsTransport,
  type LocalLookup,
  type ResolverCounters,
  type ResolverInput,
  type ResolverOutput,
} from './resolver.ts'
