import { type ChildProcess, fork } from 'node:child_process'
import path from 'node:path'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { selfSignedCertificate } from '@meshwright/runtime-node/relay'
import { RECORDED_SERVER_KEY } from '../hostile/control-liars.ts'
import { quantile } from './control.ts'
import { outsideFrom } from '../hostile/outside-from.ts'
import type { LiarOrder, LiarResult } from './liar-process.ts'
import type { LieKind } from './lies.ts'
import { LightClient } from './light-client.ts'
import { loadPolicy } from './policies.ts'
import { cpuSecondsOf, pause } from './process.ts'
import { type LoadServer, memoryFolder, startServer } from './servers.ts'

const HONEST = 20
const REQUESTS_PER_SECOND = 100
const PHASE_MS = 2_500
const GROWTH_MUST_MEGABYTES = 160
/** Where those come from who were never there before: neither liars nor nodes share it. */
const NEWCOMER_ADDRESS = '127.0.0.99'
const NEWCOMER_MUST_SECONDS = 2
/** An attacker has a computer of its own. Here it has what server and honest clients leave of this one. */
const LIAR_NICE = '19'

/** What honest clients felt of one kind of liars. */
export interface LiarFigures {
  readonly kind: LieKind
  /**
   * Seconds of an honest request, alone and among liars. Of the rounds' p99 the median: one wait for the disk holds up as many requests as
   * the p99 of all of them is about.
   */
  readonly quietP50: number
  readonly quietP99: number
  readonly attackedP50: number
  readonly attackedP99: number
  /** p99 among liars to p99 alone. */
  readonly ratio: number
  readonly failed: number
  /** The longest that a device took to join which was never there before, from an address of its own; `Infinity`: one did not. */
  readonly newcomerSeconds: number
  /** What liars got done: conversations, or connections opened anew, in a second. */
  readonly liesPerSecond: number
  /** Lies that were begun in a second. */
  readonly offeredPerSecond: number
  /** p99 of honest requests, and that to p99 alone, while the same liars lie to another server on this machine; where it was asked for. */
  readonly elsewhereP99: number | undefined
  readonly elsewhereRatio: number | undefined
  /** Of one core, while liars were there: the server, the liars, and the honest clients with what measures them. */
  readonly cpu: { readonly server: number; readonly liars: number; readonly honest: number }
}

/** All that was measured of liars. */
export interface LiarReport {
  readonly halfOpen: number
  readonly tls: boolean
  /** Lies a second that were to be begun whatever became of those before; `undefined`: as fast as they are answered. */
  readonly perSecond: number | undefined
  readonly kinds: readonly LiarFigures[]
  /** What the server holds more at the end than before the first lie. */
  readonly grownMegabytes: number
  readonly growthMustMegabytes: number
  readonly newcomerMustSeconds: number
}

/** What is measured. */
export interface LiarOptions {
  readonly halfOpen: number
  readonly kinds: readonly LieKind[]
  readonly perSecond: number | undefined
  /** Whether each kind is also measured with its lies told to another server, which nobody else uses: what they cost by sharing the machine alone. */
  readonly elsewhere: boolean
  /** Whether the database is on a disk: then disks that stall now and then are part of all figures. */
  readonly onDisk: boolean
  /** Whether the server has TLS of its own, as honest clients speak it: then the kinds are those that lie in TLS. */
  readonly tls: boolean
  /** Honest requests are measured alone and among liars by turns, because other work on the machine comes and goes: so many times. */
  readonly rounds: number
  tell(line: string): void
}

/** Honest requests beside a process that lies, one kind after the other, and at last in many ways at once. */
export async function measureLiars({ halfOpen, kinds: wanted, perSecond, elsewhere, onDisk, tls, rounds, tell }: LiarOptions): Promise<LiarReport> {
  const under = onDisk ? undefined : memoryFolder()
  const certificate = tls ? selfSignedCertificate(['127.0.0.1']) : undefined
  const ca = certificate?.cert
  const options = { noiseKey: RECORDED_SERVER_KEY, ...(under !== undefined && { under }), ...(certificate !== undefined && { tls: certificate }) }
  const server = await startServer('ours', loadPolicy('allow-all'), options)
  const other = elsewhere ? await startServer('ours', loadPolicy('allow-all'), { ...options, nice: true }) : undefined
  const clients: LightClient[] = []
  // `nice` starts it, so that every thread of it is nice.
  const attacker = fork(path.join(import.meta.dirname, 'liar-process.ts'), [String(halfOpen)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    execPath: 'nice',
    execArgv: ['-n', LIAR_NICE, process.execPath, ...process.execArgv],
  })
  try {
    const key = await fetchControlKey({ url: server.url, ...(ca !== undefined && { ca }) })
    for (let i = 0; i < HONEST; i += 1) {
      const client = new LightClient(i, { frame: () => undefined, lost: () => undefined }, undefined, undefined, ca)
      await client.join(server.url, key, server.authKey(0))
      await client.poll()
      clients.push(client)
    }
    await requests(clients, 1_500) // until everything is compiled
    let newcomers = 0
    const newcomer = async (): Promise<number> => {
      const begun = performance.now()
      const client = new LightClient(1_000 + (newcomers += 1), { frame: () => undefined, lost: () => undefined }, undefined, outsideFrom(NEWCOMER_ADDRESS), ca)
      try {
        await client.join(server.url, key, server.authKey(0))
        await client.poll()
        return (performance.now() - begun) / 1000
      } catch (error) {
        tell(error instanceof Error ? error.message : String(error))
        return Number.POSITIVE_INFINITY
      } finally {
        client.drop()
      }
    }
    const rss = server.process.rssBytes
    const spent = (): readonly number[] => {
      const own = process.cpuUsage()
      return [server.process.cpuSeconds, cpuSecondsOf(attacker.pid ?? 0), (own.user + own.system) / 1_000_000]
    }
    const kinds: LiarFigures[] = []
    /** What is done while liars lie, and what came of their lies. */
    const beside = async <T>(kind: LieKind, to: LoadServer, work: () => Promise<T>): Promise<readonly [T, LiarResult]> => {
      const [begun, done] = [heard(attacker, (message) => message === 'begun'), heard(attacker, (message) => typeof message === 'object')]
      attacker.send({ kind, ms: PHASE_MS, url: to.url, authKey: to.authKey(0), perSecond, ...(ca !== undefined && { ca }) } satisfies LiarOrder)
      await begun // what it holds stands
      const result = await work()
      const lies = (await done) as LiarResult // sound: its only message that is an object
      await pause(300)
      return [result, lies]
    }
    for (const kind of wanted) {
      const [quiet, attacked, apart] = [new Samples(), new Samples(), new Samples()]
      const used = [0, 0, 0]
      let [seconds, lies, offers, newcomerSeconds] = [0, 0, 0, 0]
      for (let round = 0; round < rounds; round += 1) {
        quiet.add((await Promise.all([requests(clients, PHASE_MS), newcomer()]))[0])
        if (other !== undefined) apart.add((await beside(kind, other, () => requests(clients, PHASE_MS)))[0])
        const [[sample, joined], { conversations, offered }] = await beside(kind, server, async () => {
          const [before, at] = [spent(), performance.now()]
          const both = await Promise.all([requests(clients, PHASE_MS), newcomer()])
          seconds += (performance.now() - at) / 1000
          spent().forEach((value, i) => (used[i] = (used[i] ?? 0) + value - (before[i] ?? 0)))
          return both
        })
        attacked.add(sample)
        newcomerSeconds = Math.max(newcomerSeconds, joined)
        lies += conversations
        offers += offered
      }
      const [before, among] = [quiet.p99, attacked.p99]
      const [ofServer = 0, ofLiars = 0, ofHonest = 0] = used.map((value) => value / seconds)
      kinds.push({
        kind,
        quietP50: quiet.p50,
        quietP99: before,
        attackedP50: attacked.p50,
        attackedP99: among,
        ratio: among / before,
        failed: attacked.failed,
        newcomerSeconds,
        liesPerSecond: lies / ((rounds * PHASE_MS) / 1000),
        offeredPerSecond: offers / ((rounds * PHASE_MS) / 1000),
        elsewhereP99: other && apart.p99,
        elsewhereRatio: other && apart.p99 / before,
        cpu: { server: ofServer, liars: ofLiars, honest: ofHonest },
      })
      const held = ((server.process.rssBytes - rss) / 1_048_576).toFixed(0)
      tell(`${kind}: p99 ${(before * 1000).toFixed(1)} -> ${(among * 1000).toFixed(1)} ms${other === undefined ? '' : ` (${(apart.p99 * 1000).toFixed(1)} ms beside lies to another server)`}, newcomer ${newcomerSeconds.toFixed(2)} s, ${kinds.at(-1)?.liesPerSecond.toFixed(0) ?? ''} lies/s, server ${ofServer.toFixed(2)}, liars ${ofLiars.toFixed(2)}, honest ${ofHonest.toFixed(2)} of a core, ${held} MB added`)
    }
    return { halfOpen, tls, perSecond, kinds, grownMegabytes: (server.process.rssBytes - rss) / 1_048_576, growthMustMegabytes: GROWTH_MUST_MEGABYTES, newcomerMustSeconds: NEWCOMER_MUST_SECONDS }
  } finally {
    attacker.kill('SIGKILL')
    for (const client of clients) client.drop()
    await server.stop()
    await other?.stop()
  }
}

interface Sample {
  readonly times: number[]
  failed: number
}

/** The samples of all rounds. */
class Samples {
  readonly #rounds: Sample[] = []

  add(sample: Sample): void {
    this.#rounds.push(sample)
  }

  get failed(): number {
    return this.#rounds.reduce((sum, { failed }) => sum + failed, 0)
  }

  get p50(): number {
    return at(this.#rounds.flatMap(({ times }) => times), 0.5)
  }

  get p99(): number {
    return at(this.#rounds.map(({ times }) => at(times, 0.99)), 0.5)
  }
}

function at(times: readonly number[], share: number): number {
  return quantile(times, share) ?? Number.NaN
}

function heard(child: ChildProcess, wanted: (message: unknown) => boolean): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const onExit = (): void => reject(new Error('the liar ended'))
    const onMessage = (message: unknown): void => {
      if (!wanted(message)) return
      child.off('message', onMessage).off('exit', onExit)
      resolve(message)
    }
    child.on('message', onMessage).once('exit', onExit)
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
