import { type Instant, instant } from '@meshwright/core'
import { type CryptoProvider, NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice } from '@meshwright/wireguard'

const TICK_MS = 10_000
/** The one path of the wire. */
export const WIRE = { id: 'wire', cookieBytes: Uint8Array.of(192, 0, 2, 1, 202, 108) }

/** Two WireGuard devices with a wire between them, in memory. */
export class Tunnel {
  readonly a: WireGuardDevice
  readonly b: WireGuardDevice
  readonly keyOfA: NodePublicKey
  readonly keyOfB: NodePublicKey
  #now: Instant = instant(0)

  constructor(provider: CryptoProvider) {
    const random = new SeededRandom(1).bytes
    const [alice, bob] = [NodePrivateKey.generate(random), NodePrivateKey.generate(random)]
    const options = { random, provider, wallClock: (): number => 1_767_225_600_000 + this.#now }
    this.a = new WireGuardDevice({ ...options, privateKey: alice })
    this.b = new WireGuardDevice({ ...options, privateKey: bob })
    this.keyOfA = alice.publicKey()
    this.keyOfB = bob.publicKey()
    this.a.setPeer(this.#now, { publicKey: this.keyOfB, path: WIRE })
    this.b.setPeer(this.#now, { publicKey: this.keyOfA, path: WIRE })
  }

  get now(): Instant {
    return this.#now
  }

  /** A whole handshake, A to B, with all that both ends do for it; a new one each time. */
  shake(): void {
    this.#now = instant(this.#now + TICK_MS)
    this.a.resetPeer(this.#now, this.keyOfB)
    this.a.connect(this.#now, this.keyOfB)
    let established = 0
    for (let moved = true; moved; ) {
      moved = false
      for (const [from, to] of [[this.a, this.b], [this.b, this.a]] as const) {
        for (let output = from.pollOutput(); output !== undefined; output = from.pollOutput()) {
          if (output.type === 'established') established += 1
          if (output.type === 'transmit') to.handleInput(this.#now, { type: 'datagram', bytes: output.bytes, from: WIRE })
          moved = true
        }
      }
    }
    if (established !== 2) throw new Error('the handshake did not finish at both ends')
  }
}
