import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { DONE, PacketBatch } from '@meshwright/core'
import { type Measurement, median } from './measure.ts'
import { type Candidate, candidates } from './providers.ts'
import { Tunnel } from './tunnel.ts'

const SLOTS = 32
const PACKET_BYTES = 1420
const DATAGRAM_BYTES: number = PACKET_BYTES + 32
const PACKETS = 16_000
const WARM_UP = 4_000
const ROUNDS = 5
/** So many datagrams are under way at most: they fit into any receive buffer. */
const WINDOW: number = 2 * SLOTS
const STALLED_MS = 100

/**
 * What is left of the rate of one event loop that sends datagrams to itself when A seals and B opens every one of them? Both loops copy
 * in and out alike; rates are packets that arrive per second of CPU time.
 */
export function measurements(): readonly Measurement[] {
  return candidates().filter(({ name }) => name !== 'node').map((candidate) => ({
    name: `dgram/${PACKET_BYTES}-${candidate.name}`,
    unit: 'x the loop without crypto',
    measure: async (): Promise<number> => {
      const ratios: number[] = []
      for (let round = 0; round <= ROUNDS; round += 1) {
        const bare = await new Loop(candidate, false).rate(round === 0 ? WARM_UP : PACKETS)
        const sealed = await new Loop(candidate, true).rate(round === 0 ? WARM_UP : PACKETS)
        if (round > 0) ratios.push(sealed / bare)
      }
      return median(ratios)
    },
  }))
}

class Loop {
  readonly #tunnel: Tunnel | undefined
  readonly #out: PacketBatch
  readonly #in: PacketBatch
  readonly #packet: Uint8Array
  #arrived = 0

  constructor({ provider, slab }: Candidate, withCrypto: boolean) {
    this.#tunnel = withCrypto ? new Tunnel(provider) : undefined
    this.#tunnel?.shake()
    this.#out = slab(SLOTS, DATAGRAM_BYTES)
    this.#in = slab(SLOTS, DATAGRAM_BYTES)
    // Without crypto the datagrams are as long as with it.
    this.#packet = new Uint8Array(withCrypto ? PACKET_BYTES : DATAGRAM_BYTES)
    this.#packet[0] = 0x45
    new DataView(this.#packet.buffer).setUint16(2, PACKET_BYTES)
  }

  async rate(packets: number): Promise<number> {
    const [from, to] = [createSocket('udp4'), createSocket({ type: 'udp4', recvBufferSize: 4_194_304 })]
    to.bind(0, '127.0.0.1')
    await once(to, 'listening')
    from.connect(to.address().port, '127.0.0.1')
    await once(from, 'connect')
    to.on('message', (bytes) => {
      this.#in.addCopy(bytes)
      if (this.#in.count === SLOTS) this.#take()
    })
    const begun = process.cpuUsage()
    let sent = 0
    let movedAt = performance.now()
    let before = 0
    while (this.#arrived < packets) {
      if (sent - this.#arrived <= WINDOW - SLOTS) {
        this.#send(from)
        sent += SLOTS
      }
      await new Promise(setImmediate)
      this.#take()
      if (this.#arrived !== before) [before, movedAt] = [this.#arrived, performance.now()]
      else if (performance.now() - movedAt > STALLED_MS) sent = this.#arrived // some were lost
    }
    const { user, system } = process.cpuUsage(begun)
    from.close()
    to.close()
    return this.#arrived / ((user + system) / 1e6)
  }

  #send(socket: Socket): void {
    const batch = this.#out
    batch.reset()
    for (let i = 0; i < SLOTS; i += 1) batch.addCopy(this.#packet)
    this.#tunnel?.a.seal(this.#tunnel.now, this.#tunnel.keyOfB, batch)
    for (let i = 0; i < SLOTS; i += 1) {
      const at = batch.target[i] ?? 0
      // A copy: `send` may read it later.
      socket.send(Buffer.from(batch.memory.subarray(at, at + DATAGRAM_BYTES)))
    }
  }

  #take(): void {
    const batch = this.#in
    if (batch.count === 0) return
    if (this.#tunnel === undefined) this.#arrived += batch.count
    else {
      this.#tunnel.b.open(this.#tunnel.now, undefined, batch)
      for (let i = 0; i < batch.count; i += 1) if (batch.verdict[i] === DONE) this.#arrived += 1
    }
    batch.reset()
  }
}
