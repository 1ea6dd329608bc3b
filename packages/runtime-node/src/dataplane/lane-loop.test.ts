import { MessageChannel } from 'node:worker_threads'
import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { Lane } from './lane.ts'
import { LaneLoop } from './lane-loop.ts'
import { must, roomForTwo } from './lanes-for-tests.ts'
import { MemoryKernel } from './memory-kernel.ts'
import { MemoryLane } from './memory-lane.ts'
import { PULSE_BYTES, PULSE_HEARD, PULSE_TURNS } from './pulse.ts'

const { provider, arenas } = roomForTwo()

function loop(onMessage: (message: unknown) => void) {
  const { lane, kernel, context } = new MemoryLane({ provider, arena: must(arenas[0]), key: NodePrivateKey.generate(new SeededRandom(1).bytes) })
  const pulse = new Int32Array(new SharedArrayBuffer(PULSE_BYTES))
  const { port1, port2 } = new MessageChannel()
  const gone: number[] = []
  let now = lane.now
  const own = new LaneLoop(new Lane(context, MemoryKernel.WAKE, () => (now = instant(now + 1))), MemoryKernel.WAKE, port2, pulse, false, { onMessage: (message) => onMessage(message), onGone: (errno) => gone.push(errno) })
  return { own, kernel, pulse, port: port1, gone }
}

test('a lane that is woken takes all messages, and counts each where the other thread looks', () => {
  const taken: unknown[] = []
  const { own, kernel, pulse, port } = loop((message) => {
    expect(Atomics.load(pulse, PULSE_HEARD)).toBe(taken.length) // those before it, since it is not over yet
    if (taken.push(message) === 3) own.end()
  })
  for (const message of ['one', 'two', 'three']) port.postMessage(message)
  kernel.woken = true
  own.run()
  expect([taken, Atomics.load(pulse, PULSE_HEARD), Atomics.load(pulse, PULSE_TURNS) > 3]).toEqual([['one', 'two', 'three'], 3, true])
})

test('a device that is gone ends the loop, and is told once', () => {
  const { own, kernel, gone } = loop(() => undefined)
  kernel.lie = (call, result) => (call === 'read' ? -77 : result)
  kernel.tunIn.push(new Uint8Array(50))
  own.run()
  expect(gone).toEqual([77])
})
