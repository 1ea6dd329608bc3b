import { chmodSync, chownSync, cpSync, existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import { BIN } from './lab-flow.ts'
import { buildProgram, closeHosts, kernelHasWireGuard, lettersHash, programBundle, WireGuardHost, whyNoWgTools } from './wireguard-host.ts'
import { until } from './wireguard-lab.ts'
import { twoHostFlow } from './wireguard-two-hosts.ts'

// What wg-quick makes of ordinary files with meshwright-wg below it, and what meshwright-wg does by itself. Every host has an /etc and a
// /run/wireguard of its own.
const missing = whyNoWgTools()
const noQuick = missing ?? (kernelHasWireGuard() ? 'this kernel has WireGuard, which wg-quick prefers' : undefined)
const noResolvconf = noQuick ?? (existsSync(path.join(BIN, 'resolvconf')) ? undefined : 'resolvconf is not installed')

beforeAll(() => {
  if (missing === undefined) buildProgram()
})
afterAll(closeHosts)

const CONF = '/etc/wireguard/wg0.conf'
const ALL_WELL = { sent: 5, answered: 5 }

/** Gives both hosts a file; `own` and `peer` are lines more for the first one's. */
async function files(host: WireGuardHost, other: WireGuardHost, own: readonly string[], peer: readonly string[]): Promise<void> {
  const [a, b, psk] = [await host.keys(), await other.keys(), await host.psk()]
  host.install(CONF, ['[Interface]', `PrivateKey = ${a.secret}`, 'Address = 10.66.0.1/24', 'Address = fd66::1/64', ...own, '[Peer]', `PublicKey = ${b.key}`, `PresharedKey = ${psk}`, ...peer, ''].join('\n'))
  other.install(CONF, ['[Interface]', `PrivateKey = ${b.secret}`, 'Address = 10.66.0.2/24, fd66::2/64', 'ListenPort = 51820', '[Peer]', `PublicKey = ${a.key}`, `PresharedKey = ${psk}`, 'AllowedIPs = 10.66.0.1/32, fd66::1/128', ''].join('\n'))
}

twoHostFlow('the whole Internet through the tunnel: rules, mark and firewall come and go [wg-quick]', noQuick, async (host, other) => {
  await files(host, other, [], ['AllowedIPs = 0.0.0.0/0, ::/0', 'Endpoint = 192.0.2.2:51820'])
  await other.run('ip', 'addr', 'add', '198.51.100.7/32', 'dev', 'lo')
  await other.run('ip', 'addr', 'add', '2001:db8:7::7/128', 'dev', 'lo', 'nodad')
  const state = async (): Promise<readonly string[]> => Promise.all([host.run('ip', 'rule'), host.run('ip', '-6', 'rule'), host.run('nft', 'list', 'ruleset'), host.run('ip', 'route')])
  const before = await state()
  await other.run('wg-quick', 'up', 'wg0')
  await host.run('wg-quick', 'up', 'wg0')
  expect(await host.run('wg', 'show', 'wg0', 'fwmark')).toBe('0xca6c\n')
  expect(await host.run('ip', 'rule')).toContain('not from all fwmark 0xca6c lookup 51820')
  expect(await host.run('nft', 'list', 'tables')).toContain('wg-quick-wg0')
  await host.reach('198.51.100.7')
  expect(await Promise.all([host.ping('198.51.100.7', 5), host.ping('2001:db8:7::7', 5), host.ping('10.66.0.2', 5)])).toEqual([ALL_WELL, ALL_WELL, ALL_WELL])
  await host.run('wg-quick', 'down', 'wg0')
  expect(await state()).toEqual(before)
  expect(host.has('/run/wireguard/wg0.sock')).toBe(false)
})

twoHostFlow('DNS= by openresolv of Debian: servers and search domains come and go [wg-quick]', noResolvconf, async (host, other) => {
  const ours = readFileSync('/etc/resolv.conf', 'utf8')
  await files(host, other, ['DNS = 10.66.0.53, fd66::53, mesh.example'], ['AllowedIPs = 10.66.0.2/32', 'Endpoint = 192.0.2.2:51820'])
  // Its files are unpacked and not installed: it is told where they are, and where to keep its state.
  const unpacked = path.join(host.folder, 'openresolv')
  cpSync(path.resolve(realpathSync(path.join(BIN, 'resolvconf')), '../..'), unpacked, { recursive: true })
  await host.run('sed', '-i', `s,^LIBEXECDIR=.*,LIBEXECDIR=${unpacked}/lib/resolvconf,`, path.join(unpacked, 'sbin/resolvconf'))
  host.install('/etc/resolvconf.conf', `state_dir=${unpacked}/state\nlist_resolv="${unpacked}/sbin/resolvconf -l"\n`)
  host.program('resolvconf', `exec ${unpacked}/sbin/resolvconf "$@"`)
  const before = host.read('/etc/resolv.conf')
  await host.run('wg-quick', 'up', 'wg0')
  const during = host.read('/etc/resolv.conf').split('\n')
  expect(during).toEqual(expect.arrayContaining(['search mesh.example', 'nameserver 10.66.0.53', 'nameserver fd66::53']))
  await host.run('wg-quick', 'down', 'wg0')
  expect(host.read('/etc/resolv.conf').trim()).toBe(before.trim())
  expect(readFileSync('/etc/resolv.conf', 'utf8')).toBe(ours)
  await other.run('wg-quick', 'up', 'wg0')
  await host.run('wg-quick', 'up', 'wg0')
  await host.reach('10.66.0.2')
  expect(await host.ping('10.66.0.2', 5)).toEqual(ALL_WELL)
})

twoHostFlow('Table = off makes no route, SaveConfig keeps what wg set [wg-quick]', noQuick, async (host, other) => {
  await files(host, other, ['Table = off', 'SaveConfig = true', 'MTU = 1400'], ['AllowedIPs = 10.66.0.2/32, 10.77.0.0/16', 'Endpoint = 192.0.2.2:51820'])
  await other.run('wg-quick', 'up', 'wg0')
  await host.run('wg-quick', 'up', 'wg0')
  expect(await host.run('ip', 'route')).not.toContain('10.77.0.0/16')
  await host.reach('10.66.0.2')
  expect(await host.ping('10.66.0.2', 5)).toEqual(ALL_WELL)
  const peer = (await host.run('wg', 'show', 'wg0', 'peers')).trim()
  await host.run('wg', 'set', 'wg0', 'listen-port', '51999', 'peer', peer, 'persistent-keepalive', '21', 'allowed-ips', '10.66.0.2/32')
  await host.run('wg-quick', 'down', 'wg0')
  const saved = host.read(CONF)
  for (const line of ['ListenPort = 51999', 'PersistentKeepalive = 21', 'AllowedIPs = 10.66.0.2/32', 'Table = off', 'MTU = 1400', 'SaveConfig = true']) expect(saved).toContain(line)
  expect(await host.run('meshwright-wg', 'check', CONF)).toBe(`${CONF}: ok\n`)
  await host.run('wg-quick', 'up', 'wg0')
  await host.reach('10.66.0.2')
  expect(await host.ping('10.66.0.2', 5)).toEqual(ALL_WELL)
})

twoHostFlow('a name that leads elsewhere now is looked up again when nobody answers [wg-quick]', noQuick, async (host, other) => {
  await files(host, other, [], ['AllowedIPs = 10.66.0.2/32', 'Endpoint = peer.example:51820', 'PersistentKeepalive = 25'])
  await other.run('wg-quick', 'up', 'wg0')
  host.install('/etc/hosts', '127.0.0.1 localhost\n192.0.2.77 peer.example\n')
  await host.run('wg-quick', 'up', 'wg0')
  expect(await host.run('wg', 'show', 'wg0', 'endpoints')).toContain('192.0.2.77:51820')
  host.install('/etc/hosts', '127.0.0.1 localhost\n2001:db8::2 peer.example\n')
  await until(async () => (await host.run('wg', 'show', 'wg0', 'latest-handshakes')).trim().endsWith('\t0') === false, 30_000, 'it never found its peer')
  expect(await host.run('wg', 'show', 'wg0', 'endpoints')).toContain('[2001:db8::2]:51820')
  await host.reach('10.66.0.2')
  expect(await host.ping('10.66.0.2', 5)).toEqual(ALL_WELL)
})

twoHostFlow('show prints what wg show prints, byte for byte, in every form [wg]', missing, async (host, other) => {
  await files(host, other, ['FwMark = 0x1234', 'ListenPort = 40001'], ['AllowedIPs = 10.66.0.2/32, fd66::2/128', 'Endpoint = 192.0.2.2:51820', 'PersistentKeepalive = 3605'])
  for (const each of [host, other]) {
    await each.run('meshwright-wg', 'wg0')
    await each.run('bash', '-c', 'wg setconf wg0 <(wg-quick strip wg0)')
    await each.run('ip', 'addr', 'add', `10.66.0.${each === host ? 1 : 2}/24`, 'dev', 'wg0')
    await each.run('ip', 'link', 'set', 'wg0', 'up')
  }
  await host.run('wg', 'set', 'wg0', 'peer', (await other.keys()).key)
  await host.run('meshwright-wg', 'wg1')
  await host.reach('10.66.0.2')
  expect(await host.ping('10.66.0.2', 40)).toEqual({ sent: 40, answered: 40 })
  // Between the two questions a keepalive may come, and on a busy computer always some second passes.
  const withoutAge = (text: string): string => text.replace(/latest handshake: [^\n]+ ago/, 'latest handshake: some time ago')
  const same = async (...form: readonly string[]): Promise<string> => {
    let [wg, ours] = ['', 'not asked']
    for (let i = 0; i < 5 && ours !== wg; i += 1) [wg, ours] = [await host.run('wg', 'show', ...form), await host.run('meshwright-wg', 'show', ...form)]
    expect(ours === wg ? ours : withoutAge(ours)).toBe(ours === wg ? wg : withoutAge(wg))
    return ours
  }
  const fields = ['dump', 'public-key', 'private-key', 'listen-port', 'fwmark', 'peers', 'preshared-keys', 'endpoints', 'allowed-ips', 'latest-handshakes', 'transfer', 'persistent-keepalive']
  for (const of of ['wg0', 'all']) {
    for (const field of fields) {
      // This wg writes the interface's name once and not for each peer: there we differ.
      if (of !== 'all' || field !== 'endpoints') await same(of, field)
    }
  }
  await same('interfaces')
  await same('wg1')
  await same()
  expect(await same('wg0')).toMatch(/latest handshake: [^\n]+ ago\n {2}transfer: [\d.]+ KiB received, [\d.]+ KiB sent\n {2}persistent keepalive: every 1 hour, 5 seconds\n/)
})

twoHostFlow('answers of the UAPI socket: every errno, several requests, and a hang-up for what is none [wg]', missing, async (host) => {
  await host.run('meshwright-wg', 'wg0')
  const ask = (text: string): Promise<string> => host.run(process.execPath, '-e', `
    const socket = require('node:net').connect('/run/wireguard/wg0.sock', () => socket.write(process.argv[1]))
    let text = ''
    socket.on('data', (chunk) => { text += chunk }).on('close', () => process.stdout.write(text + 'closed')).on('error', () => 0)
    setTimeout(() => { process.stdout.write(text); process.exit(0) }, 700)`, text)
  const key = (await host.keys()).key
  const hex = Buffer.from(key, 'base64').toString('hex')
  expect(await ask('get=1\n\n')).toBe('errno=0\n\n')
  expect(await ask('get=1\nx=1\n\n')).toBe('errno=-22\n\n')
  expect(await ask('set=1\nlisten_port=99999\n\n')).toBe('errno=-22\n\n')
  expect(await ask('set=1\nno line\n\n')).toBe('errno=-71\n\n')
  expect(await ask('set=1\nfwmark=0x10\n\n')).toBe('errno=-22\n\n')
  expect(await ask(`set=1\npublic_key=${hex}\nallowed_ip=10.0.0.0\n\n`)).toBe('errno=-22\n\n')
  expect(await ask('get=2\n\n')).toBe('closed')
  expect(await ask(`set=1\nreplace_peers=true\n\nset=1\npublic_key=${hex}\nallowed_ip=10.0.0.9/24\n\nget=1\n\n`)).toMatch(/^errno=0\n\nerrno=0\n\n[^]*public_key=[^]*allowed_ip=10\.0\.0\.0\/24\nerrno=0\n\n$/)
  expect(await host.try('wg', ['set', 'wg0', 'peer', key, 'endpoint', '192.0.2.2:0'])).toMatchObject({ status: 0 })
})

twoHostFlow('a descriptor of a TUN device that somebody else opened (WG_TUN_FD) [wg]', missing, async (host, other) => {
  await files(host, other, [], ['AllowedIPs = 10.66.0.2/32', 'Endpoint = 192.0.2.2:51820'])
  const opener = `
    const { default: koffi } = await import(${JSON.stringify(import.meta.resolve('koffi'))})
    const { spawnSync } = await import('node:child_process')
    const libc = koffi.load(null)
    const fd = libc.func('int open(const char *path, int flags)')('/dev/net/tun', 2)
    const request = Buffer.alloc(40)
    request.write('wg0')
    request.writeUInt16LE(0x1001, 16)
    if (libc.func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)')(fd, 0x400454ca, request) < 0) process.exit(9)
    const { status, stderr } = spawnSync('meshwright-wg', ['wg0'], { stdio: ['ignore', 'inherit', 'pipe', fd], env: { ...process.env, WG_TUN_FD: '3' } })
    process.stderr.write(stderr)
    process.exit(status)`
  await host.run(process.execPath, '--input-type=module', '-e', opener)
  await host.run('bash', '-c', 'wg setconf wg0 <(wg-quick strip wg0)')
  await host.run('ip', 'addr', 'add', '10.66.0.1/24', 'dev', 'wg0')
  await host.run('ip', 'link', 'set', 'wg0', 'up')
  await other.run('meshwright-wg', 'wg0')
  await other.run('bash', '-c', 'wg setconf wg0 <(wg-quick strip wg0)')
  await other.run('ip', 'addr', 'add', '10.66.0.2/24', 'dev', 'wg0')
  await other.run('ip', 'link', 'set', 'wg0', 'up')
  await host.reach('10.66.0.2')
  expect(await host.ping('10.66.0.2', 5)).toEqual(ALL_WELL)
})

twoHostFlow('without koffi: what to do instead, and the same file behind a SOCKS5 proxy, without root and wg [wg]', missing, async (host, other) => {
  await files(host, other, ['ListenPort = 51820'], ['AllowedIPs = 10.66.0.2/32, fd66::2/128', 'Endpoint = 192.0.2.2:51820'])
  await other.run('meshwright-wg', 'wg0')
  await other.run('bash', '-c', 'wg setconf wg0 <(wg-quick strip wg0)')
  await other.run('ip', 'addr', 'add', '10.66.0.2/24', 'dev', 'wg0')
  await other.run('ip', 'link', 'set', 'wg0', 'up')
  // Outside the repository no package is found.
  const elsewhere = mkdtempSync(path.join(os.tmpdir(), 'meshwright-wg-'))
  try {
    const program = path.join(elsewhere, 'meshwright-wg.mjs')
    cpSync(programBundle(), program)
    expect(await host.try(process.execPath, [program, 'wg0'])).toMatchObject({ status: 1, stderr: expect.stringMatching(/koffi.*npm install koffi.*--socks5/) })
    const conf = path.join(elsewhere, 'wg0.conf')
    writeFileSync(conf, host.read(CONF), { mode: 0o600 })
    chownSync(conf, 65534, 65534)
    chmodSync(elsewhere, 0o755)
    const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, program]
    await host.run('setpriv', ...nobody, '--config', conf, '--socks5', '127.0.0.1:1080', '--metrics', '127.0.0.1:9586', 'wg0')
    expect(host.has('/run/wireguard/wg0.sock')).toBe(false)
    const size = 1_000_000
    expect(await host.transfer(other, '10.66.0.2', size, 1080)).toEqual([
      { bytes: size, sha256: lettersHash('listen', size), reason: 'finished' }, { bytes: size, sha256: lettersHash('connect', size), reason: 'finished' },
    ])
    const metrics = await host.run('curl', '-s', '-i', 'http://127.0.0.1:9586/metrics')
    expect(metrics).toContain('content-type: text/plain; version=0.0.4')
    expect(metrics).toMatch(/^wireguard_sent_bytes_total\{interface="wg0",peer="[^"]{44}"\} [1-9]\d{6}$/m)
    expect(metrics).toMatch(/^wireguard_latest_handshake_seconds\{[^}]*\} \d/m)
    expect(metrics).toMatch(/^wireguard_cookie_replies_total\{interface="wg0"\} 0$/m)
    expect(metrics).toMatch(/^wireguard_no_route_total\{interface="wg0"\} \d+$/m)
    expect(await host.run('curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', 'http://127.0.0.1:9586/')).toBe('404')
  } finally {
    rmSync(elsewhere, { recursive: true, force: true })
  }
})

twoHostFlow('keys, files and LOG_LEVEL: what the verbs say, and how they end [wg]', missing, async (host) => {
  const secret = (await host.run('meshwright-wg', 'genkey')).trim()
  expect(await host.pipe(`${secret}\n`, 'meshwright-wg', 'pubkey')).toBe(await host.pipe(secret, 'wg', 'pubkey'))
  expect(Buffer.from(secret, 'base64')).toSatisfy((bytes: Buffer) => bytes.length === 32 && ((bytes[0] ?? 0) & 7) === 0 && (bytes[31] ?? 0) >> 6 === 1)
  expect(await host.run('meshwright-wg', 'genpsk')).toMatch(/^[A-Za-z0-9+/]{43}=\n$/)
  expect(await host.try('meshwright-wg', ['pubkey'], 'no key')).toMatchObject({ status: 1, stdout: '' })

  expect(readFileSync(path.resolve(import.meta.dirname, '../../examples/wireguard/README.md'), 'utf8')).toContain(await host.run('meshwright-wg', '--help'))
  const bad = host.file('bad.conf', `[Interface]\nPrivateKey = ${secret}\n  Adress = 10.0.0.1/24\n[Peer]\nAllowedIPs = 10.0.0.0/33\n`)
  const found = await host.try('meshwright-wg', ['check', bad])
  expect(found.status).toBe(1)
  expect(found.stdout).toContain(`${bad}:3:3: error: no key of [Interface]: Adress\n`)
  expect(found.stdout).toContain(`${bad}:5:14: error: `)
  expect(found.stdout).toContain(`${bad}:4:1: error: this peer has no PublicKey\n`)
  const json = await host.try('meshwright-wg', ['check', '--json', bad])
  expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, file: bad, diagnostics: expect.arrayContaining([expect.objectContaining({ severity: 'error', line: 3, column: 3 })]) })
  expect(json.stdout + found.stdout).not.toContain(secret)
  expect(await host.try('meshwright-wg', ['mesh', host.file('m.hujson', '{\n  "hosts": { "a": { "adresses": [] } }\n}')])).toMatchObject({ status: 2, stderr: expect.stringContaining('m.hujson:2:21: host a has no key "adresses"') })
  for (const wrong of [[], ['-x', 'wg0'], ['wg0', 'wg1'], ['a/b'], ['show', 'wg0', 'nothing'], ['genkey', 'x']]) expect((await host.try('meshwright-wg', wrong)).status).toBe(2)
  expect(await host.try('meshwright-wg', ['show', 'wg9'])).toMatchObject({ status: 1, stderr: 'meshwright-wg: wg9: no such interface in user space\n' })

  const said = async (level: string): Promise<string> => {
    const child = host.start('env', `LOG_LEVEL=${level}`, 'meshwright-wg', '-f', 'wg3')
    let text = ''
    child.stdout?.on('data', (chunk) => (text += String(chunk)))
    await until(() => host.has('/run/wireguard/wg3.sock'), 10_000, 'it does not begin')
    await host.run('wg', 'set', 'wg3', 'listen-port', '40300')
    await host.run('rm', '/run/wireguard/wg3.sock')
    await until(() => child.exitCode !== null, 10_000, 'it does not end')
    expect(child.exitCode).toBe(0)
    return text
  }
  expect(await said('verbose')).toMatch(/^DEBUG: \(wg3\) .*UDP port 40300$/m)
  expect(await said('error')).toBe('')
})
