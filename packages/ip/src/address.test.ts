import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatIp, Ip, parseIp } from './index.ts'

describe('texts of addresses are read as Go reads them', () => {
  test.each([
    ['0.0.0.0', '0.0.0.0'],
    ['255.255.255.255', '255.255.255.255'],
    ['::', '::'],
    ['1::', '1::'],
    ['::1', '::1'],
    ['FD7A:115c:A1E0::0001', 'fd7a:115c:a1e0::1'],
    ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
    ['::2:3:4:5:6:7:8', '0:2:3:4:5:6:7:8'],
    ['1:2:3:4:5:6:1.2.3.4', '1:2:3:4:5:6:102:304'],
    ['::1.2.3.4', '::102:304'],
    ['::ffff:100.64.0.1', '::ffff:100.64.0.1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
  ])('%s is %s', (text, canonical) => expect(parseIp(text)?.key).toBe(canonical))

  test.each([
    '', '.', '1.2.3', '1.2.3.4.', '.1.2.3.4', '1.2.3.4.5', '01.2.3.4', '1.2.3.256', '1.2.3.1000', '1.2.3.-4', ' 1.2.3.4', '1.2.3.4 ', '0x1.2.3.4', '1.2.3.4/32', '１.2.3.4',
    ':', ':::', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '1:2:3:4:5:6:7:8::', '::1:2:3:4:5:6:7:8', '1:2:3:4::5:6:7:8', '1::2::3', ':1::2', '1::2:', '12345::', '::g', '::1%eth0', '[::1]',
    '::1.2.3', '::1.2.3.256', '1.2.3.4::', '::1.2.3.4:5', '1:2:3:4:5:6:7:1.2.3.4', '::01.2.3.4', '::1/128',
  ])('%j is none', (text) => expect(parseIp(text)).toBeUndefined())
})

test('the canonical text of every address is read back as that address', () => {
  const bytes = fc.oneof(fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.array(fc.constantFrom(0, 0, 0, 255, 18), { minLength: 16, maxLength: 16 }).map((list) => Uint8Array.from(list)))
  fc.assert(fc.property(bytes, (each) => {
    const ip = Ip.fromBytes(each)
    const again = ip && parseIp(formatIp(ip))
    expect(again?.bytes).toEqual(each)
  }))
})
