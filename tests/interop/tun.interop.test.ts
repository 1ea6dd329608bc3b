import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DNS_CLASS_IN, DNS_TYPE_A, decodeDns, encodeDns } from '@meshwright/magicdns'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundlePrograms, type OurPrograms } from './lab-ours.ts'
import { Lab, type LabProcess, runOk, runProgram } from './lab-process.ts'
import { NamePlace, OFFICE_SERVER, whyNoNamePlace } from './lab-system-dns.ts'
import { CHOSEN_LANE, notOnLane } from './lanes.ts'
import { OuterWatch } from './outer-watch.ts'
import { WORKER_FAULTS } from './worker-faults.ts'

const bin = process.env['MESHWRIGHT_INTEROP_BIN'] ?? ''
const koffi = await import('koffi').then(() => true, () => false)
const reason = ['tailscale', 'tailscaled'].some((name) => !existsSync(path.join(bin, name)))
  ? 'tailscale and tailscaled are not in the folder that MESHWRIGHT_INTEROP_BIN names'
  : process.platform !== 'linux' || process.getuid?.() !== 0 || !existsSync('/dev/net/tun')
    ? 'network namespaces and TUN devices need Linux, root and /dev/net/tun'
    : koffi
      ? undefined
      : 'the optional package koffi is not installed'
const REQUIRED = process.env['REQUIRE_INTEROP'] === '1'
if (reason !== undefined && REQUIRED) throw new Error(reason)

// Two computers on one wire: servers and a real node in userspace mode here, our node with a TUN device there.
const ID = process.pid.toString(36)
/** The lane that this run is made on: all of it runs on any. */
const LANE = CHOSEN_LANE === 'portable' ? 'portable' : 'worker'
const HERE = `mwh${ID}`
const THERE = `mwt${ID}`
const BEHIND = `mwb${ID}`
const SERVER = '10.97.1.1'
/** An address of the other computer that nobody has a route of the mesh to. */
const FAR = '203.0.113.7'
const CONTROL = `http://${SERVER}:8080`
const inside = (space: string, file: string, ...words: readonly string[]): readonly string[] => ['netns', 'exec', space, file, ...words]

// A program for the other namespace: an HTTP server, an HTTP client, and a DNS query by UDP.
const HELPER = `
import http from 'node:http'
import dgram from 'node:dgram'
import net from 'node:net'
const [verb, ...args] = process.argv.slice(2)
if (verb === 'serve') http.createServer((request, response) => response.end('hello from ' + args[2] + ' to ' + request.socket.remoteAddress)).listen(Number(args[1]), args[0], () => console.log('listening'))
if (verb === 'get') http.get(args[0], { timeout: 10000 }, (answer) => answer.pipe(process.stdout)).on('error', (error) => { console.error(error.message); process.exit(1) })
if (verb === 'dns-tcp') {
  const socket = net.connect(53, args[0], () => socket.write(Buffer.from((args[1].length / 2).toString(16).padStart(4, '0') + args[1], 'hex')))
  socket.on('data', (bytes) => { console.log(bytes.subarray(2).toString('hex')); socket.end() })
  socket.on('error', (error) => { console.error(error.message); process.exit(1) })
}
if (verb === 'dns') {
  const socket = dgram.createSocket(args[0].includes(':') ? 'udp6' : 'udp4')
  setTimeout(() => process.exit(1), 5000).unref()
  socket.on('message', (bytes) => { console.log(bytes.toString('hex')); socket.close() })
  socket.send(Buffer.from(args[1], 'hex'), 53, args[0])
}
`

describe.skipIf(reason !== undefined)(`our node with a TUN device${reason === undefined ? '' : ` (${reason})`}`, () => {
  const lab = new Lab()
  const socket = lab.at('ours.sock')
  let daemon: LabProcess
  let programs: OurPrograms
  let startDaemon: () => LabProcess
  let ours = ''
  let peer = ''

  const tailscale = (name: string, ...words: readonly string[]): Promise<string> => runOk(path.join(bin, 'tailscale'), [`--socket=${lab.at(`${name}.sock`)}`, ...words])
  const there = (...words: readonly string[]): Promise<string> => runOk('ip', inside(THERE, words[0] ?? '', ...words.slice(1)))
  const mesh = (family: string): Promise<string> => there('ip', family, 'route', 'show', 'table', '53')
  const helper = (...words: readonly string[]): Promise<string> => there(process.execPath, lab.at('helper.mjs'), ...words)

  beforeAll(async () => {
    programs = await bundlePrograms(lab)
    writeFileSync(lab.at('helper.mjs'), HELPER)
    writeFileSync(lab.at('faults.mjs'), WORKER_FAULTS)
    for (const space of [HERE, THERE, BEHIND]) {
      await runOk('ip', ['netns', 'add', space])
      lab.onStop(async () => void (await runProgram('ip', ['netns', 'del', space])))
      await runOk('ip', ['-n', space, 'link', 'set', 'lo', 'up'])
    }
    await runOk('ip', ['link', 'add', 'wire0', 'netns', HERE, 'type', 'veth', 'peer', 'name', 'wire0', 'netns', THERE])
    for (const [space, own, other] of [[HERE, SERVER, '10.97.1.2'], [THERE, '10.97.1.2', SERVER]] as const) {
      await runOk('ip', ['-n', space, 'addr', 'add', `${own}/24`, 'dev', 'wire0'])
      await runOk('ip', ['-n', space, 'link', 'set', 'wire0', 'up'])
      await runOk('ip', ['-n', space, 'route', 'add', 'default', 'via', other])
    }
    const watch = await OuterWatch.start('wire0', { namespace: HERE })
    if (watch !== undefined) lab.onStop(() => watch.stop())
    await runOk('ip', ['-n', HERE, 'addr', 'add', `${FAR}/32`, 'dev', 'lo'])
    await runOk('ip', ['link', 'add', 'wire1', 'netns', THERE, 'type', 'veth', 'peer', 'name', 'wire1', 'netns', BEHIND])
    for (const [space, own] of [[THERE, '10.98.1.1'], [BEHIND, '10.98.1.2']] as const) {
      await runOk('ip', ['-n', space, 'addr', 'add', `${own}/24`, 'dev', 'wire1'])
      await runOk('ip', ['-n', space, 'link', 'set', 'wire1', 'up'])
    }
    const relay = lab.start('relay', 'ip', inside(HERE, process.execPath, programs.relay, '--key-file', lab.at('relay.key'), '--addr', `${SERVER}:3443`, '--stun-port', '3478', '--self-signed', '--cert', lab.at('relay.crt'), '--key', lab.at('relay.pem')))
    const told = await lab.until('the relay is ready', () => /^for the DERP map: (.*)$/m.exec(relay.log)?.[1])
    const node = Object.fromEntries(Object.entries(JSON.parse(told) as Record<string, unknown>).map(([name, value]) => [name.toLowerCase(), value])) // the relay's own words
    writeFileSync(lab.at('relays.yaml'), JSON.stringify({ regions: { 900: { regionid: 900, regioncode: 'ours', regionname: 'Our relay', nodes: [{ ...node, regionid: 900 }] } } }))
    writeFileSync(lab.at('policy.hujson'), '{"acls":[{"action":"accept","src":["*"],"dst":["*:*","autogroup:internet:*"]}],"autoApprovers":{"routes":{"10.98.1.0/24":["alice@"]},"exitNode":["alice@"]}}')
    const config = [`server_url: ${CONTROL}`, `listen_addr: ${SERVER}:8080`, `noise: {private_key_path: ${lab.at('noise.key')}}`, 'prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}', `derp: {server: {enabled: false}, urls: [], paths: [${lab.at('relays.yaml')}], auto_update_enabled: false}`, `database: {type: sqlite, sqlite: {path: ${lab.at('control.sqlite')}}}`, `policy: {mode: file, path: ${lab.at('policy.hujson')}}`, 'dns: {magic_dns: true, base_domain: lab.test, override_local_dns: false, nameservers: {global: []}}', `unix_socket: ${lab.at('control.sock')}`]
    writeFileSync(lab.at('control.yaml'), `${config.join('\n')}\n`)
    const control = lab.start('control', 'ip', inside(HERE, process.execPath, programs.control, 'serve', '--config', lab.at('control.yaml')))
    await lab.until('the control server is ready', () => /\bready\b/.test(control.log))
    const command = (...words: readonly string[]): Promise<string> => runOk(process.execPath, [programs.control, '-c', lab.at('control.yaml'), ...words])
    await command('users', 'create', 'alice')
    const { key } = JSON.parse(await command('preauthkeys', 'create', '-u', '1', '--reusable', '-e', '1h', '-o', 'json')) as { readonly key: string } // headscale's form
    mkdirSync(lab.at('peer'))
    lab.start('tailscaled', 'ip', inside(HERE, path.join(bin, 'tailscaled'), '--no-logs-no-support', '--tun=userspace-networking', `--statedir=${lab.at('peer')}`, `--state=${lab.at('peer', 'state.json')}`, `--socket=${lab.at('peer.sock')}`, '--port=0'))
    startDaemon = () => lab.start('meshwrightd', 'ip', inside(THERE, process.execPath, '--import', lab.at('faults.mjs'), programs.daemon, '--state', lab.at('ours.json'), '--socket', socket, '--tun=mw0', '--verbose=1'), { env: { MESHWRIGHT_TEST_FAULTS: lab.at('fault') } })
    daemon = startDaemon()
    await lab.until('both daemons answer', () => existsSync(lab.at('peer.sock')) && / is ready: /.test(daemon.log))
    for (const name of ['peer', 'ours']) await tailscale(name, 'up', '--login-server', CONTROL, '--auth-key', key, '--hostname', name, '--accept-dns=false', '--timeout', '20s')
    ;[ours, peer] = [(await tailscale('ours', 'ip', '-4')).trim(), (await tailscale('peer', 'ip', '-4')).trim()]
    await lab.until('the route to the peer is there', async () => (await mesh('-4')).includes(`${peer} dev mw0`))
    for (const [space, host, port, name] of [[HERE, '127.0.0.1', '8000', 'peer'], [THERE, '0.0.0.0', '8001', 'ours'], [HERE, FAR, '8000', 'far'], [HERE, SERVER, '8000', 'far'], [BEHIND, '0.0.0.0', '8002', 'behind']] as const) {
      const started = lab.start(`server ${name}`, 'ip', inside(space, process.execPath, lab.at('helper.mjs'), 'serve', host, port, name))
      await lab.until(`the server of ${name} listens`, () => /listening/.test(started.log))
    }
  })

  afterAll(() => lab.stop())

  test('addresses, MTU and routes are set [tailscaled@1.102.5]', async () => {
    const shown = await there('ip', 'addr', 'show', 'mw0')
    expect(shown).toContain(`inet ${ours}/32`)
    expect(shown).toMatch(/mtu 1280 .*[\s\S]*inet6 fd7a:115c:a1e0::/)
    expect(await mesh('-4')).toMatch(/100\.100\.100\.100 dev mw0/)
    expect(JSON.parse(await tailscale('ours', 'status', '--json'))).toMatchObject({ TUN: true, BackendState: 'Running' })
    expect(JSON.parse(await there(process.execPath, programs.cli, '--socket', socket, 'status', '--json'))).toMatchObject({ Meshwright: { DataPlane: { Lane: LANE, Restarts: 0 } } })
  })

  test('a program of this computer reaches the peer by TCP [tailscaled@1.102.5]', async () => {
    expect(await helper('get', `http://${peer}:8000/`)).toBe('hello from peer to 127.0.0.1')
  })

  test('the peer reaches a program of this computer by TCP [tailscaled@1.102.5]', async () => {
    const asked = await runProgram('sh', ['-c', `(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 2) | "$0" --socket="$1" nc ${ours} 8001`, path.join(bin, 'tailscale'), lab.at('peer.sock')])
    expect(asked.out).toContain(`hello from ours to ${peer}`)
  })

  test('a data plane that ends or hangs is started again: packets pass with new sessions, and log, status and metrics say so [tailscaled@1.102.5]', async (context) => {
    if (LANE === 'portable') return notOnLane(context, 'the event loop has no worker')
    const cli = (...words: readonly string[]): Promise<string> => there(process.execPath, programs.cli, '--socket', socket, ...words)
    /** Counters of the daemon that never go back: datagrams and packets, by name. */
    const counted = async (): Promise<ReadonlyMap<string, number>> => new Map((await cli('metrics')).split('\n').flatMap((line) => (/^(tailscaled_(?:in|out)bound_(?:bytes|packets)_total|meshwright_dataplane_total)\{/.test(line) ? [[line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))] as const] : [])))
    for (const [i, [fault, words]] of ([['end', 'it ended by itself'], ['hang', 'no sign of life for 10 s']] as const).entries()) {
      const before = await counted()
      expect([...before.values()].some((value) => value > 0)).toBe(true)
      writeFileSync(lab.at('fault'), fault)
      await lab.until('it was started again', async () => JSON.parse(await cli('status', '--json')).Meshwright.DataPlane.Restarts === i + 1)
      expect(daemon.log).toContain(`the data plane died (${words}): it is started again`)
      await lab.until('the peer is reached', async () => (await helper('get', `http://${peer}:8000/`).catch(() => '')) === 'hello from peer to 127.0.0.1')
      expect(await tailscale('peer', 'ping', '--c', '5', ours)).toContain('pong from ours')
      expect(await cli('metrics')).toContain(`meshwright_dataplane_restarts_total ${i + 1}\n`)
      const after = await counted()
      expect([...before].filter(([name, value]) => (after.get(name) ?? 0) < value)).toEqual([])
    }
  })

  test('what the policy keeps out is told with its packets: the last ones, and as a file for tcpdump [tailscaled@1.102.5]', async () => {
    const cli = (...words: readonly string[]): Promise<string> => there(process.execPath, programs.cli, '--socket', socket, ...words)
    const told = async (): Promise<readonly { readonly Reason: string; readonly Dst: string }[]> => JSON.parse(await cli('debug', 'denied')).Packets
    await tailscale('ours', 'set', '--shields-up')
    // The peer's first segment, again and again; more of them than are kept.
    const knock = (): Promise<unknown> => runProgram('sh', ['-c', `for i in 1 2 3 4 5 6 7 8; do (timeout 2 "$0" --socket="$1" nc ${ours} 8001 </dev/null >/dev/null 2>&1 &) ; done; sleep 2`, path.join(bin, 'tailscale'), lab.at('peer.sock')])
    await lab.until('a refused packet is told', async () => {
      await knock()
      return (await told()).some((packet) => packet.Reason === 'filter-in' && packet.Dst === `${ours}:8001`)
    })
    const [packet] = (await told()).filter(({ Dst }) => Dst === `${ours}:8001`)
    expect(packet).toMatchObject({ Direction: 'in', Filter: 'acl', Node: 'peer.lab.test', Protocol: 6, Src: expect.stringMatching(`^${peer}:`) })
    // Of its own side: an address that nobody of the mesh has.
    await there('sh', '-c', `ip route add 100.64.99.0/24 dev mw0 table 53; for i in $(seq 20); do ping -c 10 -i 0.002 -W 0.05 100.64.99.9 > /dev/null; done; true`)
    await lab.until('as many are kept as there is room for', async () => (await told()).length === 128)
    expect(await told()).toContainEqual(expect.objectContaining({ Direction: 'out', Reason: 'no-peer', Protocol: 1, Dst: '100.64.99.9' }))
    await cli('debug', 'denied', '--pcap', lab.at('denied.pcap'))
    expect(await runOk('tcpdump', ['-n', '-r', lab.at('denied.pcap')])).toContain('> 100.64.99.9: ICMP echo request')
    await there('ip', 'route', 'del', '100.64.99.0/24', 'table', '53')
    await tailscale('ours', 'set', '--shields-up=false')
  })

  test.each(['', '--tsmp', '--icmp'])('ping %s both ways [tailscaled@1.102.5]', async (kind) => {
    const words = kind === '' ? [] : [kind]
    expect(await tailscale('ours', 'ping', '--c', '5', ...words, peer)).toContain('pong from peer')
    expect(await tailscale('peer', 'ping', '--c', '5', ...words, ours)).toContain('pong from ours')
  })

  test.each(['100.100.100.100', 'fd7a:115c:a1e0::53'])('the DNS service answers at %s by UDP and TCP [tailscaled@1.102.5]', async (service) => {
    const query = encodeDns({ id: 4711, response: false, opcode: 0, recursionDesired: true, rcode: 0, questions: [{ name: 'peer.lab.test', type: DNS_TYPE_A, class: DNS_CLASS_IN }], answers: [], authorities: [], additionals: [] })
    for (const verb of ['dns', 'dns-tcp']) {
      const answer = decodeDns(Buffer.from((await helper(verb, service, Buffer.from(query).toString('hex'))).trim(), 'hex'))
      expect(answer).toMatchObject({ id: 4711, response: true, rcode: 0, answers: [{ name: 'peer.lab.test.' }] })
    }
  })

  test('offering a route without IP forwarding is told in health, with the remedy [tailscaled@1.102.5]', async () => {
    await there('sysctl', '-q', '-w', 'net.ipv4.ip_forward=0').catch(() => '') // off already where there is no sysctl
    await tailscale('ours', 'set', '--advertise-routes=10.55.0.0/16')
    expect(await tailscale('ours', 'status')).toContain('sysctl -w net.ipv4.ip_forward=1')
    await tailscale('ours', 'set', '--advertise-routes=')
  })

  test('a subnet router: machines behind it are reached, and see the router unless told otherwise [tailscaled@1.102.5]', async () => {
    await there('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward')
    await tailscale('ours', 'set', '--advertise-routes=10.98.1.0/24')
    await tailscale('peer', 'set', '--accept-routes')
    const ask = async (): Promise<string> => (await runProgram('sh', ['-c', `(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | timeout 5 "$0" --socket="$1" nc 10.98.1.2 8002`, path.join(bin, 'tailscale'), lab.at('peer.sock')])).out
    await lab.until('the machine behind the router answers', async () => (await ask()).includes('hello from behind to 10.98.1.1'))
    // Without masquerading the answer must find back by itself.
    await runOk('ip', ['-n', BEHIND, 'route', 'add', '100.64.0.0/10', 'via', '10.98.1.1'])
    await tailscale('ours', 'set', '--snat-subnet-routes=false')
    await lab.until('it sees the asker itself', async () => (await ask()).includes(`hello from behind to ${peer}`))
    await tailscale('ours', 'set', '--advertise-routes=', '--snat-subnet-routes')
    await lab.until('nothing is masqueraded', async () => !(await there('nft', 'list', 'tables')).includes('meshwright'))
  })

  test('an exit node takes everything else; one that is gone takes it into nothing; without it all is as before [tailscaled@1.102.5]', async () => {
    expect(await helper('get', `http://${FAR}:8000/`)).toBe('hello from far to 10.97.1.2')
    // Not before: a real exit node in userspace mode dials subnets with the source 0.0.0.0, which no peer takes.
    await tailscale('peer', 'set', '--advertise-exit-node')
    await lab.until('it may be chosen', async () => (await tailscale('ours', 'set', `--exit-node=${peer}`).then(() => true)))
    await lab.until('the default route leads into the device', async () => (await mesh('-4')).includes('default dev mw0'))
    // Relays, control server and the peer's own address are reached past the device: else nothing of this would work.
    await lab.until('the far server sees the exit node', async () => (await helper('get', `http://${FAR}:8000/`)) === `hello from far to ${FAR}`)
    expect(await mesh('-6')).toContain('default dev mw0')
    expect(await tailscale('ours', 'status', '--json')).toContain('"ExitNode": true')
    await tailscale('peer', 'set', '--advertise-exit-node=false')
    // Without the mark the node's own connections would lead into the mesh, and the news below would not come.
    for (const line of (await there('ss', '-tneH', 'state', 'established', 'dst', SERVER)).trim().split('\n')) expect(line).toContain('fwmark:0x90000')
    await lab.until('the way is closed', async () => (await mesh('-4')).includes('blackhole default'))
    await expect(helper('get', `http://${FAR}:8000/`)).rejects.toThrow()
    await tailscale('ours', 'set', '--exit-node=')
    await lab.until('the old way is back', async () => (await helper('get', `http://${FAR}:8000/`).catch(() => '')) === 'hello from far to 10.97.1.2')
    await tailscale('peer', 'set', '--advertise-exit-node')
  })

  test('with --exit-node-allow-lan-access networks next door are reached by themselves [tailscaled@1.102.5]', async () => {
    await lab.until('it may be chosen', async () => (await tailscale('ours', 'set', `--exit-node=${peer}`, '--exit-node-allow-lan-access').then(() => true)))
    await lab.until('the network next door is left out', async () => /throw 10\.97\.1\.0\/24/.test(await mesh('-4')))
    expect(await helper('get', `http://${SERVER}:8000/`)).toBe('hello from far to 10.97.1.2')
    await tailscale('ours', 'set', '--exit-node=', '--exit-node-allow-lan-access=false')
    await lab.until('the default route is gone', async () => !(await mesh('-4')).includes('default'))
  })

  test('a data plane that dies again and again is not given up: it goes on without offloads or after pauses, and health, status and log say why [tailscaled@1.102.5]', async (context) => {
    if (LANE === 'portable') return notOnLane(context, 'the event loop has no worker')
    const cli = (...words: readonly string[]): Promise<string> => there(process.execPath, programs.cli, '--socket', socket, ...words)
    const sent = async (): Promise<number> => Number(/^tailscaled_outbound_packets_total\{path="direct_ipv4"\} (\d+)$/m.exec(await cli('metrics'))?.[1])
    const before = await sent()
    const deaths = (): number => daemon.log.split('the data plane died (').length
    const wanted = CHOSEN_LANE === 'noffload' ? 'again and again: it is started again in 1 s; no packets pass until then' : 'it is started again, without offloads since it died with them again and again'
    for (let tries = 0; tries < 30 && !daemon.log.includes(wanted); tries += 1) {
      const told = deaths()
      writeFileSync(lab.at('fault'), 'end')
      await lab.until('it has died', () => deaths() > told)
    }
    expect(daemon.log).toContain(wanted)
    const told = JSON.parse(await cli('status', '--json'))
    expect(told.Health).toContainEqual(expect.stringMatching(/^The thread that carries packets has died again and again .* start the program anew/))
    expect(told.Meshwright.DataPlane).toMatchObject({ Lane: 'worker', Reason: expect.stringContaining('has died again and again') })
    expect(JSON.parse(await tailscale('ours', 'status', '--json')).Health).toContainEqual(expect.stringContaining('has died again and again'))
    await lab.until('the peer is reached', async () => (await helper('get', `http://${peer}:8000/`).catch(() => '')) === 'hello from peer to 127.0.0.1')
    expect(await tailscale('peer', 'ping', '--c', '5', ours)).toContain('pong from ours')
    expect(Object.values(JSON.parse(await cli('status', '--json')).Meshwright.DataPlane.Offloads)).not.toContain(true)
    expect(await sent()).toBeGreaterThanOrEqual(before)
  })

  test('while it lives, a second node with a device and --cleanup are refused, and change nothing [tailscaled@1.102.5]', async () => {
    const inForce = async (): Promise<readonly string[]> => [await mesh('-4'), await mesh('-6'), await there('ip', 'rule'), await there('ip', '-6', 'rule')]
    const before = await inForce()
    for (const words of [['--cleanup', '--tun=mw0'], ['--cleanup', '--tun=mw1'], ['--state', lab.at('second.json'), '--socket', lab.at('second.sock'), '--tun=mw1']]) {
      const refused = await runProgram('ip', inside(THERE, process.execPath, programs.daemon, ...words))
      expect(refused).toMatchObject({ status: 2, err: expect.stringMatching(/another node has its routes here already, by the device mw0\.\nOne node with a device/) as string })
    }
    expect(await inForce()).toEqual(before)
    expect(await there('ip', 'link')).not.toContain('mw1')
    expect(await helper('get', `http://${peer}:8000/`)).toBe('hello from peer to 127.0.0.1')
  })

  test.each(['SIGTERM', 'SIGKILL'] as const)('after %s nothing is left on the system [tailscaled@1.102.5]', async (signal) => {
    await daemon.stop(signal)
    await lab.until('the device is gone', async () => !(await there('ip', 'link')).includes('mw0'))
    expect(await mesh('-4')).not.toContain('100.64.')
    if (signal === 'SIGKILL') {
      expect(await there('ip', 'rule')).toContain('5370:')
      await there(process.execPath, programs.daemon, '--cleanup', '--tun=mw0')
    }
    expect(await there('ip', 'rule')).not.toContain('53')
    daemon = startDaemon()
    await lab.until('it is back', async () => (await mesh('-4').catch(() => '')).includes(`${peer} dev mw0`))
  })

  describe('names in the system', () => {
    const daemonIn = (place: NamePlace, manager: string): LabProcess =>
      place.start('meshwrightd', process.execPath, [programs.daemon, '--state', lab.at('ours.json'), '--socket', socket, '--tun=mw0', '--verbose=1', `--system-dns=${manager}`])
    const running = (): Promise<unknown> => lab.until('it runs', async () => (await tailscale('ours', 'status', '--json')).includes('"BackendState": "Running"'))
    const setUp = async (manager: 'resolvconf' | 'resolved'): Promise<NamePlace> => {
      await daemon.stop()
      return NamePlace.make(lab, THERE, manager)
    }

    test.skipIf(whyNoNamePlace('resolvconf') !== undefined && !REQUIRED)('by openresolv: asked first while the node runs, taken back at the end and after SIGKILL, untouched by default [resolvconf@debian]', async () => {
      const place = await setUp('resolvconf')
      const file = (): Promise<string> => place.ask('cat', '/etc/resolv.conf')
      const before = await file()
      expect(before).toBe(`# Generated by resolvconf\nsearch office.example\nnameserver ${OFFICE_SERVER}\n`)
      daemon = daemonIn(place, 'off')
      await running()
      await tailscale('ours', 'set', '--accept-dns')
      await lab.until('the route to the peer is there', async () => (await mesh('-4')).includes(`${peer} dev mw0`))
      expect(await file()).toBe(before)
      await daemon.stop()
      daemon = daemonIn(place, 'resolvconf')
      await lab.until('the mesh is asked first', async () => (await file()) === `# Generated by resolvconf\nsearch lab.test office.example\nnameserver 100.100.100.100\nnameserver ${OFFICE_SERVER}\n`)
      for (const name of ['peer.lab.test', 'peer']) expect(await place.lookUp(name)).toBe(peer)
      await tailscale('ours', 'set', '--accept-dns=false')
      await lab.until('it is taken back', async () => (await file()) === before)
      await tailscale('ours', 'set', '--accept-dns')
      await lab.until('the mesh is asked again', async () => (await file()) !== before)
      await daemon.stop()
      expect(await file()).toBe(before)
      daemon = daemonIn(place, 'resolvconf')
      await lab.until('the mesh is asked again', async () => (await file()) !== before)
      await daemon.stop('SIGKILL')
      expect(await file()).not.toBe(before)
      await place.ask(process.execPath, programs.daemon, '--cleanup', '--tun=mw0', '--system-dns=resolvconf')
      expect(await file()).toBe(before)
      daemon = startDaemon()
      await running()
    })

    test.skipIf(whyNoNamePlace('resolved') !== undefined && !REQUIRED)('by systemd-resolved: names of the mesh alone, gone with the node and after SIGKILL [systemd-resolved@debian]', async () => {
      const place = await setUp('resolved')
      daemon = daemonIn(place, 'resolved')
      await running()
      await tailscale('ours', 'set', '--accept-dns')
      await lab.until('the link has its server', async () => (await place.run('resolvectl', 'status', 'mw0')).out.includes('DNS Servers: 100.100.100.100'))
      await lab.until('and its domain', async () => (await place.ask('resolvectl', 'domain', 'mw0')).includes('lab.test'))
      await lab.until('and is not asked for everything', async () => (await place.ask('resolvectl', 'default-route', 'mw0')).includes('no'))
      expect(await place.ask('resolvectl', 'query', '--legend=no', '-4', 'peer.lab.test')).toContain(peer)
      for (const name of ['peer.lab.test', 'peer']) expect(await place.lookUp(name)).toBe(peer)
      await tailscale('ours', 'set', '--accept-dns=false')
      await lab.until('it is taken back', async () => !(await place.ask('resolvectl', 'dns', 'mw0')).includes('100.100.100.100'))
      await tailscale('ours', 'set', '--accept-dns')
      await lab.until('the mesh is asked again', async () => (await place.ask('resolvectl', 'dns', 'mw0')).includes('100.100.100.100'))
      await daemon.stop('SIGKILL')
      await place.ask(process.execPath, programs.daemon, '--cleanup', '--tun=mw0', '--system-dns=resolved')
      expect(await place.ask('resolvectl', 'status')).not.toMatch(/100\.100\.100\.100|lab\.test/)
      expect(await place.lookUp('peer.lab.test')).toBe('')
      daemon = startDaemon()
      await running()
    })
  })

  test('down takes addresses and routes back [tailscaled@1.102.5]', async () => {
    await tailscale('ours', 'down')
    await lab.until('they are gone', async () => !(await mesh('-4')).includes('mw0') && !(await there('ip', 'addr', 'show', 'mw0')).includes('100.64.'))
  })
})
