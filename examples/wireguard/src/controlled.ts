import type { NodePublicKey } from '@meshwright/crypto'
import type { TunStats } from '@meshwright/runtime-node'
import { type DataPlane, type EndpointPath, type PeerPlace, portableCounters, type TunnelDrops } from '@meshwright/runtime-node/dataplane'
import type { DeviceStatus } from '@meshwright/wireguard'
import type { ShownDevice, UapiChange } from '@meshwright/wireguard/text'
import type { Tunnel } from './tunnel.ts'

/** An interface as whoever configures and watches it sees it, whichever lane carries its packets. */
export interface Controlled {
  /** Makes the changes of a UAPI `set`, in order; resolves with 0 or the negative errno of the one that failed. */
  apply(changes: readonly UapiChange[]): Promise<number>
  /** The state as `wg` shows it, secrets included. */
  shown(): Promise<ShownDevice>
  status(): Promise<ControlledStatus>
  /** Where a peer moved to lately, oldest first. */
  placesOf(publicKey: NodePublicKey): readonly PeerPlace[]
  setMtu(mtu: number): void
  close(): Promise<void>
}

/** Counters and states; no secrets. */
export interface ControlledStatus {
  readonly device: DeviceStatus<EndpointPath>
  readonly drops: Readonly<TunnelDrops>
  /** Which lane carries the packets, and what it has carried: the same names on every lane. */
  readonly lane: { readonly name: 'portable' | 'worker'; readonly offloads: readonly string[]; readonly counters: Readonly<Record<string, number>> }
}

/**
 * A tunnel in this thread.
 * @param inner what went through its device, or what stands in the place of one
 */
export function controlledTunnel(tunnel: Tunnel, inner: () => TunStats): Controlled {
  return {
    apply: (changes) => tunnel.apply(changes),
    shown: async () => tunnel.shown(),
    status: async () => ({ device: tunnel.status(), drops: tunnel.drops, lane: { name: 'portable', offloads: [], counters: { ...portableCounters(inner(), tunnel.udpStats()), joinedRows: 0, joinedPackets: 0, restarts: 0 } } }),
    placesOf: (publicKey) => tunnel.placesOf(publicKey),
    setMtu: (mtu) => tunnel.setMtu(mtu),
    close: () => tunnel.close(),
  }
}

/** A tunnel in a worker of its own. */
export function controlledDataPlane(plane: DataPlane): Controlled {
  return {
    apply: (changes) => plane.apply(changes),
    shown: () => plane.shown(),
    status: async () => {
      const { device, drops, lane, restarts } = await plane.status()
      const offloads = Object.entries(lane.offloads).flatMap(([name, on]) => (on ? [name] : []))
      return { device, drops, lane: { name: 'worker', offloads, counters: { ...lane.counters, joinedRows: lane.joined.rows, joinedPackets: lane.joined.packets, restarts } } }
    },
    placesOf: (publicKey) => plane.placesOf(publicKey),
    setMtu: (mtu) => plane.setMtu(mtu),
    close: () => plane.close(),
  }
}
