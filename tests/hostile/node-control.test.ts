import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ACCEPTED, type Json, wireNode } from './liar-control.ts'
import { FRIEND_IP, NodeRig, onlyFriend, OPEN_FILTER, VICTIM_IP } from './node-rig.ts'

// Our node under a control server that lies to it. A real daemon, a real channel; what it lets in is asked by connections.
const linux = process.platform === 'linux' // memory is read from /proc
const rig = new NodeRig()
const key = (): string => `nodekey:${randomBytes(32).toString('hex')}`

beforeAll(async () => {
  if (linux) await rig.start()
})

afterAll(() => rig.stop())

/** Peers that nobody knows. */
function crowd(count: number, from: number = 1_000): readonly Json[] {
  return Array.from({ length: count }, (_, index) => {
    const id = from + index
    const ip = `100.${65 + (id >> 16)}.${(id >> 8) & 255}.${id & 255}/32`
    return wireNode(id, `p${id}`, `nodekey:${id.toString(16).padStart(64, '0')}`, { Addresses: [ip], AllowedIPs: [ip] })
  })
}

/** Frames of a map stream that no honest server sends; after each an honest map must be in force again, and nothing wider. */
const FRAMES: readonly (readonly [string, () => readonly Json[]])[] = [
  ['a peer with our own node key', () => [{ PeersChanged: [wireNode(9, 'twin', rig.control.nodes.get('victim')?.NodeKey ?? '')] }]],
  ['a peer with our own address', () => [{ PeersChanged: [wireNode(9, 'twin', key(), { Addresses: [`${VICTIM_IP}/32`], AllowedIPs: [`${VICTIM_IP}/32`] })] }]],
  ['two peers with one key', () => [{ PeersChanged: [wireNode(9, 'a', rig.control.nodes.get('friend')?.NodeKey ?? ''), wireNode(10, 'b', rig.control.nodes.get('friend')?.NodeKey ?? '')] }]],
  ['two peers with one address', () => [{ PeersChanged: [wireNode(9, 'a', key(), { Addresses: [`${FRIEND_IP}/32`], AllowedIPs: [`${FRIEND_IP}/32`] })] }]],
  ['a node key of zeros', () => [{ PeersChanged: [wireNode(9, 'zero', `nodekey:${'0'.repeat(64)}`)] }]],
  ['the same peer removed, changed, patched and gone in one frame', () => [{ PeersRemoved: [9, 2, 2], PeersChanged: [wireNode(9, 'x', key())], PeersChangedPatch: [{ NodeID: 9, Key: key() }, { NodeID: 77, Key: key() }], OnlineChange: { '9': true, '1e3': true, '-1': false }, PeerSeenChange: { '9': false } }]],
  ['a patch that gives a peer the key of another', () => [{ PeersChanged: [wireNode(9, 'x', key())] }, { PeersChangedPatch: [{ NodeID: 9, Key: rig.control.nodes.get('friend')?.NodeKey }] }]],
  ['ourselves with another node key', () => [{ Node: rig.node('victim', { Key: key() }) ?? {} }]],
  ['ourselves with other addresses, and back', () => [{ Node: rig.node('victim', { Addresses: ['100.64.9.9/32'], AllowedIPs: ['100.64.9.9/32'] }) ?? {} }]],
  ['ourselves without a key, an address, or a name', () => [{ Node: { ID: 1, StableID: '', Name: '', User: 0, Key: '' } }]],
  ['ourselves as peer, and nobody else', () => [{ Peers: [rig.node('victim') ?? {}] }]],
  ['keys that change with every frame', () => Array.from({ length: 300 }, () => ({ PeersChangedPatch: [{ NodeID: 2, Key: key(), DiscoKey: `discokey:${randomBytes(32).toString('hex')}` }] }))],
  ['our disco key is another to the friend', () => [{ PeersChangedPatch: [{ NodeID: 2, DiscoKey: `discokey:${'0'.repeat(64)}` }] }]],
  ['a peer that carries the whole world', () => [{ PeersChangedPatch: [], PeersChanged: [wireNode(9, 'world', key(), { AllowedIPs: ['0.0.0.0/0', '::/0', `${VICTIM_IP}/32`, `${FRIEND_IP}/32`, '127.0.0.0/8', '100.100.100.100/32'] })] }]],
  ['addresses and routes that are none', () => [{ PeersChanged: [wireNode(9, 'x', key(), { Addresses: ['', '100.64.0.300/32', '1.2.3.4/99', '::/129', 'x'], AllowedIPs: ['*', '0.0.0.0/-1'], Endpoints: ['', ':', '[::1', '1.2.3.4:99999', '1.2.3.4:-1', 'host:1'], HomeDERP: -5 })] }]],
  ['endpoints at loopback, nowhere, multicast, broadcast, and ten thousand more', () => [{ PeersChangedPatch: [{ NodeID: 2, Endpoints: ['127.0.0.1:1', '[::1]:1', '[::ffff:127.0.0.1]:1', '0.0.0.0:0', '0.0.0.0:9', '224.0.0.1:5353', '255.255.255.255:9', '[ff02::1]:1', ...Array.from({ length: 10_000 }, (_, index) => `203.0.113.${index & 255}:${1 + index}`)] }] }]],
  ['relays with ports, names and numbers that are none', () => [{ DERPMap: { Regions: { '1': { RegionID: 1, RegionCode: 'x', RegionName: 'x', Nodes: [{ Name: '1a', RegionID: 1, HostName: '127.0.0.1', IPv4: '127.0.0.1', IPv6: 'none', DERPPort: 99_999, STUNPort: 99_999 }, { Name: '1b', RegionID: 7, HostName: '\u0000', DERPPort: -7, STUNPort: -2, IPv4: '300.1.1.1' }, { Name: '1c', RegionID: 1, HostName: `${'a'.repeat(5_000)}.test`, DERPPort: 1 }, { Name: '', RegionID: 0, HostName: '' }] }, '-3': { RegionID: -3, Nodes: [] }, '2': { RegionID: 2 ** 40, RegionCode: '\u001b[31m', RegionName: '', Nodes: [{ Name: '2a', RegionID: 2, HostName: '127.0.0.1', IPv4: '127.0.0.1', STUNPort: 65_536.0, DERPPort: 65_536 }] } } } }]],
  ['a thousand relay regions, with latencies that are wished for', () => [{ DERPMap: { HomeParams: { RegionScore: { '1': 1e308, x: 1, '-1': 0.1 } }, Regions: Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [String(i + 1), { RegionID: i + 1, RegionCode: `r${i}`, RegionName: '', Nodes: [{ Name: `${i}a`, RegionID: i + 1, HostName: '127.0.0.1', IPv4: '127.0.0.1', IPv6: 'none', DERPPort: 1, STUNPort: 1 + i }] }])) } }]],
  ['names that are none, that loop, and ten thousand suffixes', () => [{ DNSConfig: { Resolvers: [{ Addr: '100.100.100.100' }, { Addr: VICTIM_IP }, { Addr: 'https://127.0.0.1:1/dns' }, { Addr: '127.0.0.1:99999' }, { Addr: '' }], Routes: Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`s${i}.test.`, [{ Addr: '100.100.100.100:53' }]])), Domains: ['', '.', 'a..b', `${'x'.repeat(300)}.test`], Proxied: true, ExtraRecords: [{ Name: 'loop.test', Type: 'CNAME', Value: 'loop.test' }, { Name: '', Value: 'x' }, { Name: 'a.test', Value: '999.1.1.1' }] } }]],
  ['a hundred thousand messages of health', () => [{ Health: Array.from({ length: 20_000 }, (_, i) => `warning ${i} ${'w'.repeat(50)}`), DisplayMessages: Object.fromEntries(Array.from({ length: 80_000 }, (_, i) => [`m${i}`, { Title: 't', Text: `display ${i}` }])) }, { Health: [], DisplayMessages: { '*': null } }]],
  ['an SSH policy of nonsense', () => [{ SSHPolicy: { rules: [{ principals: [{ any: true }], sshUsers: { '*': 'root' }, action: { accept: true, sessionDuration: 1e300 } }, {}] } }]],
  ['users by the ten thousand', () => [{ UserProfiles: Array.from({ length: 10_000 }, (_, i) => ({ ID: i, LoginName: `u${i}`, DisplayName: '' })) }]],
  ['pings that the node is to answer elsewhere', () => Array.from({ length: 2_000 }, (_, i) => ({ KeepAlive: true, PingRequest: { URL: i % 2 === 0 ? `https://203.0.113.1/${i}` : `file:///etc/passwd#${i}`, URLIsNoise: true, Log: true } }))],
  ['URLs to open that are none', () => [{ PopBrowserURL: 'javascript:alert(1)' }, { PopBrowserURL: 'file:///etc/passwd' }, { PopBrowserURL: '-e reboot' }, { PopBrowserURL: `http://x/${'y'.repeat(100_000)}` }]],
]

/** Filters that cannot be read in part; the shut port stays shut under every one. */
const FILTERS: readonly (readonly [string, readonly Json[]])[] = [
  ['sources that are none', [{ SrcIPs: ['', '**', '100.64.0.0/-1', '100.64.0.2/24', '0.0.0.0/0x0', 'any', '100.64.0.2-', '-', '100.64.0.9-100.64.0.1', 'cap:', 'tag:x', null], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }]],
  ['destinations that are none', [{ SrcIPs: ['*'], DstPorts: [{ IP: '', Ports: { First: 0, Last: 65_535 } }, { IP: 'all', Ports: { First: 0, Last: 65_535 } }, { IP: '*', Ports: { First: 65_535, Last: 0 } }, { IP: '*', Ports: { First: -1, Last: 70_000 } }, { IP: '*' }, { IP: 'cap:x', Ports: { First: 0, Last: 65_535 } }] }]],
  ['protocols that are none', [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }], IPProto: [-1, 256, 99_999, 1e15] }]],
  ['a protocol that is null', [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }], IPProto: [null] }]],
  ['old prefix lengths that belong to a source that is null', [{ SrcIPs: [null, '200.1.1.1'], SrcBits: [0, 32], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }]],
  ['a prefix length that is null', [{ SrcIPs: ['100.64.0.9', '200.1.1.1'], SrcBits: [null, 0, 0], DstPorts: [{ IP: '200.1.1.1', Ports: { First: 0, Last: 65_535 } }] }]],
  ['grants without ports', [{ SrcIPs: ['*'], CapGrant: [{ Dsts: ['0.0.0.0/0', '::/0'], CapMap: { 'x.test/cap/any': [null] } }] }]],
]

/** Bytes on the map stream that are no frame; each ends the poll, the map stays, and the health says so. */
const BYTES: readonly (readonly [string, () => Buffer, RegExp])[] = [
  ['a frame of 4 GiB is announced', () => Buffer.from([0xff, 0xff, 0xff, 0xff]), /frame of the map stream .*too-long/],
  ['a frame that is no JSON', () => framed(Buffer.from('{"Peers":[')), /frame of the map stream cannot be read/],
  ['a frame that is no UTF-8', () => framed(Buffer.from([0x22, 0xff, 0xfe, 0x22])), /frame of the map stream cannot be read/],
  ['arrays a hundred thousand deep', () => framed(Buffer.from('['.repeat(100_000))), /frame of the map stream cannot be read/],
  ['capabilities ten thousand deep', () => framed(Buffer.from(`{"Node":{"ID":1,"StableID":"n1","Name":"","User":1,"Key":"nodekey:${'1'.repeat(64)}","CapMap":{"x":[${'['.repeat(10_000)}${']'.repeat(10_000)}]}}}`)), /frame of the map stream cannot be read/],
  ['a filter that is a text', () => framed(Buffer.from('{"PacketFilter":"*"}')), /frame of the map stream cannot be read.*PacketFilter/],
  ['a rule with ports as texts', () => framed(Buffer.from('{"PacketFilters":{"base":[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":"0","Last":"65535"}}]}]}}')), /frame of the map stream cannot be read.*Ports/],
  ['a zstd bomb', () => framed(zstdBomb(1_000)), /frame of the map stream cannot be/],
  ['sleep for 10^18 seconds', () => framed(Buffer.from('{"Debug":{"SleepSeconds":1e18}}')), /asked this node to be silent/],
]

function framed(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(bytes.length)
  return Buffer.concat([length, bytes])
}

/** Run-length blocks, 128 KiB from four bytes each: what unpacks to more than anybody may send. */
function zstdBomb(blocks: number): Buffer {
  const block = (last: boolean): Buffer => {
    const head = (131_072 << 3) | (1 << 1) | (last ? 1 : 0)
    return Buffer.from([head & 255, (head >> 8) & 255, (head >> 16) & 255, 0x20])
  }
  return Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]), ...Array.from({ length: blocks }, (_, i) => block(i === blocks - 1))])
}

describe.runIf(linux)('our node under a control server that lies: frames', () => {
  test.each(FRAMES)('%s', async (_name, frames) => {
    await rig.say(...frames())
    await rig.unharmed()
  })
})

describe.runIf(linux)('our node under a control server that lies: filters never let in more than they say', () => {
  test.each(FILTERS)('%s', async (_name, filter) => {
    await rig.say({ PacketFilters: { '*': null, lie: filter, base: onlyFriend(rig.openPort) } })
    await rig.lab.until('the honest rule holds beside it', () => rig.letsIn(rig.openPort))
    expect(await rig.letsIn(rig.shutPort)).toBe(false)
    await rig.unharmed()
  })

  test('a filter that opens the victim in one frame and contradicts itself in the next ends as the last word says', async () => {
    await rig.say({ PacketFilters: { a: OPEN_FILTER } }, { PacketFilters: { a: null } }, { PacketFilter: OPEN_FILTER }, { PacketFilters: { '*': null, z: onlyFriend(rig.openPort) } })
    await rig.lab.until('the last word holds', async () => (await rig.letsIn(rig.openPort)) && !(await rig.letsIn(rig.shutPort)))
    await rig.unharmed()
  })

  test('without a filter nobody is let in', async () => {
    await rig.say({ PacketFilters: { '*': null } })
    await rig.lab.until('nobody is let in', async () => !(await rig.letsIn(rig.openPort)))
    await rig.unharmed()
  })
})

describe.runIf(linux)('our node under a control server that lies: bytes that are no frames', () => {
  test.each(BYTES)('%s', async (_name, bytes, told) => {
    rig.control.map = () => undefined // the next poll stays silent, so that the health can be read; the honest word ends it
    const poll = await rig.lab.until('the victim listens', () => rig.pollOf('victim'))
    poll.raw(bytes())
    await rig.health(told)
    expect(await rig.letsIn(rig.openPort)).toBe(true) // the old map is in force
    expect(await rig.letsIn(rig.shutPort)).toBe(false)
    rig.control.map = (each, name) => each.send(rig.honest(name))
    if (told.source.includes('silent')) {
      await rig.victim.cli('down')
      await rig.victim.up(rig.control.url)
    }
    await rig.unharmed()
  })
})

/** Answers to the map stream that are no stream; the map stays in force, nobody is asked without pause, and the health says so. */
const STREAMS: readonly (readonly [string, () => void, RegExp])[] = [
  ['status 429, retry after 10^18 seconds', () => (rig.control.mapHead = { ':status': '429', 'retry-after': '1000000000000000000' }), /answered the map poll with status 429/],
  ['status 500', () => (rig.control.mapHead = { ':status': '500' }), /answered the map poll with status 500/],
  ['a way to elsewhere', () => (rig.control.mapHead = { ':status': '302', location: 'http://127.0.0.1:1/machine/map' }), /answered the map poll with status 302/],
  ['an end before the first frame', () => (rig.control.map = (poll) => poll.end()), /ended the map stream before its first frame/],
  ['an end behind each frame', () => (rig.control.map = (poll, name) => {
    poll.send(rig.honest(name))
    poll.end()
  }), /the control server ended the map stream/],
]

describe.runIf(linux)('our node under a control server that lies: the map stream', () => {
  test.each(STREAMS)('%s', async (_name, lie, told) => {
    const asked = (): number => rig.control.asked.filter((line) => line === 'POST /machine/map').length
    lie()
    rig.pollOf('victim')?.end()
    const before = asked()
    await rig.health(told)
    await new Promise((resolve) => setTimeout(resolve, 2_000))
    expect(asked() - before).toBeLessThan(40)
    expect(await rig.letsIn(rig.openPort)).toBe(true) // the old map is in force
    expect(await rig.letsIn(rig.shutPort)).toBe(false)
    rig.control.mapHead = undefined
    rig.control.map = (poll, name) => poll.send(rig.honest(name))
    await rig.lab.until('the victim listens again', () => rig.pollOf('victim'))
    await rig.unharmed()
  })
})

describe.runIf(linux)('our node under a control server that lies: numbers', () => {
  test('100,000 peers: those past 60,000 are left out in words, memory is bounded, and the node goes on', async () => {
    const before = rig.victim.rssBytes
    await rig.say({ Peers: [rig.node('friend') ?? {}, ...crowd(100_000)] })
    await rig.health(/names more than 60000 peers: 40001 of them are left out/, 60_000)
    expect(rig.victim.rssBytes - before).toBeLessThan(1_500 * 1_048_576)
    await rig.say({ Peers: [rig.node('friend') ?? {}] })
    await rig.unharmed(1_500 * 1_048_576)
  })
})

describe.runIf(linux)('our node under a control server that lies: the login', () => {
  const login = async (): Promise<void> => void (await rig.victim.run(['up', '--login-server', rig.control.url, '--hostname', 'victim', '--force-reauth', '--timeout', '1s']))

  const ANSWERS: readonly (readonly [string, () => ReturnType<typeof rig.control.register>, RegExp])[] = [
    ['an answer that is no JSON', () => ({ body: '<html>' }), /answer to the login cannot be read/],
    ['an answer of 3 MiB', () => ({ body: Buffer.alloc(3_145_728, 0x20) }), /longer than 1048576 bytes/],
    ['status 500', () => ({ status: 500, body: '' }), /answered the login with status 500/],
    ['retry after 10^18 seconds', () => ({ status: 429, headers: { 'retry-after': '1000000000000000000' }, body: '' }), /busy and asked to try later/],
    ['an error of a megabyte that paints on the terminal', () => ({ body: { ...ACCEPTED, Error: `no\u001b[2J\u0007 ${'e'.repeat(1_000_000)}` } }), /^the control server refused the login: no/],
    ['a key that is expired for ever', () => ({ body: { ...ACCEPTED, NodeKeyExpired: true } }), /calls a brand-new node key expired/],
  ]

  test.each(ANSWERS)('%s', async (_name, answer, told) => {
    const before = rig.control.registrations
    rig.control.register = answer
    await login()
    const line = await rig.health(told)
    expect(line.length).toBeLessThan(1_000)
    expect(line).not.toMatch(/\p{Cc}/u) // control characters
    expect(rig.control.registrations - before).toBeLessThan(60)
  })

  test('another URL to open with every answer: it is shown, and asked about at a measured pace', async () => {
    const before = rig.control.registrations
    let count = 0
    rig.control.register = () => ({ body: { ...ACCEPTED, AuthURL: `http://127.0.0.1:1/${(count += 1)}` } })
    await login()
    expect(rig.control.registrations - before).toBeLessThan(60)
  })

  test('a URL that no browser should open is not shown', async () => {
    rig.control.register = () => ({ body: { ...ACCEPTED, AuthURL: 'javascript:alert(document.cookie)' } })
    await login()
    await rig.health(/names an address to log in at that is no web address/)
    expect((await rig.victim.status()).AuthURL).toBe('')
  })

  test('an honest answer ends it: the node is in the mesh again, with what it may do and nothing else', async () => {
    rig.control.register = () => ({ body: ACCEPTED })
    await rig.victim.up(rig.control.url)
    await rig.unharmed(1_500 * 1_048_576) // what 100,000 peers took, the engine keeps
  })
})
