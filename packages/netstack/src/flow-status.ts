import type { FlowStatus } from './netstack-io.ts'
import type { TcpConnection } from './tcp-connection.ts'

/** How a connection stands, for people and tests. */
export function flowStatus({ state, path, sender, receiver, due }: TcpConnection): FlowStatus {
  return {
    state,
    local: { ip: path.local, port: path.localPort },
    remote: { ip: path.remote, port: path.remotePort },
    queuedBytes: sender.buffer.size,
    unconsumedBytes: receiver.unconsumed,
    congestionWindowBytes: Math.floor(sender.congestion.window),
    inFlightBytes: sender.inFlight,
    smoothedRttMs: sender.rtt.smoothed,
    segmentBytes: sender.segmentSize,
    due,
  }
}
