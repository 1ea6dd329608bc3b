/** Noise protocol name: the first chaining key is its hash (WireGuard paper, section 5.4). */
export const CONSTRUCTION = 'Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s'
/** Mixed in behind it: names the protocol that uses the handshake. */
export const IDENTIFIER = 'WireGuard v1 zx2c4 Jason@zx2c4.com'
/** Label of the mac1 key. */
export const LABEL_MAC1 = 'mac1----'
/** Label of the key that seals cookies. */
export const LABEL_COOKIE = 'cookie--'

export const TAG_BYTES = 16
export const MAC_BYTES = 16
export const COOKIE_BYTES = 16
export const COOKIE_NONCE_BYTES = 24
export const TIMESTAMP_BYTES = 12

/** After this many messages in a session a new handshake is started (paper, section 6.1). */
export const REKEY_AFTER_MESSAGES: bigint = 1n << 60n
/** From this message number on a session neither sends nor receives (paper, section 6.1; WireGuard/wireguard-go:device/constants.go). */
export const REJECT_AFTER_MESSAGES: bigint = (1n << 64n) - (1n << 13n) - 1n
/** The initiator of a session starts a new handshake when it sends on one older than this. */
export const REKEY_AFTER_TIME_MS = 120_000
/** A session this old neither sends nor receives. */
export const REJECT_AFTER_TIME_MS = 180_000
/** Least time between two handshake messages to a peer, and the wait before an initiation is sent again. */
export const REKEY_TIMEOUT_MS = 5_000
/** Random addition to the wait, 0 to this many milliseconds, so that two ends do not stay in step. */
export const REKEY_TIMEOUT_JITTER_MAX_MS = 333
/** Further initiations after the first before giving up: 20 in all, in about 99 seconds (WireGuard/wireguard-go:device/timers.go). */
export const MAX_TIMER_HANDSHAKES = 18
/** An empty packet answers data after this time when nothing else did. */
export const KEEPALIVE_TIMEOUT_MS = 10_000
/** All keys of a peer are wiped this long after its last session began. */
export const ZERO_KEYS_AFTER_MS: number = 3 * REJECT_AFTER_TIME_MS
/** Least time between two accepted initiations of one peer. */
export const INITIATION_INTERVAL_MS = 20
/** Age at which a responder changes the secret behind its cookies. */
export const COOKIE_SECRET_MAX_AGE_MS = 120_000
/** A received cookie is used up to this age: the secret's age less a network delay of 5 seconds (kernel: COOKIE_SECRET_LATENCY). */
export const COOKIE_USABLE_MS = 115_000
/** How long "under load" lasts after it was last seen. */
export const UNDER_LOAD_STICKY_MS = 1_000
/** Packets kept for a peer while a handshake runs. */
export const MAX_STAGED_PACKETS = 128
/** Plaintext is padded to a multiple of this. */
export const PADDING_MULTIPLE = 16
/** The most inner bytes one datagram carries: 65535 less header and tag. */
export const MAX_CONTENT_BYTES: number = 65_535 - 32
/** MTU of a tunnel when none is given: 1500 less 80 (IPv6, UDP, header, tag). */
export const DEFAULT_MTU = 1_420
