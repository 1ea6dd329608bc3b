import { after, type Instant } from '@meshwright/core'
import type { VirtualNetwork } from './virtual-network.ts'

/** One end of a reliable byte stream, as TCP gives it: for relays and control servers in simulations. */
export interface StreamEnd {
  /** Sends a copy of the bytes; nothing happens after either side closed. */
  write(bytes: Uint8Array): void
  /** Closes both directions; the other end hears of it after all that was written before. */
  close(): void
}

/** What an end is told. */
export interface StreamReceiver {
  data(now: Instant, bytes: Uint8Array): void
  closed(now: Instant): void
}

/**
 * A pair of connected stream ends over the virtual network: in order, without loss, `latencyMs` each way, and in pieces as they were
 * written. It goes through any box, as an outgoing TCP connection does.
 */
export function connectStreams(network: VirtualNetwork, latencyMs: number, a: StreamReceiver, b: StreamReceiver): [StreamEnd, StreamEnd] {
  let open = true
  const end = (other: StreamReceiver): StreamEnd => ({
    write(bytes) {
      if (!open) return
      const copy = Uint8Array.from(bytes)
      network.schedule(after(network.clock.now, latencyMs), (now) => other.data(now, copy))
    },
    close() {
      if (!open) return
      open = false
      network.schedule(after(network.clock.now, latencyMs), (now) => other.closed(now))
    },
  })
  return [end(b), end(a)]
}
