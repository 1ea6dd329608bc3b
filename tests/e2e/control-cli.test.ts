import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { createServer } from 'node:net'
import path from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { type Background, Bench, controlConfig, type Ended, freePort, PROGRAMS, run } from './programs.ts'

const bench = new Bench()
afterEach(() => bench.clean())

interface Site {
  readonly folder: string
  readonly config: string
  readonly socket: string
  readonly port: number
  admin(...args: string[]): Promise<Ended>
  serve(): Promise<Background>
}

async function site(change?: (lines: string) => string): Promise<Site> {
  const folder = bench.folder()
  const port = await freePort()
  const config = controlConfig(folder, port, change)
  return {
    folder,
    config,
    port,
    socket: path.join(folder, 'control.sock'),
    admin: (...args) => run(PROGRAMS.control, ['-c', config, ...args]),
    async serve() {
      const server = bench.start(PROGRAMS.control, ['serve', '--config', config])
      await server.said(/\bready\b/)
      return server
    },
  }
}

describe('a wrong configuration is refused with the place, a remedy and status 2', () => {
  test.each([
    ['an unknown key', (text: string) => text.replace('server_url', 'server_ulr'), ['server_ulr', 'server_url']],
    ['an unknown key further down', (text: string) => text.replace('magic_dns', 'magicdns'), ['dns.magicdns', 'magic_dns']],
    ['a known key that is not built', (text: string) => `${text}oidc: {issuer: "https://id.example"}\n`, ['oidc.issuer', 'auth register']],
    ['another database', (text: string) => text.replace('type: sqlite,', 'type: postgres,'), ['database.type']],
    ['a value of another kind', (text: string) => text.replace('magic_dns: true', 'magic_dns: perhaps'), ['dns.magic_dns', 'true or false']],
    ['a time-out of probes above their interval', (text: string) => `${text}node: {routes: {ha: {probe_interval: 3s, probe_timeout: 5s}}}\n`, ['node.routes.ha.probe_timeout', 'probe_interval: 0']],
    ['a proxy that is no prefix', (text: string) => `${text}trusted_proxies: [myproxy]\n`, ['trusted_proxies', '10.0.0.1/32']],
    ['no YAML', (text: string) => `${text}\n\t{{{`, ['control.yaml']],
  ])('%s', async (_what, change, expected) => {
    const { admin, config } = await site(change)
    for (const words of [['serve'], ['configtest'], ['users', 'list']]) {
      const ended = await run(PROGRAMS.control, ['-c', config, ...words])
      expect(ended.status, ended.err).toBe(2)
      for (const text of expected) expect(ended.err).toContain(text)
      expect(ended.err).not.toContain('    at ') // no stack: a person can put it right
    }
    expect((await admin('version')).status).toBe(0)
  })

  test('a file that is not there', async () => {
    const ended = await run(PROGRAMS.control, ['serve', '-c', '/no/such/file.yaml'])
    expect(ended.status).toBe(2)
    expect(ended.err).toContain('/no/such/file.yaml')
  })

  test('a port that is taken is named', async () => {
    const { port, config } = await site()
    const holder = createServer().listen(port, '127.0.0.1')
    await once(holder, 'listening')
    const ended = await run(PROGRAMS.control, ['serve', '-c', config])
    holder.close()
    expect(ended.status).not.toBe(0)
    expect(ended.err).toContain(`127.0.0.1:${port} is in use by another program`)
    expect(ended.err).toContain('listen_addr')
  })

  test('a second server on the same socket or the same database is refused, and the first goes on', async () => {
    const { config, admin, serve, port } = await site()
    await serve()
    const other = path.join(path.dirname(config), 'other.yaml')
    writeFileSync(other, readFileSync(config, 'utf8').replaceAll(String(port), String(await freePort())).replace('control.sqlite', 'other.sqlite'))
    const ended = await run(PROGRAMS.control, ['serve', '-c', other])
    expect(ended.status).not.toBe(0)
    expect(ended.err).toContain('control.sock')
    expect((await admin('health')).status).toBe(0)
    // Two servers of one database would each write over what the other has acknowledged.
    writeFileSync(other, readFileSync(config, 'utf8').replaceAll(String(port), String(await freePort())).replace('control.sock', 'other.sock'))
    const twin = await run(PROGRAMS.control, ['serve', '-c', other])
    expect(twin).toMatchObject({ status: 1, err: expect.stringContaining('another server uses the database') as unknown })
    writeFileSync(path.join(path.dirname(config), 'big.hujson'), ' '.repeat(4_200_000))
    expect(await admin('policy', 'set', '-f', path.join(path.dirname(config), 'big.hujson'))).toMatchObject({ status: 2, err: expect.stringContaining('is longer than 2 MiB') as unknown })
  })

  test('a socket whose path the system would cut is refused by name', async () => {
    const { config } = await site()
    writeFileSync(config, readFileSync(config, 'utf8').replace('control.sock', `${'x'.repeat(110)}.sock`))
    const ended = await run(PROGRAMS.control, ['serve', '-c', config])
    expect(ended).toMatchObject({ status: 2, err: expect.stringMatching(/unix_socket: the path is \d+ bytes long/) as unknown })
  })
})

describe('the command line', () => {
  test.each([
    [['usrs', 'list'], 'did you mean users?'],
    [['users', 'crate', 'x'], 'did you mean create?'],
    [['users', 'list', '--nmae', 'x'], 'did you mean --name?'],
    [['users', 'list', '-z'], 'unknown shorthand flag'],
    [['users', 'create'], 'NAME is missing'],
    [['nodes', 'expire'], '--identifier is missing'],
    [['preauthkeys', 'create', '-u', '1', '-e', 'soon'], '--expiration soon'],
    [['preauthkeys', 'create', '-u', '1', '-e', '99999999999h'], 'at most 1000y'],
    [['users', 'list', '-o', 'xml'], 'xml'],
    [['ssh', 'aprove'], 'did you mean approve?'],
    [['ssh', 'approve'], '--auth-id is missing'],
    [['ssh', 'reject'], '--auth-id is missing'],
    [['auth', 'approve'], '--auth-id is missing'],
  ])('%j ends with status 2 and says why', async (words, expected) => {
    const { admin } = await site()
    const ended = await admin(...words)
    expect(ended).toMatchObject({ status: 2, out: '' })
    expect(ended.err).toContain(expected)
  })

  test('no server: said, with the socket', async () => {
    const { admin, socket } = await site()
    const ended = await admin('users', 'list')
    expect(ended.status).toBe(1)
    expect(ended.err).toContain(socket)
  })

  test('short and long flags, and JSON and YAML, say the same', async () => {
    const { admin, config, serve } = await site()
    await serve()
    expect((await admin('users', 'create', 'alice', '-e', 'alice@example.com')).status).toBe(0)
    const json = JSON.parse((await admin('users', 'list', '-o', 'json')).out) as readonly { readonly name: string; readonly email: string }[]
    expect(json.map((user) => [user.name, user.email])).toEqual([['alice', 'alice@example.com']])
    expect((await run(PROGRAMS.control, ['users', 'ls', '--name=alice', '--output=yaml', `--config=${config}`])).out).toContain('name: alice')
    expect((await admin('users', 'create', 'alice')).status).toBe(1)
    const key = await admin('preauthkeys', 'create', '-u', '1', '--reusable', '-e', '24h', '-o', 'json')
    expect((JSON.parse(key.out) as { readonly key: string }).key).toMatch(/^hskey-auth-/)
    expect((await admin('preauthkeys', 'list', '-o', 'json')).out).not.toContain((JSON.parse(key.out) as { readonly key: string }).key)
  })

  test('SSH sessions that wait: none is listed, and what is not there is neither approved nor refused', async () => {
    const { admin, serve, port } = await site()
    await serve()
    expect((await admin('ssh')).out).toMatch(/list[^]*approve[^]*reject/)
    for (const verb of ['list', 'approve', 'reject']) expect((await admin('ssh', verb, '--help')).out).toContain(`meshwright-control ssh ${verb}`)
    expect(JSON.parse((await admin('ssh', 'list', '-o', 'json')).out)).toEqual([])
    expect((await admin('ssh', 'list')).out).toMatch(/^ID +From +Owner +To +As +Asked\n/)
    const id = `hskey-authreq-${'a'.repeat(24)}`
    for (const words of [['ssh', 'approve'], ['ssh', 'reject'], ['auth', 'approve']]) {
      expect(await admin(...words, '--auth-id', id)).toMatchObject({ status: 1, out: '', err: expect.stringMatching(/SSH session hskey-authreq-a+ not found[^]*connect again/) })
      expect(await admin(...words, '--auth-id', 'nonsense')).toMatchObject({ status: 1, err: expect.stringContaining('"nonsense" is no auth id') })
    }
    expect((await fetch(`http://127.0.0.1:${port}/auth/${id}`)).status).toBe(404)
  })

  test('without a policy, every view says that everything is denied', async () => {
    const { admin, serve } = await site()
    const server = await serve()
    expect(server.text).toContain('all traffic is denied')
    expect((await admin('health')).out).toContain('all traffic is denied')
    const nodes = await admin('nodes', 'list')
    expect(nodes.out + nodes.err).toContain('all traffic is denied')
  })

  test('a wrong policy is refused with line and column, and nothing changes', async () => {
    const { admin, folder, serve } = await site()
    await serve()
    const good = path.join(folder, 'good.hujson')
    const text = '{\n  // everyone\n  "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],\n}\n'
    writeFileSync(good, text)
    expect((await admin('policy', 'set', '-f', good)).status).toBe(0)
    const wrong: readonly (readonly [string, RegExp])[] = [
      ['{\n  "acls": [{ "action": "accept" "src": ["*"] }]\n}\n', /line 2, column 3\d/],
      ['{\n  "acls": [\n    { "action": "accept", "src": ["group:none"], "dst": ["*:*"] },\n  ],\n}\n', /line 3, column \d+: .*group:none/],
      ['{\n  "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],\n  "tests": [{ "src": "nobody@", "deny": ["100.64.0.1:22"] }],\n}\n', /nobody@/],
    ]
    for (const [bad, expected] of wrong) {
      const file = path.join(folder, 'bad.hujson')
      writeFileSync(file, bad)
      for (const verb of ['check', 'set']) {
        const ended = await admin('policy', verb, '-f', file)
        expect(ended.status, ended.out).not.toBe(0)
        expect(ended.err + ended.out).toMatch(expected)
      }
      expect((await admin('policy', 'get')).out.trim()).toBe(text.trim())
    }
  })
})

test('an acknowledged write survives kill -9: 50 random moments', async () => {
  const { admin, serve, socket } = await site()
  const acknowledged: string[] = []
  let seed = 20_260_726
  const random = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below
  for (let round = 0; round < 50; round += 1) {
    const server = await serve()
    let going = true
    const writers = [0, 1, 2].map(async (writer) => {
      for (let i = 0; going; i += 1) {
        const name = `user-${round}-${writer}-${i}`
        if (!(await createUser(socket, name))) return
        acknowledged.push(name)
      }
    })
    // Every other time something has been acknowledged before, however busy the computer is.
    const before = acknowledged.length
    if (round % 2 === 0) await expect.poll(() => acknowledged.length, { timeout: 30_000, interval: 5 }).toBeGreaterThan(before)
    await new Promise((resolve) => setTimeout(resolve, random(60)))
    await server.stop('SIGKILL')
    going = false
    await Promise.all(writers)
  }
  await serve()
  const present = new Set((JSON.parse((await admin('users', 'list', '-o', 'json')).out) as readonly { readonly name: string }[]).map((user) => user.name))
  expect(acknowledged.filter((name) => !present.has(name))).toEqual([])
  expect(acknowledged.length).toBeGreaterThanOrEqual(25)
}, 480_000)

// What `users create` sends, without the cost of a process for each write. True when the server has acknowledged it.
function createUser(socketPath: string, name: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = http.request({ socketPath, method: 'POST', path: '/command', headers: { 'Content-Type': 'application/json' }, agent: false }, (response) => {
      response.resume()
      response.on('end', () => resolve(response.statusCode === 200))
      response.on('error', () => resolve(false))
    })
    request.on('error', () => resolve(false))
    request.end(JSON.stringify({ command: 'createUser', name }))
  })
}
