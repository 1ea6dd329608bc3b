import { NodePublicKey } from '@meshwright/crypto'
import { encodeUdpPacket, type Ip, parseIp } from '@meshwright/ip'
import type { DeniedPacket } from '@meshwright/mesh'
import { expect, test } from 'vitest'
import { deniedJson, deniedPcap } from './denied.ts'

const ip = (text: string): Ip => {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}
const peer = NodePublicKey.fromBytes(new Uint8Array(32).fill(9))
const whole = encodeUdpPacket({ src: { ip: ip('100.64.0.2'), port: 1_000 }, dst: { ip: ip('100.64.0.1'), port: 53 }, payload: new Uint8Array(500).fill(7) })
const packet: DeniedPacket = { at: 1_700_000_000_123, direction: 'in', reason: 'filter-in', filter: 'acl', peer, length: whole.length, bytes: whole.slice(0, 128) }

test('a refused packet is told with who sent it, from where to where, and why', () => {
  expect(deniedJson({ denied: [packet], peers: [] })).toEqual({
    Packets: [{ Time: '2023-11-14T22:13:20.123Z', Direction: 'in', Reason: 'filter-in', Filter: 'acl', NodeKey: peer?.toString(), Node: '', Protocol: 17, Src: '100.64.0.2:1000', Dst: '100.64.0.1:53', Length: 528, Bytes: Buffer.from(whole.slice(0, 128)).toString('base64') }],
  })
})

test('what is no packet is told as it is', () => {
  const { peer: _, filter: __, ...own } = packet
  expect(deniedJson({ denied: [{ ...own, direction: 'out', reason: 'malformed', filter: undefined, peer: undefined, length: 3, bytes: Uint8Array.of(1, 2, 3) }], peers: [] })).toEqual({
    Packets: [{ Time: '2023-11-14T22:13:20.123Z', Direction: 'out', Reason: 'malformed', Length: 3, Bytes: 'AQID' }],
  })
})

test('as a file: magic, link type of raw packets, then time, lengths and bytes of each', () => {
  const file = Buffer.from(deniedPcap(deniedJson({ denied: [packet], peers: [] })))
  expect([file.readUInt32LE(0), file.readUInt16LE(4), file.readUInt16LE(6), file.readUInt32LE(20)]).toEqual([0xa1b2c3d4, 2, 4, 101])
  expect([file.readUInt32LE(24), file.readUInt32LE(28), file.readUInt32LE(32), file.readUInt32LE(36)]).toEqual([1_700_000_000, 123_000, 128, 528])
  expect(file.subarray(40).equals(whole.slice(0, 128))).toBe(true)
  expect(deniedPcap({}).length).toBe(24)
})
