import { MeshwrightError } from '@meshwright/core'
import { Ip, parseIp } from './address.ts'
import { IpSet } from './ip-set.ts'
import { parsePrefix, type Prefix, prefixContains } from './prefix.ts'

/** 100.64.0.0/10: where node IPv4 addresses come from (RFC 6598; tailscale/tailscale:net/tsaddr/tsaddr.go, as all below). */
export const CGNAT_RANGE: Prefix = prefix('100.64.0.0/10')
/** 100.115.92.0/23: used by ChromeOS for its virtual machines; never assigned, never taken for a tailnet address. */
export const CHROMEOS_VM_RANGE: Prefix = prefix('100.115.92.0/23')
/** fd7a:115c:a1e0::/48: where node IPv6 addresses come from. */
export const TAILSCALE_ULA_RANGE: Prefix = prefix('fd7a:115c:a1e0::/48')
/** "Quad-100": the node's own services (MagicDNS) over IPv4. */
export const SERVICE_IPV4: Ip = ip('100.100.100.100')
/** The node's own services (MagicDNS) over IPv6. */
export const SERVICE_IPV6: Ip = ip('fd7a:115c:a1e0::53')
/** fd7a:115c:a1e0:b1a::/64: IPv4 networks behind numbered sites ("4via6"). */
export const VIA_RANGE: Prefix = prefix('fd7a:115c:a1e0:b1a::/64')
/** fd7a:115c:a1e0:ab12:4843:cd96:6200::/104: fixed images of the 100.64.0.0/10 addresses in IPv6 ("4to6"). */
export const FOUR_TO_SIX_RANGE: Prefix = prefix('fd7a:115c:a1e0:ab12:4843:cd96:6200::/104')
/** The exit routes: everything of each family. */
export const EXIT_ROUTE_IPV4: Prefix = prefix('0.0.0.0/0')
export const EXIT_ROUTE_IPV6: Prefix = prefix('::/0')
/** All addresses that a node of a tailnet can have: CGNAT less the ChromeOS range, and the ULA range. */
export const TAILNET_ADDRESSES: IpSet = IpSet.of(CGNAT_RANGE, TAILSCALE_ULA_RANGE).remove(CHROMEOS_VM_RANGE)

/** True for an address that a node of a tailnet can have. */
export function isTailnetAddress(address: Ip): boolean {
  return TAILNET_ADDRESSES.contains(address)
}

/** True for the service addresses of either family. */
export function isServiceAddress(address: Ip): boolean {
  return address.equals(SERVICE_IPV4) || address.equals(SERVICE_IPV6)
}

/** True for 0.0.0.0/0 and ::/0. */
export function isExitRoute(route: Prefix): boolean {
  return route.bits === 0
}

/** True for IPv4 224.0.0.0/4 and IPv6 ff00::/8. */
export function isMulticast(address: Ip): boolean {
  const first = address.bytes[0] ?? 0
  return address.family === 4 ? first >> 4 === 14 : first === 255
}

/** True for IPv4 169.254.0.0/16 and IPv6 fe80::/10. */
export function isLinkLocal(address: Ip): boolean {
  const [first = 0, second = 0] = address.bytes
  return address.family === 4 ? first === 169 && second === 254 : first === 0xfe && (second & 0xc0) === 0x80
}

/** True for 127.0.0.0/8 and ::1. */
export function isLoopback(address: Ip): boolean {
  return address.family === 4 ? address.bytes[0] === 127 : address.bytes.every((byte, i) => byte === (i === 15 ? 1 : 0))
}

/** True for 0.0.0.0 and ::. */
export function isUnspecified(address: Ip): boolean {
  return address.bytes.every((byte) => byte === 0)
}

/** True for 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918) and fc00::/7 (RFC 4193). */
export function isPrivate(address: Ip): boolean {
  const [first = 0, second = 0] = address.bytes
  if (address.family === 6) return (first & 0xfe) === 0xfc
  return first === 10 || (first === 172 && second >> 4 === 1) || (first === 192 && second === 168)
}

/**
 * The 4via6 prefix of an IPv4 prefix behind a site: VIA_RANGE, then 32 bits of site, then the IPv4 address; length plus 96. Site 7 and
 * 192.168.1.2/32 give fd7a:115c:a1e0:b1a:0:7:c0a8:102/128. @throws IP_VIA for another family or a site that is not an unsigned 32-bit number
 */
export function viaPrefix(site: number, network: Prefix): Prefix {
  if (network.ip.family !== 4) throw new MeshwrightError('IP_VIA', 'only IPv4 networks stand behind 4via6 sites')
  if (!Number.isInteger(site) || site < 0 || site > 0xffff_ffff) throw new MeshwrightError('IP_VIA', `a 4via6 site is 0 to 4294967295, not ${site}`)
  const bytes = Uint8Array.from(VIA_RANGE.ip.bytes)
  new DataView(bytes.buffer).setUint32(8, site)
  bytes.set(network.ip.bytes, 12)
  return { ip: Ip.fromOwnedBytes(bytes), bits: network.bits + 96 }
}

/** Site and IPv4 address inside a 4via6 address; `undefined` for any other address. */
export function unmapVia(address: Ip): { readonly site: number; readonly ip: Ip } | undefined {
  if (!prefixContains(VIA_RANGE, address)) return undefined
  const site = new DataView(address.bytes.buffer, address.bytes.byteOffset).getUint32(8)
  return { site, ip: Ip.fromOwnedBytes(address.bytes.slice(12)) }
}

/** The 100.64.0.0/10 address whose fixed image this is (4to6): its low 24 bits behind 100; `undefined` for any other address. */
export function unmapFourToSix(address: Ip): Ip | undefined {
  if (!prefixContains(FOUR_TO_SIX_RANGE, address)) return undefined
  const bytes = address.bytes.slice(12)
  bytes[0] = 100
  return Ip.fromOwnedBytes(bytes)
}

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new MeshwrightError('IP_CONSTANT', `not a prefix: ${text}`)
  return parsed
}

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new MeshwrightError('IP_CONSTANT', `not an address: ${text}`)
  return parsed
}
