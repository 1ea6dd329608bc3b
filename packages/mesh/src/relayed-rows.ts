import type { NodePublicKey } from '@meshwright/crypto'
import { type DataPath, relayPath } from './dataplane.ts'

/** WireGuard datagrams that a relay brought from one peer, one behind the other. Their bytes are views of what the relay sent. */
export interface RelayedRow {
  readonly from: DataPath
  readonly datagrams: readonly Uint8Array[]
}

/**
 * What relays have brought and a lane has not opened yet, in the order in which it came: neighbours from one peer by one relay are a row. It
 * holds what one input brought at most, since a lane takes all of it after each.
 */
export class RelayedRows {
  #rows: { readonly region: number; readonly peer: NodePublicKey; readonly from: DataPath; readonly datagrams: Uint8Array[] }[] = []

  /** Adds a datagram behind all others. Its bytes are read when its row is opened. */
  push(bytes: Uint8Array, region: number, peer: NodePublicKey): void {
    const last = this.#rows.at(-1)
    if (last !== undefined && last.peer === peer && last.region === region) last.datagrams.push(bytes)
    else this.#rows.push({ region, peer, from: relayPath(region, peer), datagrams: [bytes] })
  }

  /** Takes all rows off. */
  take(): readonly RelayedRow[] {
    if (this.#rows.length === 0) return NONE
    const rows = this.#rows
    this.#rows = []
    return rows
  }
}

const NONE: readonly RelayedRow[] = []
