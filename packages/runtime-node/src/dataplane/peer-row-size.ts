/** Peers whose rows are put together at the same time. */
export const PEER_ROWS = 16
/** Free bytes on either side of a row: providers and copies overwrite them. */
export const PEER_ROW_MARGIN_BYTES = 256
/** Room for one row of datagrams, or one packet of any length, with its margins. */
export const PEER_ROW_BYTES: number = PEER_ROW_MARGIN_BYTES + 65_600 + PEER_ROW_MARGIN_BYTES
