import { NodePrivateKey } from '@meshwright/crypto'
import { IpSet, parseIp } from '@meshwright/ip'
import { WireGuardDevice } from '@meshwright/wireguard'
import type { FilterVectors, Verdict } from '../filter-vectors.ts'
import type { CaseResult } from '../kind.ts'
import type { LaneActor } from './actor.ts'
import { actorOn, ALL, check, endpoint, hex, type LaneUnderTest, prefix } from './lane-under-test.ts'

const OWN_KEY = 'a0037480576f53b132f82da09de8dc149269980997001c32368b7f8e3eabe455'
const THERE = endpoint('192.0.2.1:1000')
const PATH = { id: 'node', cookieBytes: new Uint8Array(6) }
/** A keepalive: it is taken, and no packet comes of it. */
const KEEPALIVE = ''
/**
 * What a node has beside its filter: messages between nodes (TSMP), which it takes wherever they are addressed, as tailscaled does
 * (tailscale/tailscale:net/tstun/wrap.go).
 */
const BESIDE_THE_FILTER: readonly string[] = ['none-tsmp-foreign-dst']

/** Golden verdicts of the packet filter, for packets that a peer who may have any address has sealed, and for ones that go to it. */
export function filterOnLane(vectors: FilterVectors, under: LaneUnderTest): readonly CaseResult[] {
  const cases = [...vectors.cases, ...(vectors.raw ?? [])].filter(({ id, hex: packet }) => packet !== KEEPALIVE && !BESIDE_THE_FILTER.includes(id))
  const names = [...new Set(cases.map(({ filter }) => filter))]
  return [
    ...names.flatMap((name) => {
      const tunnel = new Meeting(under, vectors, name)
      return cases.filter(({ filter }) => filter === name).map(({ id, hex: packet, verdict }) => check(under, `filter/${id}`, tunnel.comes(hex(packet)), verdict))
    }),
    ...(vectors.sequences ?? []).map(({ id, filter, steps }) => {
      const tunnel = new Meeting(under, vectors, filter)
      return check(under, `filter/${id}`, steps.map(({ dir, hex: packet }) => (dir === 'in' ? tunnel.comes(hex(packet)) : tunnel.goes(hex(packet)))), steps.map(({ verdict }) => verdict))
    }),
  ]
}

/** A lane with a session with one peer. */
class Meeting {
  readonly #actor: LaneActor
  readonly #peer: WireGuardDevice

  constructor(under: LaneUnderTest, { filters }: FilterVectors, name: string | undefined) {
    const random = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (99 + i * 7) & 255)
    const key = NodePrivateKey.generate(random)
    const setup = name === undefined ? undefined : filters[name]
    this.#actor = actorOn(under, OWN_KEY)
    this.#actor.know([{ publicKey: key.publicKey(), endpoint: THERE, allowed: ALL }], {
      rules: setup?.rules ?? [],
      local: IpSet.from((setup?.localNets ?? []).map(prefix)),
      capabilities: new Map(Object.entries(setup?.nodeCaps ?? {}).map(([address, names]) => [parseIp(address)?.key ?? address, new Set(names)])),
    })
    this.#peer = new WireGuardDevice({ provider: under.provider, privateKey: key, random, wallClock: () => 1_600_000_000_000 })
    this.#peer.setPeer(this.#actor.now, { publicKey: this.#actor.key.publicKey(), path: PATH })
    this.#peer.connect(this.#actor.now, this.#actor.key.publicKey())
    for (let step = 0; step < 2; step += 1) {
      this.#send()
      for (const { bytes } of this.#actor.takeSent()) this.#peer.handleInput(this.#actor.now, { type: 'datagram', bytes, from: PATH })
    }
    this.#send()
  }

  comes(packet: Uint8Array): Verdict {
    this.#peer.handleInput(this.#actor.now, { type: 'packet', peer: this.#actor.key.publicKey(), bytes: packet })
    this.#actor.takeDelivered()
    this.#send()
    return this.#actor.takeDelivered().length > 0 ? 'accept' : 'drop'
  }

  goes(packet: Uint8Array): Verdict {
    this.#actor.takeSent()
    this.#actor.packet(packet)
    return this.#actor.takeSent().length > 0 ? 'accept' : 'drop'
  }

  #send(): void {
    for (let output = this.#peer.pollOutput(); output !== undefined; output = this.#peer.pollOutput()) if (output.type === 'transmit') this.#actor.datagram(THERE, output.bytes)
  }
}
