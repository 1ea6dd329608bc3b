export { DerpError, type DerpErrorCode } from './errors.ts'
export * from './frame-types.ts'
export { decodeFrame, type DerpFrame, encodeFrame, encodePacketFrame } from './frames.ts'
export { type FrameLimit, FrameReader, type RawFrame } from './frame-reader.ts'
export {
  decodeClientInfo, decodeServerInfo, DEFAULT_SERVER_INFO, type DerpClientInfo, type DerpServerInfo, openClientInfo, openServerInfo, sealClientInfo, sealServerInfo,
} from './handshake.ts'
export {
  DERP_HANDSHAKE_TIMEOUT_MS, DERP_PING_TIMEOUT_MS, DERP_SILENCE_TIMEOUT_MS, DerpClient, type DerpClientFailure, type DerpClientInput,
  type DerpClientOptions, type DerpClientOutput, type DerpClientState, type DerpClientStats,
} from './client.ts'
export { DerpServer } from './server.ts'
export type { DerpServerInput, DerpServerOptions, DerpServerOutput } from './server-io.ts'
export type { DerpConnectionId } from './server-connection.ts'
export {
  DERP_DROP_REASONS, type DerpCensus, type DerpCloseReason, type DerpDropReason, type DerpPacketKind, type DerpServerStats, type DerpTally,
  formatDerpMetrics,
} from './server-stats.ts'
export {
  decideUpgrade, DERP_PATH, encodeUpgradeRequest, encodeUpgradeResponse, type PlainResponse, type RelayRequest, type UpgradeDecision,
  type UpgradeOutcome, type UpgradeRequest, UpgradeResponseReader,
} from './http-upgrade.ts'
export { decodeMetacert, encodeMetacert, encodeSelfSignedCertificate, type SelfSignedCertificate } from './certificate.ts'
