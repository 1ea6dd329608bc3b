import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import type { Candidate } from './candidate.ts'
import type { EndpointRefusal } from './endpoint-refusal.ts'
import type { Path, PathChangeReason, PathPeer, PathVia } from './path.ts'

/** What is known of the path to one peer, without its candidates. */
export interface PathFacts {
  readonly peer: PathPeer
  readonly path: Path
  /** `relay`, `direct` (trusted) or `doubtful` (direct and relay). */
  readonly state: 'relay' | 'direct' | 'doubtful'
  /** Since when the path is this one, and why it became so. */
  readonly since: Instant
  readonly reason: PathChangeReason
  /** Whether the host can send UDP. */
  readonly udp: boolean
  /** Whether we sent the peer anything in the last 45 s: without that nothing is probed. */
  readonly active: boolean
  readonly trustedUntil: Instant | undefined
  /** Text of the endpoint in use. */
  readonly chosen: string | undefined
  readonly relayRegion: number | undefined
  /** Round trip of the last disco ping over the relay. */
  readonly relayLatencyMs: number | undefined
  readonly pingsInFlight: number
  readonly lastSentAt: Instant | undefined
  readonly lastReceived: { readonly at: Instant; readonly from: PathVia } | undefined
  readonly lastDiscoveryAt: Instant | undefined
  readonly callMeMaybeSentAt: Instant | undefined
  readonly callMeMaybeReceivedAt: Instant | undefined
}

/** One endpoint of a peer and what came of trying it. */
export interface CandidateExplanation {
  readonly endpoint: Endpoint
  /** Who named it: the network map, a call-me-maybe, a ping of the peer from there. */
  readonly origins: readonly ('map' | 'call-me-maybe' | 'ping')[]
  /** Why it is never tried. */
  readonly refusal: EndpointRefusal | undefined
  readonly chosen: boolean
  readonly pings: number
  readonly pongs: number
  readonly timeouts: number
  readonly lastPingAt: Instant | undefined
  readonly lastPongAt: Instant | undefined
  readonly lastHeardAt: Instant | undefined
  readonly latencyMs: number | undefined
  /** Our own endpoint as the peer saw it over this path. */
  readonly seenAs: Endpoint | undefined
}

/** Why a path is not direct. */
export type WhyNotDirect =
  | 'udp-unavailable'
  | 'no-disco-key'
  | 'idle'
  | 'no-endpoints'
  | 'all-endpoints-refused'
  | 'probing'
  | 'no-answer'
  | 'answers-stopped'

/** The whole story of a pair, for `explain`. */
export interface PathExplanation extends PathFacts {
  readonly nodeKey: NodePublicKey
  readonly candidates: readonly CandidateExplanation[]
  /** Absent while the path is direct. */
  readonly whyNotDirect: WhyNotDirect | undefined
  /** The same in plain words. */
  readonly text: string
}

const TEXTS: Readonly<Record<WhyNotDirect, string>> = {
  'udp-unavailable': 'This host cannot send UDP, so packets go through the relay. Open outgoing UDP to go direct.',
  'no-disco-key': 'The peer has announced no disco key, so its endpoints cannot be probed: it has not been online since it joined, or its program does not look for direct paths.',
  idle: 'Nothing was sent to the peer in the last 45 seconds, so no direct path is looked for. Send something, a ping will do, and it is.',
  'no-endpoints': 'No endpoint of the peer is known yet: neither the map nor the peer itself has named one. The peer names them when it can send UDP and reaches the control server.',
  'all-endpoints-refused': 'Every endpoint of the peer is one that is never used (see the refusals). An address of the peer that this node can reach would make it direct.',
  probing: 'Endpoints of the peer are being probed now.',
  'no-answer':
    'No endpoint of the peer answers: a firewall blocks UDP, or both sides are behind NATs that change the port for each destination. A port mapping, IPv6 or a static endpoint on either side would make it direct.',
  'answers-stopped': 'The direct path worked and has stopped answering; packets go through the relay until an endpoint answers again. They are probed by themselves: UDP that the networks between let through again makes it direct.',
}

/** Joins the facts and the candidates of a peer, and says in plain words why the path is what it is. */
export function explainPath(facts: PathFacts, candidates: Iterable<Candidate>, refusalOf: (candidate: Candidate) => EndpointRefusal | undefined): PathExplanation {
  const list = [...candidates].map((candidate) => describe(candidate, facts.chosen, refusalOf(candidate)))
  const why = facts.path.type === 'direct' ? undefined : whyNotDirect(facts, list)
  const text = why === undefined ? 'The peer answers directly.' : TEXTS[why]
  return { ...facts, nodeKey: facts.peer.nodeKey, candidates: list, whyNotDirect: why, text }
}

function whyNotDirect(facts: PathFacts, candidates: readonly CandidateExplanation[]): WhyNotDirect {
  if (!facts.udp) return 'udp-unavailable'
  if (facts.peer.discoKey === undefined) return 'no-disco-key'
  if (candidates.some((candidate) => candidate.pongs > 0) && facts.active) return 'answers-stopped'
  if (!facts.active) return 'idle'
  if (candidates.length === 0) return 'no-endpoints'
  if (candidates.every((candidate) => candidate.refusal !== undefined)) return 'all-endpoints-refused'
  return candidates.some((candidate) => candidate.timeouts > 0) ? 'no-answer' : 'probing'
}

function describe(candidate: Candidate, chosen: string | undefined, refusal: EndpointRefusal | undefined): CandidateExplanation {
  const origins: CandidateExplanation['origins'] = [
    ...(candidate.inMap ? (['map'] as const) : []),
    ...(candidate.calledAt !== undefined ? (['call-me-maybe'] as const) : []),
    ...(candidate.heardAt !== undefined ? (['ping'] as const) : []),
  ]
  return {
    endpoint: candidate.endpoint,
    origins,
    refusal,
    chosen: candidate.key === chosen,
    pings: candidate.pings,
    pongs: candidate.pongs,
    timeouts: candidate.timeouts,
    lastPingAt: candidate.pingedAt,
    lastPongAt: candidate.pongAt,
    lastHeardAt: candidate.heardAt,
    latencyMs: candidate.latencyMs,
    seenAs: candidate.seenAs,
  }
}
