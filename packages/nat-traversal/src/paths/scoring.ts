import { type Endpoint, equalEndpoints } from '@meshwright/ip'
import { isLinkLocal, isLoopback, isPrivate } from './endpoint-refusal.ts'

/** A direct path that answered, for comparison. */
export interface MeasuredPath {
  readonly endpoint: Endpoint
  /** Last round trip. */
  readonly latencyMs: number
}

/** Decides whether `candidate` should take the place of `current`, which works too. */
export type PathPreference = (candidate: MeasuredPath, current: MeasuredPath) => boolean

const LOOPBACK_POINTS = 50
const LINK_LOCAL_POINTS = 30
const PRIVATE_POINTS = 20
const IPV6_POINTS = 10
const NANOSECONDS_PER_MS = 1_000_000

/**
 * The real client's choice (tailscale/tailscale:wgengine/magicsock/endpoint.go, betterAddr): points for being faster, in percent, and
 * for nearness (loopback, link-local, private) and IPv6. One point is not enough against none, so that equal paths do not alternate.
 * A private address wins although up to about 20 % slower.
 */
export function betterPath(candidate: MeasuredPath, current: MeasuredPath): boolean {
  if (equalEndpoints(candidate.endpoint, current.endpoint)) return false
  let ours = nearness(candidate.endpoint)
  let theirs = nearness(current.endpoint)
  const a = Math.round(candidate.latencyMs * NANOSECONDS_PER_MS)
  const b = Math.round(current.latencyMs * NANOSECONDS_PER_MS)
  if (a < b) ours += faster(a, b)
  else if (b < a) theirs += faster(b, a)
  if (ours <= 1 && theirs === 0) return false
  return ours > theirs
}

/** Points of the faster of two: integer division before the subtraction, as Go does it. */
function faster(fast: number, slow: number): number {
  return 100 - Math.trunc((100 * fast) / slow)
}

function nearness(endpoint: Endpoint): number {
  const ip = endpoint.ip
  const near = isLoopback(ip) ? LOOPBACK_POINTS : isLinkLocal(ip) ? LINK_LOCAL_POINTS : isPrivate(ip) ? PRIVATE_POINTS : 0
  return near + (ip.family === 6 ? IPV6_POINTS : 0)
}
