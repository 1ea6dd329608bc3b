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
 * | 4608 | 64 | zeros |
 * | 4672 | 32 | what stood behind a packet, while other code uses the place |
 * | 4736 | 1024 | for native code that works on this memory |
 * | 5760 | 66048 | one packet from foreign memory, with room around it |
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
export const ZEROS = 4608
export const BEHIND = 4672
export const NATIVE = 4736
export const STAGING = 5760
export const STAGING_BYTES = 66_048
/** Where the memory that belongs to callers begins. */
export const USER = 72_704
/** Rows are read whole: so many bytes at the end of the memory belong to nobody. */
export const SLACK_BYTES = 64
