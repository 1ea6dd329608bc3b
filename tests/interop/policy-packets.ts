import type { Ip } from '@meshwright/ip'
import type { SeededRandom } from '@meshwright/testkit'

const STRANGE = ['8.8.8.8', '10.0.1.7', '10.0.200.1', '192.168.0.3', '203.0.113.9', '127.0.0.1', '0.0.0.0', '255.255.255.255', '224.0.0.251', '239.255.255.250', '169.254.1.1', '169.254.169.254', '100.100.100.100']
const STRANGE_6 = ['2001:4860:4860::8888', 'fd00:1::7', 'fd7a:115c:a1e0::53', '::1', '::', 'ff02::1', 'ff05::2', 'fe80::1', 'febf::1', 'fec0::1', '::ffff:10.0.1.7', 'fd7a:115c:a1e0:b1a:0:7:a00:1']
const PORTS = [0, 1, 22, 53, 79, 80, 81, 90, 443, 8000, 8100, 65535]
const PROTOCOLS = [1, 6, 6, 6, 17, 17, 17, 58, 132, 132, 2, 0, 33, 44, 47, 50, 99, 255]

/** Raw IP packets, most of them sound, between addresses of a pool and some others. */
export class PacketSource {
  readonly #random: SeededRandom
  readonly #pool: readonly Uint8Array[]
  readonly #sent: Uint8Array[] = []

  constructor(random: SeededRandom, addresses: readonly Ip[], parse: (text: string) => Ip | undefined) {
    this.#random = random
    this.#pool = [...addresses, ...[...STRANGE, ...STRANGE_6].flatMap((text) => parse(text) ?? [])].map((ip) => ip.bytes)
  }

  /** The next packet. `own` are addresses that are likely at one end: the destination of what comes in, the source of what goes out. */
  next(out: boolean, own: readonly Ip[]): Uint8Array {
    const random = this.#random
    const kind = random.below(40)
    if (kind === 0) return new Uint8Array()
    if (kind === 1) return random.bytes(random.below(80))
    const earlier = this.#sent.length > 0 && random.chance(0.35) ? random.pick(this.#sent) : undefined
    const packet = earlier === undefined ? this.#fresh(out, own) : random.chance(0.8) ? reversed(earlier) : earlier.slice()
    if (earlier === undefined) this.#sent.push(packet)
    if (this.#sent.length > 64) this.#sent.shift()
    if (kind === 2) return packet.slice(0, random.below(packet.length + 1))
    if (kind < 6) packet[random.below(packet.length)] = random.below(256)
    return packet
  }

  #fresh(out: boolean, own: readonly Ip[]): Uint8Array {
    const random = this.#random
    const near = random.chance(0.85) && own.length > 0 ? random.pick(own).bytes : random.pick(this.#pool)
    const peers = this.#pool.filter((bytes) => bytes.length === near.length)
    const far = peers.length === 0 ? near : random.pick(peers)
    const [source, destination] = out ? [near, far] : [far, near]
    return near.length === 4 ? this.#ipv4(source, destination) : this.#ipv6(source, destination)
  }

  #ipv4(source: Uint8Array, destination: Uint8Array): Uint8Array {
    const random = this.#random
    const options = random.chance(0.1) ? 4 * random.below(11) : 0
    const protocol = random.pick(PROTOCOLS)
    const body = this.#transport(protocol)
    const packet = new Uint8Array(20 + options + body.length)
    const view = new DataView(packet.buffer)
    packet[0] = 0x45 + options / 4
    view.setUint16(2, random.chance(0.95) ? packet.length : random.below(packet.length + 9))
    if (random.chance(0.15)) view.setUint16(6, random.pick([0x4000, 0x2000, 0x2000, random.below(20), 0x2000 + random.below(20), random.below(8192)]))
    packet[8] = 64
    packet[9] = protocol
    packet.set(source, 12)
    packet.set(destination, 16)
    packet.set(body, 20 + options)
    return packet
  }

  #ipv6(source: Uint8Array, destination: Uint8Array): Uint8Array {
    const random = this.#random
    const protocol = random.pick(PROTOCOLS)
    const inner = this.#transport(protocol === 44 ? 17 : protocol)
    const fragment = random.chance(0.15) || protocol === 44
    const body = new Uint8Array((fragment ? 8 : 0) + inner.length)
    if (fragment) {
      body[0] = protocol === 44 ? 17 : protocol
      new DataView(body.buffer).setUint16(2, random.pick([0, 1, 1, 8 * random.below(20), 8 * random.below(20) + 1, random.below(65536)]))
      body.set(inner, 8)
    } else body.set(inner)
    const packet = new Uint8Array(40 + body.length)
    packet[0] = 0x60
    new DataView(packet.buffer).setUint16(4, random.chance(0.95) ? body.length : random.below(body.length + 9))
    packet[6] = fragment ? 44 : protocol
    packet[7] = 64
    packet.set(source, 8)
    packet.set(destination, 24)
    packet.set(body, 40)
    return packet
  }

  #transport(protocol: number): Uint8Array {
    const random = this.#random
    const body = random.bytes(random.chance(0.9) ? 20 + random.below(12) : random.below(24))
    const view = new DataView(body.buffer)
    if (protocol === 1 || protocol === 58) {
      if (body.length > 1) {
        body[0] = random.pick([0, 3, 8, 11, 12, 18, 1, 2, 3, 4, 128, 129, 135, random.below(256)])
        body[1] = random.chance(0.8) ? 0 : random.below(8)
      }
    } else if (body.length >= 4) {
      view.setUint16(0, random.pick(PORTS))
      view.setUint16(2, random.pick(PORTS))
    }
    if (protocol === 6 && body.length >= 14) body[13] = random.pick([0x02, 0x02, 0x02, 0x10, 0x12, 0x18, 0x04, 0x01, 0xc2, 0x00, random.below(256)])
    return body
  }
}

/** The packet as an answer would look: ends and ports exchanged. */
function reversed(packet: Uint8Array): Uint8Array {
  const answer = packet.slice()
  const version = (packet[0] ?? 0) >>> 4
  const [from, size] = version === 4 ? [12, 4] : [8, 16]
  if (packet.length < from + 2 * size) return answer
  answer.set(packet.subarray(from + size, from + 2 * size), from)
  answer.set(packet.subarray(from, from + size), from + size)
  const header = version === 4 ? ((packet[0] ?? 0) & 15) * 4 : 40
  if (packet.length >= header + 4) {
    answer.set(packet.subarray(header + 2, header + 4), header)
    answer.set(packet.subarray(header, header + 2), header + 2)
  }
  return answer
}
