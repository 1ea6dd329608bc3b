// An HTTP service on the mesh: nobody but its nodes can reach it, and it knows who asks. CONTROL_URL and AUTH_KEY come from the environment.
import http from 'node:http'
import { startMeshNode } from '@meshwright/runtime-node'

const { CONTROL_URL: controlUrl, AUTH_KEY: authKey, PORT: port = '80', HOSTNAME_ON_MESH: hostname = 'hello', ALLOW_LOOPBACK: allowLoopback } = process.env
if (controlUrl === undefined || authKey === undefined) {
  console.error('set CONTROL_URL and AUTH_KEY: the address of the control server, and a key that it made')
  process.exit(2)
}

const node = await startMeshNode({ controlUrl, authKey, hostname, ephemeral: true, allowLoopback: allowLoopback === '1' })
const server = http.createServer((request, response) => {
  const who = node.whois(request)
  response.end(`Hello, ${who?.user?.displayName || who?.user?.loginName || 'stranger'} on ${who?.node.name ?? 'a node that nobody knows'}!\n`)
})
await node.ready(AbortSignal.timeout(30_000))
node.listenTcp(Number(port), (socket) => server.emit('connection', socket))
console.log(`http://${node.status().self?.name ?? hostname}:${port}/ is on the mesh. Ctrl-C ends it.`)

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void node.close().then(() => process.exit(0)))
