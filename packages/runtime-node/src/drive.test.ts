import { type Instant, instant, type Machine, Outbox } from '@meshwright/core'
import { describe, expect, test } from 'vitest'
import { drive } from './drive.ts'

/** Echoes numbers, owes a `due` after its deadline, and notices when somebody enters it while it works. */
class Counter implements Machine<number, number> {
  readonly #outbox = new Outbox<number>()
  due: Instant | undefined
  early = 0
  inside = false
  reentered = false

  handleInput(_now: Instant, input: number): void {
    this.#work(() => this.#outbox.push(input))
  }

  handleTimeout(now: Instant): void {
    this.#work(() => {
      if (this.due === undefined || now < this.due) {
        this.early += 1
        return
      }
      this.due = undefined
      this.#outbox.push(-1)
    })
  }

  pollOutput(): number | undefined {
    return this.#work(() => this.#outbox.poll())
  }

  pollTimeout(): Instant | undefined {
    return this.due
  }

  #work<T>(what: () => T): T {
    if (this.inside) this.reentered = true
    this.inside = true
    try {
      return what()
    } finally {
      this.inside = false
    }
  }
}

const turn = (ms = 0): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

describe('drive', () => {
  test('the fast lane has its turn when nothing is owed, and what it causes is performed before anything else is awaited', () => {
    const machine = new Counter()
    const seen: string[] = []
    let left = 2
    const lane = (now: Instant): void => {
      seen.push('lane')
      if (left > 0) machine.handleInput(now, 100 + left)
      left -= 1
    }
    const driver = drive(machine, () => instant(0), (output) => seen.push(String(output)), lane)
    seen.length = 0
    left = 2
    driver.feed(1)
    expect(seen).toEqual(['1', 'lane', '102', 'lane', '101', 'lane'])
    driver.stop()
    driver.feed(2)
    expect(seen).toHaveLength(6)
    expect(machine.reentered).toBe(false)
  })

  test('never enters the machine twice; what an effect feeds back comes behind all that was owed', () => {
    const machine = new Counter()
    const seen: string[] = []
    const driver = drive(machine, () => instant(0), (output) => {
      seen.push(`begin ${output}`)
      if (output < 10) {
        driver.feed(output + 10)
        driver.act((now) => machine.handleInput(now, output + 20))
      }
      seen.push(`end ${output}`)
    })
    driver.act((now) => {
      machine.handleInput(now, 1)
      machine.handleInput(now, 2)
    })
    expect(seen).toEqual([1, 2, 11, 21, 12, 22].flatMap((output) => [`begin ${output}`, `end ${output}`]))
    expect(machine.reentered).toBe(false)
  })

  test('a timer that fires before the deadline, by the clock, is set again until the deadline has come', async () => {
    const machine = new Counter()
    machine.due = instant(1)
    // A clock that lags behind the system's timers.
    let readings = 0
    const clock = (): Instant => instant((readings += 1) < 6 ? 0.5 : 1)
    const output = await new Promise<number>((resolve) => drive(machine, clock, resolve))
    expect(output).toBe(-1)
    expect(readings).toBeGreaterThanOrEqual(6)
    expect(machine.early).toBe(0)
  })

  test('a deadline that an input moves nearer is kept; one that is taken away never fires', async () => {
    const machine = new Counter()
    machine.due = instant(performance.now() + 3_600_000)
    const outputs: number[] = []
    let wake = (): void => undefined
    const woken = new Promise<void>((resolve) => (wake = resolve))
    const driver = drive(machine, () => instant(performance.now()), (output) => {
      outputs.push(output)
      wake()
    })
    driver.act((now) => void (machine.due = instant(now + 1)))
    await woken
    expect(outputs).toEqual([-1])
    driver.act((now) => void (machine.due = instant(now + 1)))
    driver.act(() => void (machine.due = undefined))
    await turn(20)
    expect(outputs).toEqual([-1])
    driver.stop()
  })

  test('a deadline beyond what setTimeout can wait for does not fire at once', async () => {
    const machine = new Counter()
    machine.due = instant(2 ** 33)
    const outputs: number[] = []
    const driver = drive(machine, () => instant(0), (output) => outputs.push(output))
    await turn(20)
    expect([outputs, machine.early]).toEqual([[], 0])
    driver.stop()
  })

  test('stopped, it performs nothing, feeds nothing and sets no timer, even in the middle of a drain', async () => {
    const machine = new Counter()
    const outputs: number[] = []
    const driver = drive(machine, () => instant(0), (output) => {
      outputs.push(output)
      driver.stop()
    })
    driver.act((now) => {
      machine.due = instant(0)
      machine.handleInput(now, 1)
      machine.handleInput(now, 2)
    })
    driver.feed(3)
    await turn(20)
    expect(outputs).toEqual([1])
  })

  test('an effect that throws is the caller\'s to see; the rest is performed at the next turn', async () => {
    const machine = new Counter()
    const outputs: number[] = []
    const driver = drive(machine, () => instant(0), (output) => {
      if (output === 1) throw new Error('disk full')
      outputs.push(output)
    })
    expect(() =>
      driver.act((now) => {
        machine.handleInput(now, 1)
        machine.handleInput(now, 2)
        machine.due = instant(0)
      }),
    ).toThrow('disk full')
    await turn(20)
    expect(outputs, 'the timer was set all the same').toEqual([2, -1])
    driver.stop()
  })
})
