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

export type LieKind = (typeof LIES)[number]
