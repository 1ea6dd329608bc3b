import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import type { TransferResult } from './wireguard-commands.ts'
import { buildProgram, closeHosts, kernelHasWireGuard, type Keys, lettersHash, WireGuardHost, whyNoWgTools } from './wireguard-host.ts'
import { until } from './wireguard-lab.ts'
import { twoHostFlow } from './wireguard-two-hosts.ts'
import { WIREGUARD_GO } from './wireguard-programs.ts'

// The real wg and wg-quick on meshwright-wg, and through its TUN device to itself and to wireguard-go. Without them, root or TUN the
// tests are skipped, or fail where REQUIRE_INTEROP=1.
const missing = whyNoWgTools()
const noQuick = missing ?? (kernelHasWireGuard() ? 'this kernel has WireGuard, which wg-quick prefers' : undefined)
beforeAll(() => {
  if (missing === undefined) buildProgram()
})
afterAll(closeHosts)

const MB = 1_000_000

/** What the two ends of a transfer report: each of them has what the other one sent. */
function both(size: number): readonly TransferResult[] {
  return [{ bytes: size, sha256: lettersHash('listen', size), reason: 'finished' }, { bytes: size, sha256: lettersHash('connect', size), reason: 'finished' }]
}

twoHostFlow('set, show, show dump, showconf, setconf, addconf, syncconf [wg]', missing, async (host) => {
  const name = host.interfaceName
  const [own, a, b] = [await host.keys(), (await host.keys()).key, (await host.keys()).key]
  const psk = await host.psk()
  await host.run('meshwright-wg', name)
  expect(await host.run('wg', 'show', 'interfaces')).toContain(name)
  expect(await host.run('wg', 'show', name, 'dump')).toBe('(none)\t(none)\t0\toff\n')

  await host.run('wg', 'set', name, 'private-key', host.file('key', own.secret), 'listen-port', '40123', 'fwmark', '0x77', 'peer', a, 'preshared-key', host.file('psk', psk), 'endpoint', '127.0.0.1:9', 'persistent-keepalive', '25', 'allowed-ips', '10.0.0.1/24,fd00::/64', 'peer', b, 'allowed-ips', '10.1.0.0/16')
  expect(await host.run('wg', 'show', name, 'allowed-ips')).toBe(`${a}\t10.0.0.0/24 fd00::/64\n${b}\t10.1.0.0/16\n`)
  expect((await host.run('wg', 'show', name, 'dump')).split('\n')[0]).toBe(`${own.secret}\t${own.key}\t40123\t0x77`)
  expect(await host.run('wg', 'show', name, 'preshared-keys')).toBe(`${a}\t${psk}\n${b}\t(none)\n`)

  const conf = await host.run('wg', 'showconf', name)
  await host.run('wg', 'setconf', name, host.file('same.conf', conf))
  expect(await host.run('wg', 'showconf', name)).toBe(conf)
  await host.run('wg', 'set', name, 'peer', b, 'remove')
  expect(await host.run('wg', 'show', name, 'peers')).toBe(`${a}\n`)
  await host.run('wg', 'addconf', name, host.file('more.conf', `[Peer]\nPublicKey = ${b}\nAllowedIPs = 10.0.0.0/24\n`))
  expect(await host.run('wg', 'show', name, 'allowed-ips')).toBe(`${a}\tfd00::/64\n${b}\t10.0.0.0/24\n`)
  await host.run('wg', 'syncconf', name, host.file('one.conf', `[Interface]\nPrivateKey = ${own.secret}\nListenPort = 40124\n[Peer]\nPublicKey = ${a}\nAllowedIPs = 10.9.0.0/16\n`))
  expect((await host.run('wg', 'show', name, 'dump')).split('\n')[0]).toBe(`${own.secret}\t${own.key}\t40124\toff`)
  expect(await host.run('wg', 'show', name, 'allowed-ips')).toBe(`${a}\t10.9.0.0/16\n`)
  // What the file does not name, this wg does not send: it stays.
  expect(await host.run('wg', 'show', name, 'endpoints')).toBe(`${a}\t127.0.0.1:9\n`)
  await host.run('wg', 'set', name, 'private-key', '/dev/null')
  expect(await host.run('wg', 'show', name, 'private-key')).toBe('(none)\n')
})

twoHostFlow('a taken port is refused by errno, and nothing else changes [wg]', missing, async (host) => {
  const name = host.interfaceName
  await host.run('meshwright-wg', name)
  await host.run('wg', 'set', name, 'listen-port', '40200', 'private-key', host.file('key', (await host.keys()).secret))
  const taken = host.start(process.execPath, '-e', "require('node:dgram').createSocket('udp4').bind(40201, () => console.log('ready'))")
  await new Promise((resolve) => taken.stdout?.once('data', resolve))
  const refused = await host.try('wg', ['set', name, 'listen-port', '40201'])
  expect(refused).toMatchObject({ status: 1, stderr: 'Unable to modify interface: Address already in use\n' })
  expect(await host.run('wg', 'show', name, 'listen-port')).toBe('40200\n')
})

twoHostFlow('a second program for the same interface is refused, the first one goes on [wg]', missing, async (host) => {
  const name = host.interfaceName
  await host.run('meshwright-wg', name)
  expect(await host.try('meshwright-wg', [name])).toMatchObject({ status: 1, stderr: expect.stringContaining('is served already') })
  expect(await host.run('wg', 'show', name, 'listen-port')).toBe('0\n')
})

twoHostFlow('deleting the socket or the link ends the program [wg]', missing, async (host, other) => {
  await host.run('meshwright-wg', host.interfaceName)
  await host.run('rm', `/var/run/wireguard/${host.interfaceName}.sock`)
  await until(() => host.pids().length === 0, 5_000, 'it goes on without a socket')
  await other.run('meshwright-wg', other.interfaceName)
  await other.run('ip', 'link', 'del', other.interfaceName)
  await until(() => other.pids().length === 0, 5_000, 'it goes on without a link')
  expect(other.has(`/var/run/wireguard/${other.interfaceName}.sock`)).toBe(false)
})

twoHostFlow('up, traffic, save and down with ordinary files [wg-quick]', noQuick, async (host, other) => {
  const [a, b] = [await host.keys(), await other.keys()]
  const psk = await host.psk()
  const trace = path.join(host.folder, 'trace')
  host.program('resolvconf', `echo "resolvconf $*" >> ${trace}; [ "$1" = -a ] && cat >> ${trace}; exit 0`)
  const confA = host.file(`${host.interfaceName}.conf`, [
    '[Interface]', `PrivateKey = ${a.secret}`, 'Address = 10.66.0.1/24, fd66::1/64', 'DNS = 10.66.0.53, mesh.example', 'MTU = 1380', 'ListenPort = 51820', 'SaveConfig = true',
    `PreUp = echo preup %i >> ${trace}`, `PostUp = echo postup %i >> ${trace}`, `PreDown = echo predown >> ${trace}`, `PostDown = echo postdown >> ${trace}`,
    '[Peer]', `PublicKey = ${b.key}`, `PresharedKey = ${psk}`, 'AllowedIPs = 10.66.0.2/32, fd66::2/128, 10.67.0.0/16', 'PersistentKeepalive = 5', '',
  ].join('\n'))
  const confB = other.file(`${other.interfaceName}.conf`, [
    '[interface]', `privatekey=${b.secret}`, 'address=10.66.0.2/24', 'Address = fd66::2/64', 'Table = 7766',
    '[Peer] # the first host', `PublicKey = ${a.key}`, `PresharedKey = ${psk}`, 'AllowedIPs = 10.66.0.1/32, fd66::1/128', 'Endpoint = 192.0.2.1:51820', '',
  ].join('\n'))
  await host.run('wg-quick', 'up', confA)
  await other.run('wg-quick', 'up', confB)
  expect(await other.run('ip', 'route', 'show', 'table', '7766')).toContain('10.66.0.1')
  expect(await host.run('ip', 'route')).toContain(`10.67.0.0/16 dev ${host.interfaceName}`)
  expect(await host.run('ip', 'link', 'show', host.interfaceName)).toContain('mtu 1380')

  expect(await other.transfer(host, '10.66.0.1', MB)).toEqual(both(MB))
  expect(await host.transfer(other, 'fd66::2', MB)).toEqual(both(MB))
  expect(await host.run('wg', 'show', host.interfaceName, 'endpoints')).toMatch(/\t192\.0\.2\.2:[0-9]+\n/)

  await host.run('wg-quick', 'down', confA)
  await until(() => host.pids().length === 0, 5_000, 'the program goes on')
  expect(host.has(`/var/run/wireguard/${host.interfaceName}.sock`)).toBe(false)
  expect(readFileSync(trace, 'utf8').split('\n')).toEqual([
    `preup ${host.interfaceName}`, `resolvconf -a ${host.interfaceName} -m 0 -x`, 'nameserver 10.66.0.53', 'search mesh.example', `postup ${host.interfaceName}`, 'predown',
    `resolvconf -l ${host.interfaceName}`, `resolvconf -d ${host.interfaceName} -f`, 'postdown', '',
  ])
  // Saved from the live state: it was never told where the peer is, but it knows.
  const saved = readFileSync(confA, 'utf8')
  expect(saved).toMatch(/Endpoint = 192\.0\.2\.2:[0-9]+/)
  expect(saved).toContain('MTU = 1380')
  await host.run('wg-quick', 'up', confA)
  expect((await host.echo(other, '10.66.0.2', 7000, 3)).answered).toBe(3)
  await other.run('wg-quick', 'down', confB)
})

twoHostFlow('peers come and go and files are read again without a lost packet of another session [wg]', missing, async (host, other) => {
  const [a, b, c] = [await host.keys(), await other.keys(), await host.keys()]
  await pair(host, other, a, b)
  const name = host.interfaceName
  expect((await host.echo(other, '10.66.0.2', 7000, 2)).answered).toBe(2)
  const counting = host.echo(other, '10.66.0.2', 7001, 40)
  for (let i = 0; i < 5; i += 1) {
    await host.run('wg', 'set', name, 'peer', c.key, 'allowed-ips', `10.80.${i}.0/24`)
    await host.run('wg', 'syncconf', name, host.file('sync.conf', await host.run('wg', 'showconf', name)))
    await host.run('wg', 'set', name, 'peer', c.key, 'remove')
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
  expect(await counting).toEqual({ sent: 40, answered: 40 })
})

twoHostFlow('a mark keeps the own packets of the tunnel out of it: everything else goes through [wg]', missing, async (host, other) => {
  const [a, b] = [await host.keys(), await other.keys()]
  await pair(host, other, a, b)
  const name = host.interfaceName
  await host.run('wg', 'set', name, 'fwmark', '51820', 'peer', b.key, 'allowed-ips', '0.0.0.0/0')
  await host.run('ip', 'route', 'add', 'default', 'dev', name, 'table', '51820')
  await host.run('ip', 'rule', 'add', 'not', 'fwmark', '51820', 'table', '51820')
  await other.run('ip', 'addr', 'add', '198.51.100.7/32', 'dev', other.interfaceName)
  expect((await host.echo(other, '198.51.100.7', 7000, 5)).answered).toBeGreaterThanOrEqual(4)
  // The other way round: without the mark the tunnel would have to carry itself.
  await host.run('wg', 'set', name, 'fwmark', 'off')
  expect((await host.echo(other, '198.51.100.7', 7001, 3)).answered).toBe(0)
})

const go = WIREGUARD_GO
twoHostFlow('our TUN device and theirs: 5 MB each way and 50 datagrams [wireguard-go 2026-05]', missing ?? go.missing, async (host, other) => {
  const [a, b] = [await host.keys(), await other.keys()]
  await pair(host, other, a, b, go.file)
  const size = 5 * MB
  expect(await host.transfer(other, '10.66.0.2', size)).toEqual(both(size))
  expect(await other.echo(host, '10.66.0.1', 7000, 50)).toEqual({ sent: 50, answered: 50 })
})

twoHostFlow('without a TUN device, 2 MB each way through the SOCKS5 proxy [wg]', missing, async (host, other) => {
  await pair(host, other, await host.keys(), await other.keys(), 'meshwright-wg', ['--address', '10.66.0.1/24', '--socks5', '127.0.0.1:1080'])
  const size = 2 * MB
  expect(await host.transfer(other, '10.66.0.2', size, 1080)).toEqual(both(size))
})

/** Makes an interface on each host: 10.66.0.1 and 10.66.0.2. */
async function pair(host: WireGuardHost, other: WireGuardHost, a: Keys, b: Keys, program: string = 'meshwright-wg', userspace: readonly string[] = []): Promise<void> {
  await host.run('meshwright-wg', ...userspace, host.interfaceName)
  await other.run(program, other.interfaceName)
  for (const [each, own, peer, outer, inner, theirs] of [[host, a, b, '192.0.2.2', '10.66.0.1', '10.66.0.2'], [other, b, a, '192.0.2.1', '10.66.0.2', '10.66.0.1']] as const) {
    const name = each.interfaceName
    await each.run('wg', 'set', name, 'private-key', each.file('key', own.secret), 'listen-port', '51820', 'peer', peer.key, 'endpoint', `${outer}:51820`, 'allowed-ips', `${theirs}/32`)
    if (each === host && userspace.length > 0) continue
    await each.run('ip', 'addr', 'add', `${inner}/24`, 'dev', name)
    await each.run('ip', 'link', 'set', name, 'up')
  }
}
