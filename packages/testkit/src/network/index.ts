export { Nat, NAT_KINDS, type NatConfig, type NatDependence, type NatKind } from './nat.ts'
export { Link, type LinkConfig } from './link.ts'
export {
  type Actor,
  Box,
  type BoxConfig,
  type Datagram,
  type DatagramReceiver,
  Host,
  type NetworkDrop,
  Segment,
  UdpSocket,
  VirtualNetwork,
} from './virtual-network.ts'
export { connectStreams, type StreamEnd, type StreamReceiver } from './stream.ts'
