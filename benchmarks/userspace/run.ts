import { readFileSync } from 'node:fs'
import net, { type Socket } from 'node:net'
import os from 'node:os'
import { parseArgs } from 'node:util'
import { bundlePrograms, OurControl, OurNode, OurRelay, type OurPrograms } from '../../tests/interop/lab-ours.ts'
import { interfaceAddress, Lab } from '../../tests/interop/lab-process.ts'
import { Tailscaled } from '../../tests/interop/lab-tailscaled.ts'
import { measureGoodput } from './goodput.ts'

const USAGE = `usage: npm run bench:userspace [-- --rounds N] [--mb N] [--relay]
       npm run bench:userspace -- --goodput [--rounds N]

Bytes through two nodes in userspace mode, from SOCKS5 port to SOCKS5 port: two of ours, and two real tailscaled, in turns.
Needs tailscaled in MESHWRIGHT_INTEROP_BIN; without it only ours is measured, and no ratio is given.

With --goodput: the stack alone on a line that loses packets, beside gVisor's (set up as tailscaled sets it up) and the kernel's on lines
that lose the same. Needs tcp-peer in MESHWRIGHT_INTEROP_BIN, and root.
`
const LATENCY_SAMPLES = 200

interface Node {
  readonly socksPort: number
  ip(): Promise<string>
  readonly pid: number | undefined
}

interface Round {
  readonly megabitsPerSecond: number
  readonly cpuSecondsPerGigabit: number
  readonly latencyMs: number
}

/** Processor time of a process so far, in seconds: fields 14 and 15 of /proc/PID/stat, proc(5). */
function cpuSeconds(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** A server that sends zeros to who asks for them, and echoes single bytes: `N\n` asks for N bytes, `0\n` begins echoing. */
async function startSource(): Promise<{ readonly port: number; close(): void }> {
  const block = Buffer.alloc(65_536)
  const server = net.createServer((socket) => {
    socket.setNoDelay()
    socket.once('data', (line) => {
      let left = Number(line.toString('latin1').trim())
      if (left === 0) return void socket.on('data', (bytes) => socket.write(bytes))
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
  await new Promise((resolve) => setTimeout(resolve, 50))
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

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? Number.NaN
}

async function measure(from: Node, to: Node, port: number, bytes: number): Promise<Round> {
  const host = await to.ip()
  const before = cpuSeconds(from.pid) + cpuSeconds(to.pid)
  const seconds = await transfer(from.socksPort, host, port, bytes)
  const spent = cpuSeconds(from.pid) + cpuSeconds(to.pid) - before
  return { megabitsPerSecond: (bytes * 8) / 1e6 / seconds, cpuSecondsPerGigabit: spent / ((bytes * 8) / 1e9), latencyMs: await latency(from.socksPort, host, port) }
}

async function ours(lab: Lab, programs: OurPrograms, url: string, key: string, relay: boolean): Promise<readonly [OurNode, OurNode]> {
  const flags = relay ? ['--block-udp'] : []
  const pair = [new OurNode(lab, programs, 'ours-a', flags), new OurNode(lab, programs, 'ours-b', flags)] as const
  await Promise.all(pair.map((node) => node.start()))
  await Promise.all(pair.map((node) => node.up(url, key)))
  return pair
}

async function theirs(lab: Lab, bin: string, url: string, key: string, relay: boolean): Promise<readonly [Tailscaled, Tailscaled]> {
  const pair = [new Tailscaled(lab, bin, 'real-a', { relayOnly: relay }), new Tailscaled(lab, bin, 'real-b', { relayOnly: relay })] as const
  await Promise.all(pair.map((node) => node.start()))
  await Promise.all(pair.map((node) => node.up(url, key)))
  return pair
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' }, mb: { type: 'string', default: '50' }, relay: { type: 'boolean', default: false }, goodput: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } } })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const machine = `${os.cpus()[0]?.model ?? '?'} x ${os.cpus().length}, Node ${process.version}`
  if (values.goodput) {
    process.stdout.write(`${JSON.stringify({ machine, figures: await measureGoodput(Number(values.rounds), say) }, null, 2)}\n`)
    return 0
  }
  const bin = process.env['MESHWRIGHT_INTEROP_BIN'] ?? ''
  const lab = new Lab()
  const source = await startSource()
  try {
    const programs = await bundlePrograms(lab)
    const relay = new OurRelay(lab, programs)
    await relay.start(interfaceAddress() ?? '127.0.0.1')
    const control = new OurControl(lab, programs)
    await control.start(relay.mapFile)
    const alice = await control.createUser('alice')
    await control.setPolicy({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] })
    const key = await control.authKey('-u', alice, '--reusable')
    const pairs: { readonly name: string; readonly nodes: readonly [Node, Node]; readonly rounds: Round[] }[] = [{ name: 'ours', nodes: await ours(lab, programs, control.url, key, values.relay), rounds: [] }]
    if (bin === '') say('left out: tailscaled (MESHWRIGHT_INTEROP_BIN is not set)')
    else pairs.push({ name: 'tailscaled', nodes: await theirs(lab, bin, control.url, key, values.relay), rounds: [] })
    const bytes = Number(values.mb) * 1e6
    for (let round = 0; round <= Number(values.rounds); round += 1) {
      for (const pair of pairs) {
        const result = await measure(pair.nodes[0], pair.nodes[1], source.port, bytes)
        say(`${round === 0 ? 'warm-up' : `round ${round}`} ${pair.name.padEnd(10)} ${result.megabitsPerSecond.toFixed(0).padStart(6)} Mbit/s  ${result.cpuSecondsPerGigabit.toFixed(2)} CPU s/Gbit  ${result.latencyMs.toFixed(2)} ms`)
        if (round > 0) pair.rounds.push(result)
      }
    }
    const of = (name: string, what: keyof Round): number => median(pairs.find((pair) => pair.name === name)?.rounds.map((round) => round[what]) ?? [])
    const figure = (name: string, what: keyof Round, must: number, aim: number | undefined): object => ({ name, ratio: of('ours', what) / of('tailscaled', what), ours: of('ours', what), baseline: of('tailscaled', what), must, ...(aim !== undefined && { aim }), rounds: Number(values.rounds) })
    const figures = [figure('userspace-throughput', 'megabitsPerSecond', 0.2, 0.5), figure('userspace-latency-p50', 'latencyMs', 1.3, undefined), { name: 'userspace-cpu', ratio: of('ours', 'cpuSecondsPerGigabit') / of('tailscaled', 'cpuSecondsPerGigabit') }]
    process.stdout.write(`${JSON.stringify({ machine, path: values.relay ? 'relay' : 'direct', figures }, null, 2)}\n`)
    return 0
  } finally {
    source.close()
    await lab.stop()
  }
}

main().then(
  (status) => (process.exitCode = status),
  (error: unknown) => {
    process.stderr.write(`bench:userspace: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  },
)
