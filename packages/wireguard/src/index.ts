export { WireGuardDevice } from './device.ts'
export type {
  DeviceFigures,
  DeviceStatus,
  DeviceTables,
  MessageLimits,
  PeerConfig,
  PeerState,
  PeerStatus,
  Transmit,
  WireGuardDeviceOptions,
  WireGuardInput,
  WireGuardOutput,
  WireGuardPath,
} from './types.ts'
export type { DropReason } from './drop-counters.ts'
export { WireGuardError, type WireGuardErrorCode } from './errors.ts'
export type { OpenPlan, SealPlan } from './plans.ts'
export { type HandshakeLoadOptions, HandshakeLoadMonitor, type LoadMonitor } from './load-monitor.ts'
export {
  COOKIE_REPLY_TYPE,
  type CookieReplyMessage,
  decodeMessage,
  INITIATION_TYPE,
  type InitiationMessage,
  messageType,
  RESPONSE_TYPE,
  type ResponseMessage,
  TRANSPORT_TYPE,
  type TransportMessage,
  type WireGuardMessage,
} from './messages.ts'
export { markCongestion, outerTrafficClass } from './ecn.ts'
export { paddedLength } from './padding.ts'
export { REPLAY_WINDOW, ReplayWindow } from './replay-window.ts'
