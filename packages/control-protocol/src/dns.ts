import { decoder, flag, type JsonDecoder, list, object, record, required, type Shape, text } from './shape.ts'

/** An upstream DNS server: an IP, `IP:port`, `https://…`, or a peer's `http://…`. */
export interface Resolver {
  readonly Addr: string
  readonly BootstrapResolution?: readonly string[]
  readonly UseWithExitNode?: boolean
}

/** One extra name; `Type` empty means A or AAAA by the value. */
export interface DnsRecord {
  readonly Name: string
  readonly Type?: string
  readonly Value: string
}

/** How a node resolves names. Replaces the previous one whole; `{}` turns everything off. */
export interface DNSConfig {
  readonly Resolvers?: readonly Resolver[]
  /** Suffix to its upstream servers; an empty list is answered by the node itself. */
  readonly Routes?: Readonly<Record<string, readonly Resolver[]>>
  readonly FallbackResolvers?: readonly Resolver[]
  /** Search domains, without trailing dots. */
  readonly Domains?: readonly string[]
  /** Whether names of the mesh are answered at all. */
  readonly Proxied?: boolean
  readonly Nameservers?: readonly string[]
  readonly CertDomains?: readonly string[]
  readonly ExtraRecords?: readonly DnsRecord[]
  readonly ExitNodeFilteredSet?: readonly string[]
}

/** Reads a `Resolver`. */
export const resolver: Shape<Resolver> = object<Resolver>({ Addr: required(text, ''), BootstrapResolution: list(text), UseWithExitNode: flag })

const dnsRecord: Shape<DnsRecord> = object<DnsRecord>({ Name: required(text, ''), Type: text, Value: required(text, '') })

/** Reads a `DNSConfig`. */
export const dnsConfig: Shape<DNSConfig> = object<DNSConfig>({
  Resolvers: list(resolver),
  Routes: record<readonly Resolver[]>(list(resolver), []),
  FallbackResolvers: list(resolver),
  Domains: list(text),
  Proxied: flag,
  Nameservers: list(text),
  CertDomains: list(text),
  ExtraRecords: list(dnsRecord),
  ExitNodeFilteredSet: list(text),
})

/** Decodes a DNSConfig. */
export const decodeDNSConfig: JsonDecoder<DNSConfig> = decoder(dnsConfig)
