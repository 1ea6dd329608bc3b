import { readFileSync } from 'node:fs'
import net, { type Socket } from 'node:net'

const LATENCY_SAMPLES = 200

/** A daemon with a SOCKS5 port. */
export interface SocksNode {
  readonly socksPort: number
  ip(): Promise<string>
  readonly pid: number | undefined
}

/** What one round with one pair gave. */
export interface Round {
  readonly megabitsPerSecond: number
  /** Of both daemons together. */
  readonly cpuSecondsPerGigabit: number
  /** Half of the round trips of one byte, one at a time, took less. */
  readonly latencyMs: number
}

/** Processor time of a process so far, in seconds: fields 14 and 15 of /proc/PID/stat, proc(5). */
function cpuSeconds(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** A server that sends zeros to who asks for them, and echoes single bytes: `N\n` asks for N bytes, `0\n` begins echoing, and is answered by a byte. */
export async function startSource(): Promise<{ readonly port: number; close(): void }> {
  const block = Buffer.alloc(65_536)
  const server = net.createServer((socket) => {
    socket.setNoDelay()
    socket.once('data', (line) => {
      let left = Number(line.toString('latin1').trim())
      if (left === 0) {
        socket.on('data', (bytes) => socket.write(bytes))
        return void socket.write('0')
      }
      const more = (): void => {
        while (left > 0) {
          const chunk = block.subarray(0, Math.min(left, block.length))
          left -= chunk.length
          if (!socket.write(chunk)) return void socket.once('drain', more)
        }
        socket.end()
      }
      more()
    })
    socket.on('error', () => socket.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return { port: address.port, close: () => server.close() }
}

function through(socksPort: number, host: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(socksPort, '127.0.0.1')
    socket.setNoDelay()
    socket.once('error', reject)
    const name = Buffer.from(host)
    let seen = Buffer.alloc(0)
    let greeted = false
    const onData = (bytes: Buffer): void => {
      seen = Buffer.concat([seen, bytes])
      if (!greeted && seen.length >= 2) {
        greeted = true
        seen = seen.subarray(2)
        socket.write(Buffer.concat([Buffer.from([5, 1, 0, 3, name.length]), name, Buffer.from([port >> 8, port & 255])]))
      }
      if (!greeted || seen.length < 10) return
      socket.off('data', onData)
      if (seen[1] !== 0) return reject(new Error(`the proxy answered ${String(seen[1])}`))
      resolve(socket)
    }
    socket.on('data', onData)
    socket.write(Buffer.from([5, 1, 0]))
  })
}

async function transfer(socksPort: number, host: string, port: number, bytes: number): Promise<number> {
  const socket = await through(socksPort, host, port)
  const begun = performance.now()
  let got = 0
  await new Promise<void>((resolve, reject) => {
    socket.on('data', (chunk: Buffer) => (got += chunk.length))
    socket.on('end', resolve)
    socket.on('error', reject)
    socket.write(`${bytes}\n`)
  })
  if (got !== bytes) throw new Error(`${got} bytes of ${bytes} came`)
  return (performance.now() - begun) / 1000
}

async function latency(socksPort: number, host: string, port: number): Promise<number> {
  const socket = await through(socksPort, host, port)
  socket.write('0\n')
  await new Promise((resolve) => socket.once('data', resolve))
  const samples: number[] = []
  for (let index = 0; index < LATENCY_SAMPLES; index += 1) {
    const begun = performance.now()
    socket.write('x')
    await new Promise((resolve) => socket.once('data', resolve))
    samples.push(performance.now() - begun)
  }
  socket.destroy()
  return median(samples)
}

/** The middle one. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? Number.NaN
}

/** Bytes from behind `to` to a client of `from`, then single bytes there and back. */
export async function measure(from: SocksNode, to: SocksNode, port: number, bytes: number): Promise<Round> {
  const host = await to.ip()
  const before = cpuSeconds(from.pid) + cpuSeconds(to.pid)
  const seconds = await transfer(from.socksPort, host, port, bytes)
  const spent = cpuSeconds(from.pid) + cpuSeconds(to.pid) - before
  return { megabitsPerSecond: (bytes * 8) / 1e6 / seconds, cpuSecondsPerGigabit: spent / ((bytes * 8) / 1e9), latencyMs: await latency(from.socksPort, host, port) }
}
