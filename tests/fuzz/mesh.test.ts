import { encodeIpPacket, PacketView, parseIp, PROTOCOL_TSMP } from '@meshwright/ip'
import { decodeTsmp, encodeTsmpPing, encodeTsmpPong } from '@meshwright/mesh'
import { fuzzDecoder } from './fuzz-decoder.ts'

const src = parseIp('100.64.0.1')
const dst = parseIp('100.64.0.2')
const src6 = parseIp('fd7a::1')
const dst6 = parseIp('fd7a::2')
if (src === undefined || dst === undefined || src6 === undefined || dst6 === undefined) throw new Error('address')

const DATA = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
const samples = [
  encodeTsmpPing(src, dst, DATA),
  encodeTsmpPong(src6, dst6, DATA, 80),
  encodeIpPacket({ src, dst, protocol: PROTOCOL_TSMP, payload: Uint8Array.of(0x21, 6, 0x41, 0, 1, 0, 2) }),
  encodeIpPacket({ src, dst, protocol: PROTOCOL_TSMP, payload: Uint8Array.of(0x61, ...new Uint8Array(32).fill(9)) }),
]

fuzzDecoder('TSMP in an IP packet', samples, (bytes) => {
  const view = new PacketView()
  const message = view.at(bytes) ? decodeTsmp(view) : undefined
  return message?.type === 'discoKey' ? message.key.text : message
})
