import { encodeJson, encodeMapChunk } from '@meshwright/control-protocol'
import { formatControlState, parseControlState } from '@meshwright/control-client'
import { machineLaws } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { DEFAULT_PREFS, type MeshInput, MeshNode, type MeshOutput } from './index.ts'
import { ACCEPTED, ALLOW_ALL, Bench, endpoint, ip, prefix, wireNode } from './mesh-lab.test.ts'

describe('the states of a node, from outside', () => {
  test('a new node that is not to run needs a login; a known one is stopped', () => {
    const fresh = new Bench()
    fresh.act((now) => fresh.node.start(now))
    expect(fresh.node.state).toBe('needs-login')
    const known = new Bench().running()
    const saved = known.taken('saveState').at(-1)
    if (saved?.type !== 'saveState') return expect.fail('nothing was saved')
    const state = parseControlState(formatControlState(saved.state)) ?? expect.fail('not readable')
    const again = new Bench({ state })
    again.act((now) => again.node.start(now))
    expect(again.node.state).toBe('stopped')
  })

  test('no-state to starting to running by auth key, when no relay is to be had', () => {
    const bench = new Bench()
    bench.act((now) => bench.node.up(now, { authKey: 'tskey-1' }))
    expect(bench.body('register')['Auth']).toEqual({ AuthKey: 'tskey-1' })
    bench.registered()
    expect(bench.node.state).toBe('starting')
    bench.frame({ Node: bench.self() })
    expect(bench.states.slice(-2)).toEqual(['starting', 'running'])
  })

  test('with a relay in the map it runs once the relay is reached', () => {
    const Regions = { 1: { RegionID: 1, RegionCode: 'one', RegionName: 'One', Nodes: [{ Name: '1a', RegionID: 1, HostName: 'one.test', IPv4: '192.0.2.7' }] } }
    const bench = new Bench().running({ DERPMap: { Regions } })
    expect(bench.node.state).toBe('starting')
    const dial = bench.taken('relayDial')[0]
    if (dial?.type !== 'relayDial') return expect.fail('no relay was dialled')
    expect([dial.region.id, dial.node.name]).toEqual([1, '1a'])
  })

  test('each step on the way to a node that peers know is named, and the last is the word of the server that it has its facts', () => {
    const bench = new Bench()
    expect(bench.node.waitsFor).toBe('up')
    bench.act((now) => bench.node.up(now, { authKey: 'tskey-1' }))
    expect(bench.node.waitsFor).toBe('login')
    bench.registered()
    expect(bench.node.waitsFor).toBe('map')
    bench.frame({ Node: bench.self({ MachineAuthorized: false }) })
    expect(bench.node.waitsFor).toBe('approval')
    bench.frame({ Node: bench.self() })
    expect([bench.node.state, bench.node.waitsFor]).toEqual(['running', 'relay']) // no relay to be had, and no endpoint either
    bench.act((now) => bench.node.handleInput(now, { type: 'localEndpoints', endpoints: [endpoint('192.0.2.1:41641')] }))
    expect(bench.node.waitsFor).toBe('told')
    while (bench.has('lite')) bench.answer(bench.find('lite'), 200)
    expect([bench.node.waitsFor, bench.outputs.at(-1)]).toEqual([undefined, { type: 'changed' }])
    bench.act((now) => bench.node.handleInput(now, { type: 'localEndpoints', endpoints: [endpoint('192.0.2.9:41641')] }))
    expect(bench.node.waitsFor).toBe('told')
    bench.act((now) => bench.node.down(now))
    expect(bench.node.waitsFor).toBe('up')
  })

  test('a login URL is told, and approval leads on', () => {
    const bench = new Bench()
    bench.act((now) => bench.node.up(now))
    bench.registered({ AuthURL: 'http://control.test/login/1', MachineAuthorized: false })
    expect([bench.node.state, bench.node.status(bench.clock.now).authUrl]).toEqual(['needs-login', 'http://control.test/login/1'])
    expect(bench.taken('openUrl')).toEqual([{ type: 'openUrl', url: 'http://control.test/login/1' }])
    expect(bench.body('register')['Followup']).toBe('http://control.test/login/1')
    bench.registered().frame({ Node: bench.self() })
    expect([bench.node.state, bench.node.status(bench.clock.now).authUrl]).toEqual(['running', undefined])
  })

  test('a refused key says why, in words, and is shown again later: the reason may go away', () => {
    const bench = new Bench()
    bench.act((now) => bench.node.up(now, { authKey: 'tskey-old' })).registered({ Error: 'auth key has expired' })
    expect(bench.node.state).toBe('starting')
    expect(bench.node.status(bench.clock.now).lastError).toContain('auth key has expired')
    expect(bench.node.status(bench.clock.now).health.join()).toContain('auth key has expired')
    bench.pass(10_000).registered().frame({ Node: bench.self() })
    expect([bench.node.state, bench.node.status(bench.clock.now).lastError]).toEqual(['running', undefined])
  })

  test('a machine that is held back has no peers and no traffic until an admin approves it', () => {
    const bench = new Bench()
    bench.act((now) => bench.node.up(now, { authKey: 'tskey-1' })).registered({ MachineAuthorized: false })
    bench.frame({ Node: bench.self({ MachineAuthorized: false }), Peers: [wireNode(2, { Endpoints: ['192.0.2.2:41641'] })], PacketFilters: { base: ALLOW_ALL } })
    expect(bench.node.state).toBe('needs-machine-auth')
    expect(() => bench.node.withStack(bench.clock.now, (stack) => stack.connectTcp(bench.clock.now, { ip: ip('100.64.0.2'), port: 80 }))).toThrow('no local IPv4 address')
    bench.frame({ Node: bench.self() })
    expect(bench.node.state).toBe('running')
  })

  test('down from any state, and up again with the same key', () => {
    const bench = new Bench().running({ Peers: [wireNode(2)] })
    const key = bench.node.status(bench.clock.now).nodeKey?.text
    bench.act((now) => bench.node.down(now))
    expect([bench.node.state, bench.node.map, bench.node.status(bench.clock.now).peers]).toEqual(['stopped', undefined, []])
    expect(bench.has('poll')).toBe(false)
    bench.act((now) => bench.node.up(now)).registered().frame({ Node: bench.self() })
    expect([bench.node.state, bench.node.status(bench.clock.now).nodeKey?.text]).toEqual(['running', key])
  })

  test('down and up again at once, when the server has nothing new to tell', () => {
    const bench = new Bench()
    const first = { PacketFilters: { base: ALLOW_ALL }, Peers: [wireNode(2)] }
    bench.running(first)
    bench.act((now) => bench.node.down(now))
    bench.act((now) => bench.node.up(now)).registered().frame({ Node: bench.self(), ...first })
    expect(bench.node.state).toBe('running')
    expect(bench.node.status(bench.clock.now).peers.length).toBe(1)
  })

  test('an expired key ends the traffic and asks for a login; a renewed one gives it back', () => {
    const peer = wireNode(2, { Endpoints: ['192.0.2.2:41641'] })
    const bench = new Bench().running({ Peers: [peer] })
    expect(bench.node.resolve('n2')).toHaveLength(1)
    bench.frame({ Node: bench.self({ KeyExpiry: new Date(bench.clock.wallClock() - 1_000).toISOString() }) })
    expect(bench.node.state).toBe('needs-login')
    expect(bench.node.status(bench.clock.now).health.join()).toContain('expired')
    bench.outputs.length = 0
    bench.act((now) => bench.node.handleInput(now, { type: 'packet', bytes: new Uint8Array(40).fill(0x45, 0, 1) }))
    expect(bench.taken('datagram')).toEqual([])
    bench.frame({ Node: bench.self({ KeyExpiry: new Date(bench.clock.wallClock() + 3_600_000).toISOString() }) })
    expect(bench.node.state).toBe('running')
  })

  test('logout tells the server, forgets the key and says so', () => {
    const bench = new Bench().running()
    bench.act((now) => bench.node.logout(now))
    expect(bench.body('register')['Expiry']).toMatch(/^1970/)
    bench.answer(bench.find('register'), 200, encodeJson({ NodeKeyExpired: true, MachineAuthorized: false, AuthURL: '', Error: '' }))
    expect(bench.taken('loggedOut')).toHaveLength(1)
    expect([bench.node.state, bench.node.status(bench.clock.now).nodeKey]).toEqual(['needs-login', undefined])
  })
})

test('a peer whose key expires by the clock is cut off at that time, without a word from the server', () => {
  const expiry = new Bench().clock.wallClock() + 90_000
  const bench = new Bench().running({ Peers: [wireNode(2, { KeyExpiry: new Date(expiry).toISOString(), Endpoints: ['192.0.2.2:41641'] })] })
  const sends = (): boolean => {
    bench.outputs.length = 0
    bench.act((now) => bench.node.withStack(now, (stack) => stack.ping(now, ip('100.64.0.2'))))
    return bench.taken('datagram').length > 0
  }
  expect(sends()).toBe(true)
  bench.pass(90_100)
  expect(sends()).toBe(false)
  expect(bench.node.status(bench.clock.now).drops).toMatchObject({ 'no-peer': expect.any(Number) })
})

test('loopback endpoints are told to the server only where that is asked for', () => {
  const told = (allowLoopback: boolean): unknown => {
    const bench = new Bench({ allowLoopback }).running()
    bench.act((now) => bench.node.handleInput(now, { type: 'localEndpoints', endpoints: [endpoint('127.0.0.1:5'), endpoint('192.0.2.1:5')] }))
    while (bench.has('lite')) {
      const { Endpoints } = bench.body('lite') as { Endpoints?: unknown }
      bench.answer(bench.find('lite'), 200)
      if (Endpoints !== undefined && !bench.has('lite')) return Endpoints
      bench.pass(1_000)
    }
    return expect.fail('nothing was told')
  }
  expect(told(false)).toEqual(['192.0.2.1:5'])
  expect(told(true)).toEqual(['127.0.0.1:5', '192.0.2.1:5'])
})

describe('pings', () => {
  test('always end, with words for why not', () => {
    const bench = new Bench()
    const error = (): string | undefined => bench.taken('pinged').flatMap((output) => (output.type === 'pinged' ? [output.result.error ?? 'answered'] : [])).join()
    bench.act((now) => bench.node.ping(now, 1, ip('100.64.0.2'), 'disco'))
    expect(error()).toContain('not running')
    bench.running({ Peers: [wireNode(2, { Endpoints: ['192.0.2.2:1'] })] })
    bench.act((now) => bench.node.ping(now, 2, ip('100.64.0.99'), 'disco'))
    expect(error()).toBe('no matching peer')
    bench.act((now) => bench.node.ping(now, 3, ip('100.64.0.1'), 'ICMP'))
    expect(error(), 'oneself').toBe('answered')
    for (const kind of ['disco', 'TSMP', 'ICMP'] as const) {
      bench.act((now) => bench.node.ping(now, 4, ip('100.64.0.2'), kind))
      bench.pass(20_000)
      expect(error(), kind).toContain('no answer')
    }
    bench.act((now) => bench.node.ping(now, 5, ip('100.64.0.2'), 'disco')).act((now) => bench.node.down(now))
    expect(error()).toContain('stopped')
  })
})

test('whois names the node behind an address or a route, and its user', () => {
  const bench = new Bench().running({
    Peers: [wireNode(2, { AllowedIPs: ['100.64.0.2/32', '10.0.0.0/8'] }), wireNode(3, { Tags: ['tag:db'], AllowedIPs: ['100.64.0.3/32', '10.1.0.0/16'] })],
    UserProfiles: [{ ID: 1, LoginName: 'alice@mesh.test', DisplayName: 'Alice' }],
  })
  const who = (text: string): unknown => {
    const found = bench.node.whois(ip(text))
    return found && [found.node.stableId, found.user?.loginName]
  }
  expect(who('100.64.0.2')).toEqual(['stable2', 'alice@mesh.test'])
  expect(who('10.9.9.9')).toEqual(['stable2', 'alice@mesh.test'])
  expect(who('10.1.9.9'), 'the longer route; a tagged node has no user').toEqual(['stable3', undefined])
  expect(who('192.0.2.1')).toBeUndefined()
})

test('keeps the machine laws', () => {
  machineLaws<MeshInput, MeshOutput>({
    make: (random, now) => {
      return new MeshNode(now, { random: random.bytes, wallClock: () => Date.UTC(2026, 10, 21), controlUrl: 'http://control.test', prefs: { ...DEFAULT_PREFS, hostname: 'n1', advertiseRoutes: [prefix('10.0.0.0/8')] } })
    },
    exercise: (machine, now) => {
      if (!(machine instanceof MeshNode)) return
      machine.up(now, { authKey: 'tskey-1' })
      let id = 0
      for (let output = machine.pollOutput(); output !== undefined; output = machine.pollOutput()) {
        if (output.type === 'control' && output.output.type === 'request' && output.output.path === '/machine/register') id = output.output.id
      }
      const tell = (to: number, bytes: Uint8Array): void => {
        machine.handleInput(now, { type: 'control', input: { type: 'response', id: to, status: 200 } })
        machine.handleInput(now, { type: 'control', input: { type: 'chunk', id: to, bytes } })
      }
      tell(id, encodeJson(ACCEPTED))
      machine.handleInput(now, { type: 'control', input: { type: 'end', id } })
      let poll = 0
      for (let output = machine.pollOutput(); output !== undefined; output = machine.pollOutput()) {
        if (output.type === 'control' && output.output.type === 'request' && output.output.stream) poll = output.output.id
      }
      const self = wireNode(1, { Key: machine.status(now).nodeKey?.text ?? '' })
      const Regions = { 1: { RegionID: 1, RegionCode: 'one', RegionName: 'One', Nodes: [{ Name: '1a', RegionID: 1, HostName: 'one.test' }] } }
      tell(poll, encodeMapChunk(encodeJson({ Node: self, Peers: [wireNode(2, { Endpoints: ['192.0.2.2:41641'] })], PacketFilters: { base: ALLOW_ALL }, DERPMap: { Regions } }), 'none'))
      expect(machine.map?.peers.size).toBe(1)
    },
    arbitraryInput: (random) => {
      const bytes = random.bytes(random.below(160))
      if (random.chance(0.6)) bytes.set(random.pick([[1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0], [0x45], [0x60], [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac]]).slice(0, bytes.length))
      const id = 1 + random.below(8)
      return random.pick<MeshInput>([
        { type: 'datagram', bytes, from: endpoint(`192.0.2.${1 + random.below(3)}:41641`) },
        { type: 'packet', bytes },
        { type: 'relay', input: { type: 'bytes', link: 1 + random.below(2), bytes } },
        { type: 'relay', input: { type: 'closed', link: 1 + random.below(2) } },
        { type: 'control', input: { type: 'response', id, status: random.pick([200, 200, 404, 429, 500]) } },
        { type: 'control', input: { type: 'chunk', id, bytes } },
        { type: 'control', input: { type: 'end', id } },
        { type: 'control', input: { type: 'failed', id, message: 'broken' } },
        { type: 'localEndpoints', endpoints: [endpoint(`192.0.2.${random.below(4)}:41641`)] },
        { type: 'linkChanged' },
        { type: 'dnsAnswer', token: id, upstream: '8.8.8.8', transport: 'udp', bytes },
        { type: 'relayResolved', hostName: 'one.test', ips: [] },
        { type: 'relayMeasured', region: 1, latencyMs: random.below(100) },
      ])
    },
    describe: (output) => JSON.stringify(output, (key, value: unknown) => (value instanceof Uint8Array ? [...value].join() : key === 'state' || key === 'peer' ? String(value) : value)),
    seeds: 3,
    inputs: 300,
  })
})
