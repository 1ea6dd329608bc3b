import { expect, test } from 'vitest'
import { Bench, endpoint } from './mesh-lab.test.ts'

const Regions = { 1: { RegionID: 1, RegionCode: 'one', RegionName: 'One', Nodes: [{ Name: '1a', RegionID: 1, HostName: 'one.test', IPv4: '192.0.2.7' }] } }

/** A node that runs, with a relay connection under way, and nothing noted yet. */
function running(): Bench {
  const bench = new Bench().running({ DERPMap: { Regions } })
  bench.act((now) => bench.node.handleInput(now, { type: 'localEndpoints', endpoints: [endpoint('192.0.2.1:41641')] }))
  while (bench.has('lite')) bench.answer(bench.find('lite'), 200)
  bench.outputs.length = 0
  return bench
}

test('after a change of the network the node makes its connections anew by itself, and nobody reads of a control server that has ended anything', () => {
  const bench = running()
  const poll = bench.find('poll')
  const told: (readonly string[])[] = []
  const listen = (): void => void told.push(bench.node.status(bench.clock.now).health)
  bench.act((now) => bench.node.handleInput(now, { type: 'linkChanged' }))
  listen()
  expect(bench.outputs.map((output) => output.type)).toEqual(expect.arrayContaining(['relayClose', 'relayDial']))
  const next = bench.find('poll')
  expect(next.id).not.toBe(poll.id)
  // The streams of the old connection end after it, one way or the other.
  bench.act((now) => bench.node.handleInput(now, { type: 'control', input: { type: 'end', id: poll.id } }))
  bench.act((now) => bench.node.handleInput(now, { type: 'control', input: { type: 'failed', id: poll.id, message: 'the stream was reset' } }))
  listen()
  bench.frame({ Node: bench.self(), DERPMap: { Regions } })
  listen()
  expect(told).toEqual([[], [], []])
  expect(bench.outputs.filter((output) => output.type === 'log' && output.level === 'warn')).toEqual([])
  expect(bench.find('poll')).toBe(next)
})

test('addresses that come and go are told to the control server, and the connections that work are left alone', () => {
  const bench = running()
  const poll = bench.find('poll')
  for (const list of [['192.0.2.1:41641', '172.17.0.1:41641'], ['192.0.2.1:41641']]) {
    bench.act((now) => bench.node.handleInput(now, { type: 'localEndpoints', endpoints: list.map(endpoint) }))
    expect(bench.body('lite')['Endpoints']).toEqual(list)
    bench.answer(bench.find('lite'), 200)
  }
  expect(bench.outputs.filter((output) => output.type === 'relayClose' || output.type === 'relayDial')).toEqual([])
  expect(bench.find('poll')).toBe(poll)
})

test('an address that comes is a reason to try at once what could not be reached', () => {
  const bench = running()
  for (let times = 0; times < 8; times += 1) {
    bench.act((now) => bench.node.handleInput(now, { type: 'control', input: { type: 'failed', id: bench.find('poll').id, message: 'unreachable' } }))
    bench.open.length = 0
    if (times < 7) bench.pass(60_000)
  }
  expect(bench.has('poll')).toBe(false) // it waits
  bench.act((now) => bench.node.handleInput(now, { type: 'localEndpoints', endpoints: [endpoint('192.0.2.99:41641')] }))
  expect(bench.has('poll')).toBe(true)
})
