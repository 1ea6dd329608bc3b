import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import { programFile } from './lab-flow.ts'
import { freePort, runProgram, type RunResult } from './lab-process.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, webThroughSocks } from './lab-web.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'
import { patternBytes } from './wireguard-commands.ts'

// What real nodes do for each other beyond packets, at our control server: alice has a laptop and a server, bob a phone.
const ACLS = [{ action: 'accept', src: ['*'], dst: ['*:*'] }]
const SSH_USERS = { src: ['alice@'], dst: ['autogroup:self'], users: ['root'] }
const ACCEPT = { acls: ACLS, ssh: [{ action: 'accept', ...SSH_USERS }] }
const CHECK = { acls: ACLS, ssh: [{ action: 'check', ...SSH_USERS }] }
const CHECK_ALWAYS = { acls: ACLS, ssh: [{ action: 'check', checkPeriod: 'always', ...SSH_USERS }] }
/** For an answer "at once": what a command line needs to start, and some. */
const AT_ONCE_MS = 5_000

const worlds = new Worlds({ policy: ACCEPT })
const flow = worldFlows('features', worlds)
const noSsh = whyNoSsh()
const sshFlow = worldFlows('features', worlds, noSsh === undefined ? [] : [noSsh])

/** Why Tailscale SSH cannot be met here: its server opens sessions of any user, so it must be root. */
function whyNoSsh(): string | undefined {
  if (process.getuid?.() !== 0) return 'Tailscale SSH needs root'
  return spawnSync('sh', ['-c', 'command -v ssh']).status === 0 ? undefined : 'ssh (openssh-client)'
}

const laptop = (world: World): Promise<Tailscaled> => world.real('laptop')
const phone = (world: World): Promise<Tailscaled> => world.real('phone', 'bob')
const servers = new Map<World, Promise<Tailscaled>>()
function server(world: World): Promise<Tailscaled> {
  const node = servers.get(world) ?? world.join('server', 'alice', {}, ...(noSsh === undefined ? ['--ssh'] : []))
  servers.set(world, node)
  return node
}

/** A command over SSH, from one node to another, with the usual client through the node's own `nc`. */
async function ssh(world: World, from: Tailscaled, to: string, command: string, timeoutMs: number = 30_000): Promise<RunResult> {
  const proxy = `${programFile('tailscale', world.version)} --socket=${from.socket} nc %h %p`
  const options = [`ProxyCommand=${proxy}`, 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'BatchMode=yes', 'IdentityAgent=none', 'GlobalKnownHostsFile=/dev/null']
  return runProgram('ssh', ['-F', 'none', ...options.flatMap((option) => ['-o', option]), `root@${to}`, command], { timeoutMs })
}

/** Puts a policy in force, and waits until the server's own SSH rules are those of it. */
async function setPolicy(world: World, policy: typeof ACCEPT, sign: string): Promise<void> {
  const to = await server(world)
  await world.control.setPolicy(policy)
  await world.lab.until('the SSH rules are there', async () => JSON.stringify((JSON.parse(await to.cli('debug', 'netmap')) as { readonly SSHPolicy?: unknown }).SSHPolicy ?? '').includes(sign))
}

/** The session that waits for approval, as the command line lists it. */
async function waitingSession(world: World): Promise<string> {
  type Listed = readonly { readonly authId: string; readonly localUser: string; readonly source: { readonly givenName: string; readonly user: string }; readonly destination: { readonly givenName: string } }[]
  return world.lab.until('an SSH session waits', async () => {
    const [session] = await world.control.json<Listed>('ssh', 'list')
    if (session === undefined) return undefined
    expect(session).toMatchObject({ localUser: 'root', source: { givenName: 'laptop', user: 'alice' }, destination: { givenName: 'server' } })
    return session.authId
  })
}

sshFlow('Tailscale SSH: the policy accepts', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  await setPolicy(world, ACCEPT, '"accept":true')
  const ended = await ssh(world, from, await to.ip(), 'echo $((6 * 7)); id -un; exit 3')
  expect([ended.status, ended.out], ended.err).toEqual([3, '42\nroot\n'])
})

sshFlow('Tailscale SSH: the policy rejects', async (world) => {
  const [from, to] = [await phone(world), await server(world)]
  await setPolicy(world, ACCEPT, '"accept":true')
  const ended = await ssh(world, from, await to.ip(), 'echo in')
  expect([ended.status, ended.out]).toEqual([255, ''])
  expect(ended.err).toMatch(/policy|denied/)
  expect(ended.ms).toBeLessThan(10_000)
})

sshFlow('Tailscale SSH: check mode, approved on the command line, and not asked again within the period', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  await setPolicy(world, CHECK, 'holdAndDelegate')
  const address = await to.ip()
  const session = ssh(world, from, address, 'echo checked', 60_000)
  const id = await waitingSession(world)
  expect(await world.control.cli('ssh', 'approve', '--auth-id', id)).toBe('SSH from laptop to server as root was approved.\n')
  const ended = await session
  expect([ended.status, ended.out], ended.err).toEqual([0, 'checked\n'])
  expect(ended.err).toContain(`meshwright-control ssh approve --auth-id ${id}`)
  expect((await ssh(world, from, address, 'echo again')).out).toBe('again\n')
  expect(await world.control.json('ssh', 'list')).toEqual([])
})

sshFlow('Tailscale SSH: check mode, refused on the command line', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  await setPolicy(world, CHECK_ALWAYS, 'holdAndDelegate')
  const session = ssh(world, from, await to.ip(), 'echo in', 60_000)
  await world.control.cli('ssh', 'reject', '--auth-id', await waitingSession(world))
  const ended = await session
  expect([ended.status, ended.out]).toEqual([255, ''])
  expect(ended.err).toContain('An administrator refused this session.')
  await setPolicy(world, ACCEPT, '"accept":true')
})

sshFlow('Tailscale SSH: a session ends when the policy takes it away', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  await setPolicy(world, ACCEPT, '"accept":true')
  const begun = world.lab.at('begun')
  const session = ssh(world, from, await to.ip(), `touch ${begun}; sleep 30; echo ended`, 40_000)
  await world.lab.until('the session has begun', () => existsSync(begun))
  await world.control.setPolicy({ acls: ACLS, ssh: [] })
  const ended = await session
  expect([ended.status, ended.out]).toEqual([expect.any(Number), ''])
  expect(ended.status).not.toBe(0)
  expect(ended.ms).toBeLessThan(15_000)
  await setPolicy(world, ACCEPT, '"accept":true')
})

flow('Taildrop between two devices of a user', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  const [file, inbox] = [world.lab.at('holiday picture.bin'), world.lab.at('inbox')]
  writeFileSync(file, patternBytes(5_000_000))
  mkdirSync(inbox, { recursive: true })
  await world.lab.until('the server is a target', async () => (await from.cli('file', 'cp', '--targets')).includes('server'))
  await from.cli('file', 'cp', file, 'server:')
  await to.cli('file', 'get', inbox)
  expect(readdirSync(inbox)).toEqual(['holiday picture.bin'])
  expect(sha256(readFileSync(path.join(inbox, 'holiday picture.bin')))).toBe(patternHash(5_000_000))
})

flow('Taildrop not to devices of others', async (world) => {
  const [from, to] = [await laptop(world), await phone(world)]
  expect(await from.cli('file', 'cp', '--targets')).not.toContain('phone')
  const file = world.lab.at('secret.txt')
  writeFileSync(file, 'secret')
  // 1.80 goes on trying for a while.
  const ended = await from.run(['file', 'cp', file, 'phone:'], 5_000)
  expect(ended.status).not.toBe(0)
  expect(ended.err).toMatch(/phone|target|user/)
  const inbox = world.lab.at('inbox of the phone')
  mkdirSync(inbox)
  // 1.80 waits for files to come.
  await to.run(['file', 'get', inbox], 2_000)
  expect(readdirSync(inbox)).toEqual([])
})

flow('serve --http inside the tailnet', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  // What is no longer served goes to this port of the computer itself: nobody is there.
  const port = await freePort()
  await to.cli('serve', '--bg', `--http=${port}`, String(world.web))
  const answer = await webThroughSocks(from.socksPort, 'server.lab.test', port)
  expect([answer.status, answer.body.toString()]).toEqual([200, 'hello'])
  await to.cli('serve', `--http=${port}`, 'off')
  await expect(webThroughSocks(from.socksPort, 'server.lab.test', port, { timeoutMs: 1_000 })).rejects.toThrow()
})

flow('serve --tcp inside the tailnet', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  await to.cli('serve', '--bg', '--tcp=9000', `tcp://localhost:${world.web}`)
  expect((await webThroughSocks(from.socksPort, await to.ip(), 9000)).body.toString()).toBe('hello')
  await to.cli('serve', '--tcp=9000', 'off')
})

flow('nc', async (world) => {
  const [from, to] = [await laptop(world), await server(world)]
  const line = `(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 2) | "$0" --socket="$1" nc "$2" "$3"`
  const ended = await runProgram('sh', ['-c', line, programFile('tailscale', world.version), from.socket, await to.ip(), String(world.web)])
  expect(ended.out).toMatch(/200 OK[^]*hello$/)
})

for (const [words, expected] of [
  [['cert', 'server.lab.test'], /TLS cert|cert domain|HTTPS/i],
  [['funnel', '--bg', '8080'], /funnel is not available on this control server/],
  [['lock', 'status'], /lock is NOT enabled/i],
] as const) {
  flow(`${words[0]}${words[0] === 'lock' ? ' status' : ''}: a clear answer at once`, async (world) => {
    const ended = await (await server(world)).run(words, 20_000)
    expect(ended.out + ended.err).toMatch(expected)
    expect(ended.ms).toBeLessThan(AT_ONCE_MS)
    if (words[0] === 'cert') expect(ended.status).not.toBe(0)
  })
}

flow('a node that was deleted and logs in anew has its home relay at once, though it does not tell it again', async (world) => {
  const [from, gone] = [await laptop(world), await world.join('gone')]
  const seen = (): Promise<string> => world.lab.until('the laptop sees the node', async () => {
    const peer = await from.peer('gone')
    return peer !== undefined && peer.Online && peer.Relay
  })
  await world.lab.until('its home relay is known', async () => (await seen()) === 'ours')
  await world.control.cli('nodes', 'delete', '-i', (await world.listed('gone')).id, '--force')
  await world.lab.until('it is gone', async () => (await from.peer('gone')) === undefined)
  await gone.up(world.control.url, await world.reusable('alice'), '--force-reauth')
  expect(await seen()).toBe('ours')
  await gone.stop()
})

flow('status shows no warning', async (world) => {
  for (const node of [await laptop(world), await server(world), await phone(world)]) expect(await world.health(node)).toEqual([])
})
