/** What became of a slot. `PENDING` slots are worked on; all others are skipped by every later step. */
export const PENDING = 0
/** The slot's step succeeded; its result stands at `target` with `targetLength`. */
export const DONE = 1
/** The slot is to be dropped; who dropped it has counted why. */
export const DROPPED = 2

/** Bytes that stay free in front of and behind every packet of a slot, for headers, tags and the work of crypto providers. */
export const HEADROOM_BYTES = 64

/**
 * Packets as slots over one memory that the caller supplies (a slab, a row of equal strides, a WASM memory): offset and length for
 * each slot, no object per packet. The source of slot i is `memory[offset[i] .. offset[i] + length[i])`; its result goes to
 * `target[i]`, which may equal `offset[i]` (in place). `HEADROOM_BYTES` before and behind both must lie inside the memory and may be
 * overwritten, save where another slot's bytes begin.
 *
 * Counters are 64-bit message numbers as two unsigned 32-bit halves: a BigInt for each packet would cost more than the look-up.
 */
export class PacketBatch {
  readonly memory: Uint8Array
  readonly view: DataView
  /** Where each slot's source begins. */
  readonly offset: Int32Array
  /** How many bytes each slot's source has. */
  readonly length: Int32Array
  /** Where each slot's result begins. */
  readonly target: Int32Array
  /** How many bytes each slot's result has; set by the step that makes it. */
  readonly targetLength: Int32Array
  /** Message number of each slot, lower 32 bits (read it with `>>> 0`). */
  readonly counterLow: Uint32Array
  /** Message number of each slot, upper 32 bits. */
  readonly counterHigh: Uint32Array
  /** `PENDING`, `DONE` or `DROPPED`. */
  readonly verdict: Uint8Array
  /** The most slots it can hold. */
  readonly capacity: number
  /** How many slots are in use, 0 to `capacity`. */
  count = 0

  /** @param memory the caller's memory; it must not move while the batch is in use */
  constructor(memory: Uint8Array, capacity: number) {
    this.memory = memory
    this.view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength)
    this.capacity = capacity
    this.offset = new Int32Array(capacity)
    this.length = new Int32Array(capacity)
    this.target = new Int32Array(capacity)
    this.targetLength = new Int32Array(capacity)
    this.counterLow = new Uint32Array(capacity)
    this.counterHigh = new Uint32Array(capacity)
    this.verdict = new Uint8Array(capacity)
  }

  /** A batch with memory of its own: `capacity` slots of `slotBytes` each, with head- and tail-room around every one. */
  static slab(capacity: number, slotBytes: number): PacketBatch {
    const stride = HEADROOM_BYTES + slotBytes + HEADROOM_BYTES
    return new PacketBatch(new Uint8Array(stride * capacity), capacity)
  }

  /** Forgets all slots. */
  reset(): void {
    this.count = 0
  }

  /** Adds a slot over bytes that already stand in the memory, result in place; gives its index, or -1 when full or out of bounds. */
  addSlot(offset: number, length: number, target: number = offset): number {
    if (this.count === this.capacity || offset < 0 || length < 0 || offset + length > this.memory.length || target < 0 || target > this.memory.length) return -1
    const slot = this.count
    this.offset[slot] = offset
    this.length[slot] = length
    this.target[slot] = target
    this.targetLength[slot] = 0
    this.counterLow[slot] = 0
    this.counterHigh[slot] = 0
    this.verdict[slot] = PENDING
    this.count = slot + 1
    return slot
  }

  /**
   * Copies `bytes` into the next place of a batch made by {@link PacketBatch.slab}; gives its index, or -1 when the batch is full or
   * the bytes do not fit.
   */
  addCopy(bytes: Uint8Array): number {
    const stride = Math.floor(this.memory.length / this.capacity)
    if (bytes.length > stride - 2 * HEADROOM_BYTES) return -1
    const offset = this.count * stride + HEADROOM_BYTES
    const slot = this.addSlot(offset, bytes.length)
    if (slot >= 0) this.memory.set(bytes, offset)
    return slot
  }

  /** The bytes of a slot's source: a view, valid until the memory is used again. */
  source(slot: number): Uint8Array {
    const offset = this.offset[slot] ?? 0
    return this.memory.subarray(offset, offset + (this.length[slot] ?? 0))
  }

  /** The bytes of a slot's result: a view, valid until the memory is used again. */
  result(slot: number): Uint8Array {
    const target = this.target[slot] ?? 0
    return this.memory.subarray(target, target + (this.targetLength[slot] ?? 0))
  }
}
