import { describe, expect, test } from 'vitest'
import { key, Lab, type LabNode } from './server-lab.test.ts'

const ROUTE = '10.55.0.0/24'
const ALLOW = `{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}],"autoApprovers":{"routes":{"${ROUTE}":["alice@"]}}}`

interface Site {
  readonly lab: Lab
  readonly first: LabNode
  readonly second: LabNode
  readonly client: LabNode
  /** Who carries the route in the eyes of the client. */
  carrier(): string | undefined
  /** Lets time pass while these routers answer. */
  pass(ms: number, ...answering: readonly LabNode[]): void
}

function site(config = {}): Site {
  const lab = new Lab(config)
  lab.admin({ command: 'createUser', name: 'alice' })
  expect(lab.admin({ command: 'setPolicy', policy: ALLOW }).status).toBe(200)
  const first = lab.node('alice', 'first', { routes: [ROUTE] })
  lab.advance(1000)
  const second = lab.node('alice', 'second', { routes: [ROUTE] })
  const client = lab.node('alice', 'client')
  let next = 20_000
  const answered = new Set<string>()
  return {
    lab,
    first,
    second,
    client,
    carrier() {
      const carriers = new Map<number, boolean>()
      for (const frame of lab.framesOf(client.stream)) for (const peer of [...(frame.Peers ?? []), ...(frame.PeersChanged ?? [])]) carriers.set(Number(peer.ID), peer.AllowedIPs?.includes(ROUTE) === true)
      return [first, second].find((node) => carriers.get(node.id) === true)?.name
    },
    pass(ms, ...answering) {
      for (let passed = 0; passed < ms; passed += 500) {
        lab.advance(500)
        for (const node of answering) {
          const url = lab.framesOf(node.stream).findLast((frame) => frame.PingRequest !== undefined)?.PingRequest?.URL
          const id = /^http:\/\/control\.test\/machine\/ping-response\?id=(\w+)$/.exec(url ?? '')?.[1]
          if (id === undefined || answered.has(id)) continue
          answered.add(id)
          next += 1
          lab.feed({ type: 'pong', request: next, machineKey: node.machine, id })
          expect(lab.answers.has(next)).toBe(true)
        }
      }
    },
  }
}

describe('routers that share a prefix', () => {
  test('are asked in every interval, and keep their routes while they answer', () => {
    const { lab, first, second, carrier, pass } = site()
    pass(60_000, first, second)
    expect(lab.framesOf(first.stream).filter((frame) => frame.PingRequest !== undefined).length).toBeGreaterThanOrEqual(5)
    expect(carrier()).toBe('first')
  })

  test('one that is silent loses its routes within interval and time-out, and gets them back when it answers', () => {
    const { lab, first, second, carrier, pass } = site()
    pass(12_000, first, second)
    pass(16_000, second)
    expect(carrier()).toBe('second')
    expect(lab.audit.filter((event) => event.action === 'route.silent')).toHaveLength(1)
    pass(12_000, first, second)
    expect(carrier()).toBe('first')
  })

  test('a new connection of the silent one counts as an answer', () => {
    const { lab, first, second, carrier, pass } = site()
    pass(28_000, second)
    expect(carrier()).toBe('second')
    lab.map(first.machine, { NodeKey: first.NodeKey, Stream: true, DiscoKey: key('discokey', 'first') })
    pass(500, second)
    expect(carrier()).toBe('first')
  })

  test('when all are silent the one that carries keeps on', () => {
    const { carrier, pass } = site()
    pass(60_000)
    expect(carrier()).toBe('first')
  })

  test('a silent one counts again when its rival is gone', () => {
    const { lab, second, carrier, pass } = site()
    pass(28_000, second)
    expect(carrier()).toBe('second')
    lab.feed({ type: 'closed', request: second.stream })
    pass(12_000)
    expect(carrier()).toBe('first')
  })

  test('a closed connection is felt after the grace time', () => {
    const { lab, first, second, carrier, pass } = site()
    lab.feed({ type: 'closed', request: first.stream })
    pass(10_500, second)
    expect(carrier()).toBe('second')
  })

  test('an interval of 0 asks nobody', () => {
    const { lab, first, pass } = site({ routeProbeMs: 0 })
    pass(60_000)
    expect(lab.framesOf(first.stream).filter((frame) => frame.PingRequest !== undefined)).toEqual([])
  })
})

test('who stands alone is never asked', () => {
  const { lab, first, second } = site()
  lab.admin({ command: 'deleteNode', id: second.id })
  lab.advance(60_000)
  expect(lab.framesOf(first.stream).filter((frame) => frame.PingRequest !== undefined)).toEqual([])
})

test('an answer counts only from the device that was asked', () => {
  const { lab, first, second, carrier } = site()
  lab.advance(10_500)
  const id = lab.framesOf(first.stream).findLast((frame) => frame.PingRequest !== undefined)?.PingRequest?.URL.split('=')[1] ?? ''
  lab.feed({ type: 'pong', request: 30_000, machineKey: second.machine, id })
  expect(lab.answers.get(30_000)).toMatchObject({ status: 404 })
  const own = lab.framesOf(second.stream).findLast((frame) => frame.PingRequest !== undefined)?.PingRequest?.URL.split('=')[1] ?? ''
  lab.feed({ type: 'pong', request: 30_001, machineKey: second.machine, id: own })
  lab.advance(5_500)
  expect(carrier()).toBe('second')
})

test('a server that was held up does not judge others by that', () => {
  const { lab, carrier } = site()
  lab.advance(10_500)
  lab.clock.advance(60_000)
  lab.server.handleTimeout(lab.clock.now)
  lab.drain()
  expect(lab.audit.filter((event) => event.action === 'route.silent')).toEqual([])
  expect(carrier()).toBe('first')
})
