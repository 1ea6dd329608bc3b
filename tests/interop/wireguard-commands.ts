import { createCipheriv } from 'node:crypto'

/** What the process with our side is asked to do. */
export type PeerCommand =
  /** Connections to `tcpPort` are accepted. */
  | { readonly op: 'start'; readonly provider: 'noble' | 'node'; readonly addresses: readonly string[]; readonly tcpPort: number; readonly underLoad: boolean }
  /** Lines of a UAPI `set`. */
  | { readonly op: 'set'; readonly lines: readonly string[] }
  | { readonly op: 'get' }
  /** Round trip in milliseconds, `null` without an answer. */
  | { readonly op: 'ping'; readonly to: string; readonly timeoutMs: number }
  /** Connects; both ends send the pattern at the same time. Answered by a `TransferResult`. */
  | { readonly op: 'tcp'; readonly to: string; readonly port: number }
  /** The results of accepted connections that have ended. */
  | { readonly op: 'accepted' }
  | { readonly op: 'status' }

/** Its answer to the command of that number. */
export type PeerAnswer = { readonly id: number; readonly result: unknown } | { readonly id: number; readonly error: string }

/** How many bytes each end of a connection sends. */
export const TRANSFER_BYTES = 1_000_000

/** What one end of a connection received, and how the connection ended. */
export interface TransferResult {
  readonly bytes: number
  readonly sha256: string
  readonly reason: string
}

/** Bytes without any repetition, the same every time. */
export function patternBytes(size: number): Uint8Array {
  return createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16)).update(new Uint8Array(size))
}
