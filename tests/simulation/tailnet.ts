import { controlServerConfig } from '@meshwright/control-server'
import type { Ip } from '@meshwright/ip'
import { type Host, SeededRandom, VirtualClock, VirtualNetwork } from '@meshwright/testkit'
import { ControlSite } from './control-site.ts'
import { MeshHost } from './mesh-host.ts'
import { RelaySite } from './relay-site.ts'
import { Transcript } from './transcript.ts'

const RELAY_ADDRESS = '198.51.100.10'

/** Three nodes behind three kinds of boxes, a relay and a control server: a whole mesh in virtual time, made from one seed. */
export class Tailnet {
  readonly clock: VirtualClock = new VirtualClock(1_000)
  readonly transcript: Transcript = new Transcript()
  readonly network: VirtualNetwork
  readonly control: ControlSite
  readonly relay: RelaySite
  /** Laptop of alice, behind a port-restricted NAT with a lossy link. */
  readonly laptop: MeshHost
  /** Laptop of bob, behind a NAT as home routers have it. */
  readonly guest: MeshHost
  /** Tagged server, behind a firewall that keeps state. */
  readonly db: MeshHost

  constructor(seed: number, options: { readonly loss?: number } = {}) {
    const random = new SeededRandom(seed)
    this.network = new VirtualNetwork(this.clock, random)
    const config = controlServerConfig({
      serverUrl: 'http://control.test',
      baseDomain: 'mesh.test',
      derpMap: {
        Regions: {
          '900': { RegionID: 900, RegionCode: 'lab', RegionName: 'Lab', Nodes: [{ Name: '900a', RegionID: 900, HostName: 'relay.test', IPv4: RELAY_ADDRESS, IPv6: 'none' }] },
        },
      },
    })
    this.control = new ControlSite(this.network, random.u32(), config, this.transcript)
    this.relay = new RelaySite(this.network, random.u32(), RELAY_ADDRESS, this.transcript, (key) => this.control.knows(key))
    const link = { latencyMs: 4, jitterMs: 2, loss: options.loss ?? 0 }
    const internet = this.network.internet
    const home = internet.behind({ kind: 'port-restricted', ip: '203.0.113.1', lan: '192.168.1.0/24' }).inside
    const cafe = internet.behind({ kind: 'addr-restricted', ip: '203.0.113.2', lan: '192.168.1.0/24' }).inside
    const rack = internet.behind({ kind: 'firewall', lan: '203.0.113.64/26' }).inside
    const make = (name: string, host: Host): MeshHost =>
      new MeshHost({ name, seed: random.u32(), network: this.network, host, control: this.control, relay: this.relay, transcript: this.transcript })
    this.laptop = make('laptop', home.host('192.168.1.10', link))
    this.guest = make('guest', cafe.host('192.168.1.20', link))
    this.db = make('db', rack.host('203.0.113.70', link))
  }

  get nodes(): readonly MeshHost[] {
    return [this.laptop, this.guest, this.db]
  }

  run(ms: number): void {
    this.network.runFor(ms, [this.control, this.relay, ...this.nodes])
  }

  /** Runs until something is so; gives how long that took. Fails after `limitMs`. */
  runUntil(what: string, limitMs: number, isSo: () => boolean, stepMs: number = 50): number {
    const start = this.clock.now
    while (!isSo()) {
      if (this.clock.now - start >= limitMs) throw new Error(`not within ${limitMs} virtual ms: ${what}`)
      this.run(stepMs)
    }
    return this.clock.now - start
  }

  /** No UDP passes a node's own link; relays and control connections do. */
  blockUdp(node: MeshHost, blocked: boolean): void {
    node.host.link.set({ blockUdp: blocked })
  }

  /** Sends echoes until something is so and one has come back after that; gives how long it took. */
  chatUntil(from: MeshHost, to: Ip, what: string, limitMs: number, isSo: () => boolean): number {
    const start = this.clock.now
    for (;;) {
      const sequence = from.sendEcho(to)
      this.run(200)
      if (isSo() && from.echoes.has(sequence)) return this.clock.now - start
      if (this.clock.now - start >= limitMs) throw new Error(`not within ${limitMs} virtual ms: ${what}`)
    }
  }

  /** Sends an echo every 100 ms for a time, waits for stragglers; gives how many were sent and how many came back. */
  chat(from: MeshHost, to: Ip, ms: number): { readonly sent: number; readonly answered: number } {
    const sent: number[] = []
    for (let passed = 0; passed < ms; passed += 100) {
      sent.push(from.sendEcho(to))
      this.run(100)
    }
    this.run(500)
    return { sent: sent.length, answered: sent.filter((sequence) => from.echoes.has(sequence)).length }
  }
}
