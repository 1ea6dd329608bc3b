import { checkRatio } from './check-rule.ts'
import { buildOurs, type End, Lab, type Opponent } from './lab.ts'
import { tcpCost } from './sample.ts'

/** Until functions are compiled, above all where others take the processor. */
const WARM_SECONDS = 4
const SECONDS = 2
/** Both, then both the other way round. */
const ROUNDS = 2
const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/**
 * The short form for CI: CPU seconds per Gbit of one TCP flow, ours and wireguard-go's in turns, against the recorded ratio of the two.
 * Processor time hardly knows what else runs on the computer. Gives the status to exit with: see `checkRatio`.
 */
export async function checkCpu(go: string, recorded: number, say: (line: string) => void): Promise<number> {
  const ours = buildOurs()
  const labs: Lab[] = []
  const abandon = (): void => {
    for (const lab of labs) lab.abandon()
    ours.remove()
    process.exit(1)
  }
  for (const signal of SIGNALS) process.once(signal, abandon)
  const opponents: readonly Opponent[] = [
    { name: 'wireguard-go', file: go, args: ['-f'], env: { LOG_LEVEL: 'silent' } },
    { name: 'meshwright-wg', file: process.execPath, args: [ours.file, '-f'], env: { LOG_LEVEL: 'silent' } },
  ]
  try {
    const pairs: { readonly lab: Lab; readonly ends: readonly End[] }[] = []
    for (const opponent of opponents) {
      const lab = new Lab()
      labs.push(lab)
      const pair = { lab, ends: await lab.pair(opponent) }
      await tcpCost(pair.lab, pair.ends, WARM_SECONDS)
      pairs.push(pair)
    }
    return await checkRatio(recorded, async () => {
      // All rounds of one together: a short round of a slow moment counts for little.
      const totals = pairs.map(() => ({ cpuSeconds: 0, gbits: 0 }))
      for (let round = 0; round < ROUNDS; round += 1) {
        for (let i = 0; i < pairs.length; i += 1) {
          const at = (i + round) % pairs.length
          const [pair, total] = [pairs[at], totals[at]]
          if (pair === undefined || total === undefined) continue
          const got = await tcpCost(pair.lab, pair.ends, SECONDS)
          total.cpuSeconds += got.cpuSeconds
          total.gbits += got.gbits
        }
      }
      const [theirs = Number.NaN, own = Number.NaN] = totals.map(({ cpuSeconds, gbits }) => cpuSeconds / gbits)
      return { own, theirs }
    }, say)
  } finally {
    for (const signal of SIGNALS) process.off(signal, abandon)
    for (const lab of labs) await lab.close()
    ours.remove()
  }
}
