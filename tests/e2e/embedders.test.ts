import http from 'node:http'
import { type MeshSocket, type RunningNode, startMeshNode } from '@meshwright/runtime-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type SmallMesh, startSmallMesh } from './mesh.ts'
import { Bench, controlConfig, freePort, PROGRAMS, run } from './programs.ts'

// For those who embed nodes: many of them in one process, each on a tailnet of its own, and what `ready` promises.
const TAILNETS = 3
const WAIT_MS = 60_000

const bench = new Bench()
const nodes: RunningNode[] = []

async function start(mesh: SmallMesh, hostname: string): Promise<RunningNode> {
  const node = await startMeshNode({ controlUrl: mesh.url, authKey: mesh.authKey, hostname, allowLoopback: true, ephemeral: true })
  nodes.push(node)
  return node
}

/** Answers every request with its own words and the name of who asks. */
function serve(node: RunningNode, words: string): void {
  const server = http.createServer((request, response) => response.end(`${words}, ${node.whois(request)?.node.name ?? 'stranger'}`))
  node.listenTcp(80, (socket) => server.emit('connection', socket))
}

const ask = async (from: RunningNode, host: string): Promise<string> => (await from.fetch(`http://${host}/`, { signal: AbortSignal.timeout(WAIT_MS) })).text()

afterAll(async () => {
  await Promise.all(nodes.map((node) => node.close()))
  await bench.clean()
})

describe('three tailnets in one process', () => {
  const meshes: SmallMesh[] = []
  let pairs: (readonly [RunningNode, RunningNode])[]

  beforeAll(async () => {
    for (let i = 0; i < TAILNETS; i += 1) meshes.push(await startSmallMesh(bench, bench.folder()))
    pairs = await Promise.all(meshes.map(async (mesh, i) => [await start(mesh, 'server'), await start(mesh, `client${i}`)] as const))
    await Promise.all(pairs.flat().map((node) => node.ready({ timeoutMs: WAIT_MS })))
    for (const [i, [server]] of pairs.entries()) serve(server, `tailnet ${i}`)
  })

  test('the same addresses and names are another node in each of them', async () => {
    for (const [server, client] of pairs) {
      await expect.poll(() => client.status().peers.map((peer) => peer.hostName)).toEqual(['server']) // ready is who is in; others are heard of when they come
      expect(server.status().self?.addresses.map(String).sort()).toEqual(pairs[0]?.[0].status().self?.addresses.map(String).sort())
    }
    const answers = await Promise.all(pairs.map(([, client]) => ask(client, 'server')))
    expect(answers).toEqual(pairs.map((_, i) => `tailnet ${i}, client${i}.e2e.test`))
    for (const [i, [server]] of pairs.entries()) expect(server.whois(pairs[i]?.[1].status().self?.addresses[0]?.key ?? '')?.node.hostName).toBe(`client${i}`)
  })

  test('a node that closes, and a tailnet whose nodes are all gone, are felt by nobody else: not even by an open connection', async () => {
    const [gone, kept] = [pairs[0], pairs[1]]
    if (gone === undefined || kept === undefined) return expect.fail('no pairs')
    kept[0].listenTcp(7, (socket) => void socket.on('error', () => undefined).pipe(socket)) // it is reset at the end
    const open = await kept[1].dialTcp('server', 7)
    expect(await echo(open, 'before')).toBe('before')
    await gone[0].close()
    await expect(gone[0].dialTcp('client0', 80)).rejects.toThrow()
    expect(await Promise.all(pairs.slice(1).map(([, client]) => ask(client, 'server')))).toEqual([1, 2].map((i) => `tailnet ${i}, client${i}.e2e.test`))
    await gone[1].close()
    expect(await echo(open, 'after')).toBe('after')
    open.destroy()
    expect(await Promise.all(pairs.slice(1).map(([, client]) => ask(client, 'server')))).toEqual([1, 2].map((i) => `tailnet ${i}, client${i}.e2e.test`))
  })
})

describe('ready', () => {
  let mesh: SmallMesh
  let before: RunningNode

  beforeAll(async () => {
    mesh = await startSmallMesh(bench, bench.folder())
    before = await start(mesh, 'before')
    await before.ready({ timeoutMs: WAIT_MS })
  })

  test('a peer that was there before reaches a node at its first try, as soon as that says that it is ready', async () => {
    for (let i = 0; i < 4; i += 1) {
      const node = await start(mesh, `new${i}`)
      serve(node, `new${i}`)
      await node.ready({ timeoutMs: WAIT_MS })
      expect(await ask(before, `new${i}`)).toBe(`new${i}, before.e2e.test`)
      await node.close()
    }
  })

  test('a node reaches its own service as others do: by name and by its addresses', async () => {
    const node = await start(mesh, 'selfish')
    serve(node, 'own')
    await node.ready({ timeoutMs: WAIT_MS })
    const own = node.status().self?.addresses.map((ip) => (ip.family === 6 ? `[${ip.key}]` : ip.key)) ?? []
    expect(own.length).toBe(2)
    for (const host of ['selfish', ...own]) expect(await ask(node, host)).toBe('own, selfish.e2e.test')
    await node.close()
  })

  test('it is true at once when it is asked again, and a node that is down says so', async () => {
    await before.ready(AbortSignal.timeout(WAIT_MS))
    before.down()
    await expect(before.ready({ timeoutMs: 50 })).rejects.toMatchObject({ name: 'MeshwrightError', code: 'RUNTIME_NOT_READY', step: 'up', message: expect.stringContaining('it is down') as string })
    before.up()
    await before.ready({ timeoutMs: WAIT_MS })
  })

  test('what hangs is named: a login that nobody approves, a relay that nobody runs', async () => {
    const waiting = await startMeshNode({ controlUrl: mesh.url, hostname: 'waiting' })
    nodes.push(waiting)
    const hangs = (node: RunningNode): Promise<unknown> => node.ready({ timeoutMs: 2_000 }).catch((error: unknown) => error)
    await expect.poll(() => hangs(waiting), { timeout: WAIT_MS }).toMatchObject({ code: 'RUNTIME_NOT_READY', step: 'login', message: expect.stringContaining('/register/') as string })
    const port = await freePort()
    const config = controlConfig(bench.folder(), port)
    await bench.start(PROGRAMS.control, ['serve', '-c', config]).said(/\bready\b/)
    await run(PROGRAMS.control, ['-c', config, 'users', 'create', 'alice'])
    const { key } = JSON.parse((await run(PROGRAMS.control, ['-c', config, 'preauthkeys', 'create', '-u', '1', '-o', 'json'])).out) as { readonly key: string } // headscale's form
    const alone = await startMeshNode({ controlUrl: `http://127.0.0.1:${port}`, authKey: key, hostname: 'alone' })
    nodes.push(alone)
    await expect.poll(() => hangs(alone), { timeout: WAIT_MS }).toMatchObject({ step: 'relay', message: expect.stringMatching(/home relay .*cannot be reached/) as string })
    const stop = new AbortController()
    const aborted = alone.ready(stop.signal).then(() => 'ready', (error: unknown) => error)
    stop.abort(new Error('enough'))
    expect(await aborted).toMatchObject({ code: 'RUNTIME_ABORTED', step: 'relay', cause: expect.objectContaining({ message: 'enough' }) as Error })
    const closed = alone.ready().then(() => 'ready', (error: unknown) => error)
    await alone.close()
    expect(await closed).toMatchObject({ code: 'RUNTIME_CLOSED' })
  })
})

function echo(socket: MeshSocket, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.once('data', (bytes: Buffer) => resolve(bytes.toString('utf8')))
    socket.write(text)
  })
}
