export { DEFAULT_PREFS, type Prefs } from './prefs.ts'
export type { DropCounters, MeshState, MeshStatus, PeerPath, PeerStatus, PingKind, PingResult, SelfStatus, UserStatus, WhoIs } from './status.ts'
