import type { NetworkMap } from '@meshwright/control-client'
import { after, type Instant, instant, type UnixMillis } from '@meshwright/core'
import { type Ip, PacketView, parseIp, parsePrefix } from '@meshwright/ip'
import { DNS_CLASS_IN, DNS_TYPE_A, decodeDns, encodeDns } from '@meshwright/magicdns'
import { type FlowId, Netstack, type NetstackOutput } from '@meshwright/netstack'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { NodeNames, type NodeNamesOutput } from './node-names.ts'

const ip = (text: string): Ip => parseIp(text) ?? expect.fail(text)
const SERVICES = ['100.100.100.100', 'fd7a:115c:a1e0::53']
const START = instant(1_000)
const FRESH_MS = 50_000

const MAP = {
  self: { name: 'me.lab.test.', addresses: [parsePrefix('100.64.0.1/32'), parsePrefix('fd7a:115c:a1e0::1/128')], capabilities: {} },
  peers: new Map([
    ['peer', { name: 'peer.lab.test.', addresses: [parsePrefix('100.64.0.2/32')] }],
    ['both', { name: 'both.lab.test.', addresses: [parsePrefix('100.64.0.3/32'), parsePrefix('fd7a:115c:a1e0::3/128')] }],
    ['six', { name: 'six.lab.test.', addresses: [parsePrefix('fd7a:115c:a1e0::4/128')] }],
  ]),
  dns: { Proxied: true, Domains: ['lab.test'], Routes: { 'lab.test.': [] }, Resolvers: [{ Addr: '192.0.2.53' }] },
  domain: 'lab.test',
} as unknown as NetworkMap // the members that names are made of

/** A program of this computer with a stack of its own, and the node's names. */
class Bench {
  readonly names = new NodeNames({ random: new SeededRandom(1).bytes, wallClock: () => 0 as UnixMillis })
  readonly client = new Netstack(new SeededRandom(2).bytes, { addresses: [ip('100.64.0.1'), ip('fd7a:115c:a1e0::1')] })
  readonly heard: NetstackOutput[] = []
  readonly owed: NodeNamesOutput[] = []
  readonly view = new PacketView()

  constructor(acceptDns = true) {
    this.names.apply(MAP, acceptDns)
  }

  settle(now: Instant): void {
    for (let busy = true; busy; ) {
      busy = false
      for (let output = this.client.pollOutput(); output !== undefined; output = this.client.pollOutput()) {
        busy = true
        if (output.type !== 'packet') this.heard.push(output)
        else if (this.names.takes(this.view, output.bytes)) this.names.packet(now, this.view, output.bytes)
        else expect.fail('a packet to the service would have gone to a peer')
      }
      for (let output = this.names.pollOutput(); output !== undefined; output = this.names.pollOutput()) {
        busy = true
        if (output.type === 'reply') this.client.handleInput(now, { type: 'packet', bytes: output.bytes })
        else this.owed.push(output)
      }
    }
  }

  /** All that came on a connection. */
  stream(flow: FlowId): Buffer {
    return Buffer.concat(this.heard.flatMap((output) => (output.type === 'data' && output.flow === flow ? [output.bytes] : [])))
  }
}

function query(name: string, id = 7): Uint8Array {
  return encodeDns({ id, response: false, opcode: 0, recursionDesired: true, rcode: 0, questions: [{ name, type: DNS_TYPE_A, class: DNS_CLASS_IN }], answers: [], authorities: [], additionals: [] })
}

function framed(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from([bytes.length >> 8, bytes.length & 255, ...bytes])
}

test.each(SERVICES)('%s answers names of the mesh by UDP, from the address that was asked', (service) => {
  const bench = new Bench()
  const socket = bench.client.bindUdp()
  bench.client.sendUdp(START, socket, { ip: ip(service), port: 53 }, query('peer.lab.test.'))
  bench.settle(START)
  const answer = bench.heard.find((output) => output.type === 'udp')
  expect(answer).toMatchObject({ from: { ip: ip(service), port: 53 } })
  expect(answer?.type === 'udp' && decodeDns(answer.bytes)).toMatchObject({ id: 7, rcode: 0, answers: [{ data: { type: 'A', address: ip('100.64.0.2') } }] })
})

test('names stand for IPv4 addresses where there are any, unless the node has the attribute for both, and for IPv6 where the node has nothing else', () => {
  const [v4, v6] = MAP.self.addresses
  const known = (self: Partial<NetworkMap['self']>, name: string): readonly string[] => {
    const names = new NodeNames({ random: new SeededRandom(1).bytes, wallClock: () => 0 as UnixMillis })
    names.apply({ ...MAP, self: { ...MAP.self, ...self } }, true)
    return names.addresses(name).map((each) => each.key)
  }
  const all = ['100.64.0.3', 'fd7a:115c:a1e0::3']
  expect([known({}, 'both'), known({ capabilities: { 'magicdns-aaaa': [] } }, 'both'), known({ addresses: v6 === undefined ? [] : [v6] }, 'both')]).toEqual([all.slice(0, 1), all, all.slice(1)])
  expect([known({}, 'six'), known({ addresses: v4 === undefined ? [] : [v4] }, 'six')]).toEqual([['fd7a:115c:a1e0::4'], ['fd7a:115c:a1e0::4']])
})

test.each(SERVICES)('%s answers by TCP: several queries in one piece, and one in pieces of a byte', (service) => {
  const bench = new Bench()
  const flow = bench.client.connectTcp(START, { ip: ip(service), port: 53 })
  bench.settle(START)
  bench.client.write(START, flow, Buffer.concat([framed(query('peer.lab.test.', 1)), framed(query('nobody.lab.test.', 2))]))
  bench.settle(START)
  for (const byte of framed(query('me.lab.test.', 3))) {
    bench.client.write(START, flow, Uint8Array.of(byte))
    bench.settle(START)
  }
  const answers: unknown[] = []
  for (let rest = bench.stream(flow); rest.length > 0; ) {
    const end = 2 + rest.readUInt16BE(0)
    const message = decodeDns(rest.subarray(2, end))
    answers.push([message?.id, message?.rcode, message?.answers?.length])
    rest = rest.subarray(end)
  }
  expect(answers).toEqual([[1, 0, 1], [2, 3, 0], [3, 0, 1]])
})

test('other names are asked of the servers of the map, by TCP where they came by TCP', () => {
  const bench = new Bench()
  const flow = bench.client.connectTcp(START, { ip: ip('100.100.100.100'), port: 53 })
  bench.settle(START)
  bench.client.write(START, flow, framed(query('example.com.')))
  bench.settle(START)
  const asked = bench.owed.flatMap((output) => (output.type === 'dnsForward' ? [output] : []))
  expect(asked.map(({ upstreams, transport }) => [upstreams, transport])).toContainEqual([['192.0.2.53'], 'tcp'])
})

test('where the map\'s settings are not accepted, nodes have names and nobody is asked for others', () => {
  const bench = new Bench(false)
  const socket = bench.client.bindUdp()
  for (const name of ['peer.lab.test.', 'nobody.lab.test.', 'example.com.']) bench.client.sendUdp(START, socket, { ip: ip('100.100.100.100'), port: 53 }, query(name))
  bench.settle(START)
  expect(bench.heard.map((output) => output.type === 'udp' && decodeDns(output.bytes)?.rcode)).toEqual([0, 2, 2])
  expect(bench.owed).toEqual([])
})

test('with MagicDNS off, nodes and records have names, and all else in the domain of the mesh is asked of the servers of the map, of nobody where it names none', () => {
  const bench = new Bench()
  const socket = bench.client.bindUdp()
  const ask = (dns: NetworkMap['dns']): readonly unknown[] => {
    bench.names.apply({ ...MAP, dns: { Domains: ['lab.test'], ExtraRecords: [{ Name: 'printer.lab.test', Type: 'A', Value: '100.64.0.9' }], ...dns } }, true)
    bench.heard.length = 0
    for (const name of ['peer.lab.test.', 'printer.lab.test.', 'nobody.lab.test.', '9.0.64.100.in-addr.arpa.']) bench.client.sendUdp(START, socket, { ip: ip('100.100.100.100'), port: 53 }, query(name))
    bench.settle(START)
    return bench.heard.map((output) => output.type === 'udp' && decodeDns(output.bytes)?.rcode)
  }
  expect(ask({})).toEqual([0, 0, 2, 2])
  expect(bench.owed).toEqual([])
  expect(ask({ Resolvers: [{ Addr: '192.0.2.53' }] })).toEqual([0, 0])
  expect(bench.owed.flatMap((output) => (output.type === 'dnsForward' ? [output.upstreams] : []))).toEqual([['192.0.2.53'], ['192.0.2.53']])
  expect(ask({ Proxied: true })).toEqual([0, 0, 3, 3])
})

test('whatever else is sent to the service ends here: a reset for TCP, nothing for UDP, and never a peer', () => {
  const bench = new Bench()
  const refused = bench.client.connectTcp(START, { ip: ip('100.100.100.100'), port: 80 })
  const socket = bench.client.bindUdp()
  bench.client.sendUdp(START, socket, { ip: ip('fd7a:115c:a1e0::53'), port: 123 }, new Uint8Array(8))
  bench.settle(START)
  expect(bench.heard).toEqual([{ type: 'closed', flow: refused, reason: 'refused' }])
  expect(bench.owed).toEqual([])
})

test('a connection that says nothing, or what is no query, is ended', () => {
  const bench = new Bench()
  const idle = bench.client.connectTcp(START, { ip: ip('100.100.100.100'), port: 53 })
  const wrong = bench.client.connectTcp(START, { ip: ip('100.100.100.100'), port: 53 })
  bench.settle(START)
  bench.client.write(START, wrong, Uint8Array.of(0xff, 0xff, 0))
  bench.settle(START)
  expect(bench.heard).toContainEqual({ type: 'closed', flow: wrong, reason: 'reset' })
  expect(bench.names.pollTimeout()).toBeLessThanOrEqual(after(START, FRESH_MS))
  bench.names.handleTimeout(after(START, FRESH_MS))
  bench.settle(after(START, FRESH_MS))
  expect(bench.heard).toContainEqual({ type: 'closed', flow: idle, reason: 'reset' })
})
