import { instant } from '@meshwright/core'
import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { describe, expect, test } from 'vitest'
import { SeededRandom } from '../seeded-random.ts'
import { VirtualClock } from '../virtual-clock.ts'
import { type Box, type Host, NAT_KINDS, type NatKind, VirtualNetwork } from './index.ts'

const BYTES = Uint8Array.of(1, 2, 3)

function make(seed = 1): VirtualNetwork {
  return new VirtualNetwork(new VirtualClock(), new SeededRandom(seed))
}

/** A server with two addresses and two ports that reports the source it sees, and can answer from any of the four. */
class Server {
  readonly seen: Endpoint[] = []
  readonly network: VirtualNetwork
  readonly #hosts: Host[]

  constructor(network: VirtualNetwork) {
    this.network = network
    this.#hosts = ['198.51.100.10', '198.51.100.11'].map((ip) => network.internet.host(ip))
    for (const host of this.#hosts) for (const port of [1, 2]) host.bind(port, (_now, datagram) => this.seen.push(datagram.from))
  }

  /** The source that each of the four sees of one socket. */
  mapping(host: Host, port: number): string[] {
    const socket = host.bind(port, () => {})
    for (const to of ['198.51.100.10:1', '198.51.100.10:2', '198.51.100.11:1', '198.51.100.11:2']) {
      socket.send(endpoint(to), BYTES)
      this.network.runFor(100)
    }
    return this.seen.splice(0).map(formatEndpoint)
  }

  /** Which of the four can answer a socket that has sent to the first alone. */
  filtering(host: Host, port: number): string[] {
    const heard: string[] = []
    const socket = host.bind(port, (_now, datagram) => heard.push(formatEndpoint(datagram.from)))
    socket.send(endpoint('198.51.100.10:1'), BYTES)
    this.network.runFor(100)
    const [to] = this.seen.splice(0)
    if (to === undefined) return ['nothing arrived']
    for (const server of this.#hosts) for (const from of [1, 2]) server.send(from, to, BYTES)
    this.network.runFor(100)
    return heard
  }
}

describe('every kind of box is what it says (RFC 4787)', () => {
  test.each<[NatKind, string, string, number]>([
    ['full-cone', 'EIM', 'EIF', 1],
    ['addr-restricted', 'EIM', 'ADF', 2],
    ['port-restricted', 'EIM', 'APDF', 3],
    ['symmetric', 'APDM', 'APDF', 4],
    ['symmetric-adm', 'ADM', 'APDF', 5],
    ['symmetric-eif', 'APDM', 'EIF', 6],
    ['symmetric-seq', 'APDM', 'APDF', 7],
    ['linux', 'EIM', 'APDF', 8],
    ['firewall', 'EIM', 'APDF', 9],
  ])('%s: mapping %s, filtering %s', (kind, mapping, filtering, seed) => {
    const network = make(seed)
    const server = new Server(network)
    const host = behind(network, kind).inside.host(kind === 'firewall' ? '203.0.113.10' : '192.168.1.10')
    const ports = server.mapping(host, 5_000)
    const perAddress = ports[0] === ports[1] && ports[2] === ports[3]
    expect(new Set(ports).size === 1 ? 'EIM' : perAddress ? 'ADM' : 'APDM').toBe(mapping)
    const heard = server.filtering(host, 5_001)
    expect(heard.length === 4 ? 'EIF' : heard.length === 2 ? 'ADF' : heard.length === 1 ? 'APDF' : heard.join()).toBe(filtering)
    if (kind === 'firewall' || kind === 'linux') expect(ports[0]?.endsWith(':5000')).toBe(true)
    if (kind === 'symmetric-seq') expect(ports.map((text) => Number(text.split(':')[1]))).toEqual([50_000, 50_001, 50_002, 50_003])
  })

  test('udp-blocked lets nothing out', () => {
    const network = make()
    expect(new Server(network).mapping(behind(network, 'udp-blocked').inside.host('192.168.1.10'), 1)).toEqual([])
    expect(network.drops.get('nat-out')).toBe(4)
  })

  test('two inside sockets of one port get two external ports', () => {
    const network = make()
    const server = new Server(network)
    const box = behind(network, 'port-restricted')
    const first = server.mapping(box.inside.host('192.168.1.10'), 41_641)
    const second = server.mapping(box.inside.host('192.168.1.11'), 41_641)
    expect(new Set([...first, ...second]).size).toBe(2)
  })

  test('mappings die with their time-out and with a restart', () => {
    const network = make()
    const server = new Server(network)
    const box = behind(network, 'full-cone')
    const heard: number[] = []
    const socket = box.inside.host('192.168.1.10').bind(1, (now) => heard.push(now))
    const outsider = network.internet.host('198.51.100.99').bind(9, () => {})
    socket.send(endpoint('198.51.100.10:1'), BYTES)
    network.runFor(10)
    const mapped = server.seen[0] ?? fail()
    for (const wait of [59_000, 2_000]) {
      network.runFor(wait)
      outsider.send(mapped, BYTES)
      network.runFor(10)
    }
    expect(heard.length).toBe(1)
    box.nat.flush()
    outsider.send(mapped, BYTES)
    network.runFor(10)
    expect(heard.length).toBe(1)
    expect(network.drops.get('nat-in')).toBe(2)
  })

  test('an early packet spoils the port of a linux box towards its sender', () => {
    const network = make()
    const server = new Server(network)
    const box = behind(network, 'linux')
    const host = box.inside.host('192.168.1.10')
    expect(server.mapping(host, 5_000)[0]).toBe('203.0.113.2:5000')
    const peerSaw: string[] = []
    const peer = network.internet.host('198.51.100.99').bind(9, (_now, datagram) => peerSaw.push(formatEndpoint(datagram.from)))
    peer.send(endpoint('203.0.113.2:5000'), BYTES)
    network.runFor(10)
    host.send(5_000, endpoint('198.51.100.99:9'), BYTES)
    network.runFor(10)
    expect(peerSaw.length).toBe(1)
    expect(peerSaw[0]).not.toBe('203.0.113.2:5000')
  })

  test('inside hosts reach each other by external addresses only with hairpinning, and boxes stack', () => {
    for (const hairpin of [false, true]) {
      const network = make()
      const server = new Server(network)
      const carrier = network.internet.behind({ kind: { ...NAT_KINDS['full-cone'], hairpin }, ip: '203.0.113.2', lan: '100.64.0.0/10' })
      const homes = [1, 2].map((i) => carrier.inside.behind({ kind: 'port-restricted', ip: `100.64.0.${i}`, lan: `192.168.${i}.0/24` }))
      const heard: string[] = []
      const sockets = homes.map((home, i) => home.inside.host(`192.168.${i + 1}.10`).bind(7, (_now, datagram) => heard.push(formatEndpoint(datagram.from))))
      for (const socket of sockets) socket.send(endpoint('198.51.100.10:1'), BYTES)
      network.runFor(50)
      const [a, b] = server.seen
      expect(a?.ip.key).toBe('203.0.113.2')
      sockets[0]?.send(b ?? fail(), BYTES)
      network.runFor(50)
      sockets[1]?.send(a ?? fail(), BYTES)
      network.runFor(50)
      expect(heard).toEqual(hairpin ? [formatEndpoint(b ?? fail())] : [])
    }
  })
})

describe('links', () => {
  test('latency adds up over both access links', () => {
    const network = make()
    const times: number[] = []
    const a = network.internet.host('198.51.100.1', { latencyMs: 10 }).bind(0, () => {})
    network.internet.host('198.51.100.2', { latencyMs: 25 }).bind(1, (now) => times.push(now))
    a.send(endpoint('198.51.100.2:1'), BYTES)
    network.runUntil(instant(1_000))
    expect(times).toEqual([35])
    expect(network.clock.now).toBe(1_000)
  })

  test('loss, duplication, reordering and cuts happen as often as they should', () => {
    const network = make()
    const numbers: number[] = []
    const host = network.internet.host('198.51.100.1', { loss: 0.2, duplicate: 0.1, reorder: 0.1 })
    const a = host.bind(0, () => {})
    network.internet.host('198.51.100.2').bind(1, (_now, datagram) => numbers.push((datagram.bytes[0] ?? 0) * 256 + (datagram.bytes[1] ?? 0)))
    for (let i = 0; i < 2_000; i += 1) {
      a.send(endpoint('198.51.100.2:1'), Uint8Array.of(i >> 8, i & 255))
      network.runFor(1)
    }
    network.runFor(100)
    const unique = new Set(numbers).size
    expect(unique).toBeGreaterThan(1_500)
    expect(unique).toBeLessThan(1_700)
    expect(numbers.length - unique).toBeGreaterThan(100)
    expect(numbers.some((n, i) => n < (numbers[i - 1] ?? 0))).toBe(true)
    host.link.set({ blockUdp: true })
    a.send(endpoint('198.51.100.2:1'), BYTES)
    const before = numbers.length
    network.runFor(100)
    expect(numbers.length).toBe(before)
  })

  test('the same seed gives the same transcript, another seed another', () => {
    const run = (seed: number): string => {
      const network = make(seed)
      const server = new Server(network)
      const box = network.internet.behind({ kind: 'symmetric', ip: '203.0.113.2', lan: '192.168.1.0/24', link: { jitterMs: 5, loss: 0.1 } })
      server.mapping(box.inside.host('192.168.1.10'), 1)
      return network.transcript
    }
    expect(run(3)).toBe(run(3))
    expect(run(3)).not.toBe(run(4))
  })
})

function behind(network: VirtualNetwork, kind: NatKind): Box {
  return kind === 'firewall' ? network.internet.behind({ kind, lan: '203.0.113.8/29' }) : network.internet.behind({ kind, ip: '203.0.113.2', lan: '192.168.1.0/24' })
}

function endpoint(text: string): Endpoint {
  return parseEndpoint(text) ?? fail()
}

function fail(): never {
  throw new Error('a fixed value of this test is wrong')
}
