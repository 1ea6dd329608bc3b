import type { Allowed, NodeStatus, Seen, Sent } from './words.ts'

/** A time in which a channel was denied: from when the policy was in force until the next one was on its way. Microseconds. */
export interface Phase {
  readonly denied: Allowed
  readonly from: number
  until: number
}

/** Both ends at a moment, after garbage was collected. */
export interface Sample {
  readonly seconds: number
  readonly statuses: readonly NodeStatus[]
  /** Peers that the last policy named. */
  readonly peers: number
}

/** One promise, and what was measured. */
export interface Finding {
  readonly promise: string
  readonly ok: boolean
  readonly measured: string
}

/** All that was seen. */
export interface Evidence {
  readonly seconds: number
  readonly sent: Sent
  readonly seen: Seen['got']
  readonly answered: number
  /** Packets of the channel `never` on the device of the answering end. */
  readonly captured: number
  readonly phases: readonly Phase[]
  /** Times in which the guest was no peer of the sending end; when datagrams to it were on the wire. Microseconds. */
  readonly absences: readonly { readonly from: number; readonly until: number }[]
  readonly toGuest: readonly number[]
  readonly samples: readonly Sample[]
  /** Packets that queues of the kernel dropped, or that it did not take from a lane. */
  readonly queueDrops: number
  readonly statuses: readonly NodeStatus[]
  readonly rekeys: number
  readonly handshakes: number
  readonly peerChanges: number
  readonly collected: number
  readonly load: string
}

/** Growth is judged where there was time for it. */
const GROWTH_FROM_SECONDS = 100
const HEAP_GROWTH_BYTES = 1_500_000
const RSS_GROWTH_BYTES = 24_000_000
const SHORT_HEAP_GROWTH_BYTES = 8_000_000

/** Judges what was promised by what was seen. */
export function judge(evidence: Evidence): readonly Finding[] {
  const { sent, seconds, samples, statuses } = evidence
  const through = deniedThrough(evidence)
  const allowed = evidence.seen.length
  return [
    finding('datagrams arrive whole, each once', sent.changed === 0 && sent.twice === 0 && sent.whole > 100, `${sent.whole} answered whole, ${sent.changed} changed, ${sent.twice} twice or late`),
    finding('no loss but what a queue has counted', sent.lost <= evidence.queueDrops, `${sent.lost} of ${sent.sent.always} lost; queues dropped ${evidence.queueDrops} of all traffic`),
    finding('no denied packet through', through === 0 && evidence.captured === 0 && !evidence.seen.some(([channel]) => channel === 'never'), `${through} through while they were denied, ${evidence.captured} on the device that are never allowed, of ${sent.sent.odd + sent.sent.even + sent.sent.never} sent`),
    finding('nothing goes to a peer that was taken away', wronglySent(evidence) === 0 && evidence.toGuest.length > 0, `${wronglySent(evidence)} on the wire in ${evidence.absences.length} absences; ${sent.toGuest} sent, ${evidence.toGuest.length} on the wire in all`),
    finding('what a policy allows does come', allowed > 0.1 * sent.sent.odd, `${allowed} came of ${sent.sent.odd + sent.sent.even}, each kind allowed half of the time`),
    finding('the policy is swapped every second', evidence.phases.length >= pace(0.3, seconds, 3), `${evidence.phases.length} swaps`),
    finding('peers come and go', evidence.peerChanges >= pace(0.3, seconds, 3), `${evidence.peerChanges} changes of 33 peers`),
    finding('sessions are made anew every 5 s', evidence.handshakes >= pace(0.1, seconds, 2), `${evidence.rekeys} asked for, ${evidence.handshakes} sessions seen at ${samples.length} looks`),
    finding('garbage collection is forced', evidence.collected >= 2, `${evidence.collected} times, in both threads of both ends`),
    finding('no worker died', statuses.every(({ restarts }) => restarts === 0), `${statuses.map(({ restarts }) => restarts).join(' and ')} restarts`),
    finding('the kernel told no lies', statuses.every(({ counters }) => counters['kernelLies'] === 0), `${statuses.map(({ counters }) => counters['kernelLies']).join(' and ')} counted`),
    ...growth(samples, seconds),
    finding('no entry is left of peers that went', samples.every(({ peers, statuses: each }) => each.every((status) => status.peers === peers)), `${samples.map(({ peers, statuses: each }) => each.map((status) => status.peers - peers).join('/')).filter((more) => more !== '0/0').join(' ') || 'none'} at ${samples.length} looks`),
    finding('TCP went on all the time', !/^(unknown|0 and 0)$/.test(evidence.load), `Mbit/s each way: ${evidence.load}`),
  ]
}

/** How often something must have happened: in a short run, on a computer that others use, that it did is what counts. */
function pace(perSecond: number, seconds: number, least: number): number {
  return seconds >= GROWTH_FROM_SECONDS ? perSecond * seconds : least
}

function finding(promise: string, ok: boolean, measured: string): Finding {
  return { promise, ok, measured }
}

/** Packets that were sent when their channel was denied already, and received before it was allowed again. */
function deniedThrough({ seen, phases }: Evidence): number {
  let count = 0
  let next = 0
  const sorted = [...seen].sort(([, , a], [, , b]) => a - b)
  for (const [channel, sentAt, receivedAt] of sorted) {
    while ((phases[next]?.until ?? Number.POSITIVE_INFINITY) <= receivedAt) next += 1
    const phase = phases[next]
    if (phase !== undefined && phase.denied === channel && sentAt >= phase.from && receivedAt < phase.until) count += 1
  }
  return count
}

/** The clocks of captures are told to the millisecond. */
const CLOCK_US = 5_000

function wronglySent({ absences, toGuest }: Evidence): number {
  return toGuest.filter((at) => absences.some(({ from, until }) => at > from + CLOCK_US && at < until - CLOCK_US)).length
}

function growth(samples: readonly Sample[], seconds: number): readonly Finding[] {
  const isLong = seconds >= GROWTH_FROM_SECONDS
  // After the first quarter all that is made once has been made.
  const usual = samples.filter((each) => each.seconds >= seconds / 4 && each.seconds <= seconds)
  const [first, last] = [usual.slice(0, Math.ceil(usual.length / 3)), usual.slice(-Math.ceil(usual.length / 3))]
  const each = (promise: string, of: (status: NodeStatus) => number, most: number, unit: number, digits: number): Finding => {
    const grown = [0, 1].map((end) => median(last.map(({ statuses }) => at(statuses, end, of))) - median(first.map(({ statuses }) => at(statuses, end, of))))
    const now = [0, 1].map((end) => median(last.map(({ statuses }) => at(statuses, end, of))))
    return finding(promise, grown.every((bytes) => bytes <= most), `${now.map((value, end) => `${(value / unit).toFixed(digits)} (${(grown[end] ?? 0) >= 0 ? '+' : ''}${((grown[end] ?? 0) / unit).toFixed(digits)})`).join(' and ')}`)
  }
  const heap = isLong ? HEAP_GROWTH_BYTES : SHORT_HEAP_GROWTH_BYTES
  return [
    each('the heap of the main thread does not grow, MB', ({ mainHeapBytes }) => mainHeapBytes, heap, 1e6, 2),
    each('the heap of the worker does not grow, MB', ({ workerHeapBytes }) => workerHeapBytes, heap, 1e6, 2),
    ...(isLong ? [each('the process does not grow, MB', ({ rssBytes }) => rssBytes, RSS_GROWTH_BYTES, 1e6, 1)] : []),
    each('no descriptor is left open', ({ descriptors }) => descriptors, 0, 1, 0),
  ]
}

function at(statuses: readonly NodeStatus[], end: number, of: (status: NodeStatus) => number): number {
  const status = statuses[end]
  return status === undefined ? Number.NaN : of(status)
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
