import { after, DONE, type Instant, instant, PacketBatch } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { drain, SeededRandom } from '@meshwright/testkit'
import { CookieJar } from '../../packages/wireguard/src/cookie.ts'
import { mac1KeyOf } from '../../packages/wireguard/src/identity.ts'
import { HandshakeLoadMonitor, WireGuardDevice, type WireGuardPath } from '@meshwright/wireguard'
import { nodeCryptoProvider } from '../../packages/runtime-node/src/node-crypto.ts'
import { wasmCryptoProvider } from '../../packages/runtime-node/src/wasm-crypto.ts'
import { mutate } from './fuzz-decoder.ts'
import type { FuzzReport } from './targets.ts'

const PROVIDER = wasmCryptoProvider(nodeCryptoProvider) ?? nodeCryptoProvider
const WALL = 1_700_000_000_000
/** Honest peers: they speak between the forgeries, and must be understood. */
const FRIENDS = 3
/** Inputs between two honest packets of each friend. */
const EPOCH = 500
const CORPUS = 64
const MAX_GROWTH_BYTES = 64 * 1024 * 1024
const BATCH_SLOTS = 16
const BATCH_BYTES = 700

interface Friend {
  readonly key: NodePrivateKey
  readonly device: WireGuardDevice
  readonly path: WireGuardPath
}

/**
 * The whole device among hostile datagrams, in virtual time: what three honest peers send, changed, cut, spliced and repeated, with a right
 * mac1 as often as not, from any source, one at a time and in batches. Rules: nothing throws; every honest packet comes out exactly once
 * and none that nobody sealed; no session of a friend is lost; tables and memory stay within their bounds.
 */
export class HostileNetwork {
  readonly #random: SeededRandom
  readonly #device: WireGuardDevice
  readonly #key: NodePrivateKey
  readonly #friends: readonly Friend[]
  readonly #expected: Map<string, number> = new Map()
  /** Genuine datagrams, those of each type by themselves. */
  readonly #corpus: readonly Uint8Array[][] = [[], [], [], []]
  readonly #batch: PacketBatch = PacketBatch.slab(BATCH_SLOTS, BATCH_BYTES)
  #now: Instant = instant(1_000)
  readonly #seed: number
  #fed = 0
  #packets = 0
  #delivered = 0
  #answers = 0

  constructor(seed: number) {
    this.#seed = seed
    const random = new SeededRandom(seed)
    this.#random = random
    this.#key = NodePrivateKey.generate(random.bytes)
    this.#device = this.#make(this.#key)
    this.#friends = Array.from({ length: FRIENDS }, (_, i) => {
      const key = NodePrivateKey.generate(random.bytes)
      const friend = { key, device: this.#make(key), path: pathOf(10, i, 51_820) }
      friend.device.setPeer(this.#now, { publicKey: this.#key.publicKey(), path: pathOf(1, 1, 1) })
      this.#device.setPeer(this.#now, { publicKey: key.publicKey(), path: friend.path, persistentKeepaliveSeconds: i === 0 ? 0 : 20 })
      return friend
    })
  }

  run(inputs: number, progress: (done: number) => void): FuzzReport {
    try {
      return this.#run(inputs, progress)
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : String(error)} (seed ${this.#seed}, input ${this.#fed})`, { cause: error })
    }
  }

  #run(inputs: number, progress: (done: number) => void): FuzzReport {
    const early = Math.min(inputs - 1, 20_000)
    let base = 0
    for (let round = 0; round < inputs; ) {
      this.#fed = round
      if (round % EPOCH < BATCH_SLOTS) this.#honest()
      round += this.#random.chance(0.2) ? this.#batchOf(Math.min(BATCH_SLOTS, inputs - round)) : this.#one()
      if (round % 1_000 < BATCH_SLOTS) progress(round)
      if (round > early && base === 0) base = memoryInUse()
    }
    this.#honest()
    const { drops, tables, cookieRepliesSent } = this.#device.status(this.#now)
    const grown = Math.max(0, memoryInUse() - base)
    if (grown > MAX_GROWTH_BYTES) throw new Error(`memory grew by ${grown} bytes`)
    if (tables.indices > 4 * FRIENDS || tables.sources > 16_384 || tables.outputs !== 0) throw new Error(`tables have grown: ${JSON.stringify(tables)}`)
    return { inputs, grownBytes: grown, outcomes: { ...Object.fromEntries(drops), 'honest packets': this.#delivered, 'cookie replies': cookieRepliesSent, answers: this.#answers } }
  }

  #make(privateKey: NodePrivateKey): WireGuardDevice {
    return new WireGuardDevice({ random: this.#random.bytes, wallClock: () => WALL + this.#now, privateKey, provider: PROVIDER, loadMonitor: new HandshakeLoadMonitor({ burst: 30 }) })
  }

  /** Time passes and every friend talks with the device, undisturbed; what they say goes into the corpus. */
  #honest(): void {
    // Long enough for "under load" to end, and now and then for sessions to be renewed.
    this.#now = after(this.#now, this.#random.chance(0.02) ? 130_000 : 1_200 + this.#random.below(500))
    this.#timeouts()
    for (const friend of this.#friends) {
      const packet = this.#packet()
      this.#expected.set(packet.key, (this.#expected.get(packet.key) ?? 0) + 1)
      friend.device.handleInput(this.#now, { type: 'packet', peer: this.#key.publicKey(), bytes: packet.bytes })
      if (this.#random.chance(0.3)) this.#device.handleInput(this.#now, { type: 'packet', peer: friend.key.publicKey(), bytes: this.#packet().bytes })
    }
    for (let busy = true; busy; ) {
      busy = false
      for (const friend of this.#friends) {
        for (const output of drain(friend.device)) {
          if (output.type !== 'transmit') continue
          busy = true
          this.#keep(output.bytes)
          this.#device.handleInput(this.#now, { type: 'datagram', bytes: output.bytes, from: friend.path })
        }
      }
      if (this.#settle()) busy = true
    }
    if (this.#expected.size > 0) throw new Error(`${this.#expected.size} honest packets did not come out`)
  }

  #timeouts(): void {
    for (const device of [this.#device, ...this.#friends.map((friend) => friend.device)]) {
      const due = device.pollTimeout()
      if (due !== undefined && due <= this.#now) device.handleTimeout(this.#now)
    }
    this.#settle()
  }

  #one(): number {
    if (this.#random.chance(0.1)) {
      this.#now = after(this.#now, this.#random.below(3))
      this.#timeouts()
    }
    const bytes = this.#hostile()
    const from = this.#source()
    const told = this.#delivered
    try {
      this.#device.handleInput(this.#now, from === undefined ? { type: 'datagram', bytes } : { type: 'datagram', bytes, from })
    } catch (error) {
      throw new Error(`threw on ${Buffer.from(bytes).toString('hex')}`, { cause: error })
    }
    this.#settle()
    if (this.#delivered !== told) throw new Error(`a packet came out of ${Buffer.from(bytes).toString('hex')}`)
    return 1
  }

  #batchOf(slots: number): number {
    this.#batch.reset()
    for (let i = 0; i < slots; i += 1) this.#batch.addCopy(this.#hostile().subarray(0, BATCH_BYTES))
    this.#device.open(this.#now, this.#source(), this.#batch)
    for (let i = 0; i < this.#batch.count; i += 1) if (this.#batch.verdict[i] === DONE) throw new Error(`a packet came out of a batch: ${Buffer.from(this.#batch.result(i)).toString('hex')}`)
    this.#settle()
    return slots
  }

  /** Does what the device owes: honest peers hear it. True when there was something. */
  #settle(): boolean {
    let any = false
    for (const output of drain(this.#device)) {
      any = true
      if (output.type === 'packet') {
        const key = Buffer.from(output.bytes).toString('hex')
        if (!this.#expected.delete(key)) throw new Error(`a packet came out that nobody sealed, or twice: ${key}`)
        this.#delivered += 1
      } else if (output.type === 'expired') {
        throw new Error('a session of an honest peer was lost')
      } else if (output.type === 'transmit') {
        this.#answers += 1
        this.#keep(output.bytes)
        for (const friend of this.#friends) if (output.peer?.equals(friend.key.publicKey()) === true) friend.device.handleInput(this.#now, { type: 'datagram', bytes: output.bytes, from: pathOf(1, 1, 1) })
      }
    }
    return any
  }

  #hostile(): Uint8Array {
    const random = this.#random
    if (random.chance(0.05)) return random.bytes(random.below(600))
    const kinds = this.#corpus.filter((each) => each.length > 0)
    const samples = random.pick(kinds)
    const sample = random.pick(samples)
    if (random.chance(0.05)) return Uint8Array.from(sample) // a repeat, byte for byte
    const bytes = random.chance(0.5) ? this.#flip(sample) : mutate(random, sample, random.chance(0.7) ? samples : random.pick(kinds))
    if (bytes.length > 4 && random.chance(0.5)) bytes.set(sample.subarray(0, 4)) // so that it is not put aside at once
    if ((bytes.length === 148 || bytes.length === 92) && bytes[0] !== 4 && random.chance(0.3)) {
      const mac2 = bytes.slice(-16)
      new CookieJar().stamp(this.#now, PROVIDER, MAC1_KEYS.of(this.#key), bytes)
      bytes.set(mac2, bytes.length - 16)
    }
    return bytes
  }

  /** Some bits turned, so that at least the length is right. */
  #flip(sample: Uint8Array): Uint8Array {
    const bytes = Uint8Array.from(sample)
    for (let changes = 1 + this.#random.below(3); changes > 0; changes -= 1) {
      const at = 4 + this.#random.below(bytes.length - 4)
      bytes[at] = (bytes[at] ?? 0) ^ (1 << this.#random.below(8))
    }
    return bytes
  }

  #source(): WireGuardPath | undefined {
    const random = this.#random
    if (random.chance(0.05)) return undefined
    return random.chance(0.2) ? random.pick(this.#friends).path : pathOf(100 + random.below(100), random.below(256), random.below(65_536))
  }

  #keep(bytes: Uint8Array): void {
    const samples = this.#corpus[(bytes[0] ?? 1) - 1]
    if (samples === undefined) return
    if (samples.length < CORPUS) samples.push(Uint8Array.from(bytes))
    else samples[this.#random.below(CORPUS)] = Uint8Array.from(bytes)
  }

  /** A whole IPv4 packet with a number of its own. */
  #packet(): { readonly bytes: Uint8Array; readonly key: string } {
    const length = 24 + this.#random.below(300)
    const bytes = new Uint8Array(length)
    bytes.set([0x45, 0, length >> 8, length & 255])
    new DataView(bytes.buffer).setUint32(20, (this.#packets += 1))
    return { bytes, key: Buffer.from(bytes).toString('hex') }
  }
}

/** The key of mac1 is made once for a run: it takes as long as the mac itself. */
const MAC1_KEYS = {
  known: new Map<string, Uint8Array>(),
  of(key: NodePrivateKey): Uint8Array {
    const { text, bytes } = key.publicKey()
    const made = this.known.get(text) ?? mac1KeyOf(PROVIDER, bytes)
    this.known.set(text, made)
    return made
  },
}

function pathOf(a: number, b: number, port: number): WireGuardPath {
  return { id: `${a}.${b}:${port}`, cookieBytes: Uint8Array.of(192, 0, a, b, port >> 8, port & 255) }
}

function memoryInUse(): number {
  globalThis.gc?.()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
