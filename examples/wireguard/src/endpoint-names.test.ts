import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { NodePrivateKey } from '@meshwright/crypto'
import { formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { systemRandom } from '@meshwright/runtime-node'
import { formatPublicKey } from '@meshwright/wireguard/text'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { EndpointNames } from './endpoint-names.ts'

const [named, literal] = [NodePrivateKey.generate(systemRandom).publicKey(), NodePrivateKey.generate(systemRandom).publicKey()]
let folder = ''
let moved: string[] = []
let asked: string[] = []

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-names-'))
  writeFileSync(path.join(folder, 'wg0.conf'), `[Peer]\nPublicKey = ${formatPublicKey(named)}\nEndpoint = peer.example:51820\n[Peer]\nPublicKey = ${formatPublicKey(literal)}\nEndpoint = 192.0.2.9:1\n`)
  ;[moved, asked] = [[], []]
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function names(addresses: readonly string[] | Error, file: string = 'wg0.conf'): EndpointNames {
  return new EndpointNames(path.join(folder, file), (_peer, endpoint) => moved.push(formatEndpoint(endpoint)), () => undefined, async (host) => {
    asked.push(host)
    if (addresses instanceof Error) throw addresses
    return addresses
  })
}

test.each<[string, string | undefined, readonly string[], string[]]>([
  ['a new address is taken', '192.0.2.1:51820', ['192.0.2.2'], ['192.0.2.2:51820']],
  ['of several, the one behind the one that was tried', '192.0.2.2:51820', ['192.0.2.1', '192.0.2.2', '2001:db8::1'], ['[2001:db8::1]:51820']],
  ['behind the last one, the first', '[2001:db8::1]:51820', ['192.0.2.1', '2001:db8::1'], ['192.0.2.1:51820']],
  ['the same address again changes nothing', '192.0.2.1:51820', ['192.0.2.1'], []],
  ['a port that it roamed to is given up for the one in the file', '192.0.2.1:9', ['192.0.2.1'], ['192.0.2.1:51820']],
  ['without an address until now, the first', undefined, ['192.0.2.1', '192.0.2.2'], ['192.0.2.1:51820']],
  ['no address, no change', '192.0.2.1:51820', [], []],
])('a name is looked up again when nobody answers: %s', async (_what, tried, addresses, expected) => {
  await names(addresses).unanswered(named, tried === undefined ? undefined : parseEndpoint(tried))
  expect(moved).toEqual(expected)
  expect(asked).toEqual(['peer.example'])
})

test('only names are looked up, not too often, and failures are borne', async () => {
  await names(['192.0.2.1']).unanswered(literal, undefined)
  await names(['192.0.2.1'], 'missing.conf').unanswered(named, undefined)
  expect(asked).toEqual([])
  const twice = names(['192.0.2.1'])
  await twice.unanswered(named, undefined)
  await twice.unanswered(named, undefined)
  expect(asked).toEqual(['peer.example'])
  await names(new Error('SERVFAIL')).unanswered(named, undefined)
  expect(moved).toEqual(['192.0.2.1:51820'])
})
