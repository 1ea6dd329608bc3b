import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import path from 'node:path'
import readline from 'node:readline'
import { formatHex } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'
import { parseUapi } from '@meshwright/wireguard/text'
import { buildSync } from 'esbuild'
import { afterAll, beforeAll, expect, test, type TestContext } from 'vitest'
import { buildOurs, type End, Lab, type Opponent } from '../../benchmarks/dataplane/lab.ts'
import type { DataPlaneAnswer, DataPlaneCommand } from './dataplane-child.ts'
import { DATAGRAM_SCRIPT, TRANSFER_SCRIPT, transferHash } from './dataplane-ends.ts'
import { fire, whyNoFire } from '../fire/fire.ts'
import type { FireLane } from '../fire/words.ts'
import { CHOSEN_LANE, notOnLane } from './lanes.ts'
import type { ManyPeersResult } from './many-peers-child.ts'
import { type Ends, MeshPair } from './mesh-pair.ts'
import { WIREGUARD_GO, whyNoNamespaces } from './wireguard-programs.ts'

// The lanes of the data plane between two kernels, each against itself and against wireguard-go: bytes arrive as they were sent.
const REQUIRED = process.env['REQUIRE_INTEROP'] === '1'
/** 1 for the amounts of a release: 200 MB and 10^6 datagrams each way on every lane. */
const FULL = process.env['DATAPLANE_FULL'] === '1'
const missing = whyNoNamespaces() ?? (spawnSync('ping', ['-V']).status === 0 ? undefined : 'ping is not installed')
const PORT = 7000
/** The lane of the flows that are about any lane: that of `npm run test:interop -- --lane LANE dataplane`. */
const CHOSEN = { MESHWRIGHT_DATAPLANE: CHOSEN_LANE ?? 'offload' }
const ON_THE_EVENT_LOOP = CHOSEN_LANE === 'portable'
/** Why flows about the worker say nothing on the lane that was asked for. */
const NO_WORKER = ON_THE_EVENT_LOOP ? 'the event loop has no worker' : undefined

let ours: ReturnType<typeof buildOurs> | undefined
beforeAll(() => {
  if (missing === undefined) ours = buildOurs()
})
afterAll(() => ours?.remove())

function leaveOut(context: TestContext, reason: string): never {
  Object.assign(context.task.meta, { skipReason: reason })
  return context.skip(reason)
}

/** @param senseless why it says nothing on the lane that was asked for */
function flow(title: string, skip: string | undefined, run: (lab: Lab, file: string) => Promise<void>, senseless?: string): void {
  test(title, { timeout: FULL ? 600_000 : 180_000 }, async (context) => {
    if (senseless !== undefined) return notOnLane(context, senseless)
    if (skip !== undefined && !REQUIRED) return leaveOut(context, skip)
    if (skip !== undefined || ours === undefined) throw new Error(skip ?? 'not built')
    const lab = new Lab()
    try {
      await run(lab, ours.file)
    } finally {
      await lab.close()
    }
  })
}

/** The next lines that a program prints, as JSON. */
function answers(child: ChildProcess): () => Promise<unknown> {
  if (child.stdout === null) throw new Error('no output')
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return async () => {
    const { value, done } = await lines.next()
    if (done === true) throw new Error('the program has ended')
    return JSON.parse(value)
  }
}

async function transfer(lab: Ends, address: string, megabytes: number): Promise<readonly unknown[]> {
  const server = lab.background(process.execPath, '--input-type=module', '-e', TRANSFER_SCRIPT, JSON.stringify(['listen', address, PORT, megabytes]))
  const theirs = answers(server)
  await theirs()
  const own = JSON.parse(await lab.inA(process.execPath, '--input-type=module', '-e', TRANSFER_SCRIPT, JSON.stringify(['connect', address, PORT, megabytes])))
  const result = [own, await theirs()]
  await lab.stop(server)
  return result
}

interface Got {
  readonly whole: number
  readonly changed: number
  readonly again: number
  /** By the kernel, since the receiver's socket was full: lost neither by a lane nor by a device. */
  readonly refused: number
}

const datagramScript = (...settings: readonly (string | number)[]): readonly string[] => ['--input-type=module', '-e', DATAGRAM_SCRIPT, JSON.stringify(settings)]

async function datagrams(lab: Ends, address: string, count: number, bytes: number): Promise<Got> {
  const receiver = lab.background(process.execPath, ...datagramScript('receive', address, PORT, count, bytes))
  await answers(receiver)()
  const got: Got = JSON.parse(await lab.inA(process.execPath, ...datagramScript('send', address, PORT, count, bytes)))
  await lab.stop(receiver)
  return got
}

/** The same from B to A. */
async function datagramsBack(lab: Ends, address: string, count: number, bytes: number): Promise<Got> {
  const receiver = spawn('ip', ['netns', 'exec', lab.a, process.execPath, ...datagramScript('receive', address, PORT, count, bytes)], { stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    await answers(receiver)()
    const sender = lab.background(process.execPath, ...datagramScript('send', address, PORT, count, bytes))
    return (await answers(sender)()) as Got // what the script writes
  } finally {
    receiver.kill('SIGKILL')
  }
}

function ip(...words: readonly string[]): void {
  expect([words.join(' '), spawnSync('ip', words).status]).toEqual([words.join(' '), 0])
}

/** Lines of a UAPI `set`. */
async function tell(lab: Lab, end: End, lines: readonly string[]): Promise<void> {
  const request = parseUapi(['set=1', ...lines])
  if (request.type !== 'set') throw new Error('no set')
  await lab.set(end, request.changes)
}

/** Three echoes of a size come back. One at a time: after the first answer of several, ping waits for the others no longer than two round trips. */
async function echoes(lab: Lab, size: number): Promise<void> {
  for (let i = 0; i < 3; i += 1) expect(await lab.inA('ping', '-c', '1', '-W', '20', '-s', String(size), '10.88.0.2')).toContain('1 received')
}

const lane = (file: string, env: Readonly<Record<string, string>>): Opponent => ({ name: 'ours', file: process.execPath, args: [file, '-f'], env: { LOG_LEVEL: 'silent', ...env } })
const go = (): Opponent => ({ name: 'go', file: WIREGUARD_GO.file ?? 'wireguard', args: ['-f'], env: { LOG_LEVEL: 'silent' } })

const LANES: readonly (readonly [string, Readonly<Record<string, string>>, number])[] = [
  ['all offloads', { MESHWRIGHT_DATAPLANE: 'offload' }, 200],
  ['all offloads, WASM alone', { MESHWRIGHT_DATAPLANE: 'offload', MESHWRIGHT_CRYPTO: 'wasm' }, 50],
  ['no offloads', { MESHWRIGHT_DATAPLANE: 'noffload' }, 20],
  ['the event loop', { MESHWRIGHT_DATAPLANE: 'portable' }, 10],
]

/** The flows about one lane run there, and where none was asked for. */
function aboutAnother(env: Readonly<Record<string, string>>): string | undefined {
  const crypto = process.env['MESHWRIGHT_CRYPTO'] ?? env['MESHWRIGHT_CRYPTO']
  return CHOSEN_LANE === undefined || (env['MESHWRIGHT_DATAPLANE'] === CHOSEN_LANE && env['MESHWRIGHT_CRYPTO'] === crypto) ? undefined : 'it is about another lane, which its name tells'
}

/** Half of them long and half of them short, each way: each arrives once, as it was sent. */
async function allArrive(lab: Ends, [a, b]: readonly [string, string], count: number, name: string): Promise<void> {
  for (const bytes of [1200, 64]) {
    for (const got of [await datagrams(lab, b, count / 2, bytes), await datagramsBack(lab, a, count / 2, bytes)]) {
      expect(got).toEqual({ whole: count / 2, changed: 0, again: 0, refused: 0 })
      if (FULL) process.stderr.write(`${name}: ${got.whole} of ${count / 2} datagrams of ${bytes} bytes\n`)
    }
  }
}

for (const [name, env, quick] of LANES) {
  const megabytes = FULL ? 200 : quick
  const run = async (lab: Lab, file: string): Promise<void> => {
    await lab.pair(lane(file, env))
    const whole = { bytes: megabytes << 20, sha256: transferHash(megabytes) }
    expect(await transfer(lab, '10.88.0.2', megabytes)).toEqual([whole, whole])
    const count = FULL ? 1_000_000 : 20_000
    await allArrive(lab, ['10.88.0.1', '10.88.0.2'], count, name)
  }
  flow(`${megabytes} MB each way and datagrams arrive intact: ${name}`, missing, run, aboutAnother(env))
}

// Of a release: real clients on every lane are in tailscaled-tun.
if (FULL) {
  for (const [name, env] of LANES) {
    test(`two mesh nodes, 200 MB each way and datagrams arrive intact: ${name}`, { timeout: 600_000 }, async (context) => {
      const senseless = aboutAnother(env)
      if (senseless !== undefined) return notOnLane(context, senseless)
      if (missing !== undefined) throw new Error(missing)
      const pair = await MeshPair.start(env)
      try {
        const whole = { bytes: 200 << 20, sha256: transferHash(200) }
        expect(await transfer(pair.ends, pair.addresses[1], 200)).toEqual([whole, whole])
        await allArrive(pair.ends, pair.addresses, 1_000_000, `mesh nodes, ${name}`)
        expect(await pair.lanes()).toEqual([0, 1].map(() => expect.objectContaining({ Lane: env['MESHWRIGHT_DATAPLANE'] === 'portable' ? 'portable' : 'worker', Restarts: 0, Reason: expect.not.stringContaining('died') })))
      } finally {
        await pair.stop()
      }
    })
  }
}

flow('our rows and those of wireguard-go: 50 MB each way', missing ?? WIREGUARD_GO.missing, async (lab, file) => {
  await lab.pair(lane(file, CHOSEN), go())
  const whole = { bytes: 50 << 20, sha256: transferHash(50) }
  expect(await transfer(lab, '10.88.0.2', 50)).toEqual([whole, whole])
  expect((await datagrams(lab, '10.88.0.2', 5_000, 1200)).changed).toBe(0)
})

flow('a tunnel of 9000, of 1280 and of 576 bytes; what is too long comes in fragments', missing, async (lab, file) => {
  const ends = await lab.pair(lane(file, CHOSEN))
  for (const mtu of [9000, 1280, 576]) {
    for (const { namespace, interfaceName } of ends) expect(spawnSync('ip', ['-n', namespace, 'link', 'set', interfaceName, 'mtu', String(mtu)]).status).toBe(0)
    expect(await transfer(lab, '10.88.0.2', 5)).toEqual([0, 1].map(() => ({ bytes: 5 << 20, sha256: transferHash(5) })))
    for (const size of [mtu - 28, 20_000]) await echoes(lab, size)
    // Too long to be sent whole: the kernel says so by itself.
    expect(await lab.inA('sh', '-c', `ping -c 1 -W 2 -M do -s ${mtu} 10.88.0.2 2>&1 || true`)).toMatch(/message too long|Frag needed/i)
  }
})

const installed = (...programs: readonly string[]): string | undefined => programs.map((program) => (spawnSync('sh', ['-c', `command -v ${program}`]).status === 0 ? undefined : `${program} is not installed`)).find((why) => why !== undefined)

/** Two ends whose wire has IPv6 alone. */
class OuterIpv6 {
  readonly a: End
  readonly b: End
  readonly #lab: Lab

  private constructor(lab: Lab, a: End, b: End) {
    this.#lab = lab
    this.a = a
    this.b = b
  }

  static async start(lab: Lab, opponent: Opponent): Promise<OuterIpv6> {
    const [a, b] = await lab.pair(opponent)
    const pair = new OuterIpv6(lab, a, b)
    pair.wire()
    const know = (end: End, other: End, inner: string, host: number): Promise<void> => tell(lab, end, [`public_key=${formatHex(other.key.publicKey().bytes)}`, `endpoint=[${pair.outside(host)}]:5000`, `allowed_ip=${inner}/32`])
    await know(a, b, '10.88.0.2', 2)
    await know(b, a, '10.88.0.1', 1)
    await lab.reach('10.88.0.2')
    return pair
  }

  outside(host: number): string {
    return `fd87::${host}`
  }

  /** The addresses of a wire that is new. */
  wire(): void {
    for (const [i, namespace] of [this.#lab.a, this.#lab.b].entries()) {
      ip('-n', namespace, '-4', 'addr', 'flush', 'dev', 'wire')
      ip('-n', namespace, 'addr', 'add', `${this.outside(i + 1)}/64`, 'dev', 'wire', 'nodad')
    }
  }
}

const marks = async (lab: Lab, file: string): Promise<void> => {
  const { b } = await OuterIpv6.start(lab, lane(file, CHOSEN))
  // What a capture in B shows first, while A sends packets that may be marked.
  const captured = async (device: string, filter: string): Promise<boolean> => {
    const capture = spawn('ip', ['netns', 'exec', lab.b, 'timeout', '30', 'tcpdump', '-i', device, '-n', '-c', '1', '-w', '/dev/null', filter], { stdio: 'ignore' })
    const found = new Promise<boolean>((resolve) => capture.once('exit', (status) => resolve(status === 0)))
    let over = false
    void found.then(() => (over = true))
    while (!over) await lab.inA('ping', '-c', '3', '-i', '0.2', '-W', '1', '-Q', '2', '10.88.0.2').catch(() => '')
    return found
  }
  // Two bits of the traffic class: ECT(0) goes out on the outer header.
  expect(await captured('wire', 'ip6 and udp port 5000 and ip6[0:2] & 0x0030 == 0x0020')).toBe(true)
  // The network marks the outer header, and the inner one comes out marked.
  const nft = (words: string): void => expect([words, spawnSync('ip', ['netns', 'exec', lab.b, 'nft', words]).status]).toEqual([words, 0])
  nft('add table ip6 marking; add chain ip6 marking incoming { type filter hook prerouting priority 0; }; add rule ip6 marking incoming udp dport 5000 ip6 ecn set ce')
  expect(await captured(b.interfaceName, 'icmp and ip[1] & 3 == 3')).toBe(true)
  nft('delete table ip6 marking')
}
flow('marks of congestion go out to the outer header and come in from it', missing ?? installed('nft', 'tcpdump'), marks, ON_THE_EVENT_LOOP ? 'sockets of Node neither set nor tell marks of congestion' : undefined)

flow('outside all is IPv6: a wire that goes and comes back, an address that changes, a path that becomes narrow', missing, async (lab, file) => {
  const pair = await OuterIpv6.start(lab, lane(file, CHOSEN))
  expect(await transfer(lab, '10.88.0.2', 5)).toEqual([0, 1].map(() => ({ bytes: 5 << 20, sha256: transferHash(5) })))
  await echoes(lab, 20_000)

  ip('-n', lab.a, 'link', 'del', 'wire')
  expect(await lab.inA('ping', '-c', '1', '-W', '1', '10.88.0.2').then(() => 'answered', () => 'silent')).toBe('silent')
  ip('link', 'add', 'wire', 'netns', lab.a, 'type', 'veth', 'peer', 'name', 'wire', 'netns', lab.b)
  for (const namespace of [lab.a, lab.b]) ip('-n', namespace, 'link', 'set', 'wire', 'up')
  pair.wire()
  await lab.reach('10.88.0.2')

  // B is somewhere else; A learns of it from the first packet.
  ip('-n', lab.b, 'addr', 'del', `${pair.outside(2)}/64`, 'dev', 'wire')
  ip('-n', lab.b, 'addr', 'add', `${pair.outside(22)}/64`, 'dev', 'wire', 'nodad')
  for (let i = 0; i < 40 && spawnSync('ip', ['netns', 'exec', lab.b, 'ping', '-c', '1', '-W', '1', '10.88.0.1']).status !== 0; i += 1);
  await lab.reach('10.88.0.2')

  // Too narrow for the tunnel's datagrams: rows are refused there, and the kernel sends fragments.
  for (const namespace of [lab.a, lab.b]) ip('-n', namespace, 'link', 'set', 'wire', 'mtu', '1280')
  expect(await transfer(lab, '10.88.0.2', 2)).toEqual([0, 1].map(() => ({ bytes: 2 << 20, sha256: transferHash(2) })))
})

// Of a release: a busy computer takes long over it.
if (FULL) flow('an address moves from one tunnel to another and back while TCP flows, and devices go down and up: every byte arrives', missing, async (lab, file) => {
  const [a, b] = await lab.pair(lane(file, CHOSEN))
  const c = await lab.start(lab.b, lane(file, CHOSEN), 5001, '10.88.1.2/32')
  const keyOf = (end: End): string => `public_key=${formatHex(end.key.publicKey().bytes)}`
  await tell(lab, c, [keyOf(a), 'endpoint=10.87.0.1:5000', 'allowed_ip=10.88.0.1/32'])
  await tell(lab, a, [keyOf(c), 'endpoint=10.87.0.2:5001', keyOf(b), 'allowed_ip=10.88.0.9/32'])
  ip('-n', lab.b, 'addr', 'add', '10.88.0.9/32', 'dev', 'lo')
  await lab.reach('10.88.0.9')
  let [moves, over] = [0, false]
  const moving = (async (): Promise<void> => {
    while (!over && moves < 9) {
      const to = moves % 2 === 0 ? c : b
      // The way there and the way back.
      await tell(lab, a, [keyOf(to), 'allowed_ip=10.88.0.9/32'])
      ip('-n', lab.b, 'route', 'replace', '10.88.0.1/32', 'dev', to.interfaceName)
      if (moves % 3 === 2) for (const state of ['down', 'up']) ip('-n', lab.a, 'link', 'set', a.interfaceName, state)
      moves += 1
      await new Promise((resolve) => setTimeout(resolve, 150))
    }
  })()
  try {
    for (let i = 0; i < 20 && moves < 9; i += 1) expect(await transfer(lab, '10.88.0.9', 5)).toEqual([0, 1].map(() => ({ bytes: 5 << 20, sha256: transferHash(5) })))
  } finally {
    over = true
    await moving
  }
  expect(moves).toBeGreaterThanOrEqual(9)
})

flow('a router on the way that is too narrow says so (ICMP too big): every byte arrives', missing, async (lab, file) => {
  const [a, b] = await lab.pair(lane(file, CHOSEN))
  const router = `${lab.a}r`
  ip('netns', 'add', router)
  try {
    ip('-n', lab.a, 'link', 'del', 'wire')
    for (const [namespace, end, own, other] of [[lab.a, 'west', '10.87.0.1', '10.87.0.254'], [lab.b, 'east', '10.87.1.2', '10.87.1.254']] as const) {
      ip('link', 'add', 'wire', 'netns', namespace, 'type', 'veth', 'peer', 'name', end, 'netns', router)
      ip('-n', namespace, 'addr', 'add', `${own}/24`, 'dev', 'wire')
      ip('-n', router, 'addr', 'add', `${other}/24`, 'dev', end)
      if (end === 'east') for (const [space, device] of [[namespace, 'wire'], [router, end]] as const) ip('-n', space, 'link', 'set', device, 'mtu', '1280')
      ip('-n', namespace, 'link', 'set', 'wire', 'up')
      ip('-n', router, 'link', 'set', end, 'up')
      ip('-n', namespace, 'route', 'add', 'default', 'via', other)
    }
    ip('netns', 'exec', router, 'sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
    await tell(lab, a, [`public_key=${formatHex(b.key.publicKey().bytes)}`, 'endpoint=10.87.1.2:5000'])
    await lab.reach('10.88.0.2')
    expect(await transfer(lab, '10.88.0.2', 5)).toEqual([0, 1].map(() => ({ bytes: 5 << 20, sha256: transferHash(5) })))
    // Rows go without the mark that forbids cutting them (longer than the MTU as a whole; net/ipv4/ip_output.c, __ip_make_skb), so the router cuts
    // what they become. A datagram alone bears it: the first is lost, and teaches what the way takes.
    await lab.inA('sh', '-c', 'ping -c 3 -i 0.2 -W 1 -s 20000 10.88.0.2 || true')
    await echoes(lab, 20_000)
    expect(await lab.inA('ip', 'route', 'get', '10.87.1.2')).toContain('mtu 1280')
  } finally {
    spawnSync('ip', ['netns', 'del', router])
  }
})

/** A child in B with an interface that can be asked and made to fail, and an interface of meshwright-wg in A that it knows. */
async function withChild(lab: Lab, file: string, name: string, mode: string): Promise<{ readonly key: string; readonly ask: (command: DataPlaneCommand) => Promise<DataPlaneAnswer>; readonly child: ChildProcess }> {
  const bundle = path.join(path.dirname(file), 'dataplane-child.mjs')
  buildSync({
    entryPoints: [path.join(import.meta.dirname, 'dataplane-child.ts')], outfile: bundle, bundle: true, platform: 'node', format: 'esm', target: 'node20',
    conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error',
    banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
  })
  const a = await lab.start(lab.a, lane(file, {}), 5000, '10.88.0.1/24')
  const key = NodePrivateKey.generate(systemRandom)
  const child = lab.talking(process.execPath, bundle, name, mode)
  const next = answers(child)
  const ask = async (command: DataPlaneCommand): Promise<DataPlaneAnswer> => {
    child.stdin?.write(`${JSON.stringify(command)}\n`)
    return (await next()) as DataPlaneAnswer // what the child writes
  }
  expect(await next()).toBe('ready')
  await ask({
    op: 'set',
    lines: [`private_key=${formatHex(key.secretBytes)}`, 'listen_port=5000', `public_key=${formatHex(a.key.publicKey().bytes)}`, 'endpoint=10.87.0.1:5000', 'allowed_ip=10.88.0.1/32'],
  })
  spawnSync('ip', ['-n', lab.b, 'addr', 'add', '10.88.0.2/24', 'dev', name])
  spawnSync('ip', ['-n', lab.b, 'link', 'set', name, 'mtu', '1420', 'up'])
  await lab.know(a, { ...a, key }, '10.88.0.2/32', { host: 2, port: 5000 })
  await lab.reach('10.88.0.2')
  return { key: formatHex(a.key.publicKey().bytes), ask, child }
}

for (const [suffix, offload] of [['no-tso', 'tso'], ['no-uso', 'uso'], ['no-join', 'udpJoin'], ['no-gso', 'gso'], ['no-gro', 'gro']] as const) {
  flow(`${suffix} leaves one offload out, and all bytes arrive`, missing, async (lab, file) => {
    const { ask } = await withChild(lab, file, `l${suffix}`, `offload,${suffix}`)
    const { offloads } = await ask({ op: 'status' })
    expect(Object.entries(offloads).flatMap(([name, on]) => (on ? [] : [name]))).toEqual([offload])
    expect(await transfer(lab, '10.88.0.2', 5)).toEqual([0, 1].map(() => ({ bytes: 5 << 20, sha256: transferHash(5) })))
    expect((await datagrams(lab, '10.88.0.2', 1_000, 1200)).changed).toBe(0)
  }, CHOSEN.MESHWRIGHT_DATAPLANE === 'offload' ? undefined : 'it has no offloads that could be left out')
}

flow('a worker that dies or hangs is started again over the same device and sockets, shakes hands anew, and says so', missing, async (lab, file) => {
  const { key, ask, child } = await withChild(lab, file, 'dying', CHOSEN.MESHWRIGHT_DATAPLANE)
  for (const [i, op] of (['fail', 'hang', 'fail'] as const).entries()) {
    const death = i + 1
    const { counted } = await ask({ op: 'status' })
    expect(counted).toHaveLength(4)
    await ask({ op })
    let status = await ask({ op: 'status' })
    // Nobody sends anything: the handshake is the new worker's own.
    for (let tries = 0; tries < 400 && (status.restarts < death || status.established.length === 0); tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      status = await ask({ op: 'status' })
    }
    expect(status).toMatchObject({ restarts: death, established: [key] })
    expect(status.log.at(-1)).toContain(op === 'hang' ? 'no sign of life for 5 s): it is started again' : 'asked to fail): it is started again')
    await lab.reach('10.88.0.2')
    const after = (await ask({ op: 'status' })).counted
    expect(counted.every((count, each) => (after[each] ?? 0) > count)).toBe(true)
  }
  // Again and again: it goes on without offloads, and where there are none it is tried again after pauses.
  let status = await ask({ op: 'status' })
  const { counted } = status
  const wanted = CHOSEN.MESHWRIGHT_DATAPLANE === 'noffload' ? 'again and again: it is started again in ' : 'without offloads'
  for (let death = 0; death < 30 && status.log.at(-1)?.includes(wanted) !== true; death += 1) {
    const told = status.log.length
    await ask({ op: 'fail' })
    for (let tries = 0; tries < 400 && status.log.length === told; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      status = await ask({ op: 'status' })
    }
  }
  expect(status.log.at(-1)).toContain(wanted)
  expect(status.trouble).toContain('start the program anew')
  await lab.reach('10.88.0.2')
  expect(await transfer(lab, '10.88.0.2', 2)).toEqual([0, 1].map(() => ({ bytes: 2 << 20, sha256: transferHash(2) })))
  const last = await ask({ op: 'status' })
  expect([Object.values(last.offloads).some((on) => on), last.counted.every((count, each) => count > (counted[each] ?? 0))]).toEqual([false, true])
  child.stdin?.write(`${JSON.stringify({ op: 'close' })}\n`)
}, NO_WORKER)

const ECHO = "const s = require('node:dgram').createSocket({ type: 'udp4', recvBufferSize: 4 << 20 }); s.on('message', (b, from) => s.send(b, from.port, from.address)); s.bind(7, '10.88.0.1', () => console.log(1))"

// A thousand in `many-peers.test.ts` always, and here in full runs: their handshakes alone take half a minute where others use the processor.
const MANY = FULL ? 1_000 : 250

flow(`${MANY} peers at once: each asks and is answered, none hears what is another's`, missing, async (lab, file) => {
  const a = await lab.start(lab.a, lane(file, CHOSEN), 5000, '10.88.0.1/16')
  const bundle = path.join(path.dirname(file), 'many-peers-child.mjs')
  buildSync({
    entryPoints: [path.join(import.meta.dirname, 'many-peers-child.ts')], outfile: bundle, bundle: true, platform: 'node', format: 'esm', target: 'node20',
    conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi', 'ws'], logLevel: 'error',
    banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
  })
  const places = Array.from({ length: 100 }, (_, i) => `10.87.0.${100 + i}`)
  spawnSync('ip', ['-n', lab.b, '-batch', '-'], { input: places.map((place) => `addr add ${place}/24 dev wire`).join('\n') })
  const child = lab.talking(process.execPath, bundle, '10.87.0.1', '5000', formatHex(a.key.publicKey().bytes), String(MANY), places.join())
  const next = answers(child)
  const keys = (await next()) as readonly (readonly [string, string])[] // what the child writes
  const lines = keys.flatMap(([key, address]) => [`public_key=${key}`, `allowed_ip=${address}/32`])
  const request = parseUapi(['set=1', ...lines])
  if (request.type !== 'set') throw new Error('no set')
  await lab.set(a, request.changes)
  const echo = spawn('ip', ['netns', 'exec', lab.a, process.execPath, '-e', ECHO], { stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    await answers(echo)()
    child.stdin?.write('go\n')
    expect(await next()).toEqual({ established: MANY, answered: MANY, wrong: 0 } satisfies ManyPeersResult)
  } finally {
    echo.kill('SIGKILL')
  }
})

for (const [lane, name, seconds] of [['mesh', 'of a mesh node', 15], ['engine', 'of meshwright-wg', 10]] as const satisfies readonly (readonly [FireLane, string, number])[]) {
  test(`under fire, the lane ${name}: rekeys, peers and policies that change, forced garbage collection; nothing is lost, nothing denied comes through`, { timeout: 400_000 }, async (context) => {
    const skip = missing ?? whyNoFire()
    if (NO_WORKER !== undefined) return notOnLane(context, NO_WORKER)
    if (skip !== undefined && !REQUIRED) return leaveOut(context, skip)
    const { findings } = await fire({ lane, seconds, mode: CHOSEN.MESHWRIGHT_DATAPLANE, gentle: true })
    expect(findings.filter(({ ok }) => !ok)).toEqual([])
  })
}
