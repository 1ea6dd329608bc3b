import { formatPrefix, type Ip, prefixOf } from '@meshwright/ip'
import type { ServerConnection } from './server-connection.ts'

/** Who may have a whole one counts as one source. */
const IPV6_SITE_BITS = 64

/**
 * The connections that have not been let in: each holds memory, and nobody has proved anything on it. Their number is bounded as a whole,
 * and to half of that for each source address (each /64 of IPv6); the oldest gives way to the newest, of the whole that of the address with
 * the most, because an honest client is let in within a second and has few connections.
 */
export class ServerNewcomers {
  readonly #most: number
  /** Both in the order in which they came. */
  readonly #all: Set<ServerConnection> = new Set()
  readonly #bySource: Map<string, Set<ServerConnection>> = new Map()

  /** @param most of all sources together; fewer than 1 are 1 */
  constructor(most: number) {
    this.#most = Math.max(1, most)
  }

  /** How many there are. */
  get size(): number {
    return this.#all.size
  }

  /** Takes one in; gives the one that must give way for it, which the caller closes. */
  add(conn: ServerConnection): ServerConnection | undefined {
    this.#all.add(conn)
    const source = sourceOf(conn)
    if (source !== undefined) {
      const siblings = this.#bySource.get(source) ?? new Set<ServerConnection>()
      this.#bySource.set(source, siblings.add(conn))
      if (siblings.size > Math.ceil(this.#most / 2)) return oldest(siblings)
    }
    return this.#all.size > this.#most ? oldest(this.#largest() ?? this.#all) : undefined
  }

  /** It has been let in, or is gone. */
  remove(conn: ServerConnection): void {
    if (!this.#all.delete(conn)) return
    const source = sourceOf(conn)
    const siblings = source === undefined ? undefined : this.#bySource.get(source)
    siblings?.delete(conn)
    if (source !== undefined && siblings?.size === 0) this.#bySource.delete(source)
  }

  /** Those of the source that has the most of all; `undefined`: none has more than one. */
  #largest(): ReadonlySet<ServerConnection> | undefined {
    let most: ReadonlySet<ServerConnection> | undefined
    for (const siblings of this.#bySource.values()) if (siblings.size > (most?.size ?? 1)) most = siblings
    return most
  }
}

function oldest(connections: ReadonlySet<ServerConnection>): ServerConnection | undefined {
  for (const conn of connections) return conn
  return undefined
}

function sourceOf(conn: ServerConnection): string | undefined {
  const ip: Ip | undefined = conn.from?.ip
  const site = ip?.family === 6 ? prefixOf(ip, IPV6_SITE_BITS) : undefined
  return site === undefined ? ip?.key : formatPrefix(site)
}
