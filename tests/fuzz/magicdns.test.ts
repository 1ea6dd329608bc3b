import { instant } from '@meshwright/core'
import { Ip } from '@meshwright/ip'
import { decodeDns, type DnsMessage, encodeDns, Resolver } from '@meshwright/magicdns'
import { drain, SeededRandom } from '@meshwright/testkit'
import { fuzzDecoder } from './fuzz-decoder.ts'

const address = Ip.fromOwnedBytes(Uint8Array.of(100, 64, 0, 1))
const base: DnsMessage = { id: 1, response: false, opcode: 0, rcode: 0, recursionDesired: true, questions: [{ name: 'web.tail1.ts.net.', type: 1, class: 1 }] }
const edns = { udpSize: 1232, version: 0, dnssecOk: true, extendedRcode: 0, options: Uint8Array.of(0, 10, 0, 2, 1, 2) }
const name = 'a.example.com.'
const samples = [
  encodeDns(base),
  encodeDns({ ...base, edns }),
  encodeDns({
    ...base,
    response: true,
    answers: [
      { name, class: 1, ttl: 5, data: { type: 'CNAME', target: 'b.example.com.' } },
      { name, class: 1, ttl: 5, data: { type: 'A', address } },
      { name, class: 1, ttl: 5, data: { type: 'TXT', texts: [Uint8Array.of(1, 2, 3)] } },
      { name, class: 1, ttl: 5, data: { type: 'SRV', priority: 1, weight: 2, port: 3, target: name } },
    ],
    authorities: [{ name, class: 1, ttl: 5, data: { type: 'SOA', primary: name, mailbox: name, serial: 1, refresh: 2, retry: 3, expire: 4, minimum: 5 } }],
    edns,
  }),
]

fuzzDecoder('decodeDns', samples, decodeDns)

fuzzDecoder('Resolver', samples, (bytes) => {
  const resolver = new Resolver({ random: new SeededRandom(1).bytes, wallClock: () => 0 })
  resolver.configure({ suffix: 'tail1.ts.net', hosts: new Map([['web', [address]]]), defaultUpstreams: ['9.9.9.9'] })
  resolver.handleInput(instant(0), { type: 'query', id: 1, bytes })
  resolver.handleInput(instant(0), { type: 'reply', token: 1, upstream: '9.9.9.9', bytes })
  resolver.handleTimeout(instant(20_000))
  return drain(resolver)
})
