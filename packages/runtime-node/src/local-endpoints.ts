import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os'
import { type Endpoint, isLinkLocal, isLoopback, isTailnetAddress, parseIp } from '@meshwright/ip'

/** What the system says of its interfaces, by their names. */
export type Interfaces = Readonly<Record<string, readonly Pick<NetworkInterfaceInfo, 'address'>[] | undefined>>

/** The most IPv6 addresses that are named; temporary addresses pile up otherwise. */
const MAX_IPV6 = 4

/**
 * The addresses of this computer at which peers may find the socket: those of every interface that is up, without link-local ones and
 * without those of a mesh (a node must not be reached through another one's tunnel). Loopback only where it is asked for.
 */
export function localEndpoints(
  ports: { readonly ipv4: number | undefined; readonly ipv6: number | undefined },
  allowLoopback: boolean,
  interfaces: Interfaces = networkInterfaces(),
): readonly Endpoint[] {
  const endpoints: Endpoint[] = []
  let ipv6 = 0
  for (const addresses of Object.values(interfaces)) {
    for (const { address } of addresses ?? []) {
      const ip = parseIp(address.split('%')[0] ?? '')
      const port = ip?.family === 4 ? ports.ipv4 : ports.ipv6
      if (ip === undefined || port === undefined || isLinkLocal(ip) || isTailnetAddress(ip)) continue
      if (isLoopback(ip) && !allowLoopback) continue
      if (ip.family === 6 && !isLoopback(ip) && (ipv6 += 1) > MAX_IPV6) continue
      endpoints.push({ ip, port })
    }
  }
  return endpoints
}
