import { utf8Encode } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { parseEndpoint, parsePrefix, type Prefix } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { formatUapi, formatUapiErrno, formatUapiSet, parseUapiAnswer, type ShownDevice, type UapiChange, UapiReader } from './index.ts'

const random = new SeededRandom(2)
const privateKey = NodePrivateKey.generate(random.bytes)
const publicKey = NodePrivateKey.generate(random.bytes).publicKey()
const endpoint = parseEndpoint('192.0.2.1:51820')

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

test('a device reads exactly the changes that were written', () => {
  const none = { type: 'peer', publicKey, remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [] } as const
  const changes: UapiChange[] = [
    { type: 'privateKey', key: privateKey },
    { type: 'privateKey', key: undefined },
    { type: 'listenPort', port: 51820 },
    { type: 'fwmark', mark: 7 },
    { type: 'replacePeers' },
    {
      ...none,
      updateOnly: true,
      presharedKey: random.bytes(32),
      ...(endpoint === undefined ? {} : { endpoint }),
      persistentKeepaliveSeconds: 25,
      replaceAllowedIps: true,
      allowedIps: [{ prefix: prefix('10.0.0.0/8'), remove: false }, { prefix: prefix('fd00::/8'), remove: true }],
    },
    { ...none, remove: true },
  ]
  const requests = new UapiReader().push(utf8Encode(formatUapiSet(changes)))
  expect(requests).toHaveLength(1)
  expect(requests[0]).toEqual({ type: 'set', errno: 0, changes })
})

test('what a device answers is read back', () => {
  const device: ShownDevice = {
    name: 'wg0',
    privateKey,
    listenPort: 51820,
    fwmark: 7,
    peers: [
      {
        publicKey,
        presharedKey: random.bytes(32),
        ...(endpoint === undefined ? {} : { endpoint }),
        allowedIps: [prefix('10.0.0.0/8'), prefix('fd00::/8')],
        latestHandshake: 1_700_000_000_123,
        receivedBytes: 2 ** 40,
        sentBytes: 5,
        persistentKeepaliveSeconds: 25,
      },
    ],
  }
  const text = formatUapi(device)
  expect(parseUapiAnswer(text, 'wg0')).toEqual({ errno: 0, device })
  expect(parseUapiAnswer(formatUapiErrno(-98), 'wg0')).toEqual({ errno: -98, device: { name: 'wg0', peers: [] } })
})

test('an answer that is cut off, goes on behind errno or has no errno is none', () => {
  const text = formatUapi({ name: 'wg0', privateKey, peers: [] })
  for (let length = 0; length < text.length; length += 1) expect(parseUapiAnswer(text.slice(0, length), 'wg0')).toBeUndefined()
  expect(parseUapiAnswer('errno=0\nlisten_port=1\n\n', 'wg0')).toBeUndefined()
  expect(parseUapiAnswer('listen_port=1\n\n', 'wg0')).toBeUndefined()
  expect(parseUapiAnswer('public_key=12\nerrno=0\n\n', 'wg0')).toBeUndefined()
})
