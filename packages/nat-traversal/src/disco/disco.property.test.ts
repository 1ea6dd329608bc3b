import { DiscoPublicKey, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, Ip } from '@meshwright/ip'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeDiscoMessage, type DiscoMessage, encodeDiscoMessage } from './index.ts'

const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length })
const defined = <T>(arbitrary: fc.Arbitrary<T | undefined>): fc.Arbitrary<T> => arbitrary.filter((item): item is T => item !== undefined)
const endpoint: fc.Arbitrary<Endpoint> = fc.record({
  ip: fc.oneof(defined(bytes(4).map(Ip.fromBytes)), defined(bytes(16).map((b) => Ip.fromBytes(b)?.unmapped()))),
  port: fc.nat(65535),
})
const discoKey = defined(bytes(32).map(DiscoPublicKey.fromBytes))
const nodeKey = defined(bytes(32).map(NodePublicKey.fromBytes))
const u32 = fc.nat(0xffffffff)
const u64 = fc.bigInt(0n, 2n ** 64n - 1n)
const relayEndpoint = fc.record({
  relayKey: discoKey,
  clients: fc.tuple(discoKey, discoKey),
  lamportId: u64,
  vni: u32,
  bindLifetimeNs: u64,
  steadyLifetimeNs: u64,
  addresses: fc.array(endpoint, { minLength: 1, maxLength: 4 }),
})
const message: fc.Arbitrary<DiscoMessage> = fc.oneof(
  fc.record({ type: fc.constant('ping' as const), txId: bytes(12), nodeKey, padding: fc.nat(1500) }),
  fc.record({ type: fc.constant('pong' as const), txId: bytes(12), source: endpoint }),
  fc.record({ type: fc.constant('call-me-maybe' as const), endpoints: fc.array(endpoint, { maxLength: 20 }) }),
  fc.record({
    type: fc.constantFrom('bind-udp-relay' as const, 'bind-udp-relay-challenge' as const, 'bind-udp-relay-answer' as const),
    vni: u32,
    generation: u32,
    remoteKey: discoKey,
    challenge: bytes(32),
  }),
  fc.record({ type: fc.constant('call-me-maybe-via' as const), endpoint: relayEndpoint }),
  fc.record({ type: fc.constant('allocate-udp-relay-request' as const), clients: fc.tuple(discoKey, discoKey), generation: u32 }),
  fc.record({ type: fc.constant('allocate-udp-relay-response' as const), generation: u32, endpoint: relayEndpoint }),
)

test('every message is decoded as it was encoded', () => {
  fc.assert(
    fc.property(message, (original) => {
      const decoded = decodeDiscoMessage(encodeDiscoMessage(original))
      expect(decoded?.type).toBe(original.type)
      expect(decoded && encodeDiscoMessage(decoded)).toEqual(encodeDiscoMessage(original))
    }),
    { numRuns: 300 },
  )
})
