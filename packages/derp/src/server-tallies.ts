import type { ServerConnection } from './server-connection.ts'
import {
  count, DERP_DROP_REASONS, type DerpCensus, type DerpCloseReason, type DerpDropReason, type DerpPacketKind, type DerpServerStats, type DerpTally, newTally,
} from './server-stats.ts'

/** The counters behind {@link DerpServerStats}. */
export class ServerTallies {
  accepts = 0
  readonly received: DerpTally = newTally()
  readonly sent: DerpTally = newTally()
  forwardedOut = 0
  forwardedIn = 0
  gotPings = 0
  sentPongs = 0
  peerGoneDisconnected = 0
  peerGoneNotHere = 0
  homeMovesIn = 0
  homeMovesOut = 0
  duplicateConnections = 0
  readonly #dropped: Record<DerpDropReason, DerpTally> = {
    unknown_dest: newTally(),
    unknown_dest_on_fwd: newTally(),
    gone_disconnected: newTally(),
    queue_head: newTally(),
    write_error: newTally(),
    dup_client: newTally(),
  }
  readonly #closed: Partial<Record<DerpCloseReason, number>> = {}

  /** Counts a dropped packet. */
  drop(reason: DerpDropReason, kind: DerpPacketKind, bytes: number): void {
    count(this.#dropped[reason], kind, bytes)
  }

  /** Counts a connection that the server closed. */
  close(reason: DerpCloseReason): void {
    this.#closed[reason] = (this.#closed[reason] ?? 0) + 1
  }

  /** Copies of all counters, and gauges read off the connections and the region. */
  snapshot(connections: Iterable<ServerConnection>, census: DerpCensus): DerpServerStats {
    let total = 0
    let home = 0
    let notIdeal = 0
    let queuedBytes = 0
    for (const conn of connections) {
      total += 1
      if (conn.preferred) home += 1
      if (conn.notIdeal) notIdeal += 1
      queuedBytes += conn.queuedBytes
    }
    const dropped = { ...this.#dropped }
    for (const reason of DERP_DROP_REASONS) dropped[reason] = copy(this.#dropped[reason])
    return {
      accepts: this.accepts,
      received: copy(this.received),
      sent: copy(this.sent),
      dropped,
      forwardedOut: this.forwardedOut,
      forwardedIn: this.forwardedIn,
      closed: { ...this.#closed },
      gotPings: this.gotPings,
      sentPongs: this.sentPongs,
      peerGoneDisconnected: this.peerGoneDisconnected,
      peerGoneNotHere: this.peerGoneNotHere,
      homeMovesIn: this.homeMovesIn,
      homeMovesOut: this.homeMovesOut,
      duplicateConnectionsTotal: this.duplicateConnections,
      connections: total,
      homeConnections: home,
      notIdealConnections: notIdeal,
      queuedBytes,
      ...census,
    }
  }
}

function copy(tally: DerpTally): DerpTally {
  return { disco: { ...tally.disco }, other: { ...tally.other } }
}
