import { parsePrefix } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { clientAddress } from './client-address.ts'

const TRUSTED = ['10.0.0.0/24', '::1/128'].flatMap((text) => parsePrefix(text) ?? [])

test.each([
  ['203.0.113.9', undefined, '203.0.113.9'],
  ['203.0.113.9', '198.51.100.1', '203.0.113.9'], // a stranger's word does not count
  ['10.0.0.1', '198.51.100.1', '198.51.100.1'],
  ['::ffff:10.0.0.1', '198.51.100.1', '198.51.100.1'],
  ['10.0.0.1', '1.2.3.4, 198.51.100.1', '198.51.100.1'], // what the client wrote itself stands further left
  ['10.0.0.1', '198.51.100.1, 10.0.0.7', '198.51.100.1'], // two proxies
  ['10.0.0.1', '10.0.0.7', '10.0.0.7'],
  ['10.0.0.1', undefined, '10.0.0.1'],
  ['10.0.0.1', 'nonsense', '10.0.0.1'],
  ['::1', '2001:db8::1', '2001:db8::1'],
  [undefined, '1.2.3.4', 'unknown'],
])('a connection from %s that forwards for %s is %s', (remoteAddress, header, expected) => {
  expect(clientAddress({ headers: { 'x-forwarded-for': header }, socket: { remoteAddress } }, TRUSTED)).toBe(expected)
})
