export { formatPublicKey, formatSecretKey, parseKeyText, parsePublicKey } from './key-text.ts'
export type { ShownDevice, ShownPeer } from './state.ts'
export {
  formatUapi,
  formatUapiErrno,
  parseUapi,
  UAPI_EADDRINUSE,
  UAPI_EINVAL,
  UAPI_EIO,
  UAPI_EPROTO,
  type UapiChange,
  type UapiPeerChange,
  UapiReader,
  type UapiRequest,
} from './uapi.ts'
export { formatUapiSet, parseUapiAnswer, UAPI_GET, type UapiAnswer } from './uapi-client.ts'
export { formatMetrics } from './metrics.ts'
export { formatAgo, formatBytes, formatDump, formatShow } from './show.ts'
export { type ConfigDiagnostic, type ConfigFile, formatConfig, type InterfaceConfig, parseConfig, type PeerSection } from './config.ts'
