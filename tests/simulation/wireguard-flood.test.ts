import { after, type Instant, instant, PacketBatch } from '@meshwright/core'
import { type CryptoProvider, NodePrivateKey } from '@meshwright/crypto'
import { drain, SeededRandom } from '@meshwright/testkit'
import { type LoadMonitor, WireGuardDevice, type WireGuardPath } from '@meshwright/wireguard'
import { expect, test } from 'vitest'
import { CookieJar } from '../../packages/wireguard/src/cookie.ts'
import { mac1KeyOf } from '../../packages/wireguard/src/identity.ts'
import { encodeInitiation } from '../../packages/wireguard/src/messages.ts'
import { nodeCryptoProvider } from '../../packages/runtime-node/src/node-crypto.ts'
import { wasmCryptoProvider } from '../../packages/runtime-node/src/wasm-crypto.ts'

const REAL = wasmCryptoProvider(nodeCryptoProvider) ?? nodeCryptoProvider

/** What primitives cost, in microseconds; measured on the slow machine that these tests were written on. */
interface Costs {
  readonly x25519: number
  readonly hash: number
  readonly mac: number
  readonly hmac: number
  readonly aead: number
  readonly xaead: number
  /** 1420 bytes. */
  readonly packet: number
}

const WASM: Costs = { x25519: 63, hash: 1.3, mac: 1.2, hmac: 2.3, aead: 2, xaead: 14, packet: 4 }
const PLAIN_JAVASCRIPT: Costs = { x25519: 1_360, hash: 4.6, mac: 9.5, hmac: 17, aead: 20, xaead: 15, packet: 19 }
/** To get a datagram from the kernel into the program, and one out of it. */
const RECEIVE_US = 10
const SEND_US = 10
/** A receive buffer of 4 MB, of which the kernel counts as much for each datagram, short or long. */
const BUFFER_BYTES = 4 * 1024 * 1024
const KERNEL_BYTES = { session: 2_304, flood: 768 } as const
const PACKET_BYTES = 1_420
const FLOOD_PER_SECOND = 10_000

/** One thread: whatever it does takes time, of which packets know nothing and go on arriving. */
class Cpu {
  /** Milliseconds of work done. */
  worked = 0

  spend(us: number): void {
    this.worked += us / 1_000
  }

  /** A provider that does its work in no time and says what it costs. */
  provider(costs: Costs): CryptoProvider {
    const at = <Args extends readonly unknown[], Result>(us: number, work: (...args: Args) => Result): ((...args: Args) => Result) => (...args) => {
      this.spend(us)
      return work(...args)
    }
    return {
      name: 'costed',
      publicKey: at(costs.x25519, REAL.publicKey.bind(REAL)),
      sharedSecret: at(costs.x25519, REAL.sharedSecret.bind(REAL)),
      hash: at(costs.hash, REAL.hash.bind(REAL)),
      mac: at(costs.mac, REAL.mac.bind(REAL)),
      hmac: at(costs.hmac, REAL.hmac.bind(REAL)),
      aeadSeal: at(costs.aead, REAL.aeadSeal.bind(REAL)),
      aeadOpen: at(costs.aead, REAL.aeadOpen.bind(REAL)),
      xaeadSeal: at(costs.xaead, REAL.xaeadSeal.bind(REAL)),
      xaeadOpen: at(costs.xaead, REAL.xaeadOpen.bind(REAL)),
      keySlot: REAL.keySlot.bind(REAL),
      sealBatch: at(costs.packet, REAL.sealBatch.bind(REAL)),
      openBatch: at(costs.packet, REAL.openBatch.bind(REAL)),
    }
  }
}

interface Outcome {
  readonly share: number
  readonly device: WireGuardDevice
  readonly now: Instant
}

/** A paced session and a flood of forged initiations, each from another source, meet one thread and its receive buffer. */
function flood(costs: Costs, options: { readonly mbit: number; readonly ms: number; readonly loadMonitor?: LoadMonitor }): Outcome {
  const random = new SeededRandom(5)
  const keys = { alice: NodePrivateKey.generate(random.bytes), bob: NodePrivateKey.generate(random.bytes) }
  const cpu = new Cpu()
  let now = instant(1_000)
  const make = (privateKey: NodePrivateKey, provider: CryptoProvider, more: object = {}): WireGuardDevice =>
    new WireGuardDevice({ random: random.bytes, wallClock: () => 1_700_000_000_000 + now, privateKey, provider, ...more })
  const alice = make(keys.alice, REAL)
  const bob = make(keys.bob, cpu.provider(costs), { stopwatch: () => cpu.worked, ...(options.loadMonitor !== undefined && { loadMonitor: options.loadMonitor }) })
  const home = { id: 'alice', cookieBytes: Uint8Array.of(192, 0, 2, 1, 1, 1) }
  alice.setPeer(now, { publicKey: keys.bob.publicKey(), path: home })
  bob.setPeer(now, { publicKey: keys.alice.publicKey(), path: home })
  alice.connect(now, keys.bob.publicKey())
  for (const [from, to] of [[alice, bob], [bob, alice], [alice, bob]] as const) {
    for (const output of drain(from)) if (output.type === 'transmit') to.handleInput(now, { type: 'datagram', bytes: output.bytes, from: home })
  }
  drain(bob)

  const packet = new Uint8Array(PACKET_BYTES)
  packet.set([0x45, 0, PACKET_BYTES >> 8, PACKET_BYTES & 255])
  const sealed = PacketBatch.slab(1, PACKET_BYTES)
  const mac1Key = mac1KeyOf(REAL, keys.bob.publicKey().bytes)
  const jar = new CookieJar()
  const forge = (sender: number): Uint8Array => {
    const message = encodeInitiation({ sender, ephemeral: random.bytes(32), sealedStatic: random.bytes(48), sealedTimestamp: random.bytes(28) })
    jar.stamp(now, REAL, mac1Key, message)
    return message
  }
  const start: number = now
  const gaps = { session: (PACKET_BYTES * 8) / (options.mbit * 1_000), flood: 1_000 / FLOOD_PER_SECOND }
  const sent = { session: 0, flood: 0 }
  const waiting: { readonly kind: 'session' | 'flood'; readonly bytes: Uint8Array; readonly from: WireGuardPath }[] = []
  let buffered = 0
  let delivered = 0
  const arrive = (until: number): void => {
    for (;;) {
      const kind = sent.session * gaps.session <= sent.flood * gaps.flood ? 'session' : 'flood'
      const at = start + sent[kind] * gaps[kind]
      if (at > until || at > start + options.ms) return
      sent[kind] += 1
      if (buffered + KERNEL_BYTES[kind] > BUFFER_BYTES) continue // lost
      buffered += KERNEL_BYTES[kind]
      if (kind === 'flood') {
        const n = sent.flood
        waiting.push({ kind, bytes: forge(n), from: { id: `m${n}`, cookieBytes: Uint8Array.of(10, (n >> 16) & 255, (n >> 8) & 255, n & 255, n & 255, 9) } })
      } else {
        sealed.reset()
        sealed.addCopy(packet)
        alice.seal(instant(at), keys.bob.publicKey(), sealed)
        drain(alice)
        waiting.push({ kind, bytes: Uint8Array.from(sealed.result(0)), from: home })
      }
    }
  }
  for (let head = 0; ; ) {
    arrive(now)
    const datagram = waiting[head]
    if (datagram === undefined) {
      const next = start + Math.min(sent.session * gaps.session, sent.flood * gaps.flood)
      if (next > start + options.ms) break
      now = instant(Math.max(now, next))
      continue
    }
    head += 1
    buffered -= KERNEL_BYTES[datagram.kind]
    const before = cpu.worked
    cpu.spend(RECEIVE_US)
    bob.handleInput(now, { type: 'datagram', bytes: datagram.bytes, from: datagram.from })
    for (const output of drain(bob)) {
      if (output.type === 'packet') delivered += 1
      else if (output.type === 'transmit') cpu.spend(SEND_US)
    }
    now = after(now, cpu.worked - before)
    if (now > start + 2 * options.ms) break // hopelessly late
  }
  return { share: delivered / sent.session, device: bob, now }
}

const NEVER_LOAD: LoadMonitor = { handshakeArrived: () => false, worked: () => undefined, isUnderLoad: () => false }

test('a session of 200 Mbit/s keeps more than 95 % under 10,000 initiations a second from ever other sources', { timeout: 60_000 }, () => {
  const { share, device, now } = flood(WASM, { mbit: 200, ms: 2_000 })
  expect(share).toBeGreaterThan(0.99)
  const { drops, cookieRepliesSent, tables, underLoad } = device.status(now)
  expect(underLoad).toBe(true)
  expect(drops.get('handshake-auth'), 'worked on before it was load, and that soon ended').toBeLessThanOrEqual(202)
  // A tenth of the time, 15 us each, after a burst.
  expect(cookieRepliesSent).toBeLessThan((50 + 200) / 0.015)
  expect(cookieRepliesSent).toBeGreaterThan(10_000)
  expect(tables).toEqual({ indices: 1, sources: 0, outputs: 0 })
})

test('in plain JavaScript, where a key agreement takes 1.4 ms, so does one of 100 Mbit/s', { timeout: 60_000 }, () => {
  expect(flood(PLAIN_JAVASCRIPT, { mbit: 100, ms: 2_000 }).share).toBeGreaterThan(0.95)
})

test('the flood is one: without a notion of load it takes the session down', { timeout: 60_000 }, () => {
  expect(flood(PLAIN_JAVASCRIPT, { mbit: 100, ms: 1_500, loadMonitor: NEVER_LOAD }).share).toBeLessThan(0.9)
})

test('a hundred thousand forged messages leave nothing behind', { timeout: 60_000 }, () => {
  const { device, now, share } = flood(WASM, { mbit: 1, ms: 10_000 })
  expect(share).toBe(1)
  const { drops, tables, peers } = device.status(now)
  const forged = ['handshake-auth', 'cookie-required', 'overloaded'] as const
  expect(forged.reduce((sum, reason) => sum + (drops.get(reason) ?? 0), 0)).toBeGreaterThanOrEqual(100_000)
  expect([tables, peers.length]).toEqual([{ indices: 1, sources: 0, outputs: 0 }, 1])
})
