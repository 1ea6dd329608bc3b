import { describe, expect, test } from 'vitest'
import type { MapResponse } from '@meshwright/control-protocol'
import { key, Lab, type LabNode } from './server-lab.test.ts'

const ALLOW = '{"tagOwners":{"tag:srv":["alice@"]},"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}'

function open(policy: string | null = ALLOW, config = {}): Lab {
  const lab = new Lab(config)
  for (const name of ['alice', 'bob']) lab.admin({ command: 'createUser', name })
  if (policy !== null) expect(lab.admin({ command: 'setPolicy', policy }).status).toBe(200)
  return lab
}

/** What arrived on a stream because of `change`. */
function told(lab: Lab, node: LabNode, change: () => void): MapResponse[] {
  lab.advance(1000)
  const before = lab.framesOf(node.stream).length
  change()
  lab.advance(1000)
  return lab.framesOf(node.stream).slice(before).map(({ ControlTime: _, ...frame }) => frame)
}

const lite = (lab: Lab, node: LabNode, more = {}): number =>
  lab.map(node.machine, { NodeKey: node.NodeKey, OmitPeers: true, DiscoKey: key('discokey', node.name), Hostinfo: { Hostname: node.name, OS: 'linux' }, Endpoints: ['10.0.0.1:41641'], ...more })

describe('what a node is told', () => {
  test('the first frame has everything a client needs, with peers in order of their numbers', () => {
    const lab = open()
    lab.node('alice', 'a')
    lab.node('bob', 'b')
    const c = lab.node('alice', 'c')
    const [first] = lab.framesOf(c.stream)
    expect(Object.keys(first ?? {})).toEqual(expect.arrayContaining(['Node', 'DERPMap', 'Peers', 'DNSConfig', 'Domain', 'PacketFilters', 'UserProfiles', 'SSHPolicy', 'ControlTime', 'Debug']))
    expect(first?.Peers?.map((peer) => [peer.ID, peer.Name, peer.Online, peer.MachineAuthorized])).toEqual([[1, 'a.mesh.test.', true, true], [2, 'b.mesh.test.', true, true]])
    expect(first?.UserProfiles?.map((profile) => profile.LoginName)).toEqual(['alice', 'bob'])
    expect(first?.Debug?.DisableLogTail).toBe(true)
    for (const peer of first?.Peers ?? []) expect(peer.Hostinfo).toBeDefined()
  })

  test('an endpoint or a relay change is a patch to peers, and nothing is said of what did not change', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    expect(told(lab, b, () => lite(lab, a, { Endpoints: ['10.0.0.2:41641'] }))).toEqual([{ PeersChangedPatch: [{ NodeID: a.id, Endpoints: ['10.0.0.2:41641'] }] }])
    expect(told(lab, b, () => lite(lab, a, { Endpoints: ['10.0.0.2:41641'], Hostinfo: { Hostname: 'a', OS: 'linux', NetInfo: { PreferredDERP: 901 } } }))).toEqual([{ PeersChangedPatch: [{ NodeID: a.id, DERPRegion: 901 }] }])
    expect(told(lab, b, () => lite(lab, a, { Endpoints: ['10.0.0.2:41641'] })), 'NetInfo that is left out stays').toEqual([])
    expect(told(lab, b, () => lite(lab, a, { Endpoints: [] }))).toEqual([{ PeersChangedPatch: [{ NodeID: a.id, Endpoints: [] }] }])
  })

  test('clients of 1.100 are made to build their map anew when peers come, go or change; no others are', () => {
    for (const [Version, anew] of [[138, false], [139, true], [141, true], [142, false]] as const) {
      const lab = open()
      lab.node('alice', 'first') // so that the owner is known already
      const b = lab.node('bob', 'b')
      const stream = lab.map(b.machine, { NodeKey: b.NodeKey, Stream: true, Version, DiscoKey: key('discokey', 'b') })
      let a: LabNode | undefined
      const frames = (change: () => void): (string | undefined)[] => told(lab, { ...b, stream }, change).map((frame) => frame.Domain)
      const domain = anew ? 'mesh.test' : undefined
      expect(frames(() => (a = lab.node('alice', 'a')))).toEqual([domain])
      expect(frames(() => lite(lab, a ?? b, { Endpoints: ['10.0.0.2:41641'] })), 'patches are applied').toEqual([undefined])
      expect(frames(() => lab.admin({ command: 'renameNode', id: a?.id ?? 0, newName: 'other' }))).toEqual([domain])
      expect(frames(() => lab.admin({ command: 'deleteNode', id: a?.id ?? 0 }))).toEqual([domain])
    }
  })

  test('who has chosen an exit node builds its map anew when the choice, or what is shown of that node, is another; nobody else does', () => {
    const lab = open()
    const exit = lab.node('alice', 'exit')
    const b = lab.node('bob', 'b')
    const c = lab.node('bob', 'c')
    const domains = (node: LabNode, change: () => void): (string | undefined)[] => told(lab, node, change).map((frame) => frame.Domain)
    const choose = (node: LabNode, id: string): number => lite(lab, node, { Hostinfo: { Hostname: node.name, OS: 'linux', ExitNodeID: id } })
    expect(domains(b, () => choose(b, String(exit.id)))).toEqual(['mesh.test'])
    expect(domains(b, () => choose(b, String(exit.id))), 'no choice').toEqual([])
    expect(domains(c, () => choose(b, String(c.id))), 'of another').toEqual([])
    expect(domains(b, () => choose(b, String(exit.id)))).toEqual(['mesh.test'])
    expect(domains(b, () => lite(lab, exit, { Endpoints: ['10.0.0.9:41641'] })), 'where it is does not show').toEqual([undefined])
    expect(domains(b, () => lab.node('alice', 'late')), 'another peer').toEqual([undefined])
    lab.feed({ type: 'closed', request: exit.stream })
    expect(domains(b, () => lab.advance(20_000))).toEqual(['mesh.test'])
    expect(domains(c, () => lab.map(exit.machine, { NodeKey: exit.NodeKey, Stream: true, DiscoKey: key('discokey', 'exit') })), 'not for others').toEqual([undefined])
    expect(domains(b, () => lab.admin({ command: 'deleteNode', id: exit.id }))).toEqual(['mesh.test'])
    expect(domains(b, () => choose(b, '')), 'it shows none').toEqual([])
    expect(domains(b, () => choose(b, 'none')), 'an unknown one, once').toEqual(['mesh.test'])
  })

  test('a user with another name is told to those who see nodes of theirs', () => {
    const lab = open()
    lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    const frames = told(lab, b, () => lab.admin({ command: 'renameUser', id: 1, newName: 'alicia' }))
    expect(frames.flatMap((frame) => frame.UserProfiles ?? []).map((profile) => profile.LoginName)).toEqual(['alicia'])
  })

  test('a user who is deleted is told to nobody, and a new one of that name is told again', () => {
    const lab = open()
    const b = lab.node('bob', 'b')
    const c = lab.node('alice', 'c')
    expect(lab.admin({ command: 'deleteNode', id: c.id }).status).toBe(200)
    expect(told(lab, b, () => expect(lab.admin({ command: 'deleteUser', id: 1 }).status).toBe(200))).toEqual([])
    lab.admin({ command: 'createUser', name: 'alice' })
    expect(told(lab, b, () => lab.node('alice', 'd')).flatMap((frame) => frame.UserProfiles ?? [])).toMatchObject([{ ID: 3, LoginName: 'alice' }])
  })

  test('a node that joins a large group costs those who accept it one small chunk of their filter', () => {
    const lab = open('{"groups":{"group:b":["bob@"]},"acls":[{"action":"accept","src":["group:b"],"dst":["alice@:80"]}]}')
    const a = lab.node('alice', 'a')
    // By turns, so that the addresses of the group are no range.
    for (let i = 0; i < 40; i += 1) lab.node(i % 2 === 0 ? 'bob' : 'alice', `n${i}`)
    lab.advance(1000)
    const whole = lab.framesOf(a.stream).flatMap((frame) => Object.keys(frame.PacketFilters ?? {}))
    const frames = told(lab, a, () => lab.node('bob', 'late'))
    const chunks = frames.flatMap((frame) => Object.entries(frame.PacketFilters ?? {}))
    expect(new Set(whole).size).toBeGreaterThan(4)
    expect(chunks.length).toBeLessThanOrEqual(4) // the node has two addresses, and a chunk may be split
    expect(JSON.stringify(chunks)).toContain('100.64.0.42')
    expect(JSON.stringify(chunks).length).toBeLessThan(1000)
  })

  test('a repeated report writes nothing to the disk and tells nobody', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    const commits = lab.commits.length
    expect(told(lab, b, () => lite(lab, a))).toEqual([])
    expect(lab.commits.length).toBe(commits)
  })

  test('changes of one tick are one frame', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const c = lab.node('alice', 'c')
    const b = lab.node('bob', 'b')
    const frames = told(lab, b, () => {
      lite(lab, a, { Endpoints: ['10.0.0.9:1'] })
      lab.advance(20)
      lite(lab, c, { Endpoints: ['10.0.0.8:1'] })
    })
    expect(frames).toHaveLength(1)
    expect(frames[0]?.PeersChangedPatch?.map((patch) => patch.NodeID)).toEqual([a.id, c.id])
  })

  test('loopback, link-local and malformed endpoints are told to nobody', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    lite(lab, a, { Endpoints: ['127.0.0.1:1', '[::1]:1', '169.254.1.1:1', '[fe80::1]:1', '0.0.0.0:1', 'x', '10.0.0.1:0', '[::ffff:127.0.0.1]:9', '192.0.2.1:7'] })
    expect(lab.store.state().nodes[0]?.endpoints).toEqual(['192.0.2.1:7'])
  })

  test('a lite update disturbs no poll', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    expect(lab.answers.get(lite(lab, a, { Endpoints: ['10.0.0.7:1'] }))).toMatchObject({ status: 200, body: undefined })
    expect(lab.ended.size).toBe(0)
  })

  test('a node that comes, goes and comes back: new peer, then only patches', () => {
    const lab = open()
    const b = lab.node('bob', 'b')
    let a: LabNode | undefined
    expect(told(lab, b, () => (a = lab.node('alice', 'a')))).toMatchObject([{ PeersChanged: [{ Name: 'a.mesh.test.', Online: true }], UserProfiles: [{ LoginName: 'alice' }] }])
    const node = a ?? b
    expect(told(lab, b, () => lab.feed({ type: 'closed', request: node.stream })), 'within the grace time nothing is seen').toEqual([])
    lab.advance(10_000)
    expect(lab.framesOf(b.stream).at(-1)?.PeersChangedPatch).toEqual([{ NodeID: node.id, Online: false, LastSeen: expect.any(String) }])
    expect(told(lab, b, () => lab.map(node.machine, { NodeKey: node.NodeKey, Stream: true }))).toEqual([{ PeersChangedPatch: [{ NodeID: node.id, Online: true }] }])
  })

  test('a deleted node vanishes for its peers, its poll ends, and its next request is not found', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    expect(told(lab, b, () => lab.admin({ command: 'deleteNode', id: a.id }))).toEqual([{ PeersRemoved: [a.id] }])
    expect(lab.ended.has(a.stream)).toBe(true)
    expect(lab.answers.get(lab.map(a.machine, { NodeKey: a.NodeKey, Stream: true }))?.status).toBe(404)
  })

  test('a second poll of a node replaces the first', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const again = lab.map(a.machine, { NodeKey: a.NodeKey, Stream: true })
    expect([...lab.ended]).toEqual([a.stream])
    expect(lab.framesOf(again)[0]?.Node?.ID).toBe(a.id)
    lab.feed({ type: 'closed', request: a.stream })
    lab.advance(20_000)
    expect(lab.admin({ command: 'getNode', id: a.id }).body['node'].online).toBe(true)
  })

  test('a one-shot request gets one full frame and the end, with peers or without', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    lab.node('bob', 'b')
    const all = lab.map(a.machine, { NodeKey: a.NodeKey, ReadOnly: true })
    const bare = lab.map(a.machine, { NodeKey: a.NodeKey, ReadOnly: true, OmitPeers: true })
    expect(lab.framesOf(all)[0]?.Peers).toHaveLength(1)
    expect(lab.framesOf(bare)[0]?.Peers).toBeUndefined()
    expect(lab.framesOf(bare)[0]?.DERPMap).toBeDefined()
    expect([...lab.ended]).toEqual(expect.arrayContaining([all, bare]))
  })

  test('a reader that stalls is told the sum when it reads again', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    lab.advance(100)
    lab.feed({ type: 'blocked', request: b.stream })
    const frames = told(lab, b, () => {
      for (let i = 1; i < 50; i += 1) {
        lite(lab, a, { Endpoints: [`10.0.0.1:${i}`] })
        lab.advance(100)
      }
      lab.feed({ type: 'drained', request: b.stream })
    })
    expect(frames).toEqual([{ PeersChangedPatch: [{ NodeID: a.id, Endpoints: ['10.0.0.1:49'] }] }])
  })

  test('a reader that stalls for a keepalive is dropped', () => {
    const lab = open()
    const b = lab.node('bob', 'b')
    lab.feed({ type: 'blocked', request: b.stream })
    lab.advance(60_000)
    expect(lab.ended.has(b.stream)).toBe(true)
  })

  test('quiet polls get the same keepalive bytes every 50 to 59 seconds', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    lab.advance(1000)
    const before = lab.texts.get(a.stream)?.length ?? 0
    lab.advance(590_000)
    const kept = lab.texts.get(a.stream)?.slice(before) ?? []
    expect(kept.length).toBeGreaterThanOrEqual(10)
    expect(kept.length).toBeLessThanOrEqual(11)
    expect(new Set(kept)).toEqual(new Set(['{"KeepAlive":true}']))
  })

  test('clients before 1.82 get no certificate pins', () => {
    const node = { Name: '900a', RegionID: 900, HostName: 'h', CertName: 'sha256-raw:00' }
    const lab = open(ALLOW, { derpMap: { Regions: { '900': { RegionID: 900, RegionCode: 'r', RegionName: 'r', Nodes: [node] } } } })
    const a = lab.node('alice', 'a')
    const old = lab.map(a.machine, { Version: 113, NodeKey: a.NodeKey, ReadOnly: true })
    expect(lab.framesOf(a.stream)[0]?.DERPMap?.Regions?.['900']?.Nodes?.[0]?.CertName).toBe('sha256-raw:00')
    expect(lab.framesOf(old)[0]?.DERPMap?.Regions?.['900']?.Nodes?.[0]).toEqual({ Name: '900a', RegionID: 900, HostName: 'h', InsecureForTests: true })
  })
})

describe('the policy', () => {
  test('without a policy nobody sees anybody, nothing is allowed, and every view says so', () => {
    const lab = open(null)
    lab.node('alice', 'a')
    const b = lab.node('alice', 'b')
    const [first] = lab.framesOf(b.stream)
    expect(first?.Peers).toEqual([])
    expect(first?.PacketFilters).toEqual({ base: [] })
    expect(JSON.stringify(first?.DisplayMessages)).toContain('no policy is set')
    expect(lab.admin({ command: 'health' }).body['policy']).toContain('all traffic is denied')
    expect(lab.admin({ command: 'getPolicy' }).status).toBe(404)
    const frames = told(lab, b, () => lab.admin({ command: 'setPolicy', policy: ALLOW }))
    expect(frames).toMatchObject([{ PeersChanged: [{ ID: 1 }], DisplayMessages: { 'meshwright-no-policy': null } }])
  })

  test('a policy that takes visibility away removes peers and empties filters in one frame', () => {
    const lab = open()
    lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    expect(told(lab, b, () => lab.admin({ command: 'setPolicy', policy: '{"acls":[]}' }))).toEqual([{ PeersRemoved: [1], PacketFilters: { base: [] } }])
  })

  test('a policy that does not compile, or whose tests fail, changes nothing and says where', () => {
    const lab = open()
    lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    const broken = ['{"acls":[', '{"acls":[{"action":"accept","src":["alice@"],"dst":["tag:nope:22"]}]}', '{"acls":[],"tests":[{"src":"alice@","accept":["100.64.0.2:22"]}]}']
    for (const policy of broken) {
      const frames = told(lab, b, () => {
        const { status, body } = lab.admin({ command: 'setPolicy', policy })
        expect(status).toBe(400)
        expect(body['diagnostics'][0]).toMatchObject({ line: 1, column: expect.any(Number), message: expect.any(String) })
        expect(lab.admin({ command: 'checkPolicy', policy }).status).toBe(400)
      })
      expect(frames).toEqual([])
      expect(lab.store.state().policy?.text).toBe(ALLOW)
    }
  })

  test('a wall clock that is set ahead ends keys within ten seconds, and set back makes them good again', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    lab.admin({ command: 'expireNode', id: a.id, expiry: lab.clock.wallClock() + 3_600_000 })
    lab.advance(1000)
    const change = (offset: number) => (): void => {
      lab.wallOffsetMs = offset
      lab.advance(10_000)
    }
    expect(told(lab, b, change(86_400_000))).toMatchObject([{ PeersChanged: [{ ID: a.id, Expired: true }] }])
    // Clients judge by the time of the server, and may take it up too late for the frame that it comes with.
    lab.advance(1000)
    const known = lab.framesOf(b.stream).length
    change(0)()
    for (let second = 0; second < 60; second += 1) lab.advance(1_000)
    const [time, back, ...later] = lab.framesOf(b.stream).slice(known)
    expect(time).toEqual({ KeepAlive: true, ControlTime: expect.stringMatching(/^2026-01-01T00:00:20/) })
    expect(back?.PeersChanged?.map((peer) => [peer.ID, peer.Expired])).toEqual([[a.id, undefined]])
    // A busy one takes it up later still: it is made to judge all keys anew twice, and no more.
    expect(later.filter((frame) => frame.KeepAlive !== true)).toEqual([{ Domain: 'mesh.test', ControlTime: expect.any(String) }, { Domain: 'mesh.test', ControlTime: expect.any(String) }])
    expect(told(lab, b, change(-86_400_000))).toEqual([])
  })

  test('a node that polls anew just when the clock was set is told of all the same, and at once', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    lab.admin({ command: 'expireNode', id: a.id, expiry: lab.clock.wallClock() + 3_600_000 })
    for (const [offset, expired] of [[86_400_000, true], [0, undefined]] as const) {
      lab.advance(9_000)
      const frames = told(lab, b, () => {
        lab.wallOffsetMs = offset
        lab.map(a.machine, { NodeKey: a.NodeKey, Stream: true, DiscoKey: key('discokey', 'a') })
      })
      expect(frames.flatMap((frame) => frame.PeersChanged ?? []).map((peer) => [peer.ID, peer.Expired])).toEqual([[a.id, expired]])
    }
  })

  test('an expired node is told of nobody and others see it as expired; a later expiry brings it back without a login', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    const cut = told(lab, a, () => lab.admin({ command: 'expireNode', id: a.id }))
    expect(cut).toMatchObject([{ PeersRemoved: [b.id], PacketFilters: { base: [] } }])
    expect(lab.framesOf(b.stream).at(-1)?.PeersChanged).toMatchObject([{ ID: a.id, Expired: true }])
    expect(told(lab, a, () => lab.admin({ command: 'expireNode', id: a.id, disable: true }))).toMatchObject([{ Node: { KeyExpiry: '0001-01-01T00:00:00Z' }, PeersChanged: [{ ID: b.id }] }])
  })

  test('a key expires on time', () => {
    const lab = open(ALLOW, { nodeExpiryMs: 3_600_000 })
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    lab.advance(3_599_000)
    expect(lab.framesOf(b.stream).some((frame) => frame.PeersChanged?.some((peer) => peer.ID === a.id && peer.Expired === true))).toBe(false)
    lab.advance(1_100)
    expect(lab.framesOf(b.stream).some((frame) => frame.PeersRemoved?.includes(a.id) || frame.PeersChanged?.some((peer) => peer.ID === a.id && peer.Expired === true))).toBe(true)
    expect(lab.framesOf(a.stream).at(-1)?.PeersRemoved ?? lab.framesOf(a.stream).at(-2)?.PeersRemoved).toEqual([b.id])
  })

  test('tagging a connected node changes whose it is, live', () => {
    const lab = open()
    const a = lab.node('alice', 'a')
    const b = lab.node('bob', 'b')
    expect(told(lab, b, () => lab.admin({ command: 'setTags', id: a.id, tags: ['tag:srv'] }))).toMatchObject([
      { PeersChanged: [{ ID: a.id, Tags: ['tag:srv'], User: 2147455555 }], UserProfiles: [{ LoginName: 'tagged-devices' }] },
    ])
    expect(lab.admin({ command: 'setTags', id: a.id, tags: ['tag:unknown'] }).status).toBe(400)
  })
})

describe('routes', () => {
  const route = '10.9.0.0/24'

  test('an advertised route is nobody\'s until it is approved', () => {
    const lab = open()
    const r = lab.node('alice', 'r', { routes: [route] })
    const b = lab.node('bob', 'b')
    expect(lab.framesOf(b.stream)[0]?.Peers?.[0]?.AllowedIPs).toEqual(['100.64.0.1/32', 'fd7a:115c:a1e0::1/128'])
    const frames = told(lab, b, () => lab.admin({ command: 'approveRoutes', id: r.id, routes: [route] }))
    expect(frames).toMatchObject([{ PeersChanged: [{ AllowedIPs: ['100.64.0.1/32', 'fd7a:115c:a1e0::1/128', route], PrimaryRoutes: [route] }] }])
    expect(told(lab, b, () => lite(lab, r, { Hostinfo: { Hostname: 'r', OS: 'linux', RoutableIPs: [] } }))).toMatchObject([{ PeersChanged: [{ AllowedIPs: ['100.64.0.1/32', 'fd7a:115c:a1e0::1/128'] }] }])
  })

  test('autoApprovers approve at registration, and when a policy that says so comes later', () => {
    const lab = open('{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}],"autoApprovers":{"routes":{"10.0.0.0/8":["alice@"]}}}')
    lab.node('alice', 'r', { routes: [route, '192.168.0.0/24'] })
    lab.node('bob', 's', { routes: [route] })
    expect(lab.store.state().nodes.map((node) => node.approvedRoutes)).toEqual([[route], []])
    lab.admin({ command: 'setPolicy', policy: '{"acls":[],"autoApprovers":{"routes":{"10.0.0.0/8":["bob@"]}}}' })
    expect(lab.store.state().nodes.map((node) => node.approvedRoutes)).toEqual([[route], [route]])
  })

  test('when the router goes, the next one that serves the same prefix takes over within the grace time', () => {
    const lab = open()
    const r1 = lab.node('alice', 'r1', { routes: [route] })
    lab.advance(10)
    const r2 = lab.node('alice', 'r2', { routes: [route] })
    const b = lab.node('bob', 'b')
    for (const router of [r1, r2]) lab.admin({ command: 'approveRoutes', id: router.id, routes: [route] })
    lab.advance(1000)
    expect(lab.admin({ command: 'getNode', id: r1.id }).body['node'].subnetRoutes).toEqual([route])
    lab.feed({ type: 'closed', request: r1.stream })
    lab.advance(10_100)
    const last = lab.framesOf(b.stream).at(-1)
    expect(last?.PeersChanged?.map((peer) => [peer.ID, peer.PrimaryRoutes])).toEqual([[r1.id, undefined], [r2.id, [route]]])
  })

  test('approving one exit route approves both families', () => {
    const lab = open()
    const r = lab.node('alice', 'r', { routes: ['0.0.0.0/0', '::/0'] })
    expect(lab.admin({ command: 'approveRoutes', id: r.id, routes: ['::/0'] }).body['node'].approvedRoutes).toEqual(['0.0.0.0/0', '::/0'])
    expect(lab.admin({ command: 'approveRoutes', id: r.id, routes: ['nonsense'] }).status).toBe(400)
  })
})

describe('ephemeral nodes', () => {
  test('they are deleted after their time offline, not before', () => {
    const lab = open(ALLOW, { ephemeralInactivityMs: 120_000 })
    const a = lab.node('alice', 'a', { ephemeral: true })
    const b = lab.node('bob', 'b')
    lab.advance(3_600_000)
    lab.feed({ type: 'closed', request: a.stream })
    lab.advance(129_000)
    expect(lab.store.state().nodes).toHaveLength(2)
    lab.advance(2_000)
    expect(lab.store.state().nodes.map((node) => node.id)).toEqual([b.id])
    expect(lab.framesOf(b.stream).at(-1)?.PeersRemoved).toEqual([a.id])
  })

  test('one that never polled gets five minutes', () => {
    const lab = open()
    const AuthKey = lab.admin({ command: 'createAuthKey', userId: 1, ephemeral: true }).body['preAuthKey'].key as string
    lab.register(key('mkey', 'a'), { NodeKey: key('nodekey', 'a'), Auth: { AuthKey } })
    lab.advance(299_000)
    expect(lab.store.state().nodes).toHaveLength(1)
    lab.advance(2_000)
    expect(lab.store.state().nodes).toHaveLength(0)
  })
})

test.each(['keeps running', 'is killed and starts again'])('a device that was deleted and logs in anew keeps its home relay, which clients do not report again, also when the server %s', (server) => {
  const lab = open()
  const a = lab.node('alice', 'a')
  lite(lab, a, { Hostinfo: { Hostname: 'a', OS: 'linux', NetInfo: { PreferredDERP: 901, WorkingUDP: true } } })
  lab.advance(1000)
  lab.admin({ command: 'deleteNode', id: a.id })
  lab.advance(1000)
  expect(lab.store.state().departed).toEqual([{ machineKey: a.machine, homeRelay: 901, netInfo: { PreferredDERP: 901, WorkingUDP: true } }])
  if (server !== 'keeps running') lab.restart()
  const b = lab.node('bob', 'b')
  const NodeKey = key('nodekey', 'again')
  const AuthKey = lab.admin({ command: 'createAuthKey', userId: 1 }).body['preAuthKey'].key as string
  const frames = told(lab, b, () => {
    expect(lab.registered(lab.register(a.machine, { NodeKey, Auth: { AuthKey }, Hostinfo: { Hostname: 'a', OS: 'linux' } })).Error).toBe('')
    lab.map(a.machine, { NodeKey, Stream: true, DiscoKey: key('discokey', 'a') })
    lite(lab, { ...a, NodeKey })
  })
  expect(frames.flatMap((frame) => frame.PeersChanged ?? []).at(-1)).toMatchObject({ Key: NodeKey, HomeDERP: 901 })
  expect(lab.store.state().departed, 'what its node holds again is not kept twice').toEqual([])
})

test('home relays survive a killed server: a newcomer learns those of nodes that have not come back', () => {
  const lab = open()
  const a = lab.node('alice', 'a')
  lite(lab, a, { Hostinfo: { Hostname: 'a', OS: 'linux', NetInfo: { PreferredDERP: 901, WorkingUDP: true } } })
  lab.advance(1000)
  lab.restart()
  const b = lab.node('bob', 'b')
  expect(lab.framesOf(b.stream)[0]?.Peers).toMatchObject([{ ID: a.id, HomeDERP: 901 }])
})

test('of deleted nodes a bounded number is remembered, the newest; a commit that fails remembers nothing', () => {
  const lab = open()
  const nodes = Array.from({ length: 3 }, (_, i) => lab.node('alice', `a${i}`))
  for (const node of nodes) lite(lab, node, { Hostinfo: { Hostname: node.name, OS: 'linux', NetInfo: { PreferredDERP: 901 } } })
  const departed = Array.from({ length: 1024 }, (_, i) => ({ machineKey: key('mkey', `old${i}`), netInfo: undefined, homeRelay: 5 }))
  const full = new Lab({}, { ...lab.store.state(), departed })
  full.storing = 'fail'
  full.admin({ command: 'deleteNode', id: nodes[0]?.id ?? 0 })
  full.storing = 'now'
  full.admin({ command: 'deleteNode', id: nodes[1]?.id ?? 0 })
  full.admin({ command: 'deleteNode', id: nodes[2]?.id ?? 0 })
  const kept = full.store.state().departed.map(({ machineKey }) => machineKey)
  expect(kept).toHaveLength(1024)
  expect([kept[0], ...kept.slice(-2)]).toEqual([departed[2]?.machineKey, nodes[1]?.machine, nodes[2]?.machine])
})
