import { expect, test } from 'vitest'
import { packetFilterJson } from './packet-filter-json.ts'

test('ranges and the star become prefixes, in the order of the rules, and missing protocols are spelled out', () => {
  const rules = [{ SrcIPs: ['100.64.0.0-100.64.0.2', 'cap:example.com/x', 'fd7a::1'], DstPorts: [{ IP: '*', Ports: { First: 1, Last: 2 } }] }]
  expect(packetFilterJson(rules)).toEqual([
    {
      IPProto: [6, 17, 1, 58],
      Srcs: ['100.64.0.0/31', '100.64.0.2/32', 'fd7a::1/128'],
      SrcCaps: ['example.com/x'],
      Dsts: ['0.0.0.0/0', '::/0'].map((Net) => ({ Net, Ports: { First: 1, Last: 2 } })),
      Caps: [],
    },
  ])
})

test('capabilities are given destination by destination, those without values first', () => {
  const rules = [{ SrcIPs: ['*'], IPProto: [6], CapGrant: [{ Dsts: ['100.64.0.1/32', '100.64.0.2/32'], Caps: ['a'], CapMap: { b: [{ x: 1 }], c: null } }] }]
  const caps = (Dst: string): unknown[] => [{ Dst, Cap: 'a', Values: null }, { Dst, Cap: 'b', Values: [{ x: 1 }] }, { Dst, Cap: 'c', Values: null }]
  expect(packetFilterJson(rules)).toEqual([{ IPProto: [6], Srcs: ['0.0.0.0/0', '::/0'], SrcCaps: null, Dsts: [], Caps: [...caps('100.64.0.1/32'), ...caps('100.64.0.2/32')] }])
})
