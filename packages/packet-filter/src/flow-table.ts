import { ipv4ToNumber, type PacketView } from '@meshwright/ip'

/** As many flows as tailscale/tailscale:wgengine/filter/filter.go remembers. */
export const DEFAULT_FLOWS = 512

/** Words of a flow: protocol and family, both ports, four of each address. */
const FLOW_WORDS = 10
const NONE = -1

/**
 * The flows that this node has begun and whose replies may come in: a hash table with an order of use, of fixed size, in integer
 * arrays. When it is full the flow unused for longest makes room. Nothing is allocated after construction.
 */
export class FlowTable {
  readonly #capacity: number
  readonly #flows: Int32Array
  /** First flow of each bucket, and the next one of the same bucket. */
  readonly #buckets: Int32Array
  readonly #chain: Int32Array
  readonly #newer: Int32Array
  readonly #older: Int32Array
  #newest = NONE
  #oldest = NONE
  #size = 0
  readonly #key: Int32Array = new Int32Array(FLOW_WORDS)

  /** @param capacity the most flows remembered */
  constructor(capacity: number = DEFAULT_FLOWS) {
    this.#capacity = capacity
    this.#flows = new Int32Array(capacity * FLOW_WORDS)
    this.#buckets = new Int32Array(1 << (33 - Math.clz32(capacity))).fill(NONE)
    this.#chain = new Int32Array(capacity)
    this.#newer = new Int32Array(capacity)
    this.#older = new Int32Array(capacity)
  }

  /** How many flows are remembered. */
  get size(): number {
    return this.#size
  }

  /** Remembers the flow of a packet that goes out, so that its reply is known; a known flow becomes the newest. */
  remember(view: PacketView): void {
    this.#fill(view, true)
    const bucket = this.#bucket()
    const known = this.#find(bucket)
    if (known !== NONE) return this.#touch(known)
    let flow = this.#size
    if (flow === this.#capacity) {
      flow = this.#oldest
      this.#unlink(flow)
      this.#leaveBucket(flow)
    } else this.#size += 1
    this.#flows.set(this.#key, flow * FLOW_WORDS)
    this.#chain[flow] = this.#buckets[bucket] ?? NONE
    this.#buckets[bucket] = flow
    this.#linkNewest(flow)
  }

  /** True when a packet that comes in is a reply to a remembered flow, which becomes the newest. */
  isReply(view: PacketView): boolean {
    this.#fill(view, false)
    const flow = this.#find(this.#bucket())
    if (flow === NONE) return false
    this.#touch(flow)
    return true
  }

  /** As {@link FlowTable.isReply}, changing nothing. */
  wouldBeReply(view: PacketView): boolean {
    this.#fill(view, false)
    return this.#find(this.#bucket()) !== NONE
  }

  /** Forgets every flow. */
  clear(): void {
    this.#buckets.fill(NONE)
    this.#newest = NONE
    this.#oldest = NONE
    this.#size = 0
  }

  /** Writes the flow of a packet as its reply will look: for one that goes out both ends change places. */
  #fill(view: PacketView, reverse: boolean): void {
    const key = this.#key
    const words = view.family === 4 ? 1 : 4
    const from = reverse ? view.dstOffset : view.srcOffset
    const to = reverse ? view.srcOffset : view.dstOffset
    key[0] = (view.protocol << 8) | view.family
    key[1] = reverse ? (view.dstPort << 16) | view.srcPort : (view.srcPort << 16) | view.dstPort
    for (let word = 0; word < 4; word += 1) {
      key[2 + word] = word < words ? ipv4ToNumber(view.memory, from + word * 4) : 0
      key[6 + word] = word < words ? ipv4ToNumber(view.memory, to + word * 4) : 0
    }
  }

  #bucket(): number {
    return this.#hash(this.#key, 0) & (this.#buckets.length - 1)
  }

  #hash(words: Int32Array, at: number): number {
    let hash = 0
    for (let i = 0; i < FLOW_WORDS; i += 1) {
      hash = Math.imul(hash ^ (words[at + i] ?? 0), 0x9e3779b1)
      hash ^= hash >>> 15
    }
    return hash
  }

  #find(bucket: number): number {
    for (let flow = this.#buckets[bucket] ?? NONE; flow !== NONE; flow = this.#chain[flow] ?? NONE) {
      let word = 0
      while (word < FLOW_WORDS && this.#flows[flow * FLOW_WORDS + word] === this.#key[word]) word += 1
      if (word === FLOW_WORDS) return flow
    }
    return NONE
  }

  #leaveBucket(flow: number): void {
    const bucket = this.#hash(this.#flows, flow * FLOW_WORDS) & (this.#buckets.length - 1)
    const next = this.#chain[flow] ?? NONE
    if (this.#buckets[bucket] === flow) {
      this.#buckets[bucket] = next
      return
    }
    for (let before = this.#buckets[bucket] ?? NONE; before !== NONE; before = this.#chain[before] ?? NONE) {
      if (this.#chain[before] !== flow) continue
      this.#chain[before] = next
      return
    }
  }

  #touch(flow: number): void {
    if (flow === this.#newest) return
    this.#unlink(flow)
    this.#linkNewest(flow)
  }

  #unlink(flow: number): void {
    const newer = this.#newer[flow] ?? NONE
    const older = this.#older[flow] ?? NONE
    if (newer === NONE) this.#newest = older
    else this.#older[newer] = older
    if (older === NONE) this.#oldest = newer
    else this.#newer[older] = newer
  }

  #linkNewest(flow: number): void {
    this.#newer[flow] = NONE
    this.#older[flow] = this.#newest
    if (this.#newest === NONE) this.#oldest = flow
    else this.#newer[this.#newest] = flow
    this.#newest = flow
  }
}
