// A SOCKS5 port on this computer that leads into the mesh: for programs that know nothing of it.
import { createSocks5Server } from '@meshwright/runtime-node'
import { nodeFromEnvironment } from './node.ts'

const { LISTEN: listen = '1055' } = process.env
const node = await nodeFromEnvironment('gateway')
const server = createSocks5Server((host, port) => node.dialTcp(host, port))
server.listen(Number(listen), '127.0.0.1', () => console.log(`SOCKS5 into the mesh at 127.0.0.1:${listen}. Ctrl-C ends it.`))
