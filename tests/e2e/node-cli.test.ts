import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { createSocket } from 'node:dgram'
import path from 'node:path'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { startSmallMesh } from './mesh.ts'
import { type Background, Bench, controlConfig, freePort, PROGRAMS, run } from './programs.ts'

const bench = new Bench()
afterEach(() => bench.clean())

const cli = (...args: string[]): ReturnType<typeof run> => run(PROGRAMS.cli, args)
const daemonOnce = (...args: string[]): ReturnType<typeof run> => run(PROGRAMS.daemon, args)

async function daemon(folder: string, ...flags: string[]): Promise<{ readonly program: Background; readonly socket: string; readonly state: string }> {
  const socket = path.join(folder, 'd.sock')
  const state = path.join(folder, 'd.state')
  const program = bench.start(PROGRAMS.daemon, ['--state', state, '--socket', socket, ...flags])
  await program.said(/ is ready: /)
  return { program, socket, state }
}

describe('flags and help', () => {
  test.each([
    [PROGRAMS.cli, ['--help'], 'COMMANDS'],
    [PROGRAMS.cli, ['up', '--help'], '--login-server'],
    [PROGRAMS.cli, ['help', 'ping'], '--icmp'],
    [PROGRAMS.daemon, ['-h'], '--socks5-server'],
    [PROGRAMS.daemon, ['--version'], '1.'],
    [PROGRAMS.cli, ['version'], 'capability version'],
  ])('%s %j ends with status 0 and tells', async (file, args, expected) => {
    const ended = await run(file, args)
    expect(ended).toMatchObject({ status: 0, err: '' })
    expect(ended.out).toContain(expected)
  })

  test.each([
    [['status', '--jsn'], 'flag provided but not defined: -jsn (did you mean "json"?)'],
    [['help', 'nope'], 'unknown command: nope'],
    [['statsu'], 'unknown command: statsu (did you mean "status"?)'],
    [['-sockt=x', 'status'], 'did you mean "socket"?'],
    [['up', '--timeout', '10x'], 'invalid value "10x" for flag -timeout'],
    [['up', '-timeout'], 'flag needs an argument: -timeout'],
    [['up', '--accept-routes=maybe'], 'invalid boolean value "maybe" for -accept-routes'],
    [['up', 'now'], 'too many non-flag arguments: now'],
    [['ping'], 'usage: ping HOST-OR-IP'],
    [['nc', 'db'], 'usage: nc <hostname-or-IP> <port>'],
    [['up', '--advertise-tags=1db'], 'tag names start with a letter and hold letters, digits and dashes'],
    [['up', '--login-server', 'control'], 'write it as https://control.example'],
    [['up', '--auth-key', 'file:/no/such/file'], 'cannot read the auth key from /no/such/file'],
  ])('meshwright %j ends with status 2 and says why', async (args, expected) => {
    const ended = await cli(...args)
    expect(ended).toMatchObject({ status: 2, out: '' })
    expect(ended.err).toContain(expected)
  })

  test.each([
    [['--prot', '0'], '-prot (did you mean "port"?)'],
    [['--port', 'x'], 'invalid value "x" for flag -port'],
    [['--tun=averyveryverylongname'], 'not an interface name'],
    [['now'], `takes flags alone, not 'now'`],
    [['--socket=', '--state', '/nowhere/at/all'], 'invalid value "" for flag -socket'],
    [['--system-dns=resolved', '--state', '/nowhere/at/all'], '--system-dns=resolved needs --tun=NAME'],
    [['--socks5-server', 'localhost', '--state', '/nowhere/at/all'], 'invalid value "localhost" for flag -socks5-server'], // before anything is begun
    [['--socks5-server', 'localhost:65536', '--state', '/nowhere/at/all'], 'invalid value "localhost:65536" for flag -socks5-server'],
  ])('meshwrightd %j ends with status 2 and says why', async (args, expected) => {
    const ended = await daemonOnce(...args)
    expect(ended.status).toBe(2)
    expect(ended.err).toContain(expected)
  })

  test('what the usual command line finds wrong only when it runs ends with status 1 and its own words', async () => {
    for (const port of ['99999', 'abc', '']) expect(await cli('nc', 'db', port)).toEqual({ status: 1, out: '', err: `invalid port number "${port}"\n` })
    expect(await cli('set', '--advertise-routes=,,')).toEqual({ status: 1, out: '', err: '"" is not a valid IP address or CIDR prefix\n' })
    expect(await cli('up', '--advertise-routes', '10.0.0.1/8')).toEqual({ status: 1, out: '', err: '10.0.0.1/8 has non-address bits set; expected 10.0.0.0/8\n' })
  })

  test('an empty socket path is none: the default is meant, by flag and by environment', async () => {
    const folder = bench.folder()
    const none = path.join(folder, 'none.sock')
    const named = await run(PROGRAMS.cli, ['--socket=', 'status'], { env: { MESHWRIGHT_SOCKET: none } })
    expect(named).toMatchObject({ status: 1, err: expect.stringContaining(none) as unknown })
    const plain = await run(PROGRAMS.cli, ['status'], { env: { MESHWRIGHT_SOCKET: '', XDG_RUNTIME_DIR: folder } })
    expect(plain).toMatchObject({ status: 1, err: expect.stringMatching(/meshwright\/meshwrightd\.sock/) as unknown })
  })

  test('one dash or two, value behind "=" or behind a space, flags of the program or of the command: all the same', async () => {
    const { socket } = await daemon(bench.folder())
    for (const args of [['--socket', socket, 'status', '--json'], [`-socket=${socket}`, 'status', '-json=true'], ['status', '--json=T', `--socket=${socket}`]]) {
      const ended = await cli(...args)
      expect({ status: ended.status, state: (JSON.parse(ended.out) as { BackendState: string }).BackendState }).toEqual({ status: 0, state: 'NeedsLogin' })
    }
    expect(await cli('--socket', socket, 'status', '--json=false')).toMatchObject({ status: 1, out: 'Logged out.\n' })
  })
})

describe('what goes wrong is told in plain words', () => {
  test('no daemon: where it was looked for, and how to start it', async () => {
    const socket = path.join(bench.folder(), 'none.sock')
    const ended = await cli('--socket', socket, 'status')
    expect(ended.status).toBe(1)
    expect(ended.err).toContain(socket)
    expect(ended.err).toContain('Is it running? Start it with "meshwrightd')
  })

  // As a user who may open nothing of ours but the program itself.
  test.runIf(process.platform === 'linux' && process.getuid?.() === 0)('what needs rights that a user does not have is told with what to do, and nothing is done', () => {
    const folder = bench.folder()
    const asNobody = (...args: string[]): readonly [number | null, string] => {
      const { status, stderr } = spawnSync(process.execPath, [PROGRAMS.daemon, ...args], { uid: 65_534, gid: 65_534, cwd: '/', env: { PATH: process.env['PATH'], HOME: '/nonexistent' }, encoding: 'utf8', timeout: 90_000 })
      return [status, stderr]
    }
    expect(asNobody('--cleanup', '--tun=mw9')).toEqual([2, expect.stringContaining('needs root (CAP_NET_ADMIN): nothing was changed') as string])
    expect(asNobody('--state=mem:', '--socket', path.join(folder, 'd.sock'))).toEqual([2, expect.stringMatching(/the socket \S+d\.sock cannot be made: .*Name another with --socket/) as string])
    expect(asNobody('--state', path.join(folder, 'd.state'), '--socket', `/tmp/mw-nobody-${process.pid}.sock`)).toEqual([2, expect.stringMatching(/state file \S+d\.state: .*\n.*--state/) as string])
    expect(existsSync(`/tmp/mw-nobody-${process.pid}.sock`)).toBe(false)
  })

  test('a socket of a living daemon is not taken, and the second daemon writes nothing; that of a dead one is', async () => {
    const folder = bench.folder()
    const first = await daemon(folder)
    const other = path.join(folder, 'other.state')
    const ended = await daemonOnce('--state', other, '--socket', first.socket)
    expect(ended.status).toBe(2)
    expect(ended.err).toContain(`another daemon is listening on ${first.socket}`)
    expect(existsSync(other)).toBe(false)
    expect((await cli('--socket', first.socket, 'ip')).status).toBe(1) // it is still there, and logged out
    await first.program.stop('SIGKILL')
    expect(existsSync(first.socket)).toBe(true)
    await daemon(folder)
  })

  test('a state file is one daemon\'s: a second one, with another socket, is refused; a file that is no socket is not taken for one', async () => {
    const folder = bench.folder()
    const state = path.join(folder, 'one.state')
    const sock = (name: string): string[] => ['--socket', path.join(folder, name)]
    const first = bench.start(PROGRAMS.daemon, ['--state', state, ...sock('a.sock')])
    await first.said(/ is ready: /)
    const ended = await daemonOnce('--state', state, ...sock('b.sock'))
    expect(ended).toMatchObject({ status: 2, err: expect.stringContaining(`another daemon uses the state file ${state}`) as unknown })
    await first.stop('SIGKILL')
    writeFileSync(path.join(folder, 'file'), 'precious')
    const other = await daemonOnce('--state', state, ...sock('file'))
    expect(other).toMatchObject({ status: 2, err: expect.stringContaining('is no socket') as unknown })
    expect(readFileSync(path.join(folder, 'file'), 'utf8')).toBe('precious')
    const port = await daemonOnce('--state', state, ...sock('c.sock'), '--port', '65536')
    expect(port).toMatchObject({ status: 2, err: expect.stringContaining('invalid value "65536" for flag -port') as unknown })
  })

  test('ports that are taken are named, with what to do', async () => {
    const folder = bench.folder()
    const udp = createSocket('udp4')
    const tcp: Server = createServer()
    afterAll(() => {
      udp.close()
      tcp.close()
    })
    await Promise.all([new Promise<void>((resolve) => udp.bind(0, resolve)), new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve))])
    const files = ['--state', path.join(folder, 's'), '--socket', path.join(folder, 'x.sock')]
    const byUdp = await daemonOnce(...files, '--port', String(udp.address().port))
    expect(byUdp.status).toBe(2)
    expect(byUdp.err).toContain(`UDP port ${udp.address().port} is taken by another program`)
    const address = tcp.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    const bySocks = await daemonOnce(...files, '--socks5-server', `127.0.0.1:${port}`)
    expect(bySocks.status).toBe(2)
    expect(bySocks.err).toContain(`the SOCKS5 port 127.0.0.1:${port} cannot be opened`)
    expect(['x.sock', 's.lock'].filter((name) => existsSync(path.join(folder, name)))).toEqual([]) // it ended in order: with a device, routes would be left too
  })

  test.each([
    ['half of it', '{"meshwright-prefs": "eyJ3'],
    ['another form', '["a"]'],
    ['no base64', '{"meshwright-prefs": "***"}'],
    ['a key that cannot be read', '{"meshwright-control": "AAAA"}'],
  ])('a state file that holds %s is refused and left as it is', async (_what, text) => {
    const folder = bench.folder()
    const state = path.join(folder, 'd.state')
    writeFileSync(state, text)
    const ended = await daemonOnce('--state', state, '--socket', path.join(folder, 'd.sock'))
    expect(ended.status).toBe(2)
    expect(ended.err).toContain(state)
    expect(ended.err).toContain('Restore it from a backup, or move it away to start as a new node.')
    expect(readFileSync(state, 'utf8')).toBe(text)
  })

  test('a state file that cannot be where it should is told with its path', async () => {
    const folder = bench.folder()
    writeFileSync(path.join(folder, 'file'), '')
    const state = path.join(folder, 'file', 'd.state')
    const ended = await daemonOnce('--state', state, '--socket', path.join(folder, 'd.sock'))
    expect(ended.status).toBe(2)
    expect(ended.err).toContain(state)
  })

  test('settings survive kill -9', async () => {
    const folder = bench.folder()
    const first = await daemon(folder)
    expect((await cli('--socket', first.socket, 'set', '--hostname', 'kept')).status).toBe(0)
    await first.program.stop('SIGKILL')
    writeFileSync(`${first.state}.tmp`, '{"half') // a crash in the middle of the next write
    await daemon(folder)
    const values = Object.values(JSON.parse(readFileSync(first.state, 'utf8')) as Record<string, string>).map((value) => Buffer.from(value, 'base64').toString())
    expect(values.join()).toMatch(/"hostname": ?"kept"/i)
  })

  test('a full disk: the change is refused with the reason, and the old state is whole', async (context) => {
    const folder = bench.folder()
    const disk = path.join(folder, 'disk')
    mkdirSync(disk)
    if (process.platform !== 'linux' || spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=32k', 'tmpfs', disk]).status !== 0) return context.skip('a small disk can be mounted by root on Linux alone')
    try {
      const { program, socket, state } = await daemon(disk)
      const before = readFileSync(state, 'utf8')
      spawnSync('dd', ['if=/dev/zero', `of=${path.join(disk, 'filler')}`, 'bs=1k', 'count=64'])
      const ended = await cli('--socket', socket, 'set', '--hostname', 'x'.repeat(60))
      expect(ended.status).toBe(1)
      expect(ended.err).toContain('cannot write the state file')
      expect(ended.err).toMatch(/ENOSPC|no space/i)
      expect(readFileSync(state, 'utf8')).toBe(before)
      await program.stop('SIGKILL')
    } finally {
      spawnSync('umount', [disk])
    }
  })

  test('a control server that is down: said at once, tried until time is up', async () => {
    const { socket } = await daemon(bench.folder())
    const url = `http://127.0.0.1:${await freePort()}`
    const ended = await cli('--socket', socket, 'up', '--login-server', url, '--timeout', '10s')
    expect(ended.status).toBe(1)
    expect(ended.err).toContain(`cannot reach the control server`)
    expect(ended.err).toContain(url)
    expect(ended.err).toContain('timeout waiting for the node to run')
    const status = await cli('--socket', socket, 'status')
    expect(status.out).toContain(url)
  })

  test('auth keys: an unknown one, one that is not of the form, one that is used up', async () => {
    const folder = bench.folder()
    const port = await freePort()
    const config = controlConfig(folder, port)
    await bench.start(PROGRAMS.control, ['serve', '-c', config]).said(/ready/)
    const admin = async (...args: string[]): Promise<string> => {
      const ended = await run(PROGRAMS.control, ['-c', config, ...args])
      expect(ended.status, ended.err).toBe(0)
      return ended.out.trim()
    }
    await admin('users', 'create', 'alice')
    const key = await admin('preauthkeys', 'create', '-u', '1')
    const url = `http://127.0.0.1:${port}`
    const { socket } = await daemon(folder)
    for (const wrong of ['hskey-auth-000000000000-0000000000000000000000000000000000000000000000000000000000000000', 'nonsense']) {
      const ended = await cli('--socket', socket, 'up', '--login-server', url, '--auth-key', wrong, '--timeout', '60s')
      expect(ended.status).toBe(1)
      expect(ended.err).toMatch(/backend error: .*auth ?key/i)
      expect(ended.err).not.toContain(wrong)
    }
    // The relay of this test does not run: the node logs in, and waits for a relay.
    await cli('--socket', socket, 'up', '--login-server', url, '--auth-key', key, '--timeout', '2s')
    await expect.poll(() => admin('nodes', 'list', '-o', 'json')).toContain('100.64.0.1')
    const other = bench.folder()
    const second = await daemon(other)
    const used = await cli('--socket', second.socket, 'up', '--login-server', url, '--auth-key', key, '--timeout', '60s')
    expect(used.status).toBe(1)
    expect(used.err).toMatch(/backend error: .*used/i)
  })

  test('a login with a refused key on a node that runs ends with the error, the second time as the first', async () => {
    const folder = bench.folder()
    const mesh = await startSmallMesh(bench, folder)
    const { socket } = await daemon(folder, '--allow-loopback')
    expect(await cli('--socket', socket, 'up', '--login-server', mesh.url, '--auth-key', mesh.authKey, '--timeout', '60s')).toMatchObject({ status: 0 })
    for (const time of ['first', 'second']) {
      const ended = await cli('--socket', socket, 'login', '--auth-key=bad', '--timeout', '60s')
      expect([time, ended]).toEqual([time, { status: 1, out: '', err: expect.stringMatching(/^backend error: .*auth ?key/i) as string }])
    }
  })
})
