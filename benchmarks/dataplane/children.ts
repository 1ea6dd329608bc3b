import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { measurements } from '../dgram.bench.ts'

/** What is left of the rate of a dgram loop with the fastest cryptography, round by round: see `dgram.bench.ts`. */
export async function userspaceShare(rounds: number): Promise<readonly number[]> {
  const all = measurements()
  const fastest = all.find(({ name }) => name.endsWith('openssl-ffi')) ?? all.find(({ name }) => name.endsWith('wasm')) ?? all[0]
  const shares: number[] = []
  for (let round = 0; round < rounds && fastest !== undefined; round += 1) {
    const share = await fastest.measure()
    if (share !== undefined) shares.push(share)
  }
  return shares
}

/** What the heap of a process has grown by, in KiB, after so many packets went through two lanes over a kernel in memory. */
export function retainedHeap(packets: number): number {
  const file = path.join(import.meta.dirname, 'heap-child.ts')
  return Number(execFileSync(process.execPath, ['--expose-gc', ...process.execArgv, file, String(packets)], { encoding: 'utf8', timeout: 600_000 }))
}
