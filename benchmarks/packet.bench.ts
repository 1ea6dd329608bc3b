import { DONE, PacketBatch, PENDING } from '@meshwright/core'
import { encodeUdpPacket, Ip } from '@meshwright/ip'
import type { Contender, Question } from './measure.ts'
import { type Candidate, candidates, reference } from './providers.ts'
import { Tunnel } from './tunnel.ts'

const SLOTS = 32
const PACKET_BYTES = 1420
const HEADER_BYTES = 16
const TAG_BYTES = 16
const SLOT_BYTES: number = HEADER_BYTES + PACKET_BYTES + TAG_BYTES

/** What is left of the bare AEAD's rate when A seals a packet and B opens it, with sessions, replay window, timers and counters? */
export function questions(): readonly Question[] {
  return [reference, ...candidates()].map((candidate) => ({
    name: `packet/${PACKET_BYTES}-${candidate.name}`,
    unit: 'packets',
    setup: () => ({ baseline: bareAead(candidate), contenders: [engine(candidate)] }),
  }))
}

function bareAead({ name, provider, slab }: Candidate): Contender {
  const batch = slab(SLOTS, SLOT_BYTES)
  const slot = provider.keySlot(new Uint8Array(32).fill(3))
  let counter = 0n
  return {
    name: 'bare AEAD',
    count: SLOTS,
    run(): void {
      fill(batch)
      provider.sealBatch(slot, counter, batch)
      counter += BigInt(SLOTS)
      for (let i = 0; i < SLOTS; i += 1) batch.length[i] = PACKET_BYTES + TAG_BYTES
      batch.verdict.fill(PENDING)
      provider.openBatch(slot, batch)
      if (batch.verdict[SLOTS - 1] !== DONE) throw new Error(`${name} cannot open what it has sealed`)
    },
  }
}

/** A seals a batch and B opens it; what a device does beside the AEAD is in it. */
export function engine({ provider, slab }: Candidate): Contender {
  const tunnel = new Tunnel(provider)
  tunnel.shake()
  const batch = slab(SLOTS, SLOT_BYTES)
  const datagrams = new PacketBatch(batch.memory, SLOTS)
  return {
    name: 'engine',
    count: SLOTS,
    run(): void {
      fill(batch)
      tunnel.a.seal(tunnel.now, tunnel.keyOfB, batch)
      datagrams.reset()
      for (let i = 0; i < SLOTS; i += 1) datagrams.addSlot(batch.target[i] ?? 0, batch.targetLength[i] ?? 0)
      tunnel.b.open(tunnel.now, undefined, datagrams)
      if (datagrams.verdict[SLOTS - 1] !== DONE || datagrams.targetLength[SLOTS - 1] !== PACKET_BYTES) throw new Error('B did not get what A has sent')
    },
  }
}

const PACKET = encodeUdpPacket({
  src: { ip: Ip.fromOwnedBytes(Uint8Array.of(10, 0, 0, 1)), port: 1000 },
  dst: { ip: Ip.fromOwnedBytes(Uint8Array.of(10, 0, 0, 2)), port: 2000 },
  payload: new Uint8Array(PACKET_BYTES - 28),
})

function fill(batch: PacketBatch): void {
  batch.reset()
  for (let i = 0; i < SLOTS; i += 1) batch.addCopy(PACKET)
}
