import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { PendingLogout } from './pending-logout.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const outcome = (promise: Promise<void>): Promise<unknown> => promise.then(() => 'logged out', (error: unknown) => error)

test('it ends with the word of the server, for all who wait; without it after ten seconds', async () => {
  const pending = new PendingLogout()
  let begun = 0
  const both = [1, 2].map(() => outcome(pending.begin(() => (begun += 1), undefined)))
  pending.confirmed()
  expect([await Promise.all(both), begun, vi.getTimerCount()]).toEqual([['logged out', 'logged out'], 2, 0])
  const alone = outcome(pending.begin(() => undefined, undefined))
  await vi.advanceTimersByTimeAsync(10_000)
  expect(await alone).toBe('logged out')
})

test('an abort ends one of several, with its reason; the others wait on', async () => {
  const pending = new PendingLogout()
  const [stop, reason] = [new AbortController(), new Error('enough')]
  const given = outcome(pending.begin(() => undefined, stop.signal))
  const other = outcome(pending.begin(() => undefined, undefined))
  stop.abort(reason)
  expect(await given).toMatchObject({ code: 'RUNTIME_ABORTED', cause: reason })
  pending.confirmed()
  expect([await other, vi.getTimerCount()]).toEqual(['logged out', 0])
})

test('a signal that had aborted before: nothing is begun', async () => {
  const begun = vi.fn()
  const reason = new Error('enough')
  expect(await outcome(new PendingLogout().begin(begun, AbortSignal.abort(reason)))).toMatchObject({ code: 'RUNTIME_ABORTED', cause: reason })
  expect([begun.mock.calls.length, vi.getTimerCount()]).toEqual([0, 0])
})

test('a node that closes leaves neither a timer nor anybody waiting; nor does a beginning that fails', async () => {
  const pending = new PendingLogout()
  const waiting = outcome(pending.begin(() => undefined, undefined))
  pending.giveUp()
  expect([await waiting, vi.getTimerCount()]).toEqual([expect.objectContaining({ code: 'RUNTIME_CLOSED' }), 0])
  const full = outcome(
    pending.begin(() => {
      throw new Error('the disk is full')
    }, undefined),
  )
  expect([await full, vi.getTimerCount()]).toEqual([expect.objectContaining({ message: 'the disk is full' }), 0])
})
