/**
 * What the module keeps in the first bytes of its memory. All of it may hold secrets but the masks; callers' packets begin at `USER`.
 *
 * | offset | size | what |
 * |---|---|---|
 * | 0 | 32 | 16 bytes of ones, 16 bytes of zeros: masks for the last row of a packet |
 * | 32 | 32 | the ChaCha20 key in use |
 * | 64 | 16 | block counter and nonce of the next block |
 * | 128 | 192 | three blocks of key stream |
 * | 320 | 20 | Poly1305 accumulator, limbs of 26 bits |
 * | 352 | 20 | Poly1305 multiplier r, limbs of 26 bits |
 * | 384 | 16 | the tag |
 * | 400 | 32 | the last block padded with zeros, then the block of lengths |
 * | 432 | 16 | Poly1305 key, the half that is added at the end |
 * | 448 | 32 | BLAKE2s result |
 * | 512 | 4096 | input of BLAKE2s, and additional data of single calls |
 * | 4608 | 16 | the tag that came with a packet, while native code opens it |
 * | 4736 | 1024 | for native code that works on this memory |
 * | 5760 | 1088 | packets of a batch: see `addBatches` |
 * | 6848 | 384 | two blocks of key stream for each of three short packets |
 * | 7232 | 66048 | one packet from foreign memory or for native code, with 64 bytes before and behind it |
 * | 73280 | 66048 | the plaintext of a packet that native code opens, until its tag has turned out right; 64 bytes before and behind it |
 */
export const MASKS = 0
export const KEY = 32
export const NONCE = 64
export const STREAM = 128
export const ACCUMULATOR = 320
export const MULTIPLIER = 352
export const TAG = 384
export const LAST = 400
export const ADDEND = 432
export const DIGEST = 448
export const INPUT = 512
export const INPUT_BYTES = 4096
export const RECEIVED_TAG = 4608
export const NATIVE = 4736
export const TABLE = 5760
export const TABLE_ENTRIES = 32
export const ENTRY_BYTES = 32
export const STREAMS = 6848
export const STREAMS_BYTES = 384
export const STAGING = 7232
export const STAGING_BYTES = 66_048
/** Where a staged packet begins, and how long it may be, tag included. */
export const STAGED: number = STAGING + 64
export const MAX_STAGED_BYTES: number = STAGING_BYTES - 128
export const OPENED: number = STAGED + STAGING_BYTES
/** Where the memory that belongs to callers begins. */
export const USER: number = STAGING + 2 * STAGING_BYTES
/** Rows are read whole: so many bytes at the end of the memory belong to nobody. */
export const SLACK_BYTES = 64
