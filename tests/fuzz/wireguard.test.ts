import { instant, utf8Decode, utf8Encode } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { drain, SeededRandom } from '@meshwright/testkit'
import { decodeMessage, WireGuardDevice } from '@meshwright/wireguard'
import { parseConfig, UapiReader } from '@meshwright/wireguard/text'
import { innerLength } from '../../packages/wireguard/src/padding.ts'
import { fuzzDecoder, fuzzTarget } from './fuzz-decoder.ts'
import { HostileNetwork } from './wireguard-device.ts'

const random = new SeededRandom(1)
const PATH = { id: 'p', cookieBytes: Uint8Array.of(10, 0, 0, 1, 1, 1) }
const now = instant(1_000)

function device(privateKey: NodePrivateKey): WireGuardDevice {
  return new WireGuardDevice({ random: random.bytes, wallClock: () => 1_700_000_000_000, privateKey })
}

// One whole conversation: an initiation, its response, a packet; and a cookie reply by form.
const keys = [NodePrivateKey.generate(random.bytes), NodePrivateKey.generate(random.bytes)] as const
const [caller, answerer] = [device(keys[0]), device(keys[1])]
const packet = Uint8Array.from({ length: 60 }, (_, i) => [0x45, 0, 0, 60][i] ?? i)
caller.setPeer(now, { publicKey: keys[1].publicKey(), path: PATH })
answerer.setPeer(now, { publicKey: keys[0].publicKey(), path: PATH })
caller.handleInput(now, { type: 'packet', peer: keys[1].publicKey(), bytes: packet })
const samples: Uint8Array[] = [Uint8Array.from({ length: 64 }, (_, i) => (i === 0 ? 3 : i < 4 ? 0 : i))]
for (const [from, to] of [[caller, answerer], [answerer, caller], [caller, answerer]] as const) {
  for (const output of drain(from)) {
    if (output.type !== 'transmit') continue
    samples.push(output.bytes)
    to.handleInput(now, { type: 'datagram', bytes: output.bytes, from: PATH })
  }
}
drain(answerer)

fuzzDecoder('WireGuard messages', samples, decodeMessage)
fuzzDecoder('inner packets', [packet], (bytes) => ({ length: innerLength(bytes, 0, bytes.length) }))
// The whole device: whatever comes, no inner packet may come out of it, since the only one that was sealed has been delivered.
fuzzDecoder('a WireGuard device with a live session', samples, (bytes) => {
  answerer.handleInput(now, { type: 'datagram', bytes, from: PATH })
  const types = drain(answerer).map((output) => output.type)
  if (types.includes('packet')) throw new Error('a packet came out that nobody sealed')
  return types
})

const hexKey = 'a1'.repeat(32)
fuzzDecoder('UAPI requests', [utf8Encode(`set=1\nlisten_port=5\npublic_key=${hexKey}\nendpoint=[::1]:7\nallowed_ip=10.0.0.0/8\n\n`), utf8Encode('get=1\n\n')], (bytes) => new UapiReader().push(bytes).map((request) => request.type))
fuzzDecoder('configuration files', [utf8Encode('[Interface]\nListenPort = 5\n[Peer]\nAllowedIPs = 10.0.0.0/8, ::/0\nEndpoint = [::1]:5\n')], (bytes) => parseConfig(utf8Decode(bytes)).diagnostics)

fuzzTarget({ name: 'the whole WireGuard device among hostile datagrams', defaultInputs: 1_000_000, run: (inputs, seed, progress) => new HostileNetwork(seed).run(inputs, progress) })
