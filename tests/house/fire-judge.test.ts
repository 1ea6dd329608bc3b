import { expect, test } from 'vitest'
import { type Evidence, judge, type Sample } from '../fire/judge.ts'
import type { NodeStatus } from '../fire/words.ts'

// `npm run fire` must be able to fail: each promise is broken once.
const status = (more: Partial<NodeStatus> = {}): NodeStatus => ({ mainHeapBytes: 8e6, workerHeapBytes: 9e6, rssBytes: 1e8, descriptors: 28, peers: 34, latestHandshake: 1, restarts: 0, counters: { kernelLies: 0 }, drops: {}, ...more })
const samples = (late: Partial<NodeStatus> = {}): Sample[] => Array.from({ length: 40 }, (_, i) => ({ seconds: i * 5, peers: 34, statuses: [status(), status(i < 25 ? {} : late)] }))
const good: Evidence = {
  seconds: 200, sent: { sent: { always: 1_000, odd: 200, even: 200, never: 200 }, toGuest: 10, whole: 995, changed: 0, twice: 0, lost: 5, waiting: 0 },
  seen: Array.from({ length: 100 }, (_, i) => ['odd', i * 10, i * 10 + 1] as const), answered: 995, captured: 0,
  phases: [...Array.from({ length: 100 }, (_, i) => ({ denied: 'even' as const, from: i, until: i + 1 })), { denied: 'odd', from: 5_000, until: 6_000 }],
  absences: [{ from: 100_000, until: 200_000 }], toGuest: [50_000, 103_000, 250_000],
  samples: samples(), queueDrops: 5, statuses: [status(), status()], rekeys: 39, handshakes: 39, peerChanges: 190, collected: 40, load: '300 and 300',
}

test('all is well', () => {
  expect(judge(good).filter(({ ok }) => !ok)).toEqual([])
})

test.each<[string, RegExp, Partial<Evidence>]>([
  ['a datagram that was changed', /whole/, { sent: { ...good.sent, changed: 1 } }],
  ['one more lost than queues have counted', /loss/, { queueDrops: 4 }],
  ['sent and received while it was denied', /denied/, { seen: [...good.seen, ['odd', 5_100, 5_200]] }],
  ['what is never allowed, on the device', /denied/, { captured: 1 }],
  ['what is never allowed, at a program', /denied/, { seen: [...good.seen, ['never', 1, 2]] }],
  ['a datagram to a peer that was taken away', /taken away/, { toGuest: [...good.toGuest, 150_000] }],
  ['nothing gets through', /allows/, { seen: [] }],
  ['heap of the main thread', /main thread/, { samples: samples({ mainHeapBytes: 1e7 }) }],
  ['heap of the worker', /worker does/, { samples: samples({ workerHeapBytes: 1.1e7 }) }],
  ['the process', /process/, { samples: samples({ rssBytes: 1.3e8 }) }],
  ['a descriptor', /descriptor/, { samples: samples({ descriptors: 29 }) }],
  ['an entry', /entry/, { samples: samples({ peers: 35 }) }],
  ['no rekeys', /sessions/, { handshakes: 3 }],
  ['a worker died', /died/, { statuses: [status(), status({ restarts: 1 })] }],
  ['no TCP', /TCP/, { load: 'unknown' }],
])('%s: said', (_what, promise, change) => {
  expect(judge({ ...good, ...change }).filter(({ ok }) => !ok).map((each) => each.promise)).toEqual([expect.stringMatching(promise)])
})

test('what was on its way when a policy came is not held against it', () => {
  const seen = [...good.seen, ['odd', 4_999, 5_100], ['odd', 5_900, 6_000]] as const
  expect(judge({ ...good, seen }).filter(({ ok }) => !ok)).toEqual([])
})
