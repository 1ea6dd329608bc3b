import type { HostEndpoint } from '@meshwright/control-client'
import { ENDPOINT_LOCAL, ENDPOINT_STUN } from '@meshwright/control-protocol'
import { type Endpoint, equalEndpoints, formatEndpoint, isLoopback } from '@meshwright/ip'

/** Where peers may find this node: as relays see it, and by the addresses of this computer. */
export class OwnEndpoints {
  readonly #allowLoopback: boolean
  #local: readonly Endpoint[] = []
  #mapped: readonly Endpoint[] = []
  #told = ''

  /** Whether the last collection had any. */
  get hasAny(): boolean {
    return this.#told !== ''
  }

  constructor(allowLoopback: boolean) {
    this.#allowLoopback = allowLoopback
  }

  setLocal(endpoints: readonly Endpoint[]): void {
    this.#local = endpoints
  }

  setMapped(endpoints: readonly Endpoint[]): void {
    this.#mapped = endpoints
  }

  /** All endpoints, best first; none while UDP is blocked. `changed`: not the same as the last time. */
  collect(udpBlocked: boolean): { readonly all: readonly HostEndpoint[]; readonly changed: boolean } {
    const local = udpBlocked ? [] : this.#local.filter((endpoint) => this.#allowLoopback || !isLoopback(endpoint.ip))
    const mapped = udpBlocked ? [] : this.#mapped.filter((endpoint) => !local.some((own) => equalEndpoints(own, endpoint)))
    const all = [...mapped.map((endpoint) => ({ endpoint, type: ENDPOINT_STUN })), ...local.map((endpoint) => ({ endpoint, type: ENDPOINT_LOCAL }))]
    const text = all.map(({ endpoint, type }) => `${formatEndpoint(endpoint)} ${type}`).sort().join()
    const changed = text !== this.#told
    this.#told = text
    return { all, changed }
  }
}
