import { formatIp, type Ip, parseIp, type Prefix, prefixContains } from '@meshwright/ip'

/** Hops that are looked at, from the last one back: a longer header is made by somebody who wants to be looked for. */
const MAX_HOPS = 16

/** A request, as far as it tells where it comes from. */
export interface Arrival {
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly socket: { readonly remoteAddress?: string | undefined }
}

/**
 * Where a client comes from: the address of its connection, or, when that is a proxy we trust, the last address in `X-Forwarded-For`
 * that is no such proxy. What a client itself writes into that header stands further left and never counts.
 */
export function clientAddress(request: Arrival, trusted: readonly Prefix[]): string {
  const connected = parseIp(request.socket.remoteAddress ?? '')?.unmapped()
  if (connected === undefined) return 'unknown'
  const header = request.headers['x-forwarded-for']
  const hops = (typeof header === 'string' ? header : (header ?? []).join()).split(',').slice(-MAX_HOPS)
  let address = connected
  while (isTrusted(address, trusted)) {
    const next = parseIp((hops.pop() ?? '').trim())?.unmapped()
    if (next === undefined) break
    address = next
  }
  return formatIp(address)
}

/** Whether an address is one of the proxies that we trust. */
export function isTrusted(address: Ip, trusted: readonly Prefix[]): boolean {
  return trusted.some((prefix) => prefix.ip.family === address.family && prefixContains(prefix, address))
}
