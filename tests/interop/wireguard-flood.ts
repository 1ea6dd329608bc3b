// A flood of handshake initiations with a right mac1, which is all that costs its receiver work: run inside a test's own namespace, and
// bounded. Nothing behind mac1 is right. Arguments: {to, port, from, publicKey (hexadecimal), perSecond (absent: all that can be sent), ms}.
import dgram from 'node:dgram'
import { parseHex, utf8Encode } from '@meshwright/core'
import { nobleProvider } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'

const DIFFERENT = 2000
const BURST = 1000
const TICK_MS = 10

const { to, port, from, publicKey, perSecond, ms } = JSON.parse(process.argv[2] ?? '{}')
const mac1Key = nobleProvider.hash(utf8Encode('mac1----'), parseHex(publicKey, 32) ?? new Uint8Array(32))
const messages = Array.from({ length: DIFFERENT }, () => {
  const message = systemRandom(148)
  message.set([1, 0, 0, 0])
  message.set(nobleProvider.mac(mac1Key, message.subarray(0, 116)), 116)
  message.fill(0, 132)
  return message
})
const perTick = Math.min(BURST, perSecond === undefined ? BURST : Math.ceil((perSecond * TICK_MS) / 1000))
const socket = dgram.createSocket('udp4')
socket.on('error', () => undefined)
let next = 0
socket.bind(0, from, () => {
  socket.connect(port, to, () => {
    process.stdout.write('ready\n')
    const timer = setInterval(() => {
      for (let i = 0; i < perTick; i += 1) socket.send(messages[(next += 1) % DIFFERENT] ?? '', () => undefined)
    }, TICK_MS)
    setTimeout(() => {
      clearInterval(timer)
      process.exit(0)
    }, ms)
  })
})
