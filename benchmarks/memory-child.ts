import { instant } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { CryptokeyRouter } from '@meshwright/cryptokey-router'
import { Ip, prefixOf } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice } from '@meshwright/wireguard'
import { chooseCryptoProvider } from '../packages/runtime-node/src/fast-crypto.ts'
import { engine } from './packet.bench.ts'
import { candidates, reference } from './providers.ts'

/** Run by memory.bench.ts with --expose-gc: prints one JSON value. */

const CONFIGURED = 10_000
const WITH_SESSION = 2_000
const WARM_UP_RUNS = 3_000
const COUNTED_RUNS = 1_000
/** Seldom enough not to be load, and all before the first session is too old. */
const GREETING_EVERY_MS = 50
const PACKET: Uint8Array = new Uint8Array(64).fill(0x45, 0, 1).fill(64, 3, 4)
const EPOCH_MS = 1_767_225_600_000

declare const gc: (() => void) | undefined

const random = new SeededRandom(3)
const provider = chooseCryptoProvider()

function configured(): Record<string, number> {
  const bob = new Bob()
  const keys = Array.from({ length: CONFIGURED }, () => random.bytes(32))
  bob.add(random.bytes(32), -1)
  const before = settledBytes()
  const begun = performance.now()
  keys.forEach((key, i) => bob.add(key, i))
  const seconds = (performance.now() - begun) / 1000
  return { seconds, bytesPerPeer: (settledBytes() - before) / CONFIGURED, peers: bob.peers }
}

function sessions(): Record<string, number> {
  const bob = new Bob()
  const privateKeys = Array.from({ length: WITH_SESSION }, () => random.bytes(32))
  bob.greet(random.bytes(32), -1)
  const before = settledBytes()
  privateKeys.forEach((key, i) => bob.greet(key, i))
  return { bytesPerPeer: (settledBytes() - before) / WITH_SESSION, peers: bob.peers }
}

/** A device, and the router beside it: what an interface is made of. */
class Bob {
  readonly #privateKey: NodePrivateKey = NodePrivateKey.generate(random.bytes)
  readonly #device = new WireGuardDevice({ random: random.bytes, provider, wallClock: () => EPOCH_MS, privateKey: this.#privateKey })
  readonly #router = new CryptokeyRouter<NodePublicKey>()

  get peers(): number {
    return this.#device.status(instant(0)).peers.length
  }

  /** A peer with an endpoint and an address of each family. */
  add(key: Uint8Array, i: number): NodePublicKey {
    const publicKey = NodePublicKey.fromBytes(key)
    if (publicKey === undefined) throw new Error('no key')
    const number = i + 1
    const path = { id: `192.0.2.1:${1000 + number}`, cookieBytes: Uint8Array.of(192, 0, 2, 1, number >> 8, number & 255) }
    this.#device.setPeer(instant(0), { publicKey, path })
    for (const bytes of [[10, 0, number >> 8, number & 255], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number >> 8, number & 255]]) {
      const prefix = prefixOf(Ip.fromOwnedBytes(Uint8Array.from(bytes)), 8 * bytes.length)
      if (prefix === undefined) throw new Error('no prefix')
      this.#router.insert(prefix, publicKey)
    }
    return publicKey
  }

  /** A peer that has shaken hands and sent a packet; its own device is garbage afterwards. */
  greet(secret: Uint8Array, i: number): void {
    const privateKey = NodePrivateKey.fromBytes(secret)
    if (privateKey === undefined) throw new Error('no key')
    const publicKey = this.add(privateKey.publicKey().bytes, i)
    const alice = new WireGuardDevice({ random: random.bytes, provider, wallClock: () => EPOCH_MS, privateKey })
    const path = { id: `192.0.2.1:${1001 + i}`, cookieBytes: Uint8Array.of(192, 0, 2, 1, 0, 0) }
    const own = this.#privateKey.publicKey()
    const now = instant(i < 0 ? 0 : GREETING_EVERY_MS * (i + 1))
    alice.setPeer(now, { publicKey: own, path })
    alice.handleInput(now, { type: 'packet', peer: own, bytes: PACKET })
    for (let moved = true; moved; ) {
      moved = false
      for (const [from, to] of [[alice, this.#device], [this.#device, alice]] as const) {
        for (let output = from.pollOutput(); output !== undefined; output = from.pollOutput()) {
          if (output.type === 'transmit') to.handleInput(now, { type: 'datagram', bytes: output.bytes, from: path })
          moved = true
        }
      }
    }
    if (this.#device.peerStatus(now, publicKey)?.state !== 'established') throw new Error('no session')
  }
}

/** A seals, B opens, in batches; what both leave on the heap and outside of it, before any collection. */
function transient(name: string): Record<string, number> | undefined {
  const candidate = [reference, ...candidates()].find((each) => each.name === name)
  if (candidate === undefined) return undefined
  const { run, count = 1 } = engine(candidate)
  const runs = name === 'noble' ? 10 : 1
  for (let i = 0; i < WARM_UP_RUNS / runs; i += 1) run()
  settledBytes()
  // What the collections have freed outside of the heap is counted off some time later.
  for (let i = 0; i < COUNTED_RUNS / runs; i += 1) run()
  const before = usedBytes()
  for (let i = 0; i < COUNTED_RUNS / runs; i += 1) run()
  return { bytesPerPacket: (usedBytes() - before) / ((count * COUNTED_RUNS) / runs) }
}

function settledBytes(): number {
  for (let i = 0; i < 4; i += 1) gc?.()
  return usedBytes()
}

function usedBytes(): number {
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const mode = process.argv[2] ?? ''
const answer = mode === 'configured' ? configured() : mode === 'sessions' ? sessions() : transient(mode.replace('transient-', ''))
process.stdout.write(`${JSON.stringify(answer ?? null)}\n`)
