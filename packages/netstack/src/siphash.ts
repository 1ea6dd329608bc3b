/** SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed hash of 64 bits that nobody without the key can predict. */
export class SipHash {
  readonly #key: Uint32Array = new Uint32Array(4)
  // v0 to v3, low and high halves in turn.
  readonly #v: Uint32Array = new Uint32Array(8)

  /** @param key 16 bytes, read during the call */
  constructor(key: Uint8Array) {
    const view = new DataView(key.buffer, key.byteOffset, 16)
    for (let i = 0; i < 4; i += 1) this.#key[i] = view.getUint32(i * 4, true)
  }

  /** The hash as two unsigned halves: low, high. */
  hash(bytes: Uint8Array): readonly [number, number] {
    const v = this.#v
    const [k0 = 0, k1 = 0, k2 = 0, k3 = 0] = this.#key
    v.set([k0 ^ 0x70736575, k1 ^ 0x736f6d65, k2 ^ 0x6e646f6d, k3 ^ 0x646f7261, k0 ^ 0x6e657261, k1 ^ 0x6c796765, k2 ^ 0x79746573, k3 ^ 0x74656462])
    for (let at = 0; at <= bytes.length; at += 8) {
      let low = 0
      let high = 0
      for (let i = 0; i < 4; i += 1) {
        low |= (bytes[at + i] ?? 0) << (8 * i)
        high |= (bytes[at + 4 + i] ?? 0) << (8 * i)
      }
      // The last word ends with the length.
      if (at + 8 > bytes.length) high |= bytes.length << 24
      this.#xor(6, low, high)
      this.#rounds(2)
      this.#xor(0, low, high)
    }
    this.#xor(4, 0xff, 0)
    this.#rounds(4)
    const word = (half: number): number => ((v[half] ?? 0) ^ (v[2 + half] ?? 0) ^ (v[4 + half] ?? 0) ^ (v[6 + half] ?? 0)) >>> 0
    return [word(0), word(1)]
  }

  #rounds(count: number): void {
    for (let i = 0; i < count; i += 1) {
      this.#add(0, 2)
      this.#rotate(2, 13)
      this.#mix(2, 0)
      this.#rotate(0, 32)
      this.#add(4, 6)
      this.#rotate(6, 16)
      this.#mix(6, 4)
      this.#add(0, 6)
      this.#rotate(6, 21)
      this.#mix(6, 0)
      this.#add(4, 2)
      this.#rotate(2, 17)
      this.#mix(2, 4)
      this.#rotate(4, 32)
    }
  }

  #add(to: number, from: number): void {
    const v = this.#v
    const low = (v[to] ?? 0) + (v[from] ?? 0)
    v[to + 1] = (v[to + 1] ?? 0) + (v[from + 1] ?? 0) + (low > 0xffff_ffff ? 1 : 0)
    v[to] = low
  }

  #mix(to: number, from: number): void {
    this.#xor(to, this.#v[from] ?? 0, this.#v[from + 1] ?? 0)
  }

  #xor(at: number, low: number, high: number): void {
    const v = this.#v
    v[at] = (v[at] ?? 0) ^ low
    v[at + 1] = (v[at + 1] ?? 0) ^ high
  }

  #rotate(at: number, bits: number): void {
    const v = this.#v
    const low = v[at] ?? 0
    const high = v[at + 1] ?? 0
    if (bits === 32) {
      v[at] = high
      v[at + 1] = low
      return
    }
    v[at] = (low << bits) | (high >>> (32 - bits))
    v[at + 1] = (high << bits) | (low >>> (32 - bits))
  }
}
