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

/** The ways to lie that come before HTTP, to a server with TLS of its own. */
export const TLS_LIES = ['half-open TLS handshakes', 'TLS handshakes broken off', 'garbage ClientHellos', 'all TLS lies at once'] as const

export type LieKind = (typeof LIES)[number] | (typeof TLS_LIES)[number]
