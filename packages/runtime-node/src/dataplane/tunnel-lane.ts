import type { Instant, PacketBatch } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { OpenPlan, WireGuardOutput } from '@meshwright/wireguard'
import type { LaneDoors, LaneEngine } from './lane-engine.ts'
import type { UdpPath } from './socket-address.ts'
import type { EnginePeer, TunnelEngine } from './tunnel-engine.ts'

/** What a device says beside datagrams and packets. */
export type TunnelOutput = Exclude<WireGuardOutput<UdpPath>, { readonly type: 'transmit' | 'packet' }>

const NOTHING = [] as const

/** The engine of an interface that WireGuard's tools configure, on a lane: every path is an address, and nothing is relayed. */
export class TunnelLane implements LaneEngine<EnginePeer> {
  readonly engine: TunnelEngine<UdpPath>
  readonly #onOutput: ((output: TunnelOutput) => void) | undefined

  constructor(engine: TunnelEngine<UdpPath>, onOutput?: (output: TunnelOutput) => void) {
    this.engine = engine
    this.#onOutput = onOutput
  }

  ownerOf(_now: Instant, memory: Uint8Array, at: number, length: number, packets: number): EnginePeer | undefined {
    return this.engine.ownerOf(memory, at, length, packets)
  }

  seal(now: Instant, peer: EnginePeer, batch: PacketBatch): number {
    return this.engine.device.seal(now, peer.publicKey, batch)
  }

  pathOf(_now: Instant, peer: EnginePeer): UdpPath | undefined {
    return this.engine.device.pathOf(peer.publicKey)
  }

  relay(): void {
    // There are no relays.
  }

  takeRelayed(): readonly [] {
    return NOTHING
  }

  sent(): void {
    // The device counts for each peer.
  }

  notSent(): void {
    // A peer without an address is told of by the device.
  }

  open(now: Instant, from: UdpPath, batch: PacketBatch): OpenPlan<UdpPath> {
    return this.engine.open(now, from, batch)
  }

  foreign(): boolean {
    return false // the device counts what it does not know
  }

  admits(now: Instant, peer: NodePublicKey, memory: Uint8Array, at: number, length: number): boolean {
    return this.engine.admits(now, peer, memory, at, length)
  }

  settle(now: Instant, doors: LaneDoors): void {
    const { engine } = this
    const { device } = engine
    for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) {
      if (output.type === 'transmit') {
        if (output.to !== undefined) doors.send(output.to, output.bytes, output.trafficClass)
      } else if (output.type === 'packet') {
        if (engine.admits(now, output.peer, output.bytes, 0, output.bytes.length)) doors.deliver(output.bytes)
      } else {
        engine.note(output)
        this.#onOutput?.(output)
      }
    }
    for (const packet of engine.takeReleased()) doors.deliver(packet)
  }

  handleTimeout(now: Instant): void {
    this.engine.device.handleTimeout(now)
  }

  pollTimeout(): Instant | undefined {
    return this.engine.device.pollTimeout()
  }
}
