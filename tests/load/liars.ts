import { fork } from 'node:child_process'
import path from 'node:path'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { RECORDED_SERVER_KEY } from '../hostile/control-liars.ts'
import { quantile } from './control.ts'
import { LightClient } from './light-client.ts'
import { loadPolicy } from './policies.ts'
import { pause } from './process.ts'
import { startServer } from './servers.ts'

const HONEST = 20
const REQUESTS_PER_SECOND = 100
const PHASE_MS = 6_000
const GROWTH_MUST_MEGABYTES = 160

/** What honest clients felt of liars. */
export interface LiarFigures {
  readonly halfOpen: number
  /** Seconds of an honest request, alone and among liars. */
  readonly quietP50: number
  readonly quietP99: number
  readonly attackedP50: number
  readonly attackedP99: number
  /** p99 among liars to p99 alone. */
  readonly ratio: number
  readonly failed: number
  readonly grownMegabytes: number
  readonly growthMustMegabytes: number
}

/** Honest requests beside a process that lies in every way that the hostile tests know, while it holds connections half open. */
export async function measureLiars(halfOpen: number): Promise<LiarFigures> {
  const server = await startServer('ours', loadPolicy('allow-all'), { noiseKey: RECORDED_SERVER_KEY })
  const clients: LightClient[] = []
  const attacker = fork(path.join(import.meta.dirname, 'liar-process.ts'), [server.url, String(halfOpen), String(PHASE_MS)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  try {
    const key = await fetchControlKey({ url: server.url })
    for (let i = 0; i < HONEST; i += 1) {
      const client = new LightClient(i, { frame: () => undefined, lost: () => undefined })
      await client.join(server.url, key, server.authKey(0))
      await client.poll()
      clients.push(client)
    }
    await requests(clients, 1_000) // until everything is compiled
    const quiet = await requests(clients, PHASE_MS)
    const rss = server.process.rssBytes
    const ready = new Promise<void>((resolve) => attacker.once('message', () => resolve()))
    attacker.send('begin')
    await ready // the crowd stands
    const attacked = await requests(clients, PHASE_MS)
    const p99 = (times: readonly number[]): number => quantile(times, 0.99) ?? Number.NaN
    return {
      halfOpen,
      quietP50: quantile(quiet.times, 0.5) ?? Number.NaN,
      quietP99: p99(quiet.times),
      attackedP50: quantile(attacked.times, 0.5) ?? Number.NaN,
      attackedP99: p99(attacked.times),
      ratio: p99(attacked.times) / p99(quiet.times),
      failed: attacked.failed,
      grownMegabytes: (server.process.rssBytes - rss) / 1_048_576,
      growthMustMegabytes: GROWTH_MUST_MEGABYTES,
    }
  } finally {
    attacker.kill('SIGKILL')
    for (const client of clients) client.drop()
    await server.stop()
  }
}

/** Updates of honest clients at an even pace, whatever the answers take. */
async function requests(clients: readonly LightClient[], ms: number): Promise<{ readonly times: number[]; failed: number }> {
  const result = { times: [] as number[], failed: 0 }
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
