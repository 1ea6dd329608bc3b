import type { DERPNode, DERPRegion } from '@meshwright/control-protocol'
import { answerBinding } from '@meshwright/nat-traversal'
import { expect, test } from 'vitest'
import { Bench } from './mesh-lab.test.ts'

const node = (id: number, change: Partial<DERPNode> = {}): DERPNode => ({ Name: `${id}a`, RegionID: id, HostName: `${id}.test`, IPv4: `192.0.2.${id}`, ...change })
const region = (id: number, ...Nodes: readonly DERPNode[]): DERPRegion => ({ RegionID: id, RegionCode: `r${id}`, RegionName: `R${id}`, Nodes })
/** Region 1 answers STUN alone and is nearest; region 2 has a relay; in region 3 one of two servers is a relay. */
const Regions = { 1: region(1, node(1, { STUNOnly: true })), 2: region(2, node(2)), 3: region(3, node(3, { STUNOnly: true }), node(4, { RegionID: 3 })) }

/** Lets time pass while the STUN servers named answer at once; gives the home regions that were told, and the regions that were dialled. */
function live(bench: Bench, ms: number, answering: readonly string[]): { readonly homes: readonly unknown[]; readonly dialled: readonly number[] } {
  const [homes, dialled]: [unknown[], number[]] = [[], []]
  for (let passed = 0; passed <= ms; passed += 50) {
    for (const output of bench.outputs.splice(0)) {
      if (output.type === 'relayDial') dialled.push(output.region.id)
      const answer = output.type === 'datagram' && answering.includes(output.to.ip.toString()) ? answerBinding(output.bytes, { ip: output.to.ip, port: 9 }) : undefined
      if (output.type === 'datagram' && answer !== undefined) bench.act((now) => bench.node.handleInput(now, { type: 'datagram', bytes: answer, from: output.to }))
    }
    while (bench.has('lite')) {
      const net = Object(bench.body('lite')['Hostinfo'])['NetInfo'] as { readonly PreferredDERP?: number } | undefined
      if (net?.PreferredDERP !== undefined && homes.at(-1) !== net.PreferredDERP) homes.push(net.PreferredDERP)
      bench.answer(bench.find('lite'), 200)
    }
    bench.pass(50)
  }
  return { homes, dialled }
}

test('a region that answers STUN alone is never the home, and never dialled, though it is the nearest or the only one that answers', () => {
  for (const answering of [['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'], ['192.0.2.1'], []]) {
    const bench = new Bench().running({ DERPMap: { Regions } })
    const { homes, dialled } = live(bench, 30_000, answering)
    expect(homes.length).toBeGreaterThan(0)
    expect([...new Set([...homes, ...dialled])]).not.toContain(1)
  }
})

test('in a region with a relay and a server for STUN alone, the relay is dialled', () => {
  const bench = new Bench().running({ DERPMap: { Regions: { 3: Regions[3] } } })
  const dials = bench.outputs.flatMap((output) => (output.type === 'relayDial' ? [output.node.name] : []))
  expect(dials).toEqual(['4a'])
})

test('a home that loses its relay is left for one that has one', () => {
  const bench = new Bench().running({ DERPMap: { Regions: { 2: Regions[2] } } })
  live(bench, 5_000, ['192.0.2.2'])
  expect(bench.node.status(bench.clock.now).homeRegion).toBe(2)
  bench.frame({ DERPMap: { Regions: { 2: region(2, node(2, { STUNOnly: true })), 3: Regions[3] } } })
  const { dialled } = live(bench, 10_000, ['192.0.2.2', '192.0.2.3', '192.0.2.4'])
  expect([...new Set(dialled)]).toEqual([3])
})
