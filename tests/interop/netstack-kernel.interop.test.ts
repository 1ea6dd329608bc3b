import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { instant } from '@meshwright/core'
import { parseIp } from '@meshwright/ip'
import { type FlowId, Netstack, type NetstackOptions, type NetstackOutput } from '@meshwright/netstack'
import { SeededRandom } from '@meshwright/testkit'
import { afterEach, describe, expect, test } from 'vitest'
import { openTun, type TunDevice } from '../../packages/runtime-node/src/tun-linux.ts'

const MB = 1_000_000
const NAMESPACE = `mwkernel${process.pid}`
const KERNEL_V4 = '10.77.1.1'
const KERNEL_V6 = 'fd77::1'
const OURS_V4 = '10.77.1.2'
const OURS_V6 = 'fd77::2'

const reason =
  process.platform !== 'linux'
    ? 'needs Linux'
    : process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync('/dev/net/tun')
    ? 'needs /dev/net/tun'
    : !(await import('koffi').then(
        () => true,
        () => false,
      ))
    ? 'needs the package koffi'
    : !works('ip', ['-V'])
    ? 'needs iproute2'
    : undefined
if (reason !== undefined && process.env.REQUIRE_INTEROP === '1') throw new Error(`the kernel interop suite cannot run: ${reason}`)

/** The kernel's side, in the namespace: one connection, `send` bytes out while all that comes is hashed; one line of JSON at the end. */
const PEER = `
const net = require('node:net'), { createCipheriv, createHash } = require('node:crypto')
const [mode, host, port, send, pauseMs] = JSON.parse(process.argv[1])
const handle = (socket) => {
  const got = createHash('sha256'); let bytes = 0
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 2), Buffer.alloc(16))
  socket.on('data', (chunk) => { got.update(chunk); bytes += chunk.length })
  if (pauseMs) { socket.pause(); setTimeout(() => socket.resume(), pauseMs) }
  socket.on('error', (error) => { console.log(JSON.stringify({ error: error.code, bytes })); process.exit(0) })
  let left = send
  const zeros = Buffer.alloc(65536)
  const more = () => {
    while (left > 0) {
      const chunk = cipher.update(zeros.subarray(0, Math.min(left, zeros.length)))
      left -= chunk.length
      if (!socket.write(chunk)) return socket.once('drain', more)
    }
    socket.end()
  }
  more()
  socket.on('close', () => { console.log(JSON.stringify({ bytes, sha256: got.digest('hex') })); process.exit(0) })
}
if (mode === 'listen') {
  const server = net.createServer({ allowHalfOpen: true }, handle)
  server.listen({ host, port }, () => console.log('ready'))
} else {
  console.log('ready')
  handle(net.connect({ host, port, allowHalfOpen: true }))
}
`

interface Faults {
  readonly loss: number
  readonly reordering: number
  readonly duplication: number
}

/** Our stack on a TUN device whose other side is in a namespace of its own; packets are lost, late and doubled in between. */
class Lab {
  readonly stack: Netstack
  readonly events: NetstackOutput[] = []
  onOutput: (output: NetstackOutput) => void = () => undefined
  readonly #random: SeededRandom
  readonly #faults: Faults
  #tun: TunDevice | undefined
  #timer: NodeJS.Timeout | undefined
  readonly #late: Set<NodeJS.Timeout> = new Set()
  #draining = false
  #peers: ChildProcess[] = []

  constructor(seed: number, faults: Faults, options: NetstackOptions = {}) {
    this.#random = new SeededRandom(seed)
    this.#faults = faults
    this.stack = new Netstack(new SeededRandom(seed + 1).bytes, { ...options, addresses: [address(OURS_V4), address(OURS_V6)] })
  }

  get now() {
    return instant(performance.now())
  }

  async open(): Promise<void> {
    execFileSync('ip', ['netns', 'add', NAMESPACE])
    const tun = await openTun({
      name: 'mwk%d',
      onPackets: (packets) => {
        for (const packet of packets) this.#disturb(packet, (bytes) => this.stack.receive(this.now, bytes))
        this.settle()
      },
    })
    this.#tun = tun
    execFileSync('ip', ['link', 'set', tun.name, 'netns', NAMESPACE])
    for (const command of [
      `addr add ${KERNEL_V4}/24 dev ${tun.name}`,
      `-6 addr add ${KERNEL_V6}/64 dev ${tun.name} nodad`,
      `link set ${tun.name} mtu 1280 up`,
      'link set lo up',
    ]) {
      execFileSync('ip', ['-n', NAMESPACE, ...command.split(' ')])
    }
  }

  async close(): Promise<void> {
    for (const peer of this.#peers) if (peer.exitCode === null) peer.kill('SIGKILL')
    clearTimeout(this.#timer)
    for (const timer of this.#late) clearTimeout(timer)
    await this.#tun?.close()
    execFileSync('ip', ['netns', 'del', NAMESPACE])
  }

  /** Performs what the stack owes and waits for its next deadline. */
  settle(): void {
    if (this.#draining) return
    this.#draining = true
    for (let output = this.stack.pollOutput(); output !== undefined; output = this.stack.pollOutput()) {
      if (output.type === 'packet') this.#disturb(output.bytes, (bytes) => this.#tun?.write(bytes))
      else {
        if (output.type !== 'data') this.events.push(output)
        this.onOutput(output)
      }
    }
    this.#draining = false
    clearTimeout(this.#timer)
    const due = this.stack.pollTimeout()
    if (due === undefined) return
    this.#timer = setTimeout(() => {
      this.stack.handleTimeout(this.now)
      this.settle()
    }, Math.max(0, Math.ceil(due - this.now)))
  }

  /** Starts the kernel's side; gives its last line. */
  async peer(
    mode: 'listen' | 'connect',
    host: string,
    port: number,
    send: number,
    pauseMs = 0,
  ): Promise<{ result: Promise<{ bytes: number; sha256?: string; error?: string }> }> {
    const child = spawn(
      'ip',
      ['netns', 'exec', NAMESPACE, process.execPath, '-e', PEER, JSON.stringify([mode, host, port, send, pauseMs])],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    this.#peers.push(child)
    let text = ''
    let ready: () => void = () => undefined
    const started = new Promise<void>((resolve) => {
      ready = resolve
    })
    child.stdout.on('data', (chunk) => {
      text += String(chunk)
      if (text.includes('ready')) ready()
    })
    const result = new Promise<{ bytes: number; sha256?: string }>((resolve, reject) => {
      child.on('close', () => {
        const line = text.trim().split('\n').at(-1) ?? ''
        if (line.startsWith('{')) resolve(JSON.parse(line))
        else reject(new Error(`the kernel's side ended without a result: ${text}`))
      })
    })
    await started
    return { result }
  }

  #disturb(packet: Uint8Array, deliver: (bytes: Uint8Array) => void): void {
    const { loss, reordering, duplication } = this.#faults
    if (this.#random.chance(loss)) return
    if (this.#random.chance(reordering)) {
      const copy = packet.slice()
      const timer = setTimeout(() => {
        this.#late.delete(timer)
        deliver(copy)
        this.settle()
      }, 1 + this.#random.below(3))
      this.#late.add(timer)
    } else deliver(packet)
    if (this.#random.chance(duplication)) deliver(packet)
  }
}

/** Sends `size` repeatable bytes on a flow and hashes what comes; the hashes once the flow has closed. */
function transfer(lab: Lab, size: number, flow: () => FlowId | undefined): Promise<{ bytes: number; sha256: string; reason: string }> {
  const got = createHash('sha256')
  let bytes = 0
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 1), Buffer.alloc(16))
  const zeros = Buffer.alloc(65_536)
  let left = size
  let rest: Uint8Array = new Uint8Array(0)
  let ended = false
  const push = (id: FlowId): void => {
    while (rest.length > 0 || left > 0) {
      if (rest.length === 0) {
        rest = cipher.update(zeros.subarray(0, Math.min(left, zeros.length)))
        left -= rest.length
      }
      rest = rest.subarray(lab.stack.write(lab.now, id, rest))
      if (rest.length > 0) return
    }
    if (!ended) lab.stack.shutdownWrite(lab.now, id)
    ended = true
  }
  return new Promise((resolve) => {
    lab.onOutput = (output) => {
      const id = flow()
      if (id === undefined || !('flow' in output) || output.flow !== id) return
      if (output.type === 'opened' || output.type === 'writable') push(id)
      else if (output.type === 'data') {
        got.update(output.bytes)
        bytes += output.bytes.length
        lab.stack.consumed(lab.now, id, output.bytes.length)
      } else if (output.type === 'closed') resolve({ bytes, sha256: got.digest('hex'), reason: output.reason })
    }
  })
}

/** SHA-256 of the repeatable bytes: `1` ours, `2` the kernel's. */
function expected(key: 1 | 2, size: number): string {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, key), Buffer.alloc(16))
  const hash = createHash('sha256')
  const zeros = Buffer.alloc(MB)
  for (let left = size; left > 0; left -= MB) hash.update(cipher.update(zeros.subarray(0, Math.min(left, MB))))
  return hash.digest('hex')
}

function address(text: string) {
  const ip = parseIp(text)
  if (ip === undefined) throw new Error(text)
  return ip
}

function works(command: string, args: string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

describe.skipIf(reason !== undefined)(`the kernel's TCP as the peer${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  let lab: Lab | undefined
  afterEach(async () => {
    await lab?.close()
    lab = undefined
  })

  async function start(seed: number, faults: Partial<Faults> = {}, options: NetstackOptions = {}): Promise<Lab> {
    lab = new Lab(seed, { loss: 0, reordering: 0, duplication: 0, ...faults }, options)
    await lab.open()
    return lab
  }

  async function weConnect(
    host: string,
    size: number,
    seed: number,
    faults: Partial<Faults>,
    options: NetstackOptions = {},
  ): Promise<void> {
    const here = await start(seed, faults, options)
    const peer = await here.peer('listen', host, 5001, size)
    const flow = here.stack.connectTcp(here.now, { ip: address(host), port: 5001 })
    const began = performance.now()
    const done = transfer(here, size, () => flow)
    here.settle()
    const [ours, kernels] = await Promise.all([done, peer.result])
    expect(kernels).toEqual({ bytes: size, sha256: expected(1, size) })
    expect(ours).toEqual({ bytes: size, sha256: expected(2, size), reason: 'finished' })
    console.log(
      `${size / MB} MB both ways to ${host} with ${JSON.stringify(faults)}: ${(
        ((size * 2 * 8) / MB / (performance.now() - began)) *
        1000
      ).toFixed(0)} Mbit/s`,
    )
  }

  test('we connect: 100 MB both ways at once under loss, reordering and duplication, equal SHA-256', async () => {
    await weConnect(KERNEL_V4, 100 * MB, 1, { loss: 0.01, reordering: 0.01, duplication: 0.01 })
  })

  test('the kernel connects over IPv6: 100 MB both ways at once under loss, reordering and duplication, equal SHA-256', async () => {
    const size = 100 * MB
    const here = await start(2, { loss: 0.001, reordering: 0.005, duplication: 0.005 })
    here.stack.listenTcp(5002)
    let flow: FlowId | undefined
    const done = transfer(here, size, () => flow)
    const inner = here.onOutput
    here.onOutput = (output) => {
      if (output.type === 'opened') flow = output.flow
      inner(output)
    }
    const peer = await here.peer('connect', OURS_V6, 5002, size)
    const [ours, kernels] = await Promise.all([done, peer.result])
    expect(kernels).toEqual({ bytes: size, sha256: expected(1, size) })
    expect(ours).toEqual({ bytes: size, sha256: expected(2, size), reason: 'finished' })
  })

  for (const [loss, size] of [
    [0.01, 10 * MB],
    [0.05, 2 * MB],
    [0.1, MB],
  ] as const) {
    test(`${loss * 100} % loss with reordering, ${size / MB} MB both ways`, async () => {
      await weConnect(KERNEL_V4, size, 3, { loss, reordering: 0.02, duplication: 0.02 })
    })
  }

  test('without faults, 100 MB both ways', async () => {
    await weConnect(KERNEL_V4, 100 * MB, 4, {})
  })

  test('without SACK, timestamps and window scaling on our side, 5 MB both ways', async () => {
    await weConnect(
      KERNEL_V4,
      5 * MB,
      5,
      { loss: 0.01, reordering: 0.01, duplication: 0.01 },
      { selectiveAcks: false, timestamps: false, windowScaling: false },
    )
  })

  test('a kernel reader that pauses closes its window; everything arrives once it goes on', async () => {
    const here = await start(6)
    const peer = await here.peer('listen', KERNEL_V4, 5001, 1000, 3_000)
    const flow = here.stack.connectTcp(here.now, { ip: address(KERNEL_V4), port: 5001 })
    const done = transfer(here, 20 * MB, () => flow)
    here.settle()
    const [ours, kernels] = await Promise.all([done, peer.result])
    expect(kernels).toEqual({ bytes: 20 * MB, sha256: expected(1, 20 * MB) })
    expect(ours.sha256).toBe(expected(2, 1000))
  })

  test('a closed kernel port refuses, an open one of ours refuses the kernel when closed', async () => {
    const here = await start(7)
    const flow = here.stack.connectTcp(here.now, { ip: address(KERNEL_V4), port: 9 })
    const closed = new Promise<NetstackOutput>((resolve) => {
      here.onOutput = (output) => {
        if (output.type === 'closed' && output.flow === flow) resolve(output)
      }
    })
    here.settle()
    expect(await closed).toMatchObject({ type: 'closed', reason: 'refused' })
    const peer = await here.peer('connect', OURS_V4, 81, 10)
    expect(await peer.result).toMatchObject({ error: 'ECONNREFUSED' })
  })

  test('both sides answer pings', async () => {
    const here = await start(8)
    const ping = here.stack.ping(here.now, address(KERNEL_V6), { bytes: new Uint8Array(2000) })
    const replied = new Promise<NetstackOutput>((resolve) => {
      here.onOutput = (output) => {
        if ((output.type === 'echoReply' || output.type === 'echoFailed') && output.ping === ping) resolve(output)
      }
    })
    here.settle()
    expect(await replied).toMatchObject({ type: 'echoReply', bytes: new Uint8Array(2000) })
  })
})
