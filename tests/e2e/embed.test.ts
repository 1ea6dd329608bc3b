import { type ChildProcess, spawn } from 'node:child_process'
import net from 'node:net'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type SmallMesh, startSmallMesh } from './mesh.ts'
import { type Background, Bench, freePort, PROGRAMS, ROOT, run } from './programs.ts'

// The programs that show how to embed a node, among themselves: an HTTP service that all others reach by its name.
const built = (name: string): string => path.join(ROOT, 'examples/embed-http/dist', `${name}.js`)
const bench = new Bench()
const children: ChildProcess[] = []
let mesh: SmallMesh
let environment: (name: string) => Readonly<Record<string, string>>

beforeAll(async () => {
  mesh = await startSmallMesh(bench, bench.folder())
  environment = (name) => ({ CONTROL_URL: mesh.url, AUTH_KEY: mesh.authKey, HOSTNAME_ON_MESH: name, ALLOW_LOOPBACK: '1' })
  await bench.start(PROGRAMS.embedHttp, [], environment('hello')).said(/is on the mesh/)
})

afterAll(async () => {
  for (const child of children) child.kill('SIGKILL')
  await bench.clean()
})

function ask(port: number, before: (socket: net.Socket) => Promise<void> = () => Promise.resolve()): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.setTimeout(90_000, () => socket.destroy(new Error('no answer in 90 s')))
    socket.once('error', reject)
    before(socket).then(() => {
      let text = ''
      socket.on('data', (bytes: Buffer) => (text += bytes.toString('utf8')))
      socket.once('end', () => resolve(text))
      socket.write('GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n')
    }, reject)
  })
}

const next = (socket: net.Socket): Promise<Buffer> => new Promise((resolve) => socket.once('data', resolve))

test('an ephemeral CI job asks a service inside the mesh, ends as the answer says, and leaves no node behind', async () => {
  const { key } = JSON.parse((await mesh.admin('preauthkeys', 'create', '-u', '1', '--ephemeral', '-o', 'json')).out) as { readonly key: string } // headscale's form
  const asked = await run(built('ci-job'), [], { env: { ...environment('job'), AUTH_KEY: key, URL: 'http://hello/' } })
  expect(asked, asked.err).toMatchObject({ status: 0, out: expect.stringMatching(/^200 Hello, alice on job\./m) as string })
  expect((await mesh.admin('nodes', 'list')).out).not.toContain('job')
})

test('a TCP forwarder makes a port of this computer a port of a node', async () => {
  const port = await freePort()
  const forwarder: Background = bench.start(built('tcp-forwarder'), [], { ...environment('forwarder'), FORWARD: `${port}:hello:80` })
  await forwarder.said(/is hello:80 of the mesh/)
  expect(await ask(port)).toContain('Hello, alice on forwarder.')
  expect(await forwarder.stop('SIGINT')).toBe(0)
})

test('a SOCKS5 gateway leads programs into the mesh that know nothing of it', async () => {
  const port = await freePort()
  const gateway: Background = bench.start(built('socks-gateway'), [], { ...environment('gateway'), LISTEN: String(port) })
  await gateway.said(/SOCKS5 into the mesh/)
  const answer = await ask(port, async (socket) => {
    socket.write(Uint8Array.of(5, 1, 0))
    await next(socket)
    socket.write(Uint8Array.from([5, 1, 0, 3, 5, ...Buffer.from('hello'), 0, 80]))
    expect((await next(socket))[1]).toBe(0)
  })
  expect(answer).toContain('Hello, alice on gateway.')
  expect(await gateway.stop('SIGTERM')).toBe(0)
})

test('a chat by datagrams: everybody hears what is typed, and from whom', async () => {
  const chat = (name: string): { readonly child: ChildProcess; readonly said: () => string } => {
    const child = spawn(process.execPath, [built('chat')], { env: { PATH: process.env['PATH'] ?? '', ...environment(name) }, stdio: ['pipe', 'pipe', 'inherit'] })
    children.push(child)
    let text = ''
    child.stdout.on('data', (bytes: Buffer) => (text += bytes.toString('utf8')))
    return { child, said: () => text }
  }
  const [ann, ben] = [chat('ann'), chat('ben')]
  const until = async (what: string, look: () => boolean, again: () => void = () => undefined): Promise<void> => {
    for (const deadline = performance.now() + 90_000; !look(); ) {
      if (performance.now() > deadline) throw new Error(`not in 90 s: ${what}\n${ann.said()}\n${ben.said()}`)
      again()
      await new Promise((resolve) => setTimeout(resolve, 250))
    }
  }
  await until('both are in', () => [ann, ben].every(({ said }) => said().includes('You are in the chat')))
  // Datagrams may be lost, and the first ones may come before the peers know each other.
  await until('ben hears ann', () => ben.said().includes('ann: hello ben'), () => ann.child.stdin?.write('hello ben\n'))
  await until('ann hears ben', () => ann.said().includes('ben: hello ann'), () => ben.child.stdin?.write('hello ann\n'))
})
