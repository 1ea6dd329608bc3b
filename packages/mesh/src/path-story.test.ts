import { mapNode } from '@meshwright/control-client'
import { decodeNode } from '@meshwright/control-protocol'
import { instant } from '@meshwright/core'
import { parseEndpoint } from '@meshwright/ip'
import type { CandidateExplanation, PathExplanation } from '@meshwright/nat-traversal'
import { expect, test } from 'vitest'
import { pathStory, tellStory } from './path-story.ts'

const now = instant(1_000_000)
const at = (agoMs: number): ReturnType<typeof instant> => instant(1_000_000 - agoMs)
const endpoint = (text: string): NonNullable<ReturnType<typeof parseEndpoint>> => parseEndpoint(text) ?? expect.fail(text)
const decoded = decodeNode({ ID: 2, StableID: 'n2', Name: 'db.mesh.test.', User: 1, Key: `nodekey:${'2'.repeat(64)}`, Addresses: ['100.64.0.2/32'] })
const peer = (decoded.ok ? mapNode(decoded.value) : undefined) ?? expect.fail('no node')
const relays = { regions: new Map([[9, { id: 9, code: 'ours', name: 'Ours', nodes: [] }]]) }
const tried = (text: string, more: Partial<CandidateExplanation>): CandidateExplanation => ({ endpoint: endpoint(text), origins: ['map'], refusal: undefined, chosen: false, pings: 0, pongs: 0, timeouts: 0, lastPingAt: undefined, lastPongAt: undefined, lastHeardAt: undefined, latencyMs: undefined, seenAs: undefined, ...more })
const facts: Omit<PathExplanation, 'path' | 'state' | 'reason' | 'chosen' | 'whyNotDirect' | 'text' | 'candidates'> = {
  nodeKey: peer.nodeKey,
  peer: { nodeKey: peer.nodeKey, endpoints: [] },
  since: at(83_000),
  udp: true,
  active: true,
  trustedUntil: undefined,
  relayRegion: 9,
  relayLatencyMs: 4.25,
  pingsInFlight: 1,
  lastSentAt: at(300),
  lastReceived: undefined,
  lastDiscoveryAt: undefined,
  callMeMaybeSentAt: at(5_000),
  callMeMaybeReceivedAt: undefined,
}

test('a relayed pair: what was tried, what was refused and why, and what would make it direct', () => {
  const story = pathStory(now, {
    ...facts, path: { type: 'relay', region: 9 }, state: 'relay', reason: 'ping-timeout', chosen: undefined, whyNotDirect: 'no-answer', text: 'No endpoint answers.',
    candidates: [tried('127.0.0.1:7', { refusal: 'loopback' }), tried('192.0.2.7:41641', { pings: 3, timeouts: 3, lastPingAt: at(1_500), origins: ['map', 'call-me-maybe'] })],
  }, peer, relays)
  expect(JSON.parse(JSON.stringify(story))).toEqual({
    peer: 'db', addresses: ['100.64.0.2'], path: 'relay', relay: { region: 9, code: 'ours', latencyMs: 4.3 }, sinceSeconds: 83,
    because: { reason: 'ping-timeout', text: 'the direct path stopped answering' }, whyNotDirect: 'no-answer', text: 'No endpoint answers.', lastSentSecondsAgo: 0.3, calledPeerSecondsAgo: 5, probesInFlight: 1,
    candidates: [
      { endpoint: '192.0.2.7:41641', from: ['map', 'call-me-maybe'], chosen: false, probes: 3, answers: 0, unanswered: 3, lastProbeSecondsAgo: 1.5 },
      { endpoint: '127.0.0.1:7', from: ['map'], chosen: false, refused: { reason: 'loopback', text: 'a loopback address leads to this computer itself' }, probes: 0, answers: 0, unanswered: 0 },
    ],
  })
  expect(tellStory(story).join('\n')).toBe(`db (100.64.0.2) is reached through the relay "ours", 4.3 ms
  for 1 min 23 s, because the direct path stopped answering
  No endpoint answers.

Last packet: sent 0.3 s ago
We asked the peer, through the relay, to probe us 5 s ago

Candidates (2):
    192.0.2.7:41641  no answer; 3 probes, 0 answered, 3 not; last probe 1.5 s ago (from map, call-me-maybe)
    127.0.0.1:7      refused: a loopback address leads to this computer itself (from map)`)
})

test('a direct pair: the endpoint in use stands first, and the relay that is held ready is named', () => {
  const used = tried('192.0.2.7:41641', { chosen: true, pings: 1, pongs: 1, lastPingAt: at(100), lastPongAt: at(90), latencyMs: 1.04, seenAs: endpoint('198.51.100.1:9') })
  const story = pathStory(now, {
    ...facts, path: { type: 'direct', endpoint: used.endpoint, latencyMs: 1.04 }, state: 'direct', reason: 'pong', chosen: '192.0.2.7:41641', whyNotDirect: undefined, text: 'The peer answers directly.', callMeMaybeSentAt: undefined,
    candidates: [tried('10.0.0.1:1', {}), used],
  }, peer, relays)
  expect(tellStory(story).join('\n')).toBe(`db (100.64.0.2) is reached directly at 192.0.2.7:41641, 1 ms
  for 1 min 23 s, because an endpoint answered a probe
  The peer answers directly.

Last packet: sent 0.3 s ago
Held ready: the relay "ours", 4.3 ms

Candidates (2):
  * 192.0.2.7:41641  1 ms; 1 probe, 1 answered, 0 not; last probe 0.1 s ago; last answer 0.1 s ago; sees us as 198.51.100.1:9 (from map)
    10.0.0.1:1       not probed yet (from map)`)
})

test('a loopback or private endpoint takes over although it is a little slower: the reason does not say that it was faster', () => {
  const [loopback, elsewhere] = [tried('127.0.0.1:7', { chosen: true, pings: 1, pongs: 1, latencyMs: 25.5 }), tried('192.0.2.7:7', { pings: 1, pongs: 1, latencyMs: 18.6 })]
  const story = pathStory(now, {
    ...facts, path: { type: 'direct', endpoint: loopback.endpoint, latencyMs: 25.5 }, state: 'direct', reason: 'better-path', chosen: '127.0.0.1:7', whyNotDirect: undefined, text: 'The peer answers directly.',
    candidates: [loopback, elsewhere],
  }, peer, relays)
  expect(tellStory(story)[1]).toBe('  for 1 min 23 s, because another endpoint that answers is nearer or faster')
})
