import type { Instant, RelayMap } from '@meshwright/core'
import { formatEndpoint, formatIp } from '@meshwright/ip'
import type { CandidateExplanation, EndpointRefusal, PathExplanation, WhyNotDirect } from '@meshwright/nat-traversal'
import type { MapNode } from '@meshwright/control-client'

/** One endpoint of a peer, and what came of trying it. Times are seconds before now; absent: never. */
export interface PathStoryCandidate {
  readonly endpoint: string
  /** Who named it: the network map, a call-me-maybe of the peer, a ping of the peer from there. */
  readonly from: readonly string[]
  readonly chosen: boolean
  /** Why it is never tried, in a word and in plain words. */
  readonly refused?: { readonly reason: EndpointRefusal; readonly text: string }
  readonly probes: number
  readonly answers: number
  readonly unanswered: number
  readonly lastProbeSecondsAgo?: number
  readonly lastAnswerSecondsAgo?: number
  readonly latencyMs?: number
  /** Our own address as the peer saw it over this path. */
  readonly seesUsAs?: string
}

/** The whole story of the path to a peer, as data: what `meshwright path --json` prints. Times are seconds before now; absent: never. */
export interface PathStory {
  readonly peer: string
  readonly addresses: readonly string[]
  readonly path: 'direct' | 'relay' | 'direct-and-relay' | 'none'
  readonly endpoint?: string
  readonly latencyMs?: number
  readonly relay?: { readonly region: number; readonly code: string; readonly latencyMs?: number }
  readonly sinceSeconds: number
  /** Why the path became this one. */
  readonly because: { readonly reason: PathExplanation['reason']; readonly text: string }
  /** Absent while the path is direct. */
  readonly whyNotDirect?: WhyNotDirect
  /** The verdict in plain words: why it is a relay, and what would make it direct. */
  readonly text: string
  readonly lastSentSecondsAgo?: number
  readonly lastHeardSecondsAgo?: number
  readonly calledPeerSecondsAgo?: number
  readonly calledByPeerSecondsAgo?: number
  readonly probesInFlight: number
  readonly candidates: readonly PathStoryCandidate[]
}

const REASONS: Readonly<Record<PathExplanation['reason'], string>> = {
  'peer-set': 'the network map named the peer',
  pong: 'an endpoint answered a probe',
  'better-path': 'another endpoint that answers is nearer or faster',
  'trust-lapsed': 'the direct path has not answered lately',
  'heartbeat-unanswered': 'the direct path missed a heartbeat',
  'ping-timeout': 'the direct path stopped answering',
  unreachable: 'the system could not reach the endpoint',
  'relay-learnt': 'the peer was heard through this relay',
  'relay-map': 'the relays changed',
  rebind: 'the network of this computer changed',
  'udp-unavailable': 'UDP is not to be used',
  'udp-available': 'UDP can be used again',
}

const REFUSALS: Readonly<Record<EndpointRefusal, string>> = {
  loopback: 'a loopback address leads to this computer itself',
  unspecified: 'an address or port of zero leads nowhere',
  multicast: 'a multicast or broadcast address is no node',
  'link-local': 'a link-local address means nothing without its interface',
  'mesh-address': 'an address inside the mesh would send the tunnel through itself',
  'relay-address': 'it is the address of a relay, not of the peer',
  'own-address': 'it is an address of this node',
}

/** Puts the explanation of the path finder into words and plain data. */
export function pathStory(now: Instant, told: PathExplanation, peer: MapNode, relays: RelayMap): PathStory {
  const ago = <Name extends string>(name: Name, at: Instant | undefined): { readonly [K in Name]?: number } => (at === undefined ? {} : record(name, seconds(now - at)))
  const { path } = told
  const direct = path.type === 'direct' || path.type === 'both' ? path : undefined
  const region = path.type === 'relay' || path.type === 'both' ? path.region : told.relayRegion
  return {
    peer: peer.name.split('.')[0] || peer.stableId,
    addresses: peer.addresses.map(({ ip }) => formatIp(ip)),
    path: path.type === 'both' ? 'direct-and-relay' : path.type,
    ...(direct === undefined ? {} : { endpoint: formatEndpoint(direct.endpoint), ...(direct.latencyMs === undefined ? {} : { latencyMs: millis(direct.latencyMs) }) }),
    ...(region === undefined ? {} : { relay: { region, code: relays.regions.get(region)?.code ?? '', ...(told.relayLatencyMs === undefined ? {} : { latencyMs: millis(told.relayLatencyMs) }) } }),
    sinceSeconds: seconds(now - told.since),
    because: { reason: told.reason, text: REASONS[told.reason] },
    ...(told.whyNotDirect === undefined ? {} : { whyNotDirect: told.whyNotDirect }),
    text: told.text,
    ...ago('lastSentSecondsAgo', told.lastSentAt),
    ...ago('lastHeardSecondsAgo', told.lastReceived?.at),
    ...ago('calledPeerSecondsAgo', told.callMeMaybeSentAt),
    ...ago('calledByPeerSecondsAgo', told.callMeMaybeReceivedAt),
    probesInFlight: told.pingsInFlight,
    candidates: [...told.candidates].sort(byUse).map((each) => ({
      endpoint: formatEndpoint(each.endpoint),
      from: each.origins,
      chosen: each.chosen,
      ...(each.refusal === undefined ? {} : { refused: { reason: each.refusal, text: REFUSALS[each.refusal] } }),
      probes: each.pings,
      answers: each.pongs,
      unanswered: each.timeouts,
      ...ago('lastProbeSecondsAgo', each.lastPingAt),
      ...ago('lastAnswerSecondsAgo', each.lastPongAt),
      ...(each.latencyMs === undefined ? {} : { latencyMs: millis(each.latencyMs) }),
      ...(each.seenAs === undefined ? {} : { seesUsAs: formatEndpoint(each.seenAs) }),
    })),
  }
}

/** A story as lines for people. */
export function tellStory(story: PathStory): readonly string[] {
  const { relay } = story
  const by = relay === undefined ? 'a relay' : `the relay ${relay.code === '' ? `of region ${relay.region}` : `"${relay.code}"`}${relay.latencyMs === undefined ? '' : `, ${relay.latencyMs} ms`}`
  const at = `${story.endpoint ?? ''}${story.latencyMs === undefined ? '' : `, ${story.latencyMs} ms`}`
  const how = { direct: `is reached directly at ${at}`, relay: `is reached through ${by}`, 'direct-and-relay': `is reached at ${at} and through ${by} at once, until the direct path answers again`, none: 'is not reached: no relay and no endpoint of it is known' }[story.path]
  const lines = [`${story.peer} (${story.addresses[0] ?? 'no address'}) ${how}`, `  for ${span(story.sinceSeconds)}, because ${story.because.text}`, `  ${story.text}`, '']
  const traffic = [told('sent', story.lastSentSecondsAgo), told('heard', story.lastHeardSecondsAgo)].filter((each) => each !== undefined)
  lines.push(`Last packet: ${traffic.length === 0 ? 'none yet' : traffic.join(', ')}`)
  if (story.path === 'direct' && relay !== undefined) lines.push(`Held ready: ${by}`)
  if (story.calledPeerSecondsAgo !== undefined) lines.push(`We asked the peer, through the relay, to probe us ${span(story.calledPeerSecondsAgo)} ago`)
  if (story.calledByPeerSecondsAgo !== undefined) lines.push(`The peer asked us, through the relay, to probe it ${span(story.calledByPeerSecondsAgo)} ago`)
  lines.push('', story.candidates.length === 0 ? 'Candidates: none' : `Candidates (${story.candidates.length}):`)
  const width = Math.max(0, ...story.candidates.map((each) => each.endpoint.length))
  for (const each of story.candidates) lines.push(`${each.chosen ? '  * ' : '    '}${each.endpoint.padEnd(width)}  ${outcome(each)} (from ${each.from.join(', ')})`)
  return lines
}

function outcome(each: PathStoryCandidate): string {
  if (each.refused !== undefined) return `refused: ${each.refused.text}`
  if (each.probes === 0) return 'not probed yet'
  const parts = [
    each.latencyMs === undefined ? 'no answer' : `${each.latencyMs} ms`,
    `${each.probes} probe${each.probes === 1 ? '' : 's'}, ${each.answers} answered, ${each.unanswered} not`,
    ...(each.lastProbeSecondsAgo === undefined ? [] : [`last probe ${span(each.lastProbeSecondsAgo)} ago`]),
    ...(each.lastAnswerSecondsAgo === undefined ? [] : [`last answer ${span(each.lastAnswerSecondsAgo)} ago`]),
    ...(each.seesUsAs === undefined ? [] : [`sees us as ${each.seesUsAs}`]),
  ]
  return parts.join('; ')
}

// The one in use, those that answered, those that did not, those that are never asked.
function byUse(a: CandidateExplanation, b: CandidateExplanation): number {
  const rank = (each: CandidateExplanation): number => (each.chosen ? 0 : each.pongs > 0 ? 1 : each.refusal === undefined ? 2 : 3)
  return rank(a) - rank(b)
}

const seconds = (ms: number): number => Math.max(0, Math.round(ms / 100) / 10)
const millis = (ms: number): number => Math.round(ms * 10) / 10

function record<Name extends string>(name: Name, value: number): { readonly [K in Name]?: number } {
  const made: { [K in Name]?: number } = {}
  made[name] = value
  return made
}

function told(what: string, ago: number | undefined): string | undefined {
  return ago === undefined ? undefined : `${what} ${span(ago)} ago`
}

/** `3.2 s`, `5 min 3 s`, `2 h 5 min`. */
function span(all: number): string {
  if (all < 60) return `${all} s`
  const whole = Math.round(all)
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`
}
