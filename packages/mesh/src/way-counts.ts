import type { Endpoint } from '@meshwright/ip'

/** How datagrams of WireGuard travel: by relays, or directly over either family of addresses. */
export type Way = 'relay' | 'ipv4' | 'ipv6'

/** Datagrams that went one way, and their bytes. */
export interface WayCount {
  readonly datagrams: number
  readonly bytes: number
}

/** What went each way. */
export type WayCounts = Readonly<Record<Way, WayCount>>

/** Nothing at all. */
export const NO_WAY_COUNTS: WayCounts = { relay: { datagrams: 0, bytes: 0 }, ipv4: { datagrams: 0, bytes: 0 }, ipv6: { datagrams: 0, bytes: 0 } }

/** Counts datagrams by the way they went. */
export class WayCounter {
  readonly #counts: Readonly<Record<Way, { datagrams: number; bytes: number }>> = { relay: { datagrams: 0, bytes: 0 }, ipv4: { datagrams: 0, bytes: 0 }, ipv6: { datagrams: 0, bytes: 0 } }

  add(way: Way, bytes: number, datagrams: number = 1): void {
    const count = this.#counts[way]
    count.datagrams += datagrams
    count.bytes += bytes
  }

  /** The counts of this moment: they do not go on with the counter. */
  get counts(): WayCounts {
    const { relay, ipv4, ipv6 } = this.#counts
    return { relay: { ...relay }, ipv4: { ...ipv4 }, ipv6: { ...ipv6 } }
  }
}

/** The way to an endpoint. */
export function wayTo(endpoint: Endpoint): Way {
  return endpoint.ip.family === 4 ? 'ipv4' : 'ipv6'
}
