import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { MeshAgent, meshFetch } from './mesh-http.ts'

// The mesh is played by loopback: what counts is who dials, and what becomes of requests.
const server = http.createServer((request, response) => {
  if (request.url === '/moved') return void response.writeHead(302, { Location: 'http://elsewhere.example/', 'Set-Cookie': ['a=1', 'b=2'] }).end()
  if (request.url === '/nothing') return void response.writeHead(204).end()
  if (request.url === '/never') return
  if (request.url === '/half') return void response.write('half')
  request.pipe(response.writeHead(200, { 'X-Method': request.method ?? '', 'X-Given': String(request.headers['x-given'] ?? '') }))
})
let port = 0
const dialled: string[] = []
const agent = new MeshAgent(
  (host, to, { signal }) => {
    dialled.push(`${host}:${to}`)
    if (host === 'nobody') return Promise.reject(Object.assign(new Error('no node of the mesh is called so'), { code: 'ENOTFOUND' }))
    return Promise.resolve(net.connect({ port, host: '127.0.0.1', ...(signal === undefined ? {} : { signal }) }))
  },
  { keepAlive: true },
)

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as AddressInfo).port // listening on TCP
})
afterAll(() => {
  agent.destroy()
  server.closeAllConnections()
  server.close()
})

test('fetch dials the name through the mesh and carries method, headers and body both ways', async () => {
  const response = await meshFetch(agent, 'http://db:8080/x', { method: 'POST', body: 'hello', headers: { 'X-Given': 'yes' } })
  expect([response.status, response.headers.get('x-method'), response.headers.get('x-given'), await response.text()]).toEqual([200, 'POST', 'yes', 'hello'])
  expect(dialled).toContain('db:8080')
})

test('redirects are handed back, with every cookie', async () => {
  const response = await meshFetch(agent, 'http://db/moved')
  expect([response.status, response.headers.get('location'), response.headers.getSetCookie()]).toEqual([302, 'http://elsewhere.example/', ['a=1', 'b=2']])
})

test('an answer without a body is one', async () => {
  const response = await meshFetch(agent, 'http://db/nothing')
  expect([response.status, response.body]).toEqual([204, null])
})

test('a name that the mesh does not know, and a URL that is not for it, are refused', async () => {
  await expect(meshFetch(agent, 'http://nobody/')).rejects.toMatchObject({ code: 'ENOTFOUND' })
  await expect(meshFetch(agent, 'https://db/')).rejects.toThrow(TypeError)
})

test('an abort ends a request with its reason', async () => {
  const reason = new Error('enough')
  const aborted = new AbortController()
  const waiting = meshFetch(agent, 'http://db/never', { signal: aborted.signal })
  setImmediate(() => aborted.abort(reason))
  await expect(waiting).rejects.toBe(reason)
  await expect(meshFetch(agent, 'http://db/', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
})

test('an abort in the middle of a body ends it with its reason, and leaves the connection to nobody', async () => {
  const reason = new Error('enough')
  const aborted = new AbortController()
  const response = await meshFetch(agent, 'http://db/half', { signal: aborted.signal })
  const body = response.text()
  setImmediate(() => aborted.abort(reason))
  await expect(body).rejects.toBe(reason)
  const late = await meshFetch(agent, 'http://db/half', { signal: AbortSignal.timeout(200) })
  await expect(late.text()).rejects.toMatchObject({ name: 'TimeoutError' })
  expect(await (await meshFetch(agent, 'http://db/x', { method: 'POST', body: 'next' })).text()).toBe('next')
})

test("Node's own HTTP client takes the agent, and keeps a connection for the next request", async () => {
  const before = dialled.filter((to) => to === 'kept:80').length
  for (let i = 0; i < 2; i += 1) {
    await new Promise<void>((resolve, reject) => http.get('http://kept/x', { agent }, (answer) => answer.resume().on('end', () => setImmediate(resolve))).on('error', reject))
  }
  expect(dialled.filter((to) => to === 'kept:80').length - before).toBe(1)
})
