/** One relay (DERP) server of a region: how to reach it, and how to check that it is the one. */
export interface RelayNode {
  /** Unique name, `900a`. */
  readonly name: string
  readonly regionId: number
  /** DNS name or IP address that is dialled when no literal address is given, and that TLS names. */
  readonly hostName: string
  /** Expected certificate: a name, or `sha256-raw:` and the hex SHA-256 of the leaf's DER. Absent: the host name. */
  readonly certName?: string
  /** IPv4 literal; `none` forbids IPv4. */
  readonly ipv4?: string
  /** IPv6 literal; `none` forbids IPv6. */
  readonly ipv6?: string
  /** UDP port of STUN; absent: 3478; -1: no STUN. */
  readonly stunPort?: number
  /** Only STUN, no relaying. */
  readonly stunOnly?: boolean
  /** TCP port of the relay; absent: 443. */
  readonly derpPort?: number
  /** Skip certificate checks. For tests alone. */
  readonly insecureForTests?: boolean
  /** Whether port 80 can be used for captive-portal checks. */
  readonly canPort80?: boolean
}

/** A relay region: servers near each other that serve the same nodes. */
export interface RelayRegion {
  readonly id: number
  readonly code: string
  readonly name: string
  /** Never chosen as home unless nothing else is there. */
  readonly avoid?: boolean
  /** Must not be measured as home candidate. */
  readonly noMeasureNoHome?: boolean
  readonly nodes: readonly RelayNode[]
}

/** All relay regions that a node may use, by region number. */
export interface RelayMap {
  readonly regions: ReadonlyMap<number, RelayRegion>
}
