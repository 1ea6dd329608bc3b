import { expect, test } from 'vitest'
import { suggestedExitNode } from './exit-suggestion.ts'

type Peer = Parameters<typeof suggestedExitNode>[0]['peers'][number]
const peer = (name: string, more: Partial<Peer> = {}): Peer => ({ name: `${name}.test`, stableId: name, online: true, exitNodeOption: true, exitNode: false, homeRegion: 2, capabilities: { 'suggest-exit-node': [] }, ...more })
const suggested = (...peers: readonly Peer[]): unknown => suggestedExitNode({ homeRegion: 1, peers })['Name']

test('only an exit node that is online and that the control server lets be suggested is suggested', () => {
  expect(suggestedExitNode({ homeRegion: 1, peers: [] })).toEqual({ ID: '', Name: '' })
  expect(suggested(peer('away', { online: false }), peer('none', { exitNodeOption: false }), peer('unmarked', { capabilities: {} }))).toBe('')
  expect(suggestedExitNode({ homeRegion: 1, peers: [peer('a')] })).toEqual({ ID: 'a', Name: 'a.test.' })
})

test('of several: the one in use, else one at our home relay, else the first by name', () => {
  expect(suggested(peer('b'), peer('a'))).toBe('a.test.')
  expect(suggested(peer('a'), peer('b', { homeRegion: 1 }))).toBe('b.test.')
  expect(suggested(peer('a', { homeRegion: 1 }), peer('c', { exitNode: true }))).toBe('c.test.')
})
