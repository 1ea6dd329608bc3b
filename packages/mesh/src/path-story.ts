import type { Instant } from '@meshwright/core'
import { formatEndpoint } from '@meshwright/ip'
import type { PathExplanation } from '@meshwright/nat-traversal'

const REASONS: Readonly<Record<PathExplanation['reason'], string>> = {
  'peer-set': 'the network map named the peer',
  pong: 'an endpoint answered a probe',
  'better-path': 'another endpoint answered faster',
  'trust-lapsed': 'the direct path has not answered lately',
  'heartbeat-unanswered': 'the direct path missed a heartbeat',
  'ping-timeout': 'the direct path stopped answering',
  unreachable: 'the system could not reach the endpoint',
  'relay-learnt': 'the peer was heard through this relay',
  rebind: 'the network of this computer changed',
  'udp-unavailable': 'UDP is not to be used',
  'udp-available': 'UDP can be used again',
}

/** The whole story of the path to a peer, as lines for people: what is used, since when and why, and what came of every candidate. */
export function tellPath(now: Instant, told: PathExplanation): readonly string[] {
  const ago = (at: Instant | undefined): string => (at === undefined ? 'never' : `${((now - at) / 1000).toFixed(1)} s ago`)
  const { path } = told
  const used =
    path.type === 'direct'
      ? `direct by ${formatEndpoint(path.endpoint)}${path.latencyMs === undefined ? '' : `, ${path.latencyMs.toFixed(1)} ms`}`
      : path.type === 'relay'
        ? `relay, region ${path.region}${told.relayLatencyMs === undefined ? '' : `, ${told.relayLatencyMs.toFixed(1)} ms`}`
        : path.type === 'both'
          ? `both ${formatEndpoint(path.endpoint)} and the relay of region ${path.region}, until the direct path answers again`
          : 'none'
  const lines = [`path: ${used}`, `since ${ago(told.since)}, because ${REASONS[told.reason]}`, told.text]
  if (told.callMeMaybeSentAt !== undefined) lines.push(`asked the peer through the relay to probe us ${ago(told.callMeMaybeSentAt)}`)
  if (told.callMeMaybeReceivedAt !== undefined) lines.push(`the peer asked us to probe it ${ago(told.callMeMaybeReceivedAt)}`)
  for (const candidate of told.candidates) {
    const outcome =
      candidate.refusal !== undefined
        ? `refused: ${candidate.refusal}`
        : `${candidate.pings} probes, ${candidate.pongs} answers, ${candidate.timeouts} without answer, last probe ${ago(candidate.lastPingAt)}` +
          (candidate.latencyMs === undefined ? '' : `, ${candidate.latencyMs.toFixed(1)} ms`) +
          (candidate.seenAs === undefined ? '' : `, sees us as ${formatEndpoint(candidate.seenAs)}`)
    lines.push(`${candidate.chosen ? '* ' : '  '}${formatEndpoint(candidate.endpoint)} (from ${candidate.origins.join(', ')}): ${outcome}`)
  }
  return lines
}
