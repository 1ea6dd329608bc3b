export { Netstack } from './netstack.ts'
export {
  type CloseReason,
  type DropReason,
  type FlowId,
  type FlowStatus,
  type KeepAlive,
  type ListenerId,
  type NetstackCounters,
  NetstackError,
  type NetstackErrorCode,
  type NetstackInput,
  type NetstackOptions,
  type NetstackOutput,
  type PingId,
  type TcpState,
  type UdpId,
} from './netstack-io.ts'
