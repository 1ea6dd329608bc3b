import { type ChildProcess, fork } from 'node:child_process'
import path from 'node:path'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { RECORDED_SERVER_KEY } from '../hostile/control-liars.ts'
import { quantile } from './control.ts'
import { LIES, type LieKind } from './lies.ts'
import { LightClient } from './light-client.ts'
import { loadPolicy } from './policies.ts'
import { pause } from './process.ts'
import { startServer } from './servers.ts'

const HONEST = 20
const REQUESTS_PER_SECOND = 100
/** Honest requests are measured alone and among liars by turns, because other work on the machine comes and goes. */
const ROUNDS = 3
const PHASE_MS = 2_500
const GROWTH_MUST_MEGABYTES = 160

/** What honest clients felt of one kind of liars. */
export interface LiarFigures {
  readonly kind: LieKind
  /** Seconds of an honest request, alone and among liars. */
  readonly quietP50: number
  readonly quietP99: number
  readonly attackedP50: number
  readonly attackedP99: number
  /** p99 among liars to p99 alone. */
  readonly ratio: number
  readonly failed: number
}

/** All that was measured of liars. */
export interface LiarReport {
  readonly halfOpen: number
  readonly kinds: readonly LiarFigures[]
  /** What the server holds more at the end than before the first lie. */
  readonly grownMegabytes: number
  readonly growthMustMegabytes: number
}

/** Honest requests beside a process that lies, one kind after the other, and at last in many ways at once. */
export async function measureLiars(halfOpen: number, tell: (line: string) => void): Promise<LiarReport> {
  const server = await startServer('ours', loadPolicy('allow-all'), { noiseKey: RECORDED_SERVER_KEY })
  const clients: LightClient[] = []
  const attacker = fork(path.join(import.meta.dirname, 'liar-process.ts'), [server.url, server.authKey(0), String(halfOpen)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  try {
    const key = await fetchControlKey({ url: server.url })
    for (let i = 0; i < HONEST; i += 1) {
      const client = new LightClient(i, { frame: () => undefined, lost: () => undefined })
      await client.join(server.url, key, server.authKey(0))
      await client.poll()
      clients.push(client)
    }
    await requests(clients, 1_500) // until everything is compiled
    const rss = server.process.rssBytes
    const kinds: LiarFigures[] = []
    for (const kind of LIES) {
      const [quiet, attacked] = [{ times: [] as number[], failed: 0 }, { times: [] as number[], failed: 0 }]
      for (let round = 0; round < ROUNDS; round += 1) {
        add(quiet, await requests(clients, PHASE_MS))
        const [begun, done] = [heard(attacker, 'begun'), heard(attacker, 'done')]
        attacker.send({ kind, ms: PHASE_MS })
        await begun // what it holds stands
        add(attacked, await requests(clients, PHASE_MS))
        await done
        await pause(300)
      }
      const [before, among] = [at(quiet.times, 0.99), at(attacked.times, 0.99)]
      kinds.push({ kind, quietP50: at(quiet.times, 0.5), quietP99: before, attackedP50: at(attacked.times, 0.5), attackedP99: among, ratio: among / before, failed: attacked.failed })
      tell(`${kind}: p99 ${(before * 1000).toFixed(1)} -> ${(among * 1000).toFixed(1)} ms`)
    }
    return { halfOpen, kinds, grownMegabytes: (server.process.rssBytes - rss) / 1_048_576, growthMustMegabytes: GROWTH_MUST_MEGABYTES }
  } finally {
    attacker.kill('SIGKILL')
    for (const client of clients) client.drop()
    await server.stop()
  }
}

interface Sample {
  readonly times: number[]
  failed: number
}

function add(to: Sample, more: Sample): void {
  to.times.push(...more.times)
  to.failed += more.failed
}

function at(times: readonly number[], share: number): number {
  return quantile(times, share) ?? Number.NaN
}

function heard(child: ChildProcess, word: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onMessage = (message: unknown): void => {
      if (message !== word) return
      child.off('message', onMessage)
      resolve()
    }
    child.on('message', onMessage)
    child.once('exit', () => reject(new Error('the liar ended')))
  })
}

/** Updates of honest clients at an even pace, whatever the answers take. */
async function requests(clients: readonly LightClient[], ms: number): Promise<Sample> {
  const result: Sample = { times: [], failed: 0 }
  const open: Promise<void>[] = []
  const count = (ms / 1000) * REQUESTS_PER_SECOND
  const begun = performance.now()
  for (let i = 0; i < count; i += 1) {
    const due = begun + (i * 1000) / REQUESTS_PER_SECOND
    if (due > performance.now()) await pause(due - performance.now())
    const sent = performance.now()
    const done = clients[i % clients.length]?.update([`198.51.100.${i % 250}:${20_000 + i}`]).then(
      () => void result.times.push((performance.now() - sent) / 1000),
      () => void (result.failed += 1),
    )
    if (done !== undefined) open.push(done)
  }
  await Promise.all(open)
  return result
}
