import { applyMapResponse } from '@meshwright/control-client'
import { decodeDocument, decodeMapResponse, encodeJson } from '@meshwright/control-protocol'
import { describe, expect, test } from 'vitest'
import { healthLines, type HealthSources, relayProblemLine } from './health.ts'

const wire = (id: number, more: object = {}): object => ({ ID: id, StableID: `n${id}`, Name: `n${id}.test.`, User: 1, Key: `nodekey:${String(id).repeat(64)}`, Addresses: [`100.64.0.${id}/32`], MachineAuthorized: true, ...more })

function mapOf(frame: object): NonNullable<HealthSources['map']> {
  const decoded = decodeDocument(decodeMapResponse, encodeJson({ Node: wire(1), ...frame }))
  const map = decoded.ok ? applyMapResponse(undefined, decoded.value, 0) : undefined
  return map ?? expect.fail('no map')
}

const lines = (map: HealthSources['map'], more: Partial<HealthSources> = {}): readonly string[] =>
  healthLines({ map, warnings: [], lastError: undefined, namesProblem: undefined, namesWarnings: [], relayProblem: undefined, watch: undefined, expired: false, ...more })

describe('what a person reads', () => {
  test('an honest map has nothing to tell', () => {
    expect(lines(mapOf({ Peers: [wire(2), wire(3)], PacketFilter: [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }] }))).toEqual([])
    expect(lines(undefined)).toEqual([])
  })

  test('filter entries that cannot be read are named, with what they do: nothing', () => {
    const [line, ...more] = lines(mapOf({ PacketFilter: [{ SrcIPs: ['x', 'y'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 1 } }] }] }))
    expect(line).toMatch(/^The control server sent filter entries that cannot be read; they admit nobody: rule 1, SrcIPs\[0\] cannot be read: "x", and 1 more\./)
    expect(more).toEqual([])
  })

  test('nodes that share a key or an address are named', () => {
    const told = lines(mapOf({ Peers: [wire(2), wire(3, { Addresses: ['100.64.0.2/32'] }), wire(4, { Key: `nodekey:${'1'.repeat(64)}` })] }))
    expect(told).toEqual([
      'The control server gives n2 and n3 the same address 100.64.0.2: only one of them can be reached. Its database is to be checked',
      'The control server gives this node and n4 the same node key: only one of them can be reached. Its database is to be checked',
    ])
  })

  test('whoever lies is named, with what was refused and what to do; a flood is told', () => {
    const map = mapOf({ Peers: [wire(2)] })
    const [peer] = map.peers.values()
    const known = peer?.nodeKey ?? expect.fail('no peer')
    const told = lines(map, { watch: { lies: [{ peer: known, kind: 'source', count: 44 }, { peer: known, kind: 'packet', count: 50 }, { peer: known, kind: 'disco', count: 100 }], flooded: true, held: {} } })
    expect(told[0]).toMatch(/^The node n2 sends packets from addresses that are not its own: 44 were dropped\. .*--accept-routes.*take it out of the mesh$/)
    expect(told[1]).toMatch(/^The node n2 sends packets that are no IP packets: 50 were dropped\./)
    expect(told[2]).toMatch(/^The node n2 says of its paths what no honest node says/)
    expect(told[3]).toMatch(/^This node is flooded with handshakes: .* firewall$/)
  })

  test('what others wrote cannot paint, and ten thousand lines are fifty', () => {
    const told = lines(mapOf({ Health: ['\u001b[2Jone', ...Array.from({ length: 10_000 }, (_, i) => `w${i}`)], DisplayMessages: { a: { Title: '', Text: 'shown' } } }), { lastError: 'the last thing that failed' })
    expect(told[0]).toBe('[2Jone')
    expect(told.length).toBeLessThanOrEqual(51)
    expect(told.at(-2)).toBe('the last thing that failed')
    expect(told.at(-1)).toMatch(/^9\d{3} more warnings of the control server are not shown$/)
  })

  test('a relay that cannot be reached, and one that complains, are told apart', () => {
    const relay = (isConnected: boolean, problem: string | undefined): string | undefined => relayProblemLine({ relayProblem: () => problem, isRelayConnected: () => isConnected }, 9, undefined)
    expect(relay(true, undefined)).toBeUndefined()
    expect(relay(false, 'refused')).toMatch(/^The home relay \(region 9\) cannot be reached: refused\. It is tried again by itself/)
    expect(relay(true, 'over\u001bload')).toBe('The home relay (region 9) says that it has a problem: over load')
  })
})
