import { instant } from '@meshwright/core'
import { expect, test } from 'vitest'
import { type ControlServerInput, ControlServer, controlServerConfig, emptyState, type NodeRecord, type UserRecord } from './index.ts'
import { collectGarbage } from '../test/garbage.ts'
import { key } from './server-lab.test.ts'

const NODES = 1000
const GROUPS = 20
const OPEN = '{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}'
const IN_GROUPS = JSON.stringify({
  groups: Object.fromEntries(Array.from({ length: GROUPS }, (_, i) => [`group:g${i}`, [`u${i}@`]])),
  acls: Array.from({ length: 5 * GROUPS }, (_, i) => ({ action: 'accept', src: [`group:g${i % GROUPS}`], dst: [`group:g${(i + 1 + 3 * Math.floor(i / GROUPS)) % GROUPS}:${1000 + i}`] })),
})

/** A network of a thousand nodes that all have their poll open, and a caller that counts chunks and reads none. */
class Crowd {
  readonly server: ControlServer
  readonly frames = new Map<number, number>()
  #now = instant(1000)
  #next = NODES + 1

  constructor(policy: string, count: number = NODES) {
    const users = Array.from({ length: GROUPS }, (_, i): UserRecord => ({ id: i + 1, name: `u${i}`, displayName: '', email: '', profilePicUrl: '', createdAt: 0 }))
    const nodes = Array.from({ length: count }, (_, i) => nodeOf(i + 1))
    const counters = { nextUserId: GROUPS + 1, nextNodeId: count + 1, nextAuthKeyId: 1 }
    this.server = new ControlServer(this.#now, {
      config: controlServerConfig({ serverUrl: 'http://control.test', baseDomain: 'mesh.test' }),
      state: { ...emptyState(), users, nodes, counters, policy: { text: policy, updatedAt: 0 } },
      random: (length) => new Uint8Array(length),
      wallClock: () => 1_700_000_000_000,
    })
    for (const { id } of nodes) this.#feed({ type: 'map', request: id, machineKey: key('mkey', `m${id}`), body: { Version: 142, NodeKey: key('nodekey', `n${id}`), Stream: true } })
    this.settle()
  }

  /** How many comparisons, and how many frames, a change costs until all is told. */
  cost(change: () => void): { readonly compared: number; readonly frames: number; readonly sources: number } {
    const { peersCompared: compared, filterSourcesWritten: sources } = this.server.figures
    this.frames.clear()
    change()
    this.settle()
    return { compared: this.server.figures.peersCompared - compared, frames: this.frames.size, sources: this.server.figures.filterSourcesWritten - sources }
  }

  report(id: number, endpoint: string): void {
    this.#ask({ type: 'map', machineKey: key('mkey', `m${id}`), body: { Version: 142, NodeKey: key('nodekey', `n${id}`), OmitPeers: true, Endpoints: [endpoint] } })
  }

  admin(command: Extract<ControlServerInput, { type: 'admin' }>['command']): void {
    this.#ask({ type: 'admin', command })
  }

  settle(): void {
    const end = this.#now + 2_000
    for (let due = this.server.pollTimeout(); due !== undefined && due <= end; due = this.server.pollTimeout()) {
      this.#now = due
      this.server.handleTimeout(due)
      this.#drain()
    }
    this.#now = instant(end)
  }

  #ask(input: { readonly type: 'map'; readonly machineKey: string; readonly body: Extract<ControlServerInput, { type: 'map' }>['body'] } | { readonly type: 'admin'; readonly command: Extract<ControlServerInput, { type: 'admin' }>['command'] }): void {
    this.#next += 1
    this.#feed({ ...input, request: this.#next })
  }

  #feed(input: ControlServerInput): void {
    this.server.handleInput(this.#now, input)
    this.#drain()
  }

  #drain(): void {
    for (let output = this.server.pollOutput(); output !== undefined; output = this.server.pollOutput()) {
      if (output.type === 'commit') this.server.handleInput(this.#now, { type: 'committed', commit: output.commit })
      else if (output.type === 'mapChunk') this.frames.set(output.request, (this.frames.get(output.request) ?? 0) + 1)
      else if (output.type === 'respond' && output.status !== 200) throw new Error(`${output.status} ${JSON.stringify(output.body)}`)
    }
  }
}

function nodeOf(id: number): NodeRecord {
  const hex = id.toString(16)
  return {
    id,
    machineKey: key('mkey', `m${id}`),
    nodeKey: key('nodekey', `n${id}`),
    discoKey: key('discokey', `d${id}`),
    ipv4: `100.64.${id >> 8}.${id & 255}`,
    ipv6: `fd7a:115c:a1e0::${hex}`,
    hostname: `h${id}`,
    givenName: `h${id}`,
    renamed: false,
    userId: (id % GROUPS) + 1,
    tags: [],
    registerMethod: 'authKey',
    authKeyId: undefined,
    ephemeral: false,
    createdAt: 0,
    lastSeen: undefined,
    expiry: undefined,
    approvedRoutes: [],
    advertisedRoutes: [],
    hostinfo: {},
    endpoints: ['10.0.0.1:41641'],
    homeRelay: 1,
    capVersion: 142,
  }
}

// Everybody with everybody would be a million comparisons.
test('a change among a thousand nodes costs one comparison for each receiver and changed node', () => {
  const crowd = new Crowd(OPEN)
  const endpoint = crowd.cost(() => crowd.report(1, '10.0.0.2:41641'))
  expect(endpoint.frames).toBe(NODES - 1)
  expect(endpoint.compared).toBeLessThanOrEqual(NODES)
  expect(crowd.cost(() => crowd.report(1, '10.0.0.2:41641')), 'what is unchanged costs nothing').toEqual({ compared: 0, frames: 0, sources: 0 })
  // All of a tick are compared together, and told in one frame.
  const many = crowd.cost(() => {
    for (let id = 1; id <= 10; id += 1) crowd.report(id, '10.0.0.3:41641')
  })
  expect(many.compared).toBeLessThanOrEqual(10 * NODES)
  expect([many.frames, Math.max(...crowd.frames.values())]).toEqual([NODES, 1])
})

test('nodes that go cost one comparison for each receiver and gone node, though the policy says something else to hundreds', () => {
  const crowd = new Crowd(IN_GROUPS)
  // Each group sees seven others: it reaches five, and five reach it.
  const others = (7 * NODES) / GROUPS
  const endpoint = crowd.cost(() => crowd.report(1, '10.0.0.2:41641'))
  expect(endpoint.frames).toBe(others)
  expect(endpoint.compared).toBeLessThanOrEqual(NODES)
  const deleted = crowd.cost(() => crowd.admin({ command: 'deleteNode', id: 41 }))
  expect(deleted.frames).toBe(others)
  expect(deleted.compared).toBeLessThanOrEqual(NODES)
  // More in one tick than a few are followed one by one, too.
  const gone = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
  const many = crowd.cost(() => {
    for (const id of gone) crowd.admin({ command: 'deleteNode', id })
  })
  expect(many.compared).toBeLessThanOrEqual(gone.length * NODES)
  // Only another policy makes everybody look at all.
  expect(crowd.cost(() => crowd.admin({ command: 'setPolicy', policy: OPEN })).compared).toBeGreaterThan(NODES * others)
})

// With patches and whole peers alike: who sees a peer as others do gets the same bytes.
test.each([['everybody with everybody', OPEN], ['in groups', IN_GROUPS]])('a peer is written once for all who see it, and again only when it has changed: %s', (_name, policy) => {
  const crowd = new Crowd(policy)
  expect(crowd.server.figures.peersWritten).toBe(NODES)
  const written = (change: () => void): number => {
    const before = crowd.server.figures.peersWritten
    crowd.cost(change)
    return crowd.server.figures.peersWritten - before
  }
  expect(written(() => crowd.report(1, '10.0.0.2:41641'))).toBe(1)
  expect(written(() => crowd.report(1, '10.0.0.2:41641')), 'unchanged').toBe(0)
  // A name is nothing that a patch can change: the whole peer goes to all.
  expect(written(() => crowd.admin({ command: 'renameNode', id: 1, newName: 'renamed' }))).toBe(1)
  expect(written(() => crowd.admin({ command: 'deleteNode', id: 41 }))).toBe(0)
  expect(written(() => [2, 3, 4].forEach((id) => crowd.report(id, '10.0.0.3:41641')))).toBe(3)
})

// Five rules from one group, and each receiver's filter has five: written for each receiver it would be hundreds of lists.
test('what a change costs in packet filters is the lists of sources that changed, each written once for all receivers', () => {
  const crowd = new Crowd(IN_GROUPS)
  const group = (2 * NODES) / GROUPS
  expect(crowd.server.figures.filterSourcesWritten, 'all filters at first').toBeLessThanOrEqual(GROUPS * group)
  expect(crowd.cost(() => crowd.report(1, '10.0.0.2:41641')).sources).toBe(0)
  expect(crowd.cost(() => crowd.admin({ command: 'deleteNode', id: 41 })).sources).toBe(group - 2)
  // Of two groups.
  expect(crowd.cost(() => [5, 25, 6, 26].forEach((id) => crowd.admin({ command: 'deleteNode', id }))).sources).toBe(2 * (group - 4))
})

test('what a node was is let go of when all were told what it is', () => {
  const crowd = new Crowd(OPEN, 2)
  const change = (times: number): number => {
    for (let i = 0; i < times; i += 1) {
      crowd.report(1, `192.0.2.${i % 250}:${1000 + i}`)
      crowd.settle()
    }
    collectGarbage()
    return process.memoryUsage().heapUsed
  }
  const before = change(500)
  expect((change(20_000) - before) / 20_000, 'bytes a change').toBeLessThan(300)
})
