import { MeshwrightError } from '@meshwright/core'
import type { Endpoint } from '@meshwright/ip'
import type { ForwardUnclaimed } from './flow-carrier.ts'
import type { MeshNodeOptions } from './running-node.ts'
import type { SystemDnsManager } from './system-dns.ts'

/** Codes of the errors of {@link startMeshNode} and of the node it gives. */
export type MeshRuntimeErrorCode = 'RUNTIME_OPTION' | 'RUNTIME_CLOSED' | 'RUNTIME_NOT_READY' | 'RUNTIME_NAME_UNKNOWN' | 'RUNTIME_ABORTED' | 'RUNTIME_TUN'

/** A node that cannot do what it is asked. */
export class MeshRuntimeError extends MeshwrightError<MeshRuntimeErrorCode> {}

/** Options for programs that are more than an embedded node. */
export interface MeshDaemonOptions extends MeshNodeOptions {
  /** Where connections go that no listener of the node claims: a daemon hands them to programs on this computer. */
  readonly forwardUnclaimed?: ForwardUnclaimed
  /** Where datagrams go that no socket of the node claims; `undefined`: nowhere. */
  readonly forwardUnclaimedDatagrams?: (local: Endpoint) => Endpoint | undefined
  /** Relays speak plain HTTP: development. */
  readonly relayPlainHttp?: boolean
  /** Version text, told to the control server. */
  readonly version?: string
  /** A TUN device of this name instead of the node's own TCP/IP stack: Linux, root, and the optional package `koffi`. */
  readonly tun?: string
  /** With a TUN device: who carries its packets, as `MESHWRIGHT_DATAPLANE` says it; default: that variable, and else the best that works here. */
  readonly dataPlane?: string
  /** The program of the data plane's thread, for programs that are bundled into one file. */
  readonly dataPlaneUrl?: URL
  /** With a TUN device: who is told that names of the mesh are answered at 100.100.100.100. Default `off`: nobody. */
  readonly systemDns?: SystemDnsManager
}
