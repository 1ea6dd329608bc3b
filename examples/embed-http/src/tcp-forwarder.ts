// A port of this computer that is a port of a node of the mesh: FORWARD=5432:db:5432, as `ssh -L` writes it.
import net from 'node:net'
import { pipeline } from 'node:stream'
import { nodeFromEnvironment, usage } from './node.ts'

const [, listen, host = '', port] = /^(\d+):([^:]+):(\d+)$/.exec(process.env['FORWARD'] ?? '') ?? []
if (listen === undefined) usage('set FORWARD=LOCAL:NODE:PORT, such as 5432:db:5432')
const node = await nodeFromEnvironment('forwarder')
const server = net.createServer({ allowHalfOpen: true }, (near) => {
  const done = (): void => undefined // each end tells its own side
  node.dialTcp(host, Number(port)).then(
    (far) => {
      pipeline(near, far, done)
      pipeline(far, near, done)
    },
    (error: unknown) => near.destroy(error instanceof Error ? error : undefined),
  )
  near.on('error', (error) => console.error(error.message))
})
server.listen(Number(listen), '127.0.0.1', () => console.log(`127.0.0.1:${listen} is ${host}:${port} of the mesh. Ctrl-C ends it.`))
