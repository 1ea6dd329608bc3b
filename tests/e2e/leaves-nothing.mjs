// Run by close.test.ts in a process of its own: uses nodes, closes them, and prints what keeps the process alive before and afterwards.
import dgram from 'node:dgram'
import { startMeshNode } from '@meshwright/runtime-node'

const { CONTROL_URL: controlUrl, AUTH_KEY: authKey, SCENARIO: scenario } = process.env
const options = { controlUrl, authKey, allowLoopback: true, ephemeral: true }
const codeOf = (promise) => promise.then(() => 'ok', (error) => error.code ?? error.name)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

const scenarios = {
  // Everything that a node offers, in use while it closes.
  async used() {
    const [a, b] = await Promise.all(['a', 'b'].map((hostname) => startMeshNode({ ...options, hostname })))
    await Promise.all([a.ready({ timeoutMs: 60_000 }), b.ready({ timeoutMs: 60_000 })])
    const { createServer } = await import('node:http')
    const server = createServer((request, response) => (request.url === '/' ? response.end('hello') : undefined)) // the other request is never answered
    b.listenTcp(80, (socket) => server.emit('connection', socket))
    b.listenUdp(53, () => undefined)
    const said = await (await a.fetch('http://b/')).text()
    const open = [codeOf(a.fetch('http://b/never')), codeOf(a.ping('100.64.9.9', 'ICMP')), codeOf(a.dialTcp('100.99.99.99', 80)), codeOf(a.resolve('b')), codeOf(a.logout === undefined ? Promise.resolve() : a.ready())]
    const socket = await a.dialTcp('b', 80)
    socket.on('error', () => undefined)
    const stopListening = a.onChange(() => undefined)
    await Promise.all([a.close(), b.close(), a.close()])
    stopListening()
    return [said, ...(await Promise.all(open))]
  },
  // A start that is ended at every moment of it.
  async aborted() {
    const ends = []
    for (const after of [undefined, 0, 1, 5, 25, 100]) {
      const signal = after === undefined ? AbortSignal.abort() : AbortSignal.timeout(after)
      const node = await startMeshNode({ ...options, hostname: 'short', signal }).catch((error) => error)
      if (node instanceof Error) {
        ends.push(node.name)
        continue
      }
      await node.ready(signal).catch(() => undefined)
      await node.close()
      ends.push('closed')
    }
    return [ends[0], ends.length]
  },
  // A start that fails in the middle.
  async failed() {
    const taken = dgram.createSocket('udp4').bind(0)
    await new Promise((resolve) => taken.once('listening', resolve))
    const code = await codeOf(startMeshNode({ ...options, hostname: 'taken', port: taken.address().port }))
    taken.close()
    return [code]
  },
  // A control server that takes the connection and says nothing, and one that is not there.
  async silent() {
    const { createServer } = await import('node:net')
    const sockets = []
    const server = createServer((socket) => sockets.push(socket.on('error', () => undefined)))
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const codes = []
    for (const url of [`http://127.0.0.1:${server.address().port}`, 'http://127.0.0.1:1']) {
      const node = await startMeshNode({ controlUrl: url, authKey, hostname: 'alone' })
      codes.push(await codeOf(node.ready({ timeoutMs: 200 })))
      await node.close()
    }
    for (const socket of sockets) socket.destroy()
    server.close()
    return codes
  },
  // With a TUN device, whose packets a thread of its own carries.
  async worker() {
    const node = await startMeshNode({ ...options, hostname: 'fast', tun: 'mwclose0', ephemeral: false })
    const { lane } = await node.dataPlane()
    await codeOf(node.ready({ timeoutMs: 300 }))
    await node.close()
    const second = await startMeshNode({ ...options, hostname: 'fast', tun: 'mwclose0', ephemeral: false, signal: AbortSignal.timeout(1) }).catch((error) => error.name)
    if (typeof second !== 'string') await second.close()
    return [lane]
  },
}

for (const stream of [process.stdout, process.stderr]) stream.write('') // these are opened when they are first wanted
const alive = () => process.getActiveResourcesInfo().sort()
let before
do {
  before = alive()
  await pause(50)
} while (JSON.stringify(alive()) !== JSON.stringify(before))
const result = await scenarios[scenario]()
// What is closed is gone some turns later: on a busy computer many of them. What is left stays.
for (let looks = 0; looks < 200 && JSON.stringify(alive()) !== JSON.stringify(before); looks += 1) await pause(50)
const after = alive()
process.stdout.write(JSON.stringify({ result, before, after }))
