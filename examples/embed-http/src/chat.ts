// A chat by datagrams: what is typed goes to every node of the mesh that is there, and who says what is known by address.
import { createInterface } from 'node:readline'
import { nodeFromEnvironment } from './node.ts'

const { PORT: port = '4242' } = process.env
const node = await nodeFromEnvironment('chat')
const socket = node.listenUdp(Number(port), (bytes, from) => {
  const who = node.whois(from.address)
  console.log(`${who?.node.name.split('.')[0] ?? from.address}: ${Buffer.from(bytes).toString('utf8')}`)
})
console.log('You are in the chat. Ctrl-C ends it.')
for await (const line of createInterface({ input: process.stdin })) {
  for (const peer of node.status().peers) {
    const address = peer.addresses[0]?.key
    if (peer.online !== false && address !== undefined) socket.send(Buffer.from(line), socket.port, address)
  }
}
