export { type EndpointRefusal, EndpointRules, type EndpointRulesConfig, isLie, MESH_PREFIXES } from './endpoint-refusal.ts'
export type { CandidateExplanation, PathExplanation, PathFacts, WhyNotDirect } from './explain.ts'
export { type Path, type PathChangeReason, type PathPeer, type PathVia, samePath } from './path.ts'
export {
  DISCO_PING_BYTES,
  MAX_DISCO_PING_BYTES,
  type PathDrop,
  PathFinder,
  type PathFinderConfig,
  type PathFinderInput,
  type PathFinderOutput,
  type PathFinderStatus,
  type PingFailure,
} from './path-finder.ts'
export { betterPath, type MeasuredPath, type PathPreference } from './scoring.ts'
export { HEARTBEAT_INTERVAL_MS, PING_TIMEOUT_MS, SESSION_ACTIVE_TIMEOUT_MS, TRUST_UDP_MS } from './timing.ts'
