import { NO_OFFLOADS } from '../dataplane/give-up-offloads.ts'
import type { LaneCounters } from '../dataplane/lane-context.ts'
import { DATAPLANE_VARIABLE, DataPlaneError, parseLaneMode } from '../dataplane/lane-mode.ts'
import type { MeshDaemonOptions } from '../mesh-runtime.ts'
import type { DataPlaneReport } from '../running-node.ts'
import { OUTSIDE_MARK } from '../system-routes.ts'
import type { TunDevice } from '../tun-linux.ts'
import type { UdpSocket } from '../udp.ts'
import { type MeshPlane, type MeshPlaneOptions, startMeshPlane } from './mesh-plane.ts'

/** The MTU of a mesh node's device. */
const MTU = 1280

/** A data plane, or why there is none. */
export interface OpenedPlane {
  readonly plane: MeshPlane | undefined
  readonly reason: string | undefined
}

/**
 * Opens what carries the packets of a node with a TUN device in a thread of its own, if that is wanted and works here.
 * @throws DataPlaneError when nothing else is wanted and it does not work, or the wish cannot be read; TunError when the device cannot be had
 */
export async function openMeshPlane(options: MeshDaemonOptions, events: Pick<MeshPlaneOptions, 'onStirred' | 'onService' | 'onGone' | 'log'>): Promise<OpenedPlane> {
  const name = options.tun
  const mode = parseLaneMode(options.dataPlane ?? process.env[DATAPLANE_VARIABLE])
  if (name === undefined) return { plane: undefined, reason: undefined }
  if (mode.lane === 'portable') return { plane: undefined, reason: 'the portable lane was asked for' }
  try {
    return { plane: await startMeshPlane({ name, mtu: MTU, mode, udpPort: options.port ?? 0, mark: OUTSIDE_MARK, workerUrl: options.dataPlaneUrl, ...events }), reason: undefined }
  } catch (error) {
    if (!(error instanceof DataPlaneError) || mode.lane === 'worker') throw error
    return { plane: undefined, reason: error.message }
  }
}

/**
 * Who carries the packets of a node with a TUN device, and how that is doing.
 * @param portable what the event loop has carried, if it does
 */
export async function reportOf({ plane, reason }: OpenedPlane, portable: () => LaneCounters): Promise<DataPlaneReport> {
  if (plane === undefined) return { lane: 'portable', ...(reason !== undefined && { reason }), offloads: { ...NO_OFFLOADS }, counters: { ...portable() }, restarts: 0 }
  const status = await plane.status()
  const { restarts, trouble } = plane
  return { lane: 'worker', restarts, ...(trouble !== undefined && { reason: trouble }), ...(status && { offloads: { ...status.offloads }, counters: { ...status.counters } }) }
}

/** The device of a data plane, for who sets its addresses and routes. */
export function deviceOf(plane: MeshPlane): Omit<TunDevice, 'stats'> {
  return {
    name: plane.name,
    write(packet: Uint8Array): boolean {
      plane.deliver(packet)
      return true
    },
    close: () => plane.close(),
  }
}

/** What a node sends by itself, and from where. */
export type NodeUdp = Pick<UdpSocket, 'portIpv4' | 'portIpv6' | 'send' | 'close'>

/** The sockets of a data plane, for the node's own datagrams. */
export function socketsOf(plane: MeshPlane): NodeUdp {
  const { ipv4, ipv6 } = plane.ports
  return {
    portIpv4: ipv4,
    portIpv6: ipv6,
    send(to, bytes): boolean {
      plane.send(to, bytes)
      return true
    },
    close: () => Promise.resolve(), // with the plane
  }
}
