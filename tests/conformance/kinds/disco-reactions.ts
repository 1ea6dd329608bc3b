import { concatBytes, type Instant, instant } from '@meshwright/core'
import { DiscoPrivateKey, NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { classifyDatagram, decodeDiscoMessage, DiscoBox, encodeBindingRequest, encodeDiscoMessage, PathFinder } from '@meshwright/nat-traversal'
import { SeededRandom } from '@meshwright/testkit'

const OURS = endpoint('198.51.100.1:41641')
const PEER = endpoint('203.0.113.7:41641')
const CALLED = endpoint('203.0.113.8:41641')
const TX_ID = Uint8Array.from({ length: 12 }, (_, i) => i + 1)
const PONG_BYTES = 110

/** A finder that knows one peer, whose side we play. */
class Stage {
  readonly random: SeededRandom = new SeededRandom(11)
  readonly peerNode: NodePublicKey = NodePrivateKey.generate(this.random.bytes).publicKey()
  readonly stranger: DiscoBox = new DiscoBox({ privateKey: DiscoPrivateKey.generate(this.random.bytes), random: this.random.bytes })
  readonly box: DiscoBox = new DiscoBox({ privateKey: DiscoPrivateKey.generate(this.random.bytes), random: this.random.bytes })
  readonly finder: PathFinder
  now: Instant = instant(1_000)

  constructor() {
    this.finder = new PathFinder({
      nodeKey: NodePrivateKey.generate(this.random.bytes).publicKey(),
      discoKey: DiscoPrivateKey.generate(this.random.bytes),
      random: this.random.bytes,
    })
    this.finder.setSelfEndpoints(this.now, [OURS])
    this.finder.setPeer(this.now, { nodeKey: this.peerNode, discoKey: this.box.publicKey, endpoints: [PEER], homeRegion: 900 })
    this.reactions()
  }

  ping(...more: Uint8Array[]): Uint8Array {
    return concatBytes(Uint8Array.of(1, 0), TX_ID, this.peerNode.bytes, ...more)
  }

  sealed(plain: Uint8Array, box: DiscoBox = this.box): Uint8Array {
    const bytes = box.seal(this.finder.discoKey, plain)
    if (bytes === undefined) throw new Error('not sealed')
    return bytes
  }

  udp(bytes: Uint8Array, from: Endpoint = PEER): string {
    // The socket's owner hands on what looks like disco and nothing else.
    if (classifyDatagram(bytes) === 'disco') this.finder.handleInput(this.now, { type: 'datagram', bytes, from })
    return this.reactions()
  }

  relayed(bytes: Uint8Array): string {
    this.finder.handleInput(this.now, { type: 'relayed', bytes, region: 900, peer: this.peerNode })
    return this.reactions()
  }

  /** What the finder did, in words. */
  reactions(): string {
    const words: string[] = []
    for (let output = this.finder.pollOutput(); output !== undefined; output = this.finder.pollOutput()) {
      if (output.type === 'pathChanged') words.push(`path ${output.path.type}`)
      if (output.type !== 'transmit' && output.type !== 'relay') continue
      const plain = this.box.open(this.finder.discoKey, output.bytes)
      const message = plain && decodeDiscoMessage(plain)
      const where = output.type === 'transmit' ? formatEndpoint(output.to) : `relay ${output.region}`
      if (message?.type === 'pong') words.push(`pong ${output.bytes.length} to ${where} source ${formatEndpoint(message.source)}`)
      else words.push(`${message?.type} to ${where}`)
    }
    return words.join('; ')
  }
}

const PONG = `pong ${PONG_BYTES} to ${formatEndpoint(PEER)} source ${formatEndpoint(PEER)}`
const RELAYED_PONG = `pong ${PONG_BYTES} to relay 900 source 127.3.3.40:900`
const CALLED_PINGS = `ping to ${formatEndpoint(PEER)}; ping to ${formatEndpoint(CALLED)}`

/** Plays each hand-made message of the recording, by its name, and says what our finder did. */
const SCRIPTS: Readonly<Record<string, { readonly reaction: string; play(stage: Stage): string; readonly expect: string }>> = {
  'Ping 0x01 v0, 12-byte TxID + our node key': { reaction: 'Pong to the source', play: (s) => s.udp(s.sealed(s.ping())), expect: PONG },
  'the same datagram again from the same address': { reaction: 'nothing', play: (s) => again(s, s.sealed(s.ping()), (bytes) => s.udp(bytes)), expect: '' },
  'same TxID newly sealed, same address': { reaction: 'nothing', play: (s) => again(s, s.sealed(s.ping()), () => s.udp(s.sealed(s.ping()))), expect: '' },
  'same TxID over DERP': { reaction: 'Pong over DERP, source 127.3.3.40:<region>', play: (s) => again(s, s.sealed(s.ping()), (bytes) => s.relayed(bytes)), expect: RELAYED_PONG },
  'Ping with TxID only (14 bytes plaintext)': { reaction: 'Pong', play: (s) => s.udp(s.sealed(s.ping().subarray(0, 14))), expect: PONG },
  'Ping with a node key that is not ours, over UDP, disco key known': {
    reaction: 'Pong',
    play: (s) => s.udp(s.sealed(concatBytes(Uint8Array.of(1, 0), TX_ID, s.random.bytes(32)))),
    expect: PONG,
  },
  'Ping with version byte 1': { reaction: 'Pong', play: (s) => s.udp(s.sealed(Uint8Array.from(s.ping(), (byte, i) => (i === 1 ? 1 : byte)))), expect: PONG },
  'Ping with 1000 zero bytes or 77 random bytes behind the node key': {
    reaction: 'Pong of 110 bytes (no padding back)',
    play: (s) => {
      const first = s.udp(s.sealed(s.ping(new Uint8Array(1000))))
      const second = new Stage()
      const other = second.udp(second.sealed(second.ping(second.random.bytes(77))))
      return first === other ? first : `${first} / ${other}`
    },
    expect: PONG,
  },
  'Ping with an 11-byte TxID': { reaction: 'nothing', play: (s) => s.udp(s.sealed(s.ping().subarray(0, 13))), expect: '' },
  'Ping from a disco key that is not in its map, UDP or DERP': {
    reaction: 'nothing',
    play: (s) => s.udp(s.sealed(s.ping(), s.stranger)) + s.relayed(s.sealed(s.ping(), s.stranger)),
    expect: '',
  },
  'type 0x55': { reaction: 'nothing, later pings answered', play: (s) => s.udp(s.sealed(Uint8Array.of(0x55, 0, 1, 2))) + s.udp(s.sealed(s.ping())), expect: PONG },
  'box with a flipped bit': { reaction: 'nothing', play: (s) => s.udp(s.sealed(s.ping()).map((byte, i) => (i === 90 ? byte ^ 1 : byte))), expect: '' },
  'CallMeMaybe over UDP': { reaction: 'ignored', play: (s) => s.udp(s.sealed(callMeMaybe())), expect: '' },
  'CallMeMaybe over DERP, listed address': {
    reaction: 'Ping to it within 5 ms, also when repeated 0.7 s later',
    play: (s) => {
      const first = s.relayed(s.sealed(callMeMaybe()))
      s.now = instant(s.now + 700)
      const second = s.relayed(s.sealed(callMeMaybe()))
      return first === second ? first : `${first} / ${second}`
    },
    expect: CALLED_PINGS,
  },
  // Here ours differs on purpose: the real client forgets addresses that work. No ping, as there; but the path in use stays.
  'CallMeMaybe body of 17 bytes, version 1, or empty': {
    reaction: 'no ping; addresses learnt from an earlier CallMeMaybe are dropped, even the one in use: traffic goes back to DERP',
    play: (s) => [Uint8Array.of(3, 0), concatBytes(Uint8Array.of(3, 0), new Uint8Array(17)), callMeMaybe().map((byte, i) => (i === 1 ? 1 : byte))].map((plain) => s.relayed(s.sealed(plain))).join(''),
    expect: '',
  },
  'STUN Binding request to the WireGuard port': { reaction: 'nothing', play: (s) => s.udp(encodeBindingRequest(TX_ID)), expect: '' },
  '40 random bytes': { reaction: 'nothing', play: (s) => s.udp(s.random.bytes(40)), expect: '' },
}

/** Says how our finder's reaction differs from the real client's; `undefined` where it does not. */
export function judgeReaction(message: string, reaction: string): string | undefined {
  const script = SCRIPTS[message]
  if (script === undefined) return 'no script plays this message'
  if (script.reaction !== reaction) return `the script expects the reaction '${script.reaction}'`
  const seen = script.play(new Stage())
  return seen === script.expect ? undefined : `'${seen}', not '${script.expect}'`
}

function again(stage: Stage, bytes: Uint8Array, second: (bytes: Uint8Array) => string): string {
  return stage.udp(bytes) === PONG ? second(bytes) : 'the first was not answered'
}

function callMeMaybe(): Uint8Array {
  return encodeDiscoMessage({ type: 'call-me-maybe', endpoints: [CALLED] })
}

function endpoint(text: string): Endpoint {
  const parsed = parseEndpoint(text)
  if (parsed === undefined) throw new Error(`not an endpoint: ${text}`)
  return parsed
}
