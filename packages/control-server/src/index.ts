export type { ControlServerFigures } from './figures.ts'
export { ControlServer, type ControlServerInput, type ControlServerOptions, type ControlServerOutput } from './server.ts'
export { controlServerConfig, DEFAULT_PREFIX_V4, DEFAULT_PREFIX_V6, type ControlServerConfig, type DnsSettings } from './config.ts'
export { ControlServerError, type ControlServerErrorCode } from './errors.ts'
export type { AdminCommand, AdminProblem } from './admin-commands.ts'
export { decodeAdminCommand } from './admin-decode.ts'
export type { AuthKeyView, NodeView, SshCheckView, UserView } from './admin-views.ts'
export type { AuditEvent } from './audit.ts'
export type { RequestId } from './context.ts'
export type { Compressor } from './map-sessions.ts'
export type { AllocationOrder } from './addresses.ts'
export {
  emptyState,
  type AuthKeyRecord,
  type Change,
  type Counters,
  type DepartedRecord,
  type NodeRecord,
  type PolicyRecord,
  type RegisterMethod,
  type ServerState,
  type UserRecord,
} from './records.ts'
export { applyChanges, memoryStore, type StateStore } from './store.ts'
export { labelProblem, sanitizeHostname } from './names.ts'
export { loginIdIn } from './pending-logins.ts'
