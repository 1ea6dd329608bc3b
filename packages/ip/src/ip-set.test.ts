import { expect, test } from 'vitest'
import { formatPrefix, type Ip, type IpRange, IpSet, parseIp, parseIpRange, parsePrefix, type Prefix, TAILNET_ADDRESSES } from './index.ts'

const some = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('unreadable text in a test')
  return value
}
const ip = (text: string): Ip => some(parseIp(text))
const prefix = (text: string): Prefix => some(parsePrefix(text))
const range = (text: string): IpRange => some(parseIpRange(text))

const set = (...texts: string[]): IpSet => IpSet.from(texts.map((text) => (text.includes('-') ? range(text) : prefix(text))))

test('adjoining and overlapping ranges merge, whatever their order', () => {
  expect(set('10.0.1.0/24', '10.0.0.0/24', '10.0.0.128-10.0.2.3').toString()).toBe('10.0.0.0-10.0.2.3')
  expect(set('::2', '::1', '::3').toString()).toBe('::1-::3')
  expect(set('10.0.0.0/25', '10.0.0.128/25').toString()).toBe('10.0.0.0/24')
})

test('the edges of the address space do not overflow', () => {
  expect(set('255.255.255.255', '0.0.0.0').toString()).toBe('0.0.0.0,255.255.255.255')
  expect(IpSet.everything.toString()).toBe('0.0.0.0/0,::/0')
  expect(IpSet.everything.remove(ip('255.255.255.255')).remove(ip('::')).ranges().map((each) => each.last.key)).toEqual(['255.255.255.254', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'])
  expect(IpSet.everything.complement().isEmpty).toBe(true)
  expect(IpSet.empty.complement().equals(IpSet.everything)).toBe(true)
})

test('a range falls into the fewest prefixes', () => {
  expect(IpSet.of(range('1.0.0.0-2.1.2.3')).prefixes().map(formatPrefix)).toEqual(['1.0.0.0/8', '2.0.0.0/16', '2.1.0.0/23', '2.1.2.0/30'])
  expect(IpSet.of(range('0.0.0.1-255.255.255.254')).prefixes()).toHaveLength(62)
  expect(IpSet.of(range('::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe')).prefixes()).toHaveLength(254)
})

test('look-ups see both families apart and both ends of a range', () => {
  const both = set('10.0.0.0/8', 'fd7a:115c:a1e0::/48', '2001:db8::5-2001:db8::9')
  const inside = ['10.0.0.0', '10.255.255.255', 'fd7a:115c:a1e0::', 'fd7a:115c:a1e0:ffff:ffff:ffff:ffff:ffff', '2001:db8::5', '2001:db8::9']
  const outside = ['9.255.255.255', '11.0.0.0', '::a00:0', '::ffff:10.0.0.1', 'fd7a:115c:a1df:ffff:ffff:ffff:ffff:ffff', 'fd7a:115c:a1e1::', '2001:db8::4', '2001:db8::a']
  expect(inside.filter((text) => !both.contains(ip(text)))).toEqual([])
  expect(outside.filter((text) => both.contains(ip(text)))).toEqual([])
  expect(IpSet.empty.contains(ip('::'))).toBe(false)
})

test('the tailnet addresses leave out the ChromeOS hole', () => {
  expect(TAILNET_ADDRESSES.toString()).toBe('100.64.0.0-100.115.91.255,100.115.94.0-100.127.255.255,fd7a:115c:a1e0::/48')
})

test('covers asks for all, overlaps for any', () => {
  const net = set('10.0.0.0/8', '::/64')
  expect(net.covers(prefix('10.1.0.0/16'))).toBe(true)
  expect(net.covers(set('10.1.0.0/16', '11.0.0.0'))).toBe(false)
  expect(net.overlaps(set('11.0.0.0', '10.255.255.255-11.0.0.0'))).toBe(true)
  expect(net.overlaps(prefix('11.0.0.0/8'))).toBe(false)
  expect(net.covers(IpSet.empty)).toBe(true)
  expect(net.overlaps(IpSet.empty)).toBe(false)
})

test.each(['10.0.0.9-10.0.0.5', '10.0.0.5-::9', '10.0.0.5', '10.0.0.5 - 10.0.0.9', '10.0.0.5-10.0.0.9-10.0.0.11', '-', 'a-b', '10.0.0.0/8-11.0.0.0'])('%s is not a range', (text) => {
  expect(parseIpRange(text)).toBeUndefined()
})

test('sets made of the same addresses in any way are equal', () => {
  expect(set('10.0.0.0/24').add(prefix('10.0.1.0/24')).equals(set('10.0.0.0/23'))).toBe(true)
  expect(set('10.0.0.0/23').equals(set('10.0.0.0/24'))).toBe(false)
  expect(set('10.0.0.0/23').union(set('::1')).onlyFamily(6).toString()).toBe('::1')
  expect(JSON.stringify({ set: set('10.0.0.0/23', '::5-::7') })).toBe('{"set":["10.0.0.0/23","::5-::7"]}')
})
