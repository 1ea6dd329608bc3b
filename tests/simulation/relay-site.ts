import { after, type Instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpServer, type DerpServerInput } from '@meshwright/derp'
import { answerBinding } from '@meshwright/nat-traversal'
import { type Actor, connectStreams, SeededRandom, type StreamEnd, type StreamReceiver, type VirtualNetwork } from '@meshwright/testkit'
import type { Transcript } from './transcript.ts'

/** One way between any node and the relay. */
export const RELAY_LATENCY_MS = 20
const STUN_PORT = 3478

/** A relay with STUN on a host of the internet; it asks `admits` before it lets a key in. */
export class RelaySite implements Actor {
  readonly server: DerpServer
  readonly #network: VirtualNetwork
  readonly #transcript: Transcript
  readonly #admits: (nodeKey: string) => boolean
  readonly #ends: Map<number, StreamEnd> = new Map()
  #next = 1

  constructor(network: VirtualNetwork, seed: number, address: string, transcript: Transcript, admits: (nodeKey: string) => boolean) {
    const random = new SeededRandom(seed)
    this.#network = network
    this.#transcript = transcript
    this.#admits = admits
    this.server = new DerpServer({ privateKey: NodePrivateKey.generate(random.bytes), random: random.bytes, admission: true })
    const stun = network.internet.host(address, { latencyMs: 5 }).bind(STUN_PORT, (_now, datagram) => {
      const answer = answerBinding(datagram.bytes, datagram.from)
      if (answer !== undefined) stun.send(datagram.from, answer)
    })
  }

  pollTimeout(): Instant | undefined {
    return this.server.pollTimeout()
  }

  handleTimeout(now: Instant): void {
    this.server.handleTimeout(now)
    this.#drain()
  }

  /** A node dials: the end of the stream that it writes to. */
  connect(place: string, client: StreamReceiver): StreamEnd {
    const conn = this.#next
    this.#next += 1
    const [near, far] = connectStreams(this.#network, RELAY_LATENCY_MS, client, {
      data: (now, bytes) => {
        this.#transcript.note(now, `relay from ${place}`, bytes)
        this.#feed({ type: 'bytes', conn, bytes })
      },
      closed: () => {
        this.#ends.delete(conn)
        this.#feed({ type: 'closed', conn })
      },
    })
    this.#ends.set(conn, far)
    this.#network.schedule(after(this.#network.clock.now, RELAY_LATENCY_MS), () => this.#feed({ type: 'accepted', conn }))
    return near
  }

  #feed(input: DerpServerInput): void {
    this.server.handleInput(this.#network.clock.now, input)
    this.#drain()
  }

  #drain(): void {
    const { server } = this
    for (let output = server.pollOutput(); output !== undefined; output = server.pollOutput()) {
      switch (output.type) {
        case 'write':
          this.#ends.get(output.conn)?.write(output.bytes)
          server.handleInput(this.#network.clock.now, { type: 'writable', conn: output.conn, bytes: output.bytes.length })
          break
        case 'close':
          this.#ends.get(output.conn)?.close()
          this.#ends.delete(output.conn)
          break
        case 'verify':
          server.handleInput(this.#network.clock.now, { type: 'verified', conn: output.conn, allow: this.#admits(output.nodeKey.text) })
          break
        default:
      }
    }
  }
}
