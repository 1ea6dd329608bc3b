/** What `ControlServer.figures` tells. */
export interface ControlServerFigures {
  readonly nodes: number
  /** Nodes that count as connected. */
  readonly online: number
  /** Open map streams. */
  readonly polls: number
  readonly pendingLogins: number
  readonly sshChecks: number
  /** Inputs that wait for a commit. */
  readonly waiting: number
  /**
   * Since the start: how often what a receiver had been told of a peer was compared with how that peer is now. A change costs one for each
   * receiver and changed node, never one for each receiver and each of its peers.
   */
  readonly peersCompared: number
  /**
   * Since the start: how many peers were written as JSON. A peer that changed is written once for all receivers that see it alike, whose frames
   * share the bytes.
   */
  readonly peersWritten: number
  /**
   * Since the start: how many sources of packet filters were written as JSON. A list of sources is written once, however many receivers'
   * filters it stands in.
   */
  readonly filterSourcesWritten: number
}
