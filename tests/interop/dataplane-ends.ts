import { createHash } from 'node:crypto'

/** Bytes that a transfer sends: no two kilobytes are alike. */
export const TRANSFER_SCRIPT = `
import net from 'node:net'
import { createHash } from 'node:crypto'
const [mode, host, port, megabytes] = JSON.parse(process.argv[1])
const block = (i) => { const b = Buffer.alloc(1 << 20); for (let at = 0; at < b.length; at += 4) b.writeUInt32LE(Math.imul(i * 262144 + at, 2654435761) >>> 0, at); return b }
const talk = (socket) => {
  const hash = createHash('sha256')
  let bytes = 0, next = 0
  socket.on('data', (chunk) => { hash.update(chunk); bytes += chunk.length })
  socket.on('end', () => console.log(JSON.stringify({ bytes, sha256: hash.digest('hex') })))
  socket.on('close', () => process.exit(0))
  socket.on('error', (error) => { console.log(JSON.stringify({ bytes, sha256: error.code })); process.exit(0) })
  const more = () => { while (next < megabytes) if (!socket.write(block(next++))) return socket.once('drain', more); socket.end() }
  more()
}
// A device that is down for a moment refuses at once: once more, then.
const dial = (tries) => {
  const socket = net.connect({ host, port, allowHalfOpen: true })
  const again = () => (tries > 0 ? setTimeout(() => dial(tries - 1), 100) : talk(socket))
  socket.once('error', again)
  socket.once('connect', () => { socket.off('error', again); talk(socket) })
}
if (mode === 'connect') dial(200)
else net.createServer({ allowHalfOpen: true }, talk).listen(port, host, () => console.log('"ready"'))
`

/**
 * Datagrams that name themselves in every word, no more of them under way than the smallest queue holds, which is that of the socket at the other end. The
 * sender prints what the receiver counted: whole ones (each once, however often it comes), changed ones, what came again, and what the kernel refused because the receiver's socket was full.
 * A question bears a number and is repeated until it is answered; only its own answer counts. (One to an earlier question was given before
 * the last datagrams were sent: it would let more of them under way than that, and in the end would miss some that arrived.)
 */
export const DATAGRAM_SCRIPT = `
import dgram from 'node:dgram'
import fs from 'node:fs'
const [mode, host, port, count, bytes] = JSON.parse(process.argv[1])
const socket = dgram.createSocket({ type: host.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 4 << 20 })
// Not the beginning of a WireGuard message, which a watch over this computer would look into.
const word = (i, at) => (i ^ Math.imul(at + 1, 2654435761)) >>> 0
const put = (b, i) => { for (let at = 0; at < b.length; at += 4) b.writeUInt32LE(word(i, at), at); return b }
const good = (b) => { const i = word(b.readUInt32LE(0), 0); for (let at = 4; at < b.length; at += 4) if (b.readUInt32LE(at) !== word(i, at)) return false; return b.length === bytes }
const refused = () => {
  const table = host.includes(':') ? '/proc/self/net/udp6' : '/proc/self/net/udp'
  if (!fs.existsSync(table)) return 0
  const own = ':' + port.toString(16).toUpperCase().padStart(4, '0')
  return fs.readFileSync(table, 'utf8').split('\\n').map((line) => line.trim().split(/ +/)).filter(([, local]) => local?.endsWith(own)).reduce((sum, words) => sum + Number(words.at(-1)), 0)
}
if (mode === 'receive') {
  let whole = 0, changed = 0, again = 0
  const seen = new Uint8Array(count)
  socket.on('message', (b, from) => {
    if (b.length === 4) { socket.send(JSON.stringify({ question: b.readUInt32LE(0), got: { whole, changed, again, refused: refused() } }), from.port, from.address); return }
    const name = word(b.readUInt32LE(0), 0)
    if (!good(b) || name >= count) changed += 1
    else if (seen[name] === 1) again += 1
    else { seen[name] = 1; whole += 1 }
  })
  socket.bind(port, host, () => console.log('"ready"'))
} else {
  let question = 0, got
  socket.on('message', (b) => { const answer = JSON.parse(b.toString()); if (answer.question === question) got = answer.got })
  const pause = (ms) => new Promise((r) => setTimeout(r, ms))
  const asked = async () => {
    got = undefined
    question += 1
    const words = Buffer.alloc(4)
    words.writeUInt32LE(question)
    for (let i = 0; i < 400 && got === undefined; i++) { socket.send(words, port, host); await pause(i < 20 ? 1 : 50) }
    return got ?? { unanswered: question }
  }
  for (let sent = 0; sent < count; ) {
    for (let i = 0; i < 64 && sent < count; i++) socket.send(put(Buffer.alloc(bytes), sent++), port, host)
    await asked()
  }
  let last = await asked()
  // Whoever puts packets in another order is given a moment.
  for (let i = 0; i < 20 && last.whole + last.changed < count; i++) { await pause(50); last = await asked() }
  console.log(JSON.stringify(last))
  process.exit(0)
}
`

/** The hash of what a transfer of so many megabytes sends. */
export function transferHash(megabytes: number): string {
  const hash = createHash('sha256')
  for (let i = 0; i < megabytes; i += 1) {
    const block = Buffer.alloc(1 << 20)
    for (let at = 0; at < block.length; at += 4) block.writeUInt32LE(Math.imul(i * 262_144 + at, 2_654_435_761) >>> 0, at)
    hash.update(block)
  }
  return hash.digest('hex')
}
