/** The ways to lie that are measured one by one. */
export const LIES = [
  'half-open handshakes',
  'silent connections',
  'bad handshakes',
  'replayed records',
  'bad bodies',
  'endless bodies',
  'HTTP/2 floods',
  'false keys',
  'strangers that ask nothing',
  'polls without end',
  'all at once',
] as const

/** The ways to lie that come before HTTP, to a server or relay with TLS of its own. */
export const TLS_LIES = ['half-open TLS handshakes', 'TLS handshakes broken off', 'garbage ClientHellos', 'all TLS lies at once'] as const

/** The ways to lie to a relay and to the STUN beside it. */
export const RELAY_LIES = [
  'half-open upgrades',
  'silent connections',
  'bad heads and WebSockets',
  'bad introductions',
  'replayed sessions',
  'bad frames',
  'frames without end',
  'pings and packets to nobody',
  'bad datagrams',
  'all at once',
] as const

export type TlsLieKind = (typeof TLS_LIES)[number]
export type LieKind = (typeof LIES)[number] | TlsLieKind
export type RelayLieKind = (typeof RELAY_LIES)[number] | TlsLieKind

/** Whether a lie comes before HTTP. */
export function isTlsLie(kind: LieKind | RelayLieKind): kind is TlsLieKind {
  return TLS_LIES.some((each) => each === kind)
}
