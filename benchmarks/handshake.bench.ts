import { type Instant, instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice } from '@meshwright/wireguard'
import type { Contender, Question } from './measure.ts'
import { type Candidate, candidates, reference } from './providers.ts'
import { Tunnel, WIRE } from './tunnel.ts'

const INITIATIONS = 2048
const APART_MS = 10_000
const EPOCH_MS = 1_767_225_600_000

/** How many WireGuard handshakes does each provider allow, against noble: both ends of them in one process, and the answering end alone? */
export function questions(): readonly Question[] {
  return [
    { name: 'handshake/answered', unit: 'handshakes', setup: () => ({ baseline: answering(reference), contenders: candidates().map(answering) }) },
    { name: 'handshake/both-ends', unit: 'handshakes', setup: () => ({ baseline: shaking(reference), contenders: candidates().map(shaking) }) },
  ]
}

function shaking({ name, provider }: Candidate): Contender {
  const tunnel = new Tunnel(provider)
  return { name, run: () => tunnel.shake() }
}

// From the bytes of an initiation to the bytes of the answer, with all that the device does for it.
function answering({ name, provider }: Candidate): Contender {
  const { alice, bob, initiations } = recorded()
  let now: Instant = instant(0)
  const device = new WireGuardDevice({ random: new SeededRandom(2).bytes, provider, wallClock: () => EPOCH_MS + now, privateKey: bob })
  const peer = { publicKey: alice.publicKey(), path: WIRE }
  let next = 0
  return {
    name,
    run(): void {
      if (next % INITIATIONS === 0) {
        // Timestamps begin anew: the device must not remember them.
        device.removePeer(now, peer.publicKey)
        device.setPeer(now, peer)
      }
      const bytes = initiations[next % INITIATIONS]
      if (bytes === undefined) throw new Error('no initiation')
      next += 1
      now = instant(now + APART_MS)
      device.handleInput(now, { type: 'datagram', bytes, from: WIRE })
      let answers = 0
      for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) if (output.type === 'transmit') answers += 1
      if (answers !== 1) throw new Error(`${name}: ${answers} answers to an initiation`)
    },
  }
}

interface Recorded {
  readonly alice: NodePrivateKey
  readonly bob: NodePrivateKey
  readonly initiations: readonly Uint8Array[]
}

let once: Recorded | undefined

/** Initiations of one peer, made by the fastest provider. */
function recorded(): Recorded {
  if (once !== undefined) return once
  const random = new SeededRandom(1).bytes
  const [alice, bob] = [NodePrivateKey.generate(random), NodePrivateKey.generate(random)]
  const provider = candidates().at(-1)?.provider ?? reference.provider
  let now: Instant = instant(0)
  const device = new WireGuardDevice({ random, provider, wallClock: () => EPOCH_MS + now, privateKey: alice })
  device.setPeer(now, { publicKey: bob.publicKey(), path: WIRE })
  const initiations: Uint8Array[] = []
  while (initiations.length < INITIATIONS) {
    now = instant(now + APART_MS)
    device.resetPeer(now, bob.publicKey())
    device.connect(now, bob.publicKey())
    for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) if (output.type === 'transmit') initiations.push(output.bytes)
  }
  once = { alice, bob, initiations }
  return once
}
