import { decodeHostinfo, formatJson, type Hostinfo } from '@meshwright/control-protocol'
import { expect, test } from 'vitest'
import { soundHostinfo } from './sound-hostinfo.ts'

function decoded(value: object): Hostinfo {
  const result = decodeHostinfo(value)
  if (!result.ok) throw new Error(result.problem)
  return result.value
}

test('what a real client says stays the same object', () => {
  const given = decoded({
    Hostname: 'n',
    OS: 'linux',
    RoutableIPs: ['10.0.0.0/8', '0.0.0.0/0'],
    Services: [{ Proto: 'peerapi4', Port: 1 }],
    NetInfo: { PreferredDERP: 1, DERPLatency: { '1-v4': 0.01 } },
    sshHostKeys: ['ssh-ed25519 AAAA'],
    TPM: { Manufacturer: 'x' },
    Location: { Country: 'x', Latitude: 1.5 },
  })
  expect(soundHostinfo(given)).toBe(given)
})

test.each([
  ['a long text', { Hostname: 'x'.repeat(500_000) }],
  ['many routes', { RoutableIPs: Array.from({ length: 20_000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`) }],
  ['long routes', { RoutableIPs: Array.from({ length: 100 }, () => '1'.repeat(10_000)) }],
  ['many tags', { RequestTags: Array.from({ length: 20_000 }, (_, i) => `tag:${i}`) }],
  ['many services', { Services: Array.from({ length: 20_000 }, () => ({ Proto: 'peerapi4', Port: 1, Description: 'x'.repeat(40) })) }],
  ['services with long texts', { Services: [{ Proto: `peerapi${'x'.repeat(500_000)}`, Port: 1 }] }],
  ['many latencies', { NetInfo: { DERPLatency: Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`${i}-v4`, 1])) } }],
  ['long names of latencies', { NetInfo: { DERPLatency: Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`${i}${'x'.repeat(4_000)}`, 1])) } }],
  ['many SSH keys', { sshHostKeys: Array.from({ length: 20_000 }, () => 'ssh-ed25519 AAAA') }],
  ['long SSH keys', { sshHostKeys: Array.from({ length: 10 }, () => 'x'.repeat(90_000)) }],
  ['a TPM of anything', { TPM: { x: Array.from({ length: 100_000 }, () => 1) } }],
  ['a long country', { Location: { Country: 'x'.repeat(500_000) } }],
])('what one node makes up is cut: %s', (_what, value) => {
  const sound = soundHostinfo(decoded(value))
  expect(formatJson(sound).length).toBeLessThan(300_000)
  expect(decodeHostinfo(sound)).toEqual({ ok: true, value: sound })
})
