import { type ChildProcess, fork } from 'node:child_process'
import path from 'node:path'
import { quantile } from './control.ts'
import { pause } from './process.ts'

export const PHASE_MS = 2_500
/** What a server may hold more after the last lie than before the first. */
export const GROWTH_MUST_MEGABYTES = 160
/** Where those come from who were never there before: neither liars nor nodes share it. */
export const NEWCOMER_ADDRESS = '127.0.0.99'
export const NEWCOMER_MUST_SECONDS = 2
/**
 * An attacker has a computer of its own. Here it has what server and honest clients leave of this one: SCHED_IDLE (sched(7)), because a process that
 * is only nice still gets its hundredth of the time, in slices of a tick of 4 ms, and that is p99 of whoever stands in the way.
 */
export const WITH_WHAT_IS_LEFT: readonly [program: string, ...words: readonly string[]] = ['chrt', '--idle', '0']

/** What came of lies: those that were begun, and those that were over in time. */
export interface LiarResult {
  readonly conversations: number
  readonly offered: number
}

/** What honest clients felt of one kind of liars. */
export interface LiarFigures {
  /** The kind, and of which requests where there are several. */
  readonly kind: string
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
  /** Who was lied to. */
  readonly at: string
  readonly halfOpen: number
  /** Lies a second that were to be begun whatever became of those before; `undefined`: as fast as they are answered. */
  readonly perSecond: number | undefined
  readonly kinds: readonly LiarFigures[]
  /** What the server holds more at the end than before the first lie. */
  readonly grownMegabytes: number
  readonly growthMustMegabytes: number
  readonly newcomerMustSeconds: number
}

/** Honest requests of one phase: seconds of each that was answered, and how many were not. */
export interface Sample {
  readonly times: number[]
  failed: number
}

/** Who is measured, and who lies. */
export interface Rounds<Kind extends string> {
  readonly kinds: readonly Kind[]
  /** Honest requests are measured alone and among liars by turns, because other work on the machine comes and goes: so many times. */
  readonly rounds: number
  /** Honest requests for so long, by what they are: '' for the usual ones. */
  requests(ms: number): Promise<Readonly<Record<string, Sample>>>
  /** Seconds that a device takes to join which was never there before. */
  newcomer(): Promise<number>
  /** Work that is done while liars lie for {@link PHASE_MS}, and what came of their lies. */
  beside<T>(kind: Kind, work: () => Promise<T>): Promise<readonly [T, LiarResult]>
  /** The same while they lie to somebody else. */
  readonly elsewhere?: <T>(kind: Kind, work: () => Promise<T>) => Promise<readonly [T, LiarResult]>
  /** CPU seconds of the server, the liars and the honest clients. */
  spent(): readonly number[]
  /** What the server holds. */
  rssBytes(): number
  tell(line: string): void
}

/** Measures each kind, by turns alone and among liars. */
export async function measureRounds<Kind extends string>({ kinds: wanted, rounds, requests, newcomer, beside, elsewhere, spent, rssBytes, tell }: Rounds<Kind>): Promise<Pick<LiarReport, 'kinds' | 'grownMegabytes' | 'growthMustMegabytes' | 'newcomerMustSeconds'>> {
  await requests(1_500) // until everything is compiled
  const rss = rssBytes()
  const kinds: LiarFigures[] = []
  for (const kind of wanted) {
    const [quiet, attacked, apart] = [new Samples(), new Samples(), new Samples()]
    const used = [0, 0, 0]
    let [seconds, lies, offers, newcomerSeconds] = [0, 0, 0, 0]
    for (let round = 0; round < rounds; round += 1) {
      quiet.add((await Promise.all([requests(PHASE_MS), newcomer()]))[0])
      if (elsewhere !== undefined) apart.add((await elsewhere(kind, () => requests(PHASE_MS)))[0])
      const [[sample, joined], { conversations, offered }] = await beside(kind, async () => {
        const [before, at] = [spent(), performance.now()]
        const both = await Promise.all([requests(PHASE_MS), newcomer()])
        seconds += (performance.now() - at) / 1000
        spent().forEach((value, i) => (used[i] = (used[i] ?? 0) + value - (before[i] ?? 0)))
        return both
      })
      attacked.add(sample)
      newcomerSeconds = Math.max(newcomerSeconds, joined)
      lies += conversations
      offers += offered
    }
    const [ofServer = 0, ofLiars = 0, ofHonest = 0] = used.map((value) => value / seconds)
    for (const what of quiet.names) {
      const [before, among, other] = [quiet.p99(what), attacked.p99(what), elsewhere && apart.p99(what)]
      kinds.push({
        kind: what === '' ? kind : `${kind}: ${what}`,
        quietP50: quiet.p50(what),
        quietP99: before,
        attackedP50: attacked.p50(what),
        attackedP99: among,
        ratio: among / before,
        failed: attacked.failed(what),
        newcomerSeconds,
        liesPerSecond: lies / ((rounds * PHASE_MS) / 1000),
        offeredPerSecond: offers / ((rounds * PHASE_MS) / 1000),
        elsewhereP99: other,
        elsewhereRatio: other && other / before,
        cpu: { server: ofServer, liars: ofLiars, honest: ofHonest },
      })
      const held = ((rssBytes() - rss) / 1_048_576).toFixed(0)
      tell(`${kinds.at(-1)?.kind ?? ''}: p99 ${(before * 1000).toFixed(1)} -> ${(among * 1000).toFixed(1)} ms${other === undefined ? '' : ` (${(other * 1000).toFixed(1)} ms beside lies to another server)`}, newcomer ${newcomerSeconds.toFixed(2)} s, ${kinds.at(-1)?.liesPerSecond.toFixed(0) ?? ''} lies/s, server ${ofServer.toFixed(2)}, liars ${ofLiars.toFixed(2)}, honest ${ofHonest.toFixed(2)} of a core, ${held} MB added`)
    }
  }
  return { kinds, grownMegabytes: (rssBytes() - rss) / 1_048_576, growthMustMegabytes: GROWTH_MUST_MEGABYTES, newcomerMustSeconds: NEWCOMER_MUST_SECONDS }
}

/** A process that lies as it is told, in the time that nobody else wants. `chrt` starts it, so that this holds for every thread of it. */
export class Attacker<Order extends object> {
  readonly #child: ChildProcess

  constructor(file: string, words: readonly string[]) {
    const [program, ...idle] = WITH_WHAT_IS_LEFT
    this.#child = fork(path.join(import.meta.dirname, file), words, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execPath: program, execArgv: [...idle, process.execPath, ...process.execArgv] })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** Lets it lie; the work begins when what it holds stands. */
  async beside<T>(order: Order, work: () => Promise<T>): Promise<readonly [T, LiarResult]> {
    const [begun, done] = [this.#heard((message) => message === 'begun'), this.#heard((message) => typeof message === 'object')]
    this.#child.send(order)
    await begun
    const result = await work()
    const lies = (await done) as LiarResult // sound: its only message that is an object
    await pause(300)
    return [result, lies]
  }

  stop(): void {
    this.#child.kill('SIGKILL')
  }

  #heard(wanted: (message: unknown) => boolean): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const onExit = (): void => reject(new Error('the liar ended'))
      const onMessage = (message: unknown): void => {
        if (!wanted(message)) return
        this.#child.off('message', onMessage).off('exit', onExit)
        resolve(message)
      }
      this.#child.on('message', onMessage).once('exit', onExit)
    })
  }
}

/** The samples of all rounds, by what was asked. */
class Samples {
  readonly #rounds = new Map<string, Sample[]>()

  add(samples: Readonly<Record<string, Sample>>): void {
    for (const [what, sample] of Object.entries(samples)) this.#rounds.set(what, [...this.#of(what), sample])
  }

  get names(): readonly string[] {
    return [...this.#rounds.keys()]
  }

  failed(what: string): number {
    return this.#of(what).reduce((sum, { failed }) => sum + failed, 0)
  }

  p50(what: string): number {
    return at(this.#of(what).flatMap(({ times }) => times), 0.5)
  }

  p99(what: string): number {
    return at(this.#of(what).map(({ times }) => at(times, 0.99)), 0.5)
  }

  #of(what: string): readonly Sample[] {
    return this.#rounds.get(what) ?? []
  }
}

function at(times: readonly number[], share: number): number {
  return quantile(times, share) ?? Number.NaN
}

/** Requests at an even pace, whatever the answers take. */
export async function atPace(ms: number, perSecond: number, one: (i: number) => Promise<void>): Promise<Sample> {
  const result: Sample = { times: [], failed: 0 }
  const open: Promise<void>[] = []
  const begun = performance.now()
  for (let i = 0; i < (ms / 1000) * perSecond; i += 1) {
    const due = begun + (i * 1000) / perSecond
    if (due > performance.now()) await pause(due - performance.now())
    const sent = performance.now()
    open.push(
      one(i).then(
        () => void result.times.push((performance.now() - sent) / 1000),
        () => void (result.failed += 1),
      ),
    )
  }
  await Promise.all(open)
  return result
}
