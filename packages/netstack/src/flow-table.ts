import type { Ip } from '@meshwright/ip'
import type { TcpConnection } from './tcp-connection.ts'

/** Connections by their four-tuple: a seeded hash of the address words, so that a look-up makes no garbage and cannot be made to collide. */
export class FlowTable {
  readonly #buckets: Map<number, TcpConnection> = new Map()
  readonly #seed: number
  #size = 0

  constructor(seed: number) {
    this.#seed = seed | 1
  }

  get size(): number {
    return this.#size
  }

  find(local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): TcpConnection | undefined {
    let flow = this.#buckets.get(this.#hash(local, localPort, remote, remotePort))
    for (; flow !== undefined; flow = flow.nextInBucket) {
      const { path } = flow
      if (
        path.remotePort === remotePort &&
        path.localPort === localPort &&
        same(path.remote.bytes, remote) &&
        same(path.local.bytes, local)
      )
        return flow
    }
    return undefined
  }

  add(flow: TcpConnection): void {
    const { path } = flow
    flow.hash = this.#hash(path.local.bytes, path.localPort, path.remote.bytes, path.remotePort)
    flow.nextInBucket = this.#buckets.get(flow.hash)
    this.#buckets.set(flow.hash, flow)
    this.#size += 1
  }

  remove(flow: TcpConnection): void {
    const first = this.#buckets.get(flow.hash)
    if (first === flow) {
      if (flow.nextInBucket === undefined) this.#buckets.delete(flow.hash)
      else this.#buckets.set(flow.hash, flow.nextInBucket)
      this.#size -= 1
    } else {
      for (let at = first; at !== undefined; at = at.nextInBucket) {
        if (at.nextInBucket !== flow) continue
        at.nextInBucket = flow.nextInBucket
        this.#size -= 1
        break
      }
    }
    flow.nextInBucket = undefined
  }

  /** True when no flow has this four-tuple. */
  isFree(local: Ip, localPort: number, remote: Ip, remotePort: number): boolean {
    return this.find(local.bytes, localPort, remote.bytes, remotePort) === undefined
  }

  #hash(local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): number {
    let hash = Math.imul(this.#seed ^ ((localPort << 16) | remotePort), 0x9e3779b1)
    for (let i = 0; i + 3 < remote.length; i += 4) {
      const a = ((remote[i] ?? 0) << 24) | ((remote[i + 1] ?? 0) << 16) | ((remote[i + 2] ?? 0) << 8) | (remote[i + 3] ?? 0)
      const b = ((local[i] ?? 0) << 24) | ((local[i + 1] ?? 0) << 16) | ((local[i + 2] ?? 0) << 8) | (local[i + 3] ?? 0)
      hash = Math.imul(hash ^ (hash >>> 15) ^ a, 0x85ebca6b)
      hash = Math.imul(hash ^ (hash >>> 13) ^ b, 0xc2b2ae35)
    }
    return hash ^ (hash >>> 16)
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false
  return true
}
