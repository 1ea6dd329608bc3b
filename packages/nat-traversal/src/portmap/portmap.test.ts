import { ByteWriter, concatBytes, formatHex, instant } from '@meshwright/core'
import { type Endpoint, formatEndpoint, type Ip, parseIp } from '@meshwright/ip'
import { drain, machineLaws, runTimers, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { decodeNatPmpResponse, decodePcpResponse, encodeNatPmpMapRequest, encodePcpMapRequest, PortMapper, type PortMapInput, type PortMapOutput } from './index.ts'

const GATEWAY = ip('192.168.1.1')
const SELF = ip('192.168.1.10')
const NETWORK = { gateway: GATEWAY, self: SELF, internalPort: 41_641 }

/** A gateway that speaks what it is told to, from the RFCs' layouts. */
class Gateway {
  readonly seen: string[] = []
  epoch = 1_000
  readonly speaks: ReadonlySet<string>
  readonly external: Ip
  readonly result: number

  constructor(speaks: readonly string[], external = '198.51.100.77', result = 0) {
    this.speaks = new Set(speaks)
    this.external = ip(external)
    this.result = result
  }

  answer(request: Uint8Array): Uint8Array | undefined {
    const hex = formatHex(request)
    this.seen.push(hex)
    if (request[0] === 0) {
      if (!this.speaks.has('nat-pmp')) return undefined
      if (request.length === 2) return new ByteWriter().u8(0).u8(128).u16be(0).u32be(this.epoch).bytes(this.external.bytes).finish()
      return new ByteWriter().u8(0).u8(129).u16be(this.result).u32be(this.epoch).bytes(request.subarray(4, 6)).u16be(7_000).bytes(request.subarray(8, 12)).finish()
    }
    if (!this.speaks.has('pcp')) return undefined
    const head = new ByteWriter().u8(2).u8((request[1] ?? 0) | 128).u8(0).u8(request[1] === 1 ? this.result : 0).bytes(request.subarray(4, 8)).u32be(this.epoch).zeros(12).finish()
    if (request.length === 24) return head
    const external = concatBytes(new Uint8Array(10), Uint8Array.of(255, 255), this.external.bytes)
    return concatBytes(head, request.subarray(24, 42), Uint8Array.of(7_001 >> 8, 7_001 & 255), external)
  }
}

/** Runs mapper and gateway together; gives what came out in words. */
function run(mapper: PortMapper, gateway: Gateway, clock: VirtualClock, ms: number): string[] {
  const words: string[] = []
  const until = instant(clock.now + ms)
  for (;;) {
    for (const output of drain(mapper)) {
      if (output.type !== 'transmit') words.push(word(output))
      const answer = output.type === 'transmit' ? gateway.answer(output.bytes) : undefined
      if (answer !== undefined) mapper.handleInput(clock.now, { type: 'datagram', bytes: answer, from: { ip: GATEWAY, port: 5351 } })
    }
    for (let pending = mapper.pollOutput(); pending !== undefined; pending = mapper.pollOutput()) words.push(word(pending))
    const due = mapper.pollTimeout()
    if (due === undefined || due > until) break
    clock.advanceTo(due)
    mapper.handleTimeout(clock.now)
  }
  clock.advanceTo(until)
  return words
}

function word(output: PortMapOutput): string {
  if (output.type === 'mapped') return `${output.protocol} ${formatEndpoint(output.endpoint)}`
  return output.type === 'unavailable' ? output.code : output.type
}

function make(): { mapper: PortMapper; clock: VirtualClock } {
  const clock = new VirtualClock(0)
  const mapper = new PortMapper({ random: new SeededRandom(1).bytes })
  mapper.setNetwork(clock.now, NETWORK)
  return { mapper, clock }
}

describe('the codecs', () => {
  test('requests have the bytes of RFC 6886 and RFC 6887', () => {
    expect(formatHex(encodeNatPmpMapRequest({ internalPort: 41_641, suggestedPort: 1, lifetimeSeconds: 7_200 }))).toBe('00010000a2a9000100001c20')
    const pcp = encodePcpMapRequest(SELF, new Uint8Array(12).fill(9), { internalPort: 41_641, suggestedPort: 1, lifetimeSeconds: 7_200 }, undefined)
    expect(formatHex(pcp)).toBe(
      '0201000000001c2000000000000000000000ffffc0a8010a' + '09'.repeat(12) + '11000000a2a90001' + '00000000000000000000ffff00000000',
    )
  })

  test('cut answers and those of other protocols are undefined', () => {
    for (const bytes of [new Uint8Array(0), Uint8Array.of(0, 128, 0, 0, 0, 0, 0), Uint8Array.of(0, 129, 0, 0, 0, 0, 0, 1, 0, 0), Uint8Array.of(2, 129, 0, 0)]) {
      expect(decodeNatPmpResponse(bytes)).toBeUndefined()
      expect(decodePcpResponse(bytes)).toBeUndefined()
    }
  })
})

describe('PortMapper', () => {
  test('maps by NAT-PMP, renews at half the life with the same ports, and tells the endpoint once', () => {
    const { mapper, clock } = make()
    const gateway = new Gateway(['nat-pmp'])
    expect(run(mapper, gateway, clock, 1_000)).toEqual(['nat-pmp 198.51.100.77:7000'])
    gateway.seen.length = 0
    gateway.epoch += 3_600
    expect(run(mapper, gateway, clock, 3_600_000)).toEqual([])
    expect(gateway.seen).toEqual(['0000', '00010000a2a91b5800001c20'])
    expect(mapper.endpoint).toEqual({ ip: ip('198.51.100.77'), port: 7_000 })
  })

  test('maps by PCP where it alone answers, and keeps the nonce', () => {
    const { mapper, clock } = make()
    const gateway = new Gateway(['pcp'])
    expect(run(mapper, gateway, clock, 1_000)).toEqual(['pcp 198.51.100.77:7001'])
    gateway.epoch += 3_600
    run(mapper, gateway, clock, 3_600_000)
    const nonces = gateway.seen.filter((hex) => hex.startsWith('0201')).map((hex) => hex.slice(48, 72))
    expect(nonces.length).toBe(2)
    expect(new Set(nonces).size).toBe(1)
  })

  test('without service, refused, or behind a second NAT there is no mapping, and why is said', () => {
    for (const [gateway, code] of [
      [new Gateway([]), 'PORTMAP_NO_SERVICE'],
      [new Gateway(['nat-pmp'], '198.51.100.77', 2), 'PORTMAP_REFUSED'],
      [new Gateway(['nat-pmp'], '100.64.0.9'), 'PORTMAP_DOUBLE_NAT'],
    ] as const) {
      const { mapper, clock } = make()
      expect(run(mapper, gateway, clock, 30_000)).toEqual([code])
    }
  })

  test('another network releases the mapping and says that it is gone', () => {
    const { mapper, clock } = make()
    const gateway = new Gateway(['nat-pmp'])
    run(mapper, gateway, clock, 1_000)
    gateway.seen.length = 0
    mapper.setNetwork(clock.now, undefined)
    expect(run(mapper, gateway, clock, 1_000)).toEqual(['unmapped'])
    expect(gateway.seen).toEqual(['00010000a2a9000000000000'])
    expect(mapper.pollTimeout()).toBeUndefined()
  })

  test('a renewal that is not answered keeps the mapping until its life is over', () => {
    const { mapper, clock } = make()
    run(mapper, new Gateway(['nat-pmp']), clock, 1_000)
    expect(run(mapper, new Gateway([]), clock, 7_100_000)).toEqual([])
    expect(run(mapper, new Gateway([]), clock, 200_000)).toEqual(['unmapped', 'PORTMAP_TIMEOUT'])
  })

  test('a silent gateway is asked again after doubling waits', () => {
    const { mapper, clock } = make()
    drain(mapper)
    const address = new Gateway(['nat-pmp']).answer(Uint8Array.of(0, 0)) ?? fail()
    mapper.handleInput(clock.now, { type: 'datagram', bytes: address, from: { ip: GATEWAY, port: 5351 } })
    const seen = runTimers(mapper, clock, instant(10_000)).filter(({ output }) => output.type !== 'transmit' || output.bytes.length === 12)
    expect(seen.map(({ at, output }) => `${output.type}@${at}`)).toEqual(['transmit@250', 'transmit@500', 'transmit@1000', 'transmit@2000', 'transmit@4000', 'unavailable@5250'])
  })

  test('keeps the laws of machines', () => {
    const gateway = new Gateway(['nat-pmp', 'pcp'])
    machineLaws<PortMapInput, PortMapOutput>({
      make: (random) => new PortMapper({ random: random.bytes }),
      exercise: (machine, now) => {
        const mapper = machine instanceof PortMapper ? machine : fail()
        mapper.setNetwork(now, NETWORK)
      },
      arbitraryInput: (random) => {
        const from: Endpoint = { ip: GATEWAY, port: 5351 }
        if (random.chance(0.2)) return { type: 'datagram', bytes: random.bytes(random.below(70)), from }
        const request = random.pick([Uint8Array.of(0, 0), encodeNatPmpMapRequest({ ...NETWORK, suggestedPort: 0, lifetimeSeconds: 200 })])
        if (random.chance(0.1)) gateway.epoch = 5
        return { type: 'datagram', bytes: random.chance(0.4) ? (gateway.answer(request) ?? fail()) : Uint8Array.of(0, 129, 0, 2, 0, 0, 9, 9), from }
      },
      stateOf: (machine) => (machine instanceof PortMapper ? machine.state : 'other'),
      states: ['off', 'probing', 'creating', 'mapped', 'unavailable'],
      inputs: 400,
    })
  })
})

function ip(text: string): Ip {
  return parseIp(text) ?? fail()
}

function fail(): never {
  throw new Error('a fixed value of this test is wrong')
}

