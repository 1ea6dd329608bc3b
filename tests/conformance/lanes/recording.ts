import { formatHex } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { kdf1, kdf2 } from '../../../packages/wireguard/src/kdf.ts'
import type { CaseResult } from '../kind.ts'
import { actorOn, ALL, check, endpoint, hex, type LaneUnderTest, wallOfTimestamp } from './lane-under-test.ts'

/** What is used of `disco/wireguard-with-tailscaled.json`. */
export interface Recording {
  readonly ourNodePrivate: string
  readonly peers: readonly { readonly Name: string; readonly Key: string }[]
  readonly packets: readonly {
    readonly dir: 'in' | 'out'
    readonly packet: string
    readonly type: 'initiation' | 'response' | 'data'
    readonly ephemeralPrivate?: string
    readonly inner?: string
  }[]
}

const THERE = endpoint('10.98.1.11:41641')
const STEP_MS = 50
const INDEX_AT = 4

/**
 * What a real tailscaled and a node of then said to each other, once more, with the lane as that node: both kinds of handshake and every
 * packet, byte for byte.
 */
export function recordingOnLane(recording: Recording, under: LaneUnderTest): readonly CaseResult[] {
  const actor = actorOn(under, recording.ourNodePrivate)
  const [first] = recording.peers
  const peer = first && NodePublicKey.fromBytes(hex(first.Key.replace('nodekey:', '')))
  if (peer === undefined) return [check(under, 'recording/peer', 'none', 'a peer')]
  actor.know([{ publicKey: peer, endpoint: THERE, allowed: ALL }])
  actor.takeSent()
  const results: CaseResult[] = []
  let now = 1_000
  // A whole packet is answered or sent at once; what is sent is compared where the recording has it sent.
  const waiting: string[] = []
  for (const [i, { dir, packet, type, ephemeralPrivate, inner }] of recording.packets.entries()) {
    now += STEP_MS
    actor.at(now)
    const bytes = hex(packet)
    if (dir === 'in') {
      // What we answer it with was drawn at random.
      const answer = recording.packets[i + 1]
      if (type === 'initiation' && answer?.ephemeralPrivate !== undefined) actor.script(hex(answer.ephemeralPrivate), hex(answer.packet).slice(INDEX_AT, INDEX_AT + 4))
      actor.datagram(THERE, bytes)
      const delivered = actor.takeDelivered().map(formatHex)
      if (type === 'data') results.push(check(under, `recording/${i}/in`, delivered, inner === undefined || inner === '' ? [] : [wholeOf(inner)]))
    } else if (type === 'initiation' && ephemeralPrivate !== undefined) {
      const timestamp = timestampOf(under, hex(recording.ourNodePrivate), peer.bytes, hex(ephemeralPrivate), bytes)
      actor.wall = wallOfTimestamp(timestamp)
      actor.script(hex(ephemeralPrivate), bytes.slice(INDEX_AT, INDEX_AT + 4))
      actor.device.connect(actor.now, peer)
      actor.settle()
    } else if (inner !== undefined && inner !== '') {
      actor.packet(hex(inner))
    }
    waiting.push(...actor.takeSent().map((sent) => formatHex(sent.bytes)))
    if (dir === 'out') results.push(check(under, `recording/${i}/out`, waiting.shift(), packet))
  }
  results.push(check(under, 'recording/nothing more', waiting, []))
  return results
}

/** Without the padding, where it was recorded with it. */
function wholeOf(inner: string): string {
  const length = Number.parseInt(inner.slice(4, 8), 16)
  return inner.startsWith('4') ? inner.slice(0, length * 2) : inner
}

/** The timestamp in an initiation, for who knows its ephemeral key (WireGuard paper, section 5.4.2). */
function timestampOf({ provider }: LaneUnderTest, own: Uint8Array, theirs: Uint8Array, ephemeral: Uint8Array, initiation: Uint8Array): Uint8Array {
  const text = (words: string): Uint8Array => new TextEncoder().encode(words)
  let chain = provider.hash(text('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s'))
  let seen = provider.hash(provider.hash(chain, text('WireGuard v1 zx2c4 Jason@zx2c4.com')), theirs)
  const publicBytes = initiation.subarray(8, 40)
  chain = kdf1(provider, chain, publicBytes)
  seen = provider.hash(seen, publicBytes)
  const agree = (key: Uint8Array): Uint8Array => {
    const agreed = provider.sharedSecret(key, theirs)
    if (agreed === undefined) throw new Error('no shared secret')
    return agreed
  }
  ;[chain] = kdf2(provider, chain, agree(ephemeral))
  seen = provider.hash(seen, initiation.subarray(40, 88))
  const [, key] = kdf2(provider, chain, agree(own))
  const opened = provider.aeadOpen(key, new Uint8Array(12), initiation.subarray(88, 116), seen)
  if (opened === undefined) throw new Error('the recorded initiation does not open')
  return opened
}
