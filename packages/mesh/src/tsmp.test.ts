import { encodeIpPacket, PacketView, PROTOCOL_TSMP, PROTOCOL_UDP } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { decodeTsmp, encodeTsmpPing, encodeTsmpPong, type TsmpMessage } from './index.ts'
import { ip, keysOf } from './mesh-lab.test.ts'

const DATA = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
const [A, B, A6, B6] = [ip('100.64.0.1'), ip('100.64.0.2'), ip('fd7a::1'), ip('fd7a::2')]

function decode(bytes: Uint8Array): TsmpMessage | undefined {
  const view = new PacketView()
  return view.at(bytes) ? decodeTsmp(view) : undefined
}

const raw = (payload: Uint8Array, protocol: number = PROTOCOL_TSMP): Uint8Array => encodeIpPacket({ src: A, dst: B, protocol, payload })

test('ping and pong are read as they were written, in both families', () => {
  for (const [src, dst] of [[A, B], [A6, B6]] as const) {
    expect(decode(encodeTsmpPing(src, dst, DATA))).toEqual({ type: 'ping', data: DATA })
    expect(decode(encodeTsmpPong(src, dst, DATA, 41_112))).toEqual({ type: 'pong', data: DATA, peerApiPort: 41_112 })
  }
})

test('the bytes are those of tailscaled: p and o, the data, the port in network order', () => {
  expect([...encodeTsmpPing(A, B, DATA).subarray(20)]).toEqual([0x70, ...DATA])
  expect([...encodeTsmpPong(A, B, DATA, 0x1234).subarray(20)]).toEqual([0x6f, ...DATA, 0x12, 0x34])
})

test('a pong of old nodes has no port', () => {
  expect(decode(raw(Uint8Array.of(0x6f, ...DATA)))).toEqual({ type: 'pong', data: DATA, peerApiPort: 0 })
})

test('a reject names what was rejected and why', () => {
  expect(decode(raw(Uint8Array.of(0x21, 6, 0x41, 0x9c, 0x40, 0, 22)))).toEqual({ type: 'reject', protocol: 6, reason: 'A', sourcePort: 40_000, destinationPort: 22 })
})

test('a disco key is read; a zero key is none', () => {
  const key = keysOf(1).disco.publicKey()
  const read = decode(raw(Uint8Array.of(0x61, ...key.bytes)))
  expect(read?.type === 'discoKey' && read.key.equals(key)).toBe(true)
  expect(decode(raw(Uint8Array.of(0x61, ...new Uint8Array(32))))).toBeUndefined()
})

test('what is cut short, of another kind or of another protocol is nothing', () => {
  const whole = [Uint8Array.of(0x70, ...DATA), Uint8Array.of(0x21, 6, 0x41, 0, 1, 0, 2), Uint8Array.of(0x61, ...keysOf(1).disco.publicKey().bytes)]
  for (const bytes of whole) for (let length = 0; length < bytes.length; length += 1) expect(decode(raw(bytes.subarray(0, length)))).toBeUndefined()
  expect(decode(raw(Uint8Array.of(0x7f, ...DATA)))).toBeUndefined()
  expect(decode(raw(Uint8Array.of(0x70, ...DATA), PROTOCOL_UDP))).toBeUndefined()
  expect(decodeTsmp(new PacketView())).toBeUndefined()
})
