import type { Duplex } from 'node:stream'
import type { Endpoint, Ip } from '@meshwright/ip'

/** Decides on a connection that no listener claims: to where on this computer it is forwarded, or `undefined` to refuse it. */
export type ForwardUnclaimed = (local: Endpoint, remote: Endpoint) => Promise<Duplex | undefined>

/** One datagram flow's way out of the mesh. */
export interface DatagramWay {
  send(bytes: Uint8Array): void
  close(): void
}

/** Who takes flows that nobody in this process listens for. */
export interface FlowCarrier {
  /** A connection: where it goes on, or `undefined` to refuse it. */
  readonly connect: ForwardUnclaimed
  /** A datagram flow: its way out, or `undefined` to drop it. `onDatagram` is called with what comes back. */
  datagrams(local: Endpoint, remote: Endpoint, onDatagram: (bytes: Uint8Array) => void): DatagramWay | undefined
  /** Whether a machine behind this node answers a ping. */
  echo(to: Ip): Promise<boolean>
}
