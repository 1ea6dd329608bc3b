import type { Prefix } from '@meshwright/ip'

/** What the person who runs a node wants of it. Immutable; changed by `MeshNode.setPrefs`. */
export interface Prefs {
  /** Take part in the mesh at all: `up` sets it, `down` clears it. */
  readonly wantRunning: boolean
  /** Name to register under; the control server makes it unique. */
  readonly hostname: string
  /** Routes to offer: subnets behind this node, or 0.0.0.0/0 and ::/0 for an exit node. Used only once approved. */
  readonly advertiseRoutes: readonly Prefix[]
  /** Tags to ask for, `tag:db`. */
  readonly advertiseTags: readonly string[]
  /** Use the subnet routes that other nodes offer. */
  readonly acceptRoutes: boolean
  /** Accept no connection from the mesh, whatever the policy says. */
  readonly shieldsUp: boolean
  /** Answer and resolve names of the mesh. */
  readonly acceptDns: boolean
  /** Stable ID or address text of the node that carries traffic to everywhere else; empty for none. */
  readonly exitNode: string
}

/** The preferences of a new node. */
export const DEFAULT_PREFS: Prefs = {
  wantRunning: false,
  hostname: '',
  advertiseRoutes: [],
  advertiseTags: [],
  acceptRoutes: false,
  shieldsUp: false,
  acceptDns: true,
  exitNode: '',
}
