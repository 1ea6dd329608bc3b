import { createCipheriv } from 'node:crypto'
import type { UapiChange } from '@meshwright/wireguard/text'
import { PLAINTEXT_MARKER } from './wireguard-capture.ts'

/** Our providers of primitives; `fast` is the one that is chosen by itself. */
export type ProviderName = 'noble' | 'node' | 'fast'

/** What the process with our side is asked to do. */
export type PeerCommand =
  /** Connections to `tcpPort` are accepted. */
  | { readonly op: 'start'; readonly provider: ProviderName; readonly addresses: readonly string[]; readonly tcpPort: number; readonly underLoad: boolean }
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
  /** Every shared secret and every session key that there was, in hexadecimal: to be searched for outside. */
  | { readonly op: 'secrets' }

/** What our side does on each lane in its own way, once it is started: `set` is read for all. */
export type SideCommand = Exclude<PeerCommand, { readonly op: 'start' | 'set' }>

/** Our side on one of its lanes. */
export interface PeerSide {
  /** Gives an errno, 0 when all went well. */
  apply(changes: readonly UapiChange[]): Promise<number>
  run(command: SideCommand): Promise<unknown>
}

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

const MARKER_EVERY_BYTES = 256

/** Bytes without any repetition but the marker of plaintext, the same every time. */
export function patternBytes(size: number): Uint8Array {
  const bytes = createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16)).update(new Uint8Array(size))
  for (let at = 0; at + PLAINTEXT_MARKER.length <= size; at += MARKER_EVERY_BYTES) bytes.write(PLAINTEXT_MARKER, at)
  return bytes
}
