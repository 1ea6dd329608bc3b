import { concatBytes, utf8Decode, utf8Encode } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { expect, test } from 'vitest'
import { decideUpgrade, encodeUpgradeRequest, encodeUpgradeResponse, type UpgradeDecision, UpgradeResponseReader } from './index.ts'

const key = NodePublicKey.fromBytes(new Uint8Array(32).fill(0xab)) ?? NodePublicKey.zero()

function decide(path: string, headers: Record<string, string> = {}, method = 'GET'): UpgradeDecision {
  return decideUpgrade({ method, path, header: (name) => headers[name] })
}

test('the request is that of a real client, and no value can smuggle in a header', () => {
  expect(utf8Decode(encodeUpgradeRequest({ host: 'r.example:8443', fastStart: true, idealNode: '1b' }))).toBe(
    'GET /derp HTTP/1.1\r\nHost: r.example:8443\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\nIdeal-Node: 1b\r\nUpgrade: DERP\r\n\r\n',
  )
  expect(utf8Decode(encodeUpgradeRequest({ host: 'a\r\nX: y' }))).toContain('Host: aX: y\r\n')
})

test('the answer may come in any pieces, and what follows it belongs to the frames', () => {
  const answer = concatBytes(encodeUpgradeResponse(key), Uint8Array.of(1, 2, 3))
  for (let size = 1; size < answer.length; size += 1) {
    const reader = new UpgradeResponseReader()
    let outcome
    let at = 0
    for (; outcome === undefined; at += size) outcome = reader.push(answer.subarray(at, at + size))
    if (outcome.type !== 'upgraded') throw new Error(outcome.type)
    expect(outcome.serverKey?.equals(key)).toBe(true)
    expect(outcome.rest.length).toBe(Math.min(at, answer.length) - (answer.length - 3))
  }
})

test.each([
  ['HTTP/1.1 404 Not Found\r\n\r\n', { type: 'refused', status: 404 }],
  ['HTTP/1.1 200\r\n\r\n', { type: 'refused', status: 200 }],
  ['SSH-2.0-x\r\n\r\n', { type: 'malformed' }],
  ['x'.repeat(9000), { type: 'malformed' }],
  ['HTTP/1.1 101 ok\r\nDerp-Public-Key: what\r\n\r\n', { type: 'upgraded', rest: new Uint8Array(0) }],
])('the answer %j', (text, outcome) => {
  expect(new UpgradeResponseReader().push(utf8Encode(text))).toEqual(outcome)
})

test('a head that never ends is given up after 8 KiB', () => {
  const reader = new UpgradeResponseReader()
  let pushes = 0
  while (reader.push(new Uint8Array(512).fill(65)) === undefined) pushes += 1
  expect(pushes).toBe(16)
})

test.each<[string, UpgradeDecision]>([
  ['derp', { type: 'derp', fastStart: false, notIdeal: false }],
  ['DERP', { type: 'derp', fastStart: false, notIdeal: false }],
  ['websocket', { type: 'derp', fastStart: false, notIdeal: false }],
])('an upgrade to %s is one to DERP', (upgrade, decision) => {
  expect(decide('/derp', { upgrade })).toEqual(decision)
})

test('fast start, a node that is not ideal and WebSocket are told apart', () => {
  expect(decide('/derp', { upgrade: 'derp', 'derp-fast-start': '1', 'ideal-node': '1a' })).toEqual({ type: 'derp', fastStart: true, notIdeal: true })
  expect(decide('/derp', { upgrade: 'websocket', 'sec-websocket-protocol': 'chat, derp' })).toEqual({ type: 'websocket', notIdeal: false })
})

test.each<[string, Record<string, string>, string, number | 'other']>([
  ['/derp', {}, 'GET', 426],
  ['/derp', { upgrade: 'h2c' }, 'GET', 426],
  ['/derp/probe', {}, 'HEAD', 200],
  ['/derp/latency-check?x', {}, 'GET', 200],
  ['/derp/probe', {}, 'POST', 405],
  ['/generate_204', {}, 'GET', 204],
  ['/derp/x', { upgrade: 'derp' }, 'GET', 'other'],
  ['/', {}, 'GET', 'other'],
])('%s %j %s is answered with %s', (path, headers, method, expected) => {
  const decision = decide(path, headers, method)
  expect(decision.type === 'respond' ? decision.response.status : decision.type).toBe(expected)
})

test('a challenge is echoed only when it is well formed', () => {
  const echo = (challenge: string): string | undefined => {
    const decision = decide('/generate_204', { 'x-tailscale-challenge': challenge })
    return decision.type === 'respond' ? decision.response.headers['X-Tailscale-Response'] : undefined
  }
  expect([echo('ts_1.example'), echo('a b'), echo('x'.repeat(65)), echo('a\r\nb')]).toEqual(['response ts_1.example', undefined, undefined, undefined])
})
