import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { type Measurement, median } from './measure.ts'

const CHILD = path.join(import.meta.dirname, 'memory-child.ts')
/** No collection happens by itself while so much is allocated: what a loop leaves behind can be counted. */
const SEMI_SPACE_MB = 256
const ROUNDS = 3

/** What does a peer weigh, how long does it take to configure many, and how much garbage does a packet leave? Each in a process of its own. */
export function measurements(): readonly Measurement[] {
  return [
    measurement('memory/peer-configured', 'bytes', 'configured', 'bytesPerPeer'),
    measurement('memory/peer-with-session', 'bytes', 'sessions', 'bytesPerPeer'),
    measurement('memory/10000-peers-configured', 's', 'configured', 'seconds'),
    ...['wasm', 'openssl-ffi'].map((provider) => measurement(`memory/transient-${provider}`, 'bytes/packet', `transient-${provider}`, 'bytesPerPacket')),
  ]
}

function measurement(name: string, unit: string, mode: string, field: string): Measurement {
  return {
    name,
    unit,
    measure: async (): Promise<number | undefined> => {
      const values: number[] = []
      for (let round = 0; round < ROUNDS; round += 1) {
        const answer = await child(mode)
        if (answer === undefined) return undefined
        values.push(Number(answer[field]))
      }
      return median(values)
    },
  }
}

async function child(mode: string): Promise<Record<string, number> | undefined> {
  const flags = ['--expose-gc', `--min-semi-space-size=${SEMI_SPACE_MB}`, `--max-semi-space-size=${SEMI_SPACE_MB}`]
  const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv, ...flags, CHILD, mode], { timeout: 120_000 })
  return JSON.parse(stdout) as Record<string, number> | undefined
}
