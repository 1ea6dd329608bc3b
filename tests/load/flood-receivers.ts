import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node/relay'
import { countPackets, joinRelay } from './flood.ts'

// The receiving half of a flood, as a process of its own: `flood-receivers PORT COUNT`. Tells its keys, then, asked, what it received.
const [port = 0, count = 0] = process.argv.slice(2).map(Number)
let received = 0
const keys: string[] = []
for (let i = 0; i < count; i += 1) {
  const key = NodePrivateKey.generate(systemRandom)
  countPackets(await joinRelay(port, key), (bytes) => {
    received += bytes
  })
  keys.push(Buffer.from(key.publicKey().bytes).toString('hex'))
}
process.on('message', () => process.send?.({ received }))
process.on('disconnect', () => process.exit())
process.send?.({ keys })
