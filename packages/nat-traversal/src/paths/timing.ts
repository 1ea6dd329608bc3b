// Values of tailscale/tailscale:wgengine/magicsock/endpoint.go and magicsock.go unless said otherwise; measured on real clients.

/** Between two pings of the chosen path while there is traffic. */
export const HEARTBEAT_INTERVAL_MS = 3_000
/** After the last packet that we sent to a peer, heartbeats go on for this long. */
export const SESSION_ACTIVE_TIMEOUT_MS = 45_000
/** After a pong the path is used alone, without the relay, for this long. */
export const TRUST_UDP_MS = 6_500
/** A ping that is not answered by then counts as lost. */
export const PING_TIMEOUT_MS = 5_000
/** The least time between two discovery pings of one candidate; a call-me-maybe overrides it. */
export const DISCO_PING_INTERVAL_MS = 5_000
/** With a working direct path, a better one is looked for this often. */
export const UPGRADE_INTERVAL_MS = 60_000
/** A direct path that is this fast is not upgraded any more. */
export const GOOD_ENOUGH_LATENCY_MS = 5
/** Our own endpoints are told to peers without asking STUN again for this long. */
export const ENDPOINTS_FRESH_MS = 27_000
/** How long a call-me-maybe waits for fresh endpoints before it goes out with the ones we have. Ours: the real client waits for its report. */
export const ENDPOINTS_WAIT_MS = 1_000
/** The least and the most time that an unanswered heartbeat is waited for before it is repeated, and then before the relay is added. Ours. */
export const SUSPECT_LEAST_MS = 400
export const SUSPECT_MOST_MS = 900
/** The least time between two pings that answer a peer's ping with one of our own. Ours. */
export const PING_BACK_INTERVAL_MS = 1_000
/** A peer's call-me-maybes lead to pings at most this often; three at once are allowed. Ours. */
export const CALL_ME_MAYBE_INTERVAL_MS = 500
export const CALL_ME_MAYBE_BURST = 3
/** More candidates than this are pruned. */
export const MAX_CANDIDATES = 100
/** The most endpoints that are taken from a peer's map entry, and from one call-me-maybe. Ours. */
export const MAX_LISTED_ENDPOINTS = 64
