import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { buildSync } from 'esbuild'
import { Lab } from '../../benchmarks/dataplane/lab.ts'
import { type Finding, judge, type Phase, type Sample } from './judge.ts'
import { type Allowed, endsOf, type FireLane, GUEST, INNER, microseconds, type NodeAnswer, type NodeCommand, type NodeStatus, type Seen, type Sent } from './words.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const MTU: Readonly<Record<FireLane, number>> = { mesh: 1280, engine: 1420 }
/** A handshake is not begun within five seconds of the last one. */
const REKEY_MS = 5_100
const POLICY_MS = 1_000
const SAMPLE_MS = 5_000
const FIRST_OTHER = 3
const OTHERS = 100
const START_MS = 60_000
const MORE_MS = 90_000

/** How long and on what. */
export interface FireOptions {
  readonly lane: FireLane
  readonly seconds: number
  /** Value of `MESHWRIGHT_DATAPLANE` for both ends: `offload`, `noffload` and so on. */
  readonly mode: string
  /** Beside other tests: their programs go first, and TCP does not take all that there is. */
  readonly gentle?: boolean
  readonly onProgress?: (line: string) => void
}

/** What came of it. */
export interface FireReport {
  readonly lane: FireLane
  readonly mode: string
  readonly seconds: number
  readonly ok: boolean
  readonly findings: readonly Finding[]
}

/** Why it cannot be done here; `undefined` when it can. */
export function whyNoFire(): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'network namespaces and TUN devices need Linux and root'
  for (const program of ['ip', 'iperf3', 'tcpdump', 'tc']) if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return `${program} is not installed`
  return undefined
}

/** Two ends on lanes of ours, under load from all sides for as long as is asked; nothing is left behind. */
export async function fire(options: FireOptions): Promise<FireReport> {
  mkdirSync(path.join(ROOT, '.cache'), { recursive: true })
  const folder = mkdtempSync(path.join(ROOT, '.cache', 'fire-'))
  const lab = new Lab()
  const ground = new Ground(lab, folder, options)
  const drop = (): void => {
    ground.abandon()
    lab.abandon()
    rmSync(folder, { recursive: true, force: true })
    process.exit(130)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, drop)
  try {
    return await ground.run()
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, drop)
    await ground.close()
    await lab.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A program in a namespace that answers in lines. */
class Talker {
  readonly child: ChildProcess
  readonly #lines: string[] = []
  readonly #waiting: ((line: string) => void)[] = []
  #ended = false
  onLine: ((line: string) => void) | undefined

  constructor(namespace: string, file: string, args: readonly string[], priority: number) {
    this.child = spawn('nice', ['-n', String(priority), 'ip', 'netns', 'exec', namespace, file, ...args], { stdio: ['pipe', 'pipe', file === 'tcpdump' ? 'ignore' : 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } })
    this.child.once('exit', () => {
      this.#ended = true
      for (const done of this.#waiting.splice(0)) done('')
    })
    this.child.stdin?.on('error', () => undefined)
    if (this.child.stdout === null) throw new Error('no output')
    readline.createInterface({ input: this.child.stdout }).on('line', (line) => {
      if (this.onLine !== undefined) return this.onLine(line)
      const done = this.#waiting.shift()
      if (done === undefined) this.#lines.push(line)
      else done(line)
    })
  }

  async line(): Promise<string> {
    const line = this.#lines.shift() ?? (this.#ended ? '' : await new Promise<string>((resolve) => this.#waiting.push(resolve)))
    if (line === '') throw new Error('a program of the test has ended')
    return line
  }

  async ask(command: NodeCommand): Promise<NodeAnswer> {
    this.child.stdin?.write(`${JSON.stringify(command)}\n`)
    return JSON.parse(await this.line()) as NodeAnswer // what the child writes
  }

  async end(): Promise<void> {
    if (this.#ended) return
    const ended = new Promise((resolve) => this.child.once('exit', resolve))
    this.child.stdin?.end()
    const forced = setTimeout(() => this.child.kill('SIGKILL'), 5_000)
    await ended
    clearTimeout(forced)
  }
}

class Ground {
  readonly #lab: Lab
  readonly #folder: string
  readonly #options: FireOptions
  readonly #talkers: Talker[] = []
  readonly #others: Set<number> = new Set()
  readonly #phases: Phase[] = []
  readonly #absences: { readonly from: number; until: number }[] = []
  readonly #toGuest: number[] = []
  readonly #seen: Seen['got'][number][] = []
  readonly #samples: Sample[] = []
  readonly #handshakes: Set<number> = new Set()
  #sent: Sent | undefined
  #answered = 0
  #captured = 0
  #allowed: Allowed = 'odd'
  #collected = 0
  #peerChanges = 0
  #rekeys = 0

  constructor(lab: Lab, folder: string, options: FireOptions) {
    this.#lab = lab
    this.#folder = folder
    this.#options = options
  }

  async run(): Promise<FireReport> {
    const { lane, mode, seconds, gentle, onProgress } = this.#options
    const files = this.#build()
    const { a, b } = this.#lab
    const nodes: Talker[] = []
    for (const [i, namespace] of [a, b].entries()) {
      const node = this.#start(namespace, process.execPath, ['--expose-gc', files.node, lane, String(i + 1), mode])
      const { name, address }: { readonly name: string; readonly address: string } = JSON.parse(await node.line())
      for (const each of i === 0 && lane === 'engine' ? [address, ...(['odd', 'even', 'never'] as const).map((channel) => endsOf(lane, channel).source)] : [address]) ip('-n', namespace, 'addr', 'add', `${each}/32`, 'dev', name)
      ip('-n', namespace, 'link', 'set', name, 'mtu', String(MTU[lane]), 'up')
      ip('-n', namespace, 'route', 'add', lane === 'mesh' ? '100.64.0.0/16' : '10.88.0.0/16', 'dev', name, 'src', INNER[lane][i] ?? '')
      nodes.push(node)
    }
    const [own, other] = nodes
    if (own === undefined || other === undefined) throw new Error('two ends')
    for (const node of nodes) await this.#apply(node)
    await this.#lab.inA('sh', '-c', 'true')
    // The device of the answering end: what may never come in must not be on it.
    const never = endsOf(lane, 'never')
    const capture = this.#start(b, 'tcpdump', ['-i', 'fire2', '-n', '-l', '-q', ...(lane === 'mesh' ? ['udp', 'dst', 'port', String(never.port)] : ['src', 'host', never.source])])
    capture.onLine = () => (this.#captured += 1)
    // And outside, what goes to a peer that comes and goes.
    const offset = microseconds() - Date.now() * 1_000
    const outside = this.#start(b, 'tcpdump', ['-i', 'wire', '-n', '-l', '-q', '-tt', 'udp', 'dst', 'port', String(GUEST.port)])
    outside.onLine = (line) => this.#toGuest.push(Math.round(Number(line.split(' ')[0]) * 1e6) + offset)
    const answering = this.#start(b, process.execPath, [files.traffic, 'answer', lane])
    answering.onLine = (line) => {
      const seen = JSON.parse(line) as Seen // what the child writes
      this.#seen.push(...seen.got)
      this.#answered = seen.answered
    }
    const sending = this.#start(a, process.execPath, [files.traffic, 'send', lane])
    sending.onLine = (line) => (this.#sent = JSON.parse(line) as Sent)
    await until(() => (this.#sent?.whole ?? 0) > 100, 'packets pass')
    const before = this.#queues()
    this.#start(b, 'iperf3', ['-s', '-p', '5201'])
    await until(() => execFileSync('ip', ['netns', 'exec', b, 'ss', '-ltnH', 'sport', '=', ':5201'], { encoding: 'utf8' }).includes('5201'), 'iperf3 listens')
    const load = this.#start(a, 'iperf3', ['-c', INNER[lane][1], '-p', '5201', '--bidir', '-P', '2', '-t', String(seconds), '-i', '0', '-J', ...(gentle === true ? ['-b', '40M'] : [])])
    let output = ''
    load.onLine = (line) => (output += line)
    const loaded = new Promise((resolve) => load.child.once('exit', resolve))

    const begun = performance.now()
    const end = begun + seconds * 1_000
    const every = (ms: number, act: () => Promise<void>): { readonly ms: number; next: number; readonly act: () => Promise<void> } => ({ ms, next: begun + ms, act })
    const jobs = [
      every(POLICY_MS, () => this.#change(own, other)),
      every(REKEY_MS, async () => {
        await own.ask({ op: 'rekey' })
        this.#rekeys += 1
      }),
      every(SAMPLE_MS, () => this.#sample(nodes, (performance.now() - begun) / 1_000)),
    ]
    let told = begun
    // On a busy computer a short run goes on until each of it has happened.
    const enough = (): boolean => this.#handshakes.size >= 2 && this.#phases.length >= 3 && this.#samples.length >= 2
    while (performance.now() < end || (!enough() && performance.now() < end + MORE_MS)) {
      for (const job of jobs) {
        if (performance.now() < job.next) continue
        job.next = Math.max(job.next + job.ms, performance.now())
        await job.act()
      }
      if (performance.now() - told > 10_000) {
        told = performance.now()
        onProgress?.(this.#progress((told - begun) / 1_000))
      }
      await pause(20)
    }
    sending.child.stdin?.write('stop\n')
    await Promise.race([loaded, pause(60_000)])
    await until(() => this.#sent?.waiting === 0, 'nothing is on its way')
    await pause(1_500)
    await this.#sample(nodes, (performance.now() - begun) / 1_000)
    const { status } = await other.ask({ op: 'status' })
    const { status: ownStatus } = await own.ask({ op: 'status' })
    if (this.#sent === undefined || status === undefined || ownStatus === undefined) throw new Error('nothing was sent')
    const findings = judge({
      seconds, sent: this.#sent, seen: this.#seen, answered: this.#answered, captured: this.#captured, phases: this.#phases, absences: this.#absences, toGuest: this.#toGuest, samples: this.#samples,
      queueDrops: this.#queues() - before + [status, ownStatus].reduce((sum, { counters }) => sum + (counters['sendDrops'] ?? 0) + (counters['writeDrops'] ?? 0), 0),
      statuses: [ownStatus, status], rekeys: this.#rekeys, handshakes: this.#handshakes.size, peerChanges: this.#peerChanges, collected: this.#collected, load: throughput(output),
    })
    return { lane, mode, seconds, ok: findings.every(({ ok }) => ok), findings }
  }

  async close(): Promise<void> {
    for (const talker of [...this.#talkers].reverse()) await talker.end()
  }

  abandon(): void {
    for (const talker of this.#talkers) talker.child.kill('SIGKILL')
  }

  #start(namespace: string, file: string, args: readonly string[]): Talker {
    const talker = new Talker(namespace, file, args, this.#options.gentle === true ? 10 : 0)
    this.#talkers.push(talker)
    return talker
  }

  #build(): { readonly node: string; readonly traffic: string } {
    const at = (name: string): string => path.join(import.meta.dirname, name)
    buildSync({
      entryPoints: { node: at('node-child.ts'), traffic: at('traffic-child.ts') }, outdir: this.#folder, outExtension: { '.js': '.mjs' }, bundle: true, platform: 'node', format: 'esm', target: 'node20',
      conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi', 'ws', 'fast-check', 'vitest'], logLevel: 'error',
      banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
    })
    return { node: path.join(this.#folder, 'node.mjs'), traffic: path.join(this.#folder, 'traffic.mjs') }
  }

  async #apply(node: Talker): Promise<NodeAnswer> {
    return node.ask({ op: 'apply', others: [...this.#others], allowed: this.#allowed })
  }

  /** Another policy, and a third of the other peers goes or comes. */
  async #change(own: Talker, other: Talker): Promise<void> {
    for (let i = 0; i < OTHERS; i += 1) {
      if ((i + this.#peerChanges) % 3 !== 0) continue
      const index = FIRST_OTHER + i
      if (!this.#others.delete(index)) this.#others.add(index)
    }
    this.#peerChanges += 1
    const denied = this.#allowed
    this.#allowed = denied === 'odd' ? 'even' : 'odd'
    const [{ begun, done }, atOwn] = await Promise.all([this.#apply(other), this.#apply(own)])
    const absence = this.#absences.at(-1)
    if (!this.#others.has(GUEST.index) && absence?.until !== Number.POSITIVE_INFINITY) this.#absences.push({ from: atOwn.done, until: Number.POSITIVE_INFINITY })
    else if (this.#others.has(GUEST.index) && absence !== undefined) absence.until = Math.min(absence.until, atOwn.begun)
    const last = this.#phases.at(-1)
    if (last !== undefined) last.until = begun
    this.#phases.push({ denied, from: done, until: Number.POSITIVE_INFINITY })
  }

  async #sample(nodes: readonly Talker[], seconds: number): Promise<void> {
    const statuses: NodeStatus[] = []
    for (const node of nodes) {
      await node.ask({ op: 'collect' })
      const { status } = await node.ask({ op: 'status' })
      if (status === undefined) throw new Error('no status')
      statuses.push(status)
    }
    this.#collected += 1
    const latest = statuses[0]?.latestHandshake ?? 0
    if (latest > 0) this.#handshakes.add(latest)
    this.#samples.push({ seconds, statuses, peers: this.#others.size + 1 })
  }

  /** Packets that queues of the kernel have dropped so far, in both namespaces. */
  #queues(): number {
    let sum = 0
    for (const namespace of [this.#lab.a, this.#lab.b]) {
      const links = JSON.parse(execFileSync('ip', ['-n', namespace, '-s', '-j', 'link'], { encoding: 'utf8' })) as readonly { readonly stats64?: { readonly rx: { readonly dropped: number }; readonly tx: { readonly dropped: number } } }[] // iproute2's form
      for (const { stats64 } of links) sum += (stats64?.rx.dropped ?? 0) + (stats64?.tx.dropped ?? 0)
      for (const [, dropped] of execFileSync('tc', ['-n', namespace, '-s', 'qdisc'], { encoding: 'utf8' }).matchAll(/dropped (\d+)/g)) sum += Number(dropped)
      const [names, values] = execFileSync('ip', ['netns', 'exec', namespace, 'cat', '/proc/net/snmp'], { encoding: 'utf8' }).split('\n').filter((line) => line.startsWith('Udp:')).map((line) => line.split(' '))
      for (const name of ['RcvbufErrors', 'SndbufErrors']) sum += Number(values?.[names?.indexOf(name) ?? -1] ?? 0)
    }
    return sum
  }

  #progress(seconds: number): string {
    const last = this.#samples.at(-1)?.statuses
    const mb = (bytes: number | undefined): string => ((bytes ?? 0) / 1e6).toFixed(1)
    return `${Math.round(seconds)} s: ${this.#sent?.whole ?? 0} answered, ${this.#sent?.lost ?? 0} lost, ${this.#handshakes.size} sessions seen, ${this.#phases.length} policies; MB of heap ${last?.map((each) => `${mb(each.mainHeapBytes)}+${mb(each.workerHeapBytes)}`).join(' and ') ?? ''}, rss ${last?.map((each) => mb(each.rssBytes)).join(' and ') ?? ''}`
  }
}

function throughput(json: string): string {
  try {
    const { end } = JSON.parse(json) as { readonly end: { readonly sum_received?: { readonly bits_per_second: number }; readonly sum_received_bidir_reverse?: { readonly bits_per_second: number } } } // iperf3's form
    return [end.sum_received, end.sum_received_bidir_reverse].map((each) => `${Math.round((each?.bits_per_second ?? 0) / 1e6)}`).join(' and ')
  } catch {
    return 'unknown'
  }
}

function ip(...words: readonly string[]): void {
  execFileSync('ip', [...words])
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

async function until(holds: () => boolean, what: string): Promise<void> {
  const begun = microseconds()
  while (!holds()) {
    if (microseconds() - begun > START_MS * 1_000) throw new Error(`not within ${START_MS / 1_000} s: ${what}`)
    await pause(50)
  }
}
