import { fetchControlKey } from '@meshwright/runtime-node/control'
import { selfSignedCertificate } from '@meshwright/runtime-node/relay'
import { RECORDED_SERVER_KEY } from '../hostile/control-liars.ts'
import { outsideFrom } from '../hostile/outside-from.ts'
import type { LiarOrder } from './liar-process.ts'
import { atPace, Attacker, type LiarReport, type LiarResult, measureRounds, NEWCOMER_ADDRESS, PHASE_MS, type Sample } from './liar-rounds.ts'
import type { LieKind } from './lies.ts'
import { LightClient } from './light-client.ts'
import { loadPolicy } from './policies.ts'
import { cpuSecondsOf } from './process.ts'
import { type LoadServer, memoryFolder, startServer } from './servers.ts'

const HONEST = 20
const REQUESTS_PER_SECOND = 100

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
export async function measureLiars({ halfOpen, kinds, perSecond, elsewhere, onDisk, tls, rounds, tell }: LiarOptions): Promise<LiarReport> {
  const under = onDisk ? undefined : memoryFolder()
  const certificate = tls ? selfSignedCertificate(['127.0.0.1']) : undefined
  const ca = certificate?.cert
  const options = { noiseKey: RECORDED_SERVER_KEY, ...(under !== undefined && { under }), ...(certificate !== undefined && { tls: certificate }) }
  const server = await startServer('ours', loadPolicy('allow-all'), options)
  const other = elsewhere ? await startServer('ours', loadPolicy('allow-all'), { ...options, nice: true }) : undefined
  const clients: LightClient[] = []
  const attacker = new Attacker<LiarOrder>('liar-process.ts', [String(halfOpen)])
  try {
    const key = await fetchControlKey({ url: server.url, ...(ca !== undefined && { ca }) })
    for (let i = 0; i < HONEST; i += 1) {
      const client = new LightClient(i, { frame: () => undefined, lost: () => undefined }, undefined, undefined, ca)
      await client.join(server.url, key, server.authKey(0))
      await client.poll()
      clients.push(client)
    }
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
    const spent = (): readonly number[] => {
      const own = process.cpuUsage()
      return [server.process.cpuSeconds, cpuSecondsOf(attacker.pid), (own.user + own.system) / 1_000_000]
    }
    const besideOf = (to: LoadServer) => <T>(kind: LieKind, work: () => Promise<T>): Promise<readonly [T, LiarResult]> =>
      attacker.beside({ kind, ms: PHASE_MS, url: to.url, authKey: to.authKey(0), perSecond, ...(ca !== undefined && { ca }) }, work)
    const requests = async (ms: number): Promise<Readonly<Record<string, Sample>>> => ({ '': await updates(clients, ms) })
    const measured = await measureRounds<LieKind>({ kinds, rounds, requests, newcomer, beside: besideOf(server), ...(other !== undefined && { elsewhere: besideOf(other) }), spent, rssBytes: () => server.process.rssBytes, tell })
    return { at: `the control server${tls ? ' with TLS of its own' : ''}`, halfOpen, perSecond, ...measured }
  } finally {
    attacker.stop()
    for (const client of clients) client.drop()
    await server.stop()
    await other?.stop()
  }
}

/** Updates of honest clients. */
function updates(clients: readonly LightClient[], ms: number): Promise<Sample> {
  return atPace(ms, REQUESTS_PER_SECOND, async (i) => {
    await clients[i % clients.length]?.update([`198.51.100.${i % 250}:${20_000 + i}`])
  })
}
