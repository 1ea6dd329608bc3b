import { expect, test } from 'vitest'
import { encodeUdpPacket, formatPrefix, type Ip, PacketView, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { CryptokeyRouter } from './index.ts'

const some = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('unreadable text in a test')
  return value
}
const ip = (text: string): Ip => some(parseIp(text))
const prefix = (text: string): Prefix => some(parsePrefix(text))
const packet = (src: string, dst: string): PacketView => {
  const view = new PacketView()
  view.at(encodeUdpPacket({ src: { ip: ip(src), port: 1 }, dst: { ip: ip(dst), port: 2 }, payload: new Uint8Array(3) }))
  return view
}

test('the destination of a packet chooses the peer, its source is held against the peer that sealed it', () => {
  const router = new CryptokeyRouter<string>()
  router.insert(prefix('10.0.0.0/8'), 'site')
  router.insert(prefix('10.9.0.0/16'), 'laptop')
  router.insert(prefix('fd00::/8'), 'site')
  expect(router.peerFor(packet('10.1.1.1', '10.9.1.1'))).toBe('laptop')
  expect(router.peerFor(packet('10.1.1.1', '11.0.0.1'))).toBeUndefined()
  expect(router.allows('site', packet('10.1.1.1', '10.9.1.1'))).toBe(true)
  expect(router.allows('site', packet('fd00::1', 'fd00::2'))).toBe(true)
  expect(router.allows('laptop', packet('10.1.1.1', '10.9.1.1'))).toBe(false)
})

test('a source inside a prefix of the peer is refused when another peer has a longer one', () => {
  const router = new CryptokeyRouter<string>()
  router.insert(prefix('0.0.0.0/0'), 'exit')
  router.insert(prefix('100.64.0.7/32'), 'node')
  expect(router.allows('exit', packet('100.64.0.7', '100.64.0.1'))).toBe(false)
  expect(router.allows('exit', packet('8.8.8.8', '100.64.0.1'))).toBe(true)
})

test('nobody is allowed anything through an undecodable packet or an unowned source', () => {
  const router = new CryptokeyRouter<string | undefined>()
  router.insert(prefix('10.0.0.0/8'), 'a')
  const broken = new PacketView()
  broken.at(new Uint8Array(19))
  expect(router.allows('a', broken)).toBe(false)
  expect(router.peerFor(broken)).toBeUndefined()
  expect(router.allows(undefined, packet('11.0.0.1', '10.0.0.1'))).toBe(false)
  expect(router.peerForBytes(new Uint8Array(3), 0, 4)).toBeUndefined()
  expect(router.peerForBytes(new Uint8Array(20), 8, 6)).toBeUndefined()
})

test('replace swaps everything or, when an entry is impossible, nothing', () => {
  const router = new CryptokeyRouter<string>()
  router.insert(prefix('10.0.0.0/8'), 'old')
  const impossible: Prefix = { ip: ip('10.0.0.0'), bits: 33 }
  expect(() => router.replace([{ prefix: prefix('11.0.0.0/8'), peer: 'new' }, { prefix: impossible, peer: 'new' }])).toThrow(expect.objectContaining({ code: 'CRYPTOKEY_PREFIX' }))
  expect(router.peerForIp(ip('10.1.1.1'))).toBe('old')
  expect(router.peerForIp(ip('11.1.1.1'))).toBeUndefined()
  router.replace([{ prefix: prefix('11.0.0.0/8'), peer: 'new' }])
  expect(router.peerForIp(ip('10.1.1.1'))).toBeUndefined()
  expect(router.peerForIp(ip('11.1.1.1'))).toBe('new')
  expect(router.entries().map((entry) => formatPrefix(entry.prefix))).toEqual(['11.0.0.0/8'])
  router.clear()
  expect(router.size).toBe(0)
})

test('host bits are cleared, so two spellings of a prefix are one', () => {
  const router = new CryptokeyRouter<string>()
  router.insert({ ip: ip('10.1.2.3'), bits: 8 }, 'a')
  router.insert({ ip: ip('10.9.9.9'), bits: 8 }, 'b')
  expect(router.list('a')).toEqual([])
  expect(router.list('b').map(formatPrefix)).toEqual(['10.0.0.0/8'])
  expect(router.remove({ ip: ip('10.4.4.4'), bits: 8 }, 'b')).toBe(true)
})

test('a peer that owns nothing any more is forgotten, and its place is used again', () => {
  const router = new CryptokeyRouter<object>()
  for (let round = 0; round < 1000; round += 1) {
    const peer = {}
    router.insert(prefix('10.0.0.0/8'), peer)
    expect(router.peerForIp(ip('10.0.0.1'))).toBe(peer)
    expect(router.entries()).toHaveLength(1)
  }
  expect(router.removePeer({})).toBe(0)
})
