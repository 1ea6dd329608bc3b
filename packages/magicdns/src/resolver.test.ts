import { after, instant } from '@meshwright/core'
import { type Ip, parseIp } from '@meshwright/ip'
import { drain, machineLaws, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import {
  decodeDns,
  DNS_TYPE_A,
  DNS_TYPE_AAAA,
  DNS_TYPE_NS,
  DNS_TYPE_PTR,
  DNS_TYPE_TXT,
  type DnsConfig,
  type DnsMessage,
  encodeDns,
  MAX_PENDING,
  type ResolverInput,
  Resolver,
  type ResolverOutput,
  reverseName,
} from './index.ts'

const ip = (text: string): Ip => {
  const value = parseIp(text)
  if (value === undefined) throw new Error('unreadable text in a test')
  return value
}
const CONFIG: DnsConfig = {
  suffix: 'tail1.ts.net',
  hosts: new Map([
    ['web.tail1.ts.net.', [ip('100.64.0.1'), ip('fd7a:115c:a1e0::1')]],
    ['Db', [ip('100.64.0.2')]],
    ['share.other.ts.net', [ip('100.64.0.3')]],
  ]),
  subdomainHosts: new Set(['web.tail1.ts.net']),
  extraRecords: [
    { name: 'intranet.corp.example', value: '100.64.0.9' },
    { name: 'text.corp.example', type: 'TXT', value: 'nothing' },
  ],
  routes: new Map([
    ['corp.example', ['10.0.0.53']],
    ['lab.corp.example.', ['10.1.0.53', '10.1.0.54']],
    ['void.example', []],
  ]),
  defaultUpstreams: ['9.9.9.9', '1.1.1.1'],
  searchDomains: ['tail1.ts.net', 'corp.example'],
}

const make = (config: DnsConfig = CONFIG): Resolver => {
  const resolver = new Resolver({ random: new SeededRandom(1).bytes, wallClock: () => 1_767_225_600_123 })
  resolver.configure(config)
  return resolver
}
const query = (name: string, type: number, more: Partial<DnsMessage> = {}): Uint8Array =>
  encodeDns({ id: 77, response: false, opcode: 0, recursionDesired: true, rcode: 0, questions: [{ name, type, class: 1 }], ...more })
const NOW = instant(0)

/** Asks and gives what comes out at once: the decoded answer, or the upstreams. */
function ask(resolver: Resolver, name: string, type: number): { rcode: number; texts: string[]; zone: string | undefined } | { upstreams: readonly string[] } {
  resolver.handleInput(NOW, { type: 'query', id: 5, bytes: query(name, type) })
  const [output] = drain(resolver)
  if (output?.type === 'forward') return { upstreams: output.upstreams }
  const message = output?.type === 'answer' ? decodeDns(output.bytes) : undefined
  if (message === undefined) throw new Error('no answer')
  expect(message).toMatchObject({ id: 77, response: true, recursionDesired: true, recursionAvailable: true, questions: [{ name, type, class: 1 }] })
  const texts = (message.answers ?? []).map(({ data, ttl }) => {
    expect(ttl).toBe(5)
    return data.type === 'A' || data.type === 'AAAA' ? data.address.key : data.type === 'PTR' ? data.target : data.type
  })
  return { rcode: message.rcode, texts, zone: message.authorities?.[0]?.name }
}

test.each([
  ['a node by full name', 'web.tail1.ts.net.', DNS_TYPE_A, { rcode: 0, texts: ['100.64.0.1'], zone: undefined }],
  ['its other family', 'web.tail1.ts.net.', DNS_TYPE_AAAA, { rcode: 0, texts: ['fd7a:115c:a1e0::1'], zone: undefined }],
  ['whatever the case', 'WEB.Tail1.ts.NET.', DNS_TYPE_A, { rcode: 0, texts: ['100.64.0.1'], zone: undefined }],
  ['a host of one label stands under the suffix', 'db.tail1.ts.net.', DNS_TYPE_A, { rcode: 0, texts: ['100.64.0.2'], zone: undefined }],
  ['a known name without that family has no data', 'db.tail1.ts.net.', DNS_TYPE_AAAA, { rcode: 0, texts: [], zone: 'tail1.ts.net.' }],
  ['a type that names do not have', 'db.tail1.ts.net.', DNS_TYPE_TXT, { rcode: 0, texts: [], zone: 'tail1.ts.net.' }],
  ['any type gives the first address', 'web.tail1.ts.net.', 255, { rcode: 0, texts: ['100.64.0.1'], zone: undefined }],
  ['name servers of a node are not told', 'web.tail1.ts.net.', DNS_TYPE_NS, { rcode: 4, texts: [], zone: undefined }],
  ['an unknown name of the mesh does not exist', 'nobody.tail1.ts.net.', DNS_TYPE_A, { rcode: 3, texts: [], zone: 'tail1.ts.net.' }],
  ['subdomains of a node that carries them', 'a.b.web.tail1.ts.net.', DNS_TYPE_A, { rcode: 0, texts: ['100.64.0.1'], zone: undefined }],
  ['subdomains of another node do not exist', 'a.db.tail1.ts.net.', DNS_TYPE_A, { rcode: 3, texts: [], zone: 'tail1.ts.net.' }],
  ['a node of another tailnet', 'share.other.ts.net.', DNS_TYPE_A, { rcode: 0, texts: ['100.64.0.3'], zone: undefined }],
  ['a bare label is nobody of ours', 'web.', DNS_TYPE_A, { upstreams: ['9.9.9.9', '1.1.1.1'] }],
  ['a name elsewhere', 'example.com.', DNS_TYPE_A, { upstreams: ['9.9.9.9', '1.1.1.1'] }],
  ['split DNS', 'host.corp.example.', DNS_TYPE_A, { upstreams: ['10.0.0.53'] }],
  ['the longest suffix wins', 'a.lab.corp.example.', DNS_TYPE_A, { upstreams: ['10.1.0.53', '10.1.0.54'] }],
  ['a suffix ends at a dot', 'notcorp.example.', DNS_TYPE_A, { upstreams: ['9.9.9.9', '1.1.1.1'] }],
  ['an extra record under a forwarded suffix', 'intranet.corp.example.', DNS_TYPE_A, { rcode: 0, texts: ['100.64.0.9'], zone: undefined }],
  ['its name is a zone of its own', 'intranet.corp.example.', DNS_TYPE_AAAA, { rcode: 0, texts: [], zone: 'intranet.corp.example.' }],
  ['extra records of other types are ignored', 'text.corp.example.', DNS_TYPE_TXT, { upstreams: ['10.0.0.53'] }],
  ['a suffix without upstreams is answered here', 'x.void.example.', DNS_TYPE_A, { rcode: 3, texts: [], zone: 'void.example.' }],
  ['onion names leave nobody', 'abc.onion.', DNS_TYPE_A, { rcode: 3, texts: [], zone: undefined }],
  ['the service itself', 'magicdns.localhost-tailscale-daemon.', DNS_TYPE_A, { rcode: 0, texts: ['100.100.100.100'], zone: undefined }],
  ['the name of a node address', '1.0.64.100.in-addr.arpa.', DNS_TYPE_PTR, { rcode: 0, texts: ['web.tail1.ts.net.'], zone: undefined }],
  ['the name of an IPv6 address', reverseName(ip('fd7a:115c:a1e0::1')), DNS_TYPE_PTR, { rcode: 0, texts: ['web.tail1.ts.net.'], zone: undefined }],
  ['the IPv6 image of an IPv4 address', reverseName(ip('fd7a:115c:a1e0:ab12:4843:cd96:6240:2')), DNS_TYPE_PTR, { rcode: 0, texts: ['db.tail1.ts.net.'], zone: undefined }],
  ['the name of the service', '100.100.100.100.in-addr.arpa.', DNS_TYPE_PTR, { rcode: 0, texts: ['magicdns.localhost-tailscale-daemon.'], zone: undefined }],
  ['an address of the mesh without a node', '200.0.64.100.in-addr.arpa.', DNS_TYPE_PTR, { rcode: 3, texts: [], zone: '64.100.in-addr.arpa.' }],
  ['the name of an address elsewhere', '8.8.8.8.in-addr.arpa.', DNS_TYPE_PTR, { upstreams: ['9.9.9.9', '1.1.1.1'] }],
  ['service discovery by reverse names ends here', 'lb._dns-sd._udp.0.0.64.100.in-addr.arpa.', DNS_TYPE_PTR, { rcode: 3, texts: [], zone: undefined }],
  ['a 4via6 name', '192-168-1-2-via-7.', DNS_TYPE_AAAA, { rcode: 0, texts: ['fd7a:115c:a1e0:b1a:0:7:c0a8:102'], zone: undefined }],
  ['a 4via6 name in the mesh, site in hexadecimal', '10-0-0-1-via-0x10.tail1.ts.net.', DNS_TYPE_AAAA, { rcode: 0, texts: ['fd7a:115c:a1e0:b1a:0:10:a00:1'], zone: undefined }],
  ['a 4via6 name has no IPv4 address', '10-0-0-1-via-1.tail1.ts.net.', DNS_TYPE_A, { rcode: 0, texts: [], zone: 'tail1.ts.net.' }],
  ['a 4via6 name elsewhere is not ours', '10-0-0-1-via-1.example.com.', DNS_TYPE_AAAA, { upstreams: ['9.9.9.9', '1.1.1.1'] }],
])('%s', (_rule, name, type, expected) => {
  expect(ask(make(), name, type)).toEqual(expected)
})

test('without any upstream a name elsewhere fails at once', () => {
  expect(ask(make({ hosts: new Map() }), 'example.com.', DNS_TYPE_A)).toEqual({ rcode: 2, texts: [], zone: undefined })
  const fresh = new Resolver({ random: new SeededRandom(1).bytes, wallClock: () => 0 })
  expect(ask(fresh, 'example.com.', DNS_TYPE_A)).toEqual({ rcode: 2, texts: [], zone: undefined })
})

type Forward = Extract<ResolverOutput, { type: 'forward' }>
function forwarded(resolver: Resolver, transport: 'udp' | 'tcp' = 'udp', now = NOW, more: Partial<DnsMessage> = {}): Forward {
  resolver.handleInput(now, { type: 'query', id: 9, bytes: query('example.com.', DNS_TYPE_A, more), transport })
  const found = drain(resolver).find((output): output is Forward => output.type === 'forward')
  if (found === undefined) throw new Error('was not forwarded')
  return found
}
function reply(forward: Forward, upstream: string, rcode: number, more: Partial<DnsMessage> = {}): ResolverInput {
  const asked = decodeDns(forward.bytes)
  if (asked === undefined) throw new Error('unreadable query')
  return { type: 'reply', token: forward.token, upstream, bytes: encodeDns({ ...asked, response: true, rcode, ...more }) }
}
const rcodes = (resolver: Resolver): number[] => drain(resolver).flatMap((output) => (output.type === 'answer' ? (decodeDns(output.bytes)?.rcode ?? -1) : []))

test('the first usable reply wins, under the id of who asked; later ones are strays', () => {
  const resolver = make()
  const forward = forwarded(resolver)
  expect(decodeDns(forward.bytes)?.id).not.toBe(77)
  resolver.handleInput(NOW, reply(forward, '1.1.1.1', 3))
  const [answer, cancel] = drain(resolver)
  expect(answer?.type === 'answer' && decodeDns(answer.bytes)).toMatchObject({ id: 77, rcode: 3 })
  expect(cancel).toEqual({ type: 'cancel', token: forward.token })
  resolver.handleInput(NOW, reply(forward, '9.9.9.9', 0))
  expect(drain(resolver)).toEqual([])
  expect(resolver.counters()).toMatchObject({ forwarded: 1, answered: 1, strayReplies: 1 })
  expect(resolver.pollTimeout()).toBeUndefined()
})

test.each([
  ['SERVFAIL comes before REFUSED', [5, 2], 2],
  ['in either order', [2, 5], 2],
  ['REFUSED passes when all refuse', [5, 5], 5],
  ['a late success beats an early refusal', [5, 0], 0],
])('replies of all upstreams: %s', (_rule, given, expected) => {
  const resolver = make()
  const forward = forwarded(resolver)
  forward.upstreams.forEach((upstream, i) => resolver.handleInput(NOW, reply(forward, upstream, given[i] ?? 0)))
  expect(rcodes(resolver)).toEqual([expected])
})

test('when every upstream fails the query fails', () => {
  const resolver = make()
  const forward = forwarded(resolver)
  for (const upstream of forward.upstreams) resolver.handleInput(NOW, { type: 'failed', token: forward.token, upstream })
  expect(rcodes(resolver)).toEqual([2])
})

test('silence leads to TCP after 2 s and to failure after 10 s', () => {
  const resolver = make()
  const clock = new VirtualClock()
  const forward = forwarded(resolver, 'udp', clock.now)
  resolver.handleInput(clock.now, { type: 'failed', token: forward.token, upstream: '1.1.1.1' })
  expect(resolver.pollTimeout()).toBe(2000)
  resolver.handleTimeout(clock.advanceTo(instant(2000)))
  expect(drain(resolver)).toEqual([{ type: 'forward', token: forward.token, bytes: forward.bytes, upstreams: ['9.9.9.9'], transport: 'tcp' }])
  expect(resolver.pollTimeout()).toBe(10_000)
  resolver.handleTimeout(clock.advanceTo(instant(10_000)))
  expect(rcodes(resolver)).toEqual([2])
  expect(resolver.counters().timedOut).toBe(1)
})

test('a reply under another id, to another question or from nobody that was asked counts for nothing', () => {
  const resolver = make()
  const forward = forwarded(resolver)
  resolver.handleInput(NOW, reply(forward, '1.1.1.1', 0, { id: (decodeDns(forward.bytes)?.id ?? 0) ^ 1 }))
  resolver.handleInput(NOW, reply(forward, '1.1.1.1', 0, { questions: [{ name: 'evil.example.', type: 1, class: 1 }] }))
  resolver.handleInput(NOW, reply(forward, '6.6.6.6', 0))
  resolver.handleInput(NOW, reply(forward, '1.1.1.1', 0, { response: false }))
  resolver.handleInput(NOW, { ...reply(forward, '1.1.1.1', 0), type: 'reply', token: 999, upstream: '1.1.1.1', bytes: forward.bytes })
  expect(drain(resolver)).toEqual([])
  expect(resolver.counters().strayReplies).toBe(5)
})

test('a client on TCP has a truncated reply fetched whole', () => {
  const resolver = make()
  const forward = forwarded(resolver, 'tcp')
  expect(drain(resolver)).toEqual([])
  for (const upstream of forward.upstreams) resolver.handleInput(NOW, { type: 'failed', token: forward.token, upstream, transport: 'tcp' })
  resolver.handleInput(NOW, reply(forward, '9.9.9.9', 0, { truncated: true }))
  expect(drain(resolver)).toMatchObject([{ type: 'forward', upstreams: ['9.9.9.9'], transport: 'tcp' }])
})

test('a reply that a UDP client cannot take is cut off and marked', () => {
  const texts = Array.from({ length: 4 }, () => new Uint8Array(200).fill(65))
  const answers = [{ name: 'example.com.', class: 1, ttl: 1, data: { type: 'TXT', texts } }] as const
  const edns = { udpSize: 65_000, version: 0, dnssecOk: false, extendedRcode: 0, options: new Uint8Array(0) }
  for (const [more, whole] of [[{}, false], [{ edns }, true]] as const) {
    const resolver = make()
    const forward = forwarded(resolver, 'udp', NOW, more)
    if (whole) expect(decodeDns(forward.bytes)?.edns?.udpSize).toBe(4095)
    resolver.handleInput(NOW, reply(forward, '9.9.9.9', 0, { answers }))
    const [answer] = drain(resolver)
    const message = answer?.type === 'answer' ? decodeDns(answer.bytes) : undefined
    expect(message).toMatchObject({ id: 77, truncated: !whole, questions: [{ name: 'example.com.' }] })
    expect(message?.answers?.length).toBe(whole ? 1 : 0)
  }
})

test('only so many queries are open; more fail at once', () => {
  const resolver = make()
  for (let i = 0; i < MAX_PENDING; i += 1) forwarded(resolver)
  resolver.handleInput(NOW, { type: 'query', id: 1, bytes: query('example.com.', DNS_TYPE_A) })
  expect(rcodes(resolver)).toEqual([2])
  expect(resolver.pendingCount).toBe(MAX_PENDING)
  resolver.handleTimeout(after(NOW, 10_000))
  expect(rcodes(resolver)).toHaveLength(MAX_PENDING)
  expect(resolver.pendingCount).toBe(0)
})

test('what is no query is told so; answers and scraps are not answered', () => {
  const resolver = make()
  const feed = (bytes: Uint8Array): number[] => {
    resolver.handleInput(NOW, { type: 'query', id: 1, bytes })
    return rcodes(resolver)
  }
  expect(feed(query('example.com.', 1).subarray(0, 20))).toEqual([1])
  expect(feed(query('example.com.', 1, { questions: [] }))).toEqual([1])
  expect(feed(query('example.com.', 1, { response: true }))).toEqual([])
  expect(feed(new Uint8Array(11))).toEqual([])
  expect(feed(query('web.tail1.ts.net.', 1, { opcode: 5 }))).toEqual([4])
})

test('a configuration that cannot be used changes nothing', () => {
  const resolver = make()
  expect(() => resolver.configure({ hosts: new Map([['a..b', [ip('100.64.0.1')]]]) })).toThrow(expect.objectContaining({ code: 'MAGICDNS_CONFIG' }))
  expect(resolver.resolve('web.tail1.ts.net')).toEqual({ type: 'known', name: 'web.tail1.ts.net.', addresses: [ip('100.64.0.1'), ip('fd7a:115c:a1e0::1')] })
  expect(resolver.resolve('x.tail1.ts.net')).toEqual({ type: 'unknown' })
  expect(resolver.resolve('x.corp.example')).toEqual({ type: 'forward', upstreams: ['10.0.0.53'] })
  expect(resolver.searchNames('web')).toEqual(['web.tail1.ts.net.', 'web.corp.example.', 'web.'])
  expect(resolver.searchNames('web.lan')).toEqual(['web.lan.', 'web.lan.tail1.ts.net.', 'web.lan.corp.example.'])
  expect(resolver.nameOf(ip('100.64.0.2'))).toBe('db.tail1.ts.net.')
})

test('the resolver keeps the machine laws', () => {
  machineLaws<ResolverInput, ResolverOutput>({
    make: (random) => {
      const resolver = new Resolver({ random: random.bytes, wallClock: () => 0 })
      resolver.configure(CONFIG)
      return resolver
    },
    exercise: (machine, now) => {
      for (let i = 0; i < 3; i += 1) machine.handleInput(now, { type: 'query', id: i, bytes: query('example.com.', 1) })
    },
    arbitraryInput: (random) => {
      const bytes = random.chance(0.3) ? random.bytes(random.below(80)) : query(random.pick(['example.com.', 'web.tail1.ts.net.', 'x.lab.corp.example.']), random.pick([1, 12, 28]), { response: random.chance(0.2) })
      const transport = random.pick(['udp', 'tcp'] as const)
      if (random.chance(0.6)) return { type: 'query', id: random.below(9), bytes, transport }
      const upstream = random.pick(['9.9.9.9', '1.1.1.1', '10.1.0.53'])
      return random.chance(0.5) ? { type: 'failed', token: random.below(40), upstream, transport } : { type: 'reply', token: random.below(40), upstream, transport, bytes }
    },
    stateOf: (machine) => (machine instanceof Resolver && machine.pendingCount > 0 ? 'waiting' : 'idle'),
    states: ['idle', 'waiting'],
    memory: { size: (machine) => (machine instanceof Resolver ? machine.pendingCount : Number.POSITIVE_INFINITY), bound: MAX_PENDING },
    inputs: 600,
  })
})

test('servers that are this resolver itself are not asked, whatever way they are written; their zones fail, and are not said to be empty', () => {
  const resolver = make({ ...CONFIG, routes: new Map([['loop.example', ['100.100.100.100']], ['half.example', ['100.100.100.100:53', '10.0.0.53', '[fd7a:115c:a1e0::53]:53']]]), defaultUpstreams: ['fd7a:115c:a1e0::53'] })
  expect(ask(resolver, 'a.half.example', DNS_TYPE_A)).toEqual({ upstreams: ['10.0.0.53'] })
  for (const name of ['a.loop.example.', 'elsewhere.test.']) expect(ask(resolver, name, DNS_TYPE_A)).toMatchObject({ rcode: 2 })
  expect(resolver.counters()).toMatchObject({ loops: 3, forwarded: 1 })
  expect(resolver.loopingZones).toEqual(['loop.example.', 'half.example.', '.'])
})

test('a question of its own that comes back to it ends there, and the first asker waits for an honest answer as before', () => {
  const resolver = make()
  resolver.handleInput(NOW, { type: 'query', id: 1, bytes: query('x.corp.example', DNS_TYPE_A) })
  const forward = drain(resolver).find((output) => output.type === 'forward') ?? expect.fail('nothing is forwarded')
  resolver.handleInput(NOW, { type: 'query', id: 2, bytes: forward.bytes })
  const outputs = drain(resolver)
  expect(outputs.map((output) => output.type)).toEqual(['answer'])
  expect([resolver.pendingCount, resolver.counters().loops]).toEqual([1, 1])
  resolver.handleInput(NOW, { type: 'query', id: 3, bytes: query('x.corp.example', DNS_TYPE_A) })
  expect([resolver.pendingCount, resolver.counters().loops]).toEqual([2, 1])
})
