import { formatHex, instant, utf8Encode } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { parseEndpoint, parsePrefix, type Prefix } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { WireGuardDevice } from '../index.ts'
import { formatAgo, formatBytes, formatConfig, formatDump, formatMetrics, formatPublicKey, formatSecretKey, formatShow, formatUapi, parseConfig, parseUapi, type ShownDevice, UapiReader } from './index.ts'

const random = new SeededRandom(1)
const privateKey = NodePrivateKey.generate(random.bytes)
const peers = [1, 2].map(() => NodePrivateKey.generate(random.bytes).publicKey())
const [first, second] = peers as [NodePublicKey, NodePublicKey]
const psk = random.bytes(32)

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

// The device of the transcript taken from a real `wg`.
const endpoint = parseEndpoint('[abcd:23::33]:51820')
const device: ShownDevice = {
  name: 'wqu0',
  privateKey,
  listenPort: 12912,
  fwmark: 0x1234,
  peers: [
    { publicKey: second, allowedIps: [], receivedBytes: 0, sentBytes: 0, persistentKeepaliveSeconds: 0 },
    {
      publicKey: first,
      presharedKey: psk,
      ...(endpoint === undefined ? {} : { endpoint }),
      allowedIps: [prefix('192.168.4.4/32'), prefix('fd00::/8')],
      latestHandshake: 1_700_000_000_000,
      receivedBytes: 2224,
      sentBytes: 38333,
      persistentKeepaliveSeconds: 25,
    },
  ],
}

describe('UAPI', () => {
  test('a get is answered in the order of wireguard-go', () => {
    const swapped = { ...device, peers: device.peers.toReversed() }
    expect(formatUapi(swapped)).toBe(
      `private_key=${formatHex(privateKey.secretBytes)}\nlisten_port=12912\nfwmark=4660\npublic_key=${formatHex(first.bytes)}\npreshared_key=${formatHex(psk)}\nprotocol_version=1\nendpoint=[abcd:23::33]:51820\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=0\ntx_bytes=38333\nrx_bytes=2224\npersistent_keepalive_interval=25\nallowed_ip=192.168.4.4/32\nallowed_ip=fd00::/8\npublic_key=${formatHex(second.bytes)}\npreshared_key=${'0'.repeat(64)}\nprotocol_version=1\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\nerrno=0\n\n`,
    )
  })

  const [p, q] = [formatHex(first.bytes), formatHex(second.bytes)]
  const written = `set=1\nlisten_port=5\nfwmark=0\npublic_key=${p}\nendpoint=[::1]:7\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.1/8\nallowed_ip=-10.2.0.0/16\npublic_key=${q}\nremove=true\n\n`

  test('what wg writes is read, also in pieces of any size and several requests at once', () => {
    const bytes = utf8Encode(`${written}get=1\n\n`)
    const whole = new UapiReader().push(bytes)
    expect(whole).toMatchObject([
      {
        type: 'set',
        errno: 0,
        changes: [
          { type: 'listenPort', port: 5 },
          { type: 'fwmark', mark: 0 },
          { type: 'peer', persistentKeepaliveSeconds: 25, replaceAllowedIps: true, remove: false, allowedIps: [{ remove: false, prefix: { bits: 8 } }, { remove: true, prefix: { bits: 16 } }] },
          { type: 'peer', remove: true },
        ],
      },
      { type: 'get', errno: 0 },
    ])
    for (const size of [1, 2, 7, 100]) {
      const reader = new UapiReader()
      const requests = []
      for (let at = 0; at < bytes.length; at += size) requests.push(...reader.push(bytes.subarray(at, at + size)))
      expect(JSON.stringify(requests)).toBe(JSON.stringify(whole))
    }
  })

  test.each([
    ['fwmark=0x10', -22],
    ['listen_port=65536', -22],
    ['replace_peers=false', -22],
    ['nonsense=1', -22],
    ['no equals sign', -71],
    [`public_key=${p}\nallowed_ip=10.0.0.0`, -22],
    [`public_key=${p}\nprotocol_version=2`, -22],
    [`public_key=${p}\nendpoint=name:5`, -22],
    ['public_key=12', -22],
  ])('a bad line ends the changes: %s', (lines, errno) => {
    expect(parseUapi(['set=1', 'listen_port=9', ...lines.split('\n'), 'fwmark=3'])).toMatchObject({ errno, changes: [{ type: 'listenPort' }, ...(lines.startsWith('public_key=12') || !lines.startsWith('public_key') ? [] : [{ type: 'peer' }])] })
  })

  test('an unknown operation, a line without end and broken text close the connection', () => {
    for (const bytes of [utf8Encode('frob=1\n'), new Uint8Array(70_000).fill(65), Uint8Array.of(0xff, 10)]) {
      const reader = new UapiReader()
      expect(reader.push(bytes)).toEqual([{ type: 'close' }])
      expect(reader.push(utf8Encode('get=1\n\n'))).toEqual([])
    }
    expect(parseUapi(['get=1', 'x=1'])).toEqual({ type: 'get', errno: -22 })
  })

  test('random lines never throw', () => {
    const keys = ['private_key', 'public_key', 'endpoint', 'allowed_ip', 'fwmark', 'remove', 'preshared_key', '']
    for (let i = 0; i < 5_000; i += 1) {
      const lines = Array.from({ length: random.below(6) }, () => `${random.pick(keys)}=${String.fromCharCode(...random.bytes(random.below(70)))}`)
      expect(parseUapi(['set=1', ...lines]).type).toBe('set')
    }
  })
})

describe('show', () => {
  test('prints what wg prints', () => {
    const now = 1_700_000_000_000 + (((3 * 365 + 7) * 24 + 5) * 3600 + 22 * 60 + 15) * 1000
    expect(formatShow(device, now)).toBe(
      `interface: wqu0\n  public key: ${formatPublicKey(privateKey.publicKey())}\n  private key: (hidden)\n  listening port: 12912\n  fwmark: 0x1234\n\npeer: ${formatPublicKey(first)}\n  preshared key: (hidden)\n  endpoint: [abcd:23::33]:51820\n  allowed ips: 192.168.4.4/32, fd00::/8\n  latest handshake: 3 years, 7 days, 5 hours, 22 minutes, 15 seconds ago\n  transfer: 2.17 KiB received, 37.43 KiB sent\n  persistent keepalive: every 25 seconds\n\npeer: ${formatPublicKey(second)}\n  allowed ips: (none)\n`,
    )
  })

  test('dump has one line for the interface and one for each peer', () => {
    expect(formatDump(device)).toBe(
      `${formatSecretKey(privateKey.secretBytes)}\t${formatPublicKey(privateKey.publicKey())}\t12912\t0x1234\n${formatPublicKey(second)}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n${formatPublicKey(first)}\t${formatSecretKey(psk)}\t[abcd:23::33]:51820\t192.168.4.4/32,fd00::/8\t1700000000\t2224\t38333\t25\n`,
    )
  })

  test('ages and amounts', () => {
    expect([0, 1_000, 62_000, 90_061_000].map(formatAgo)).toEqual(['Now', '1 second ago', '1 minute, 2 seconds ago', '1 day, 1 hour, 1 minute, 1 second ago'])
    expect([0, 1023, 1024, 1536, 1024 ** 4 * 3].map(formatBytes)).toEqual(['0 B', '1023 B', '1.00 KiB', '1.50 KiB', '3.00 TiB'])
  })

  test('the age of a handshake is a difference of whole seconds, as wg has it', () => {
    const shown = (latestHandshake: number, now: number): string => formatShow({ name: 'wg0', peers: [{ publicKey: first, allowedIps: [], latestHandshake, receivedBytes: 0, sentBytes: 0, persistentKeepaliveSeconds: 0 }] }, now)
    expect(shown(1_700_000_000_999, 1_700_000_001_001)).toContain('latest handshake: 1 second ago\n')
    expect(shown(1_700_000_000_001, 1_700_000_000_999)).toContain('latest handshake: Now\n')
  })
})

test('metrics name the peer by its public key and tell what scrapers need', () => {
  const peer = NodePrivateKey.generate(random.bytes).publicKey()
  const wg = new WireGuardDevice({ random: random.bytes, wallClock: () => 5_000, privateKey })
  wg.setPeer(instant(0), { publicKey: peer })
  wg.handleInput(instant(0), { type: 'datagram', bytes: new Uint8Array(5) })
  const text = formatMetrics(wg.status(instant(0)), 'wg0', 9_000)
  expect(text).toContain(`wireguard_sent_bytes_total{interface="wg0",peer="${formatPublicKey(peer)}"} 0\n`)
  expect(text).toContain('wireguard_device_drops_total{interface="wg0",reason="malformed"} 1\n')
  expect(text).toContain('wireguard_rate_limited_total{interface="wg0",reason="overloaded"} 0\n')
  expect(text).toContain(`wireguard_cookies_received_total{interface="wg0",peer="${formatPublicKey(peer)}"} 0\n`)
  expect(text).toContain('wireguard_cookie_replies_total{interface="wg0"} 0\n')
  expect(text).not.toContain('wireguard_latest_handshake_seconds{')
  expect(text.split('\n').filter((line) => line !== '' && !/^(# (HELP|TYPE) \w+ .+|\w+\{[^}]*\} [0-9.]+)$/.test(line))).toEqual([])
})

describe('configuration files', () => {
  const text = `[interface]
Address = 10.0.0.1/24, fd00::1/64 # ours
privatekey = ${formatSecretKey(privateKey.secretBytes)}
DNS=1.1.1.1,corp.example
PostUp = echo "# not a comment" %i
PostUp = second
FwMark = 0x10
ListenPort=51820
SaveConfig = true

[Peer]
PublicKey=${formatPublicKey(first)}
PresharedKey = ${formatSecretKey(psk)}
AllowedIPs = 10.0.0.2/32
AllowedIPs = 192.168.0.0/16, ::/0
Endpoint = vpn.example.com:51820
PersistentKeepalive = 25
`

  test('a wg-quick file is read, written, and read again as the same', () => {
    const { config, diagnostics } = parseConfig(text)
    expect(diagnostics).toEqual([])
    expect(config.interface).toMatchObject({ addresses: ['10.0.0.1/24', 'fd00::1/64'], dnsServers: ['1.1.1.1'], dnsSearch: ['corp.example'], postUp: ['echo "# not a comment" %i', 'second'], fwmark: 16, listenPort: 51820, saveConfig: true })
    expect(config.interface.privateKey?.equals(privateKey)).toBe(true)
    expect(config.peers[0]).toMatchObject({ endpoint: { host: 'vpn.example.com', port: 51820 }, persistentKeepaliveSeconds: 25 })
    expect(config.peers[0]?.allowedIps).toHaveLength(3)
    expect(formatConfig(parseConfig(formatConfig(config)).config)).toBe(formatConfig(config))
  })

  test.each([
    ['x = 1', 1, 1, /before any section/],
    ['[Interface]\n  Frob = 1', 2, 3, /no key of \[Interface\]: Frob/],
    ['[Interface]\nListenPort = 70000', 2, 14, /0 to 65535/],
    ['[Interface]\nPrivateKey = abc', 2, 14, /44 characters/],
    ['[Peer]\n', 1, 1, /no PublicKey/],
    ['[Interface]\nwhat', 2, 1, /neither/],
  ])('a mistake is told with its place: %s', (mistake, line, column, message) => {
    expect(parseConfig(mistake).diagnostics).toEqual([{ severity: 'error', line, column, message: expect.stringMatching(message) }])
  })

  test('no diagnostic repeats a value, which could be a key', () => {
    const secret = formatSecretKey(psk).replace('=', '')
    const { diagnostics } = parseConfig(`[Interface]\nPrivateKey = ${secret}\n[Peer]\nPresharedKey = ${secret}\nPublicKey = ${secret}\nPresharedKey ${formatSecretKey(psk)}`)
    expect(diagnostics.length).toBeGreaterThan(2)
    expect(JSON.stringify(diagnostics)).not.toContain(secret)
  })

  test('host bits are a warning, and a literal IPv6 endpoint keeps its brackets', () => {
    const { config, diagnostics } = parseConfig(`[Peer]\nPublicKey=${formatPublicKey(first)}\nAllowedIPs=10.0.0.1/8\nEndpoint=[fd00::1]:7`)
    expect(diagnostics).toMatchObject([{ severity: 'warning', line: 3 }])
    expect(formatConfig(config)).toContain('Endpoint = [fd00::1]:7')
  })
})
