import { expect, test } from 'vitest'
import { parseLaneMode } from './lane-mode.ts'

const ALL = { tso: true, uso: true, udpJoin: true, gso: true, gro: true, priority: true }
const NONE = { tso: false, uso: false, udpJoin: false, gso: false, gro: false, priority: true }

test.each([
  [undefined, { lane: 'best', ...ALL }],
  ['', { lane: 'best', ...ALL }],
  ['best', { lane: 'best', ...ALL }],
  ['offload', { lane: 'worker', ...ALL }],
  ['noffload', { lane: 'worker', ...NONE }],
  ['portable', { lane: 'portable', ...NONE, priority: false }],
  ['offload,no-tso', { lane: 'worker', ...ALL, tso: false }],
  ['offload,no-uso', { lane: 'worker', ...ALL, uso: false }],
  ['offload,no-join', { lane: 'worker', ...ALL, udpJoin: false }],
  ['offload,no-gso', { lane: 'worker', ...ALL, gso: false }],
  ['offload,no-gro', { lane: 'worker', ...ALL, gro: false }],
  ['offload,no-gro,no-gso', { lane: 'worker', ...ALL, gro: false, gso: false }],
  ['offload,no-priority', { lane: 'worker', ...ALL, priority: false }],
  ['noffload,no-priority', { lane: 'worker', ...NONE, priority: false }],
  ['noffload,no-tso', { lane: 'worker', ...NONE }],
  ['best,no-tso', { lane: 'best', ...ALL, tso: false }],
])('%s', (text, mode) => {
  expect(parseLaneMode(text)).toEqual(mode)
})

test.each(['fast', 'offload,', 'offload,tso', 'offload,no-', 'offload,no-tos', 'offload no-tso', 'portable,no-tso', 'portable,no-priority', 'OFFLOAD', 'no-tso', 'offload,no-constructor', 'offload,no-__proto__'])('%j is refused, and named', (text) => {
  expect(() => parseLaneMode(text)).toThrow(expect.objectContaining({ code: 'DATAPLANE_MODE', message: expect.stringContaining(JSON.stringify(text)) as string }))
})
