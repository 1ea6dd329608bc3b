import type { DNSConfig } from '@meshwright/control-protocol'
import type { ControlServerConfig } from './config.ts'

/** What all nodes are told about names. */
export function dnsConfigOf(config: ControlServerConfig): DNSConfig {
  const { dns, baseDomain } = config
  const resolvers = dns.globalNameservers.map((Addr) => ({ Addr }))
  const routes = Object.entries(dns.splitNameservers).map(([suffix, servers]) => [suffix, servers.map((Addr) => ({ Addr }))] as const)
  const records = dns.extraRecords.map((record) => ({ Name: record.name, Type: record.type, Value: record.value }))
  return {
    ...(resolvers.length > 0 && (dns.overrideLocalDns ? { Resolvers: resolvers } : { FallbackResolvers: resolvers })),
    ...(routes.length > 0 && { Routes: Object.fromEntries(routes) }),
    Domains: [...(dns.magicDns ? [baseDomain] : []), ...dns.searchDomains],
    Proxied: dns.magicDns,
    ...(records.length > 0 && { ExtraRecords: records }),
  }
}
