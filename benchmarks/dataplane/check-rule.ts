/** A recorded ratio divided by a measured one must not fall under this. */
export const TOLERANCE = 0.75
const ATTEMPTS = 3

/** CPU seconds per Gbit, ours and theirs. */
export interface CpuCost {
  readonly own: number
  readonly theirs: number
}

/**
 * The rule of the short form: what has fallen under {@link TOLERANCE} of the record is measured again twice before it counts. Gives the status
 * to exit with. What cannot be measured (nothing was carried) has fallen, too.
 */
export async function checkRatio(recorded: number, measure: () => Promise<CpuCost>, say: (line: string) => void): Promise<0 | 1> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const { own, theirs } = await measure()
    const ratio = own / theirs
    const share = recorded / ratio
    const isFine = Number.isFinite(share) && share >= TOLERANCE
    say(`cpu-tun ${ratio.toFixed(3)} (${own.toFixed(3)} and ${theirs.toFixed(3)} CPU s per Gbit), recorded ${recorded}: ${share.toFixed(2)} of it, must be ${TOLERANCE}: ${isFine ? 'fine' : attempt < ATTEMPTS ? 'measured again' : 'FALLEN'}`)
    if (isFine) return 0
  }
  return 1
}

/** The status where nothing can be measured: that is a failure only for who insists on it. */
export function leftOutStatus(why: string, isRequired: boolean, say: (line: string) => void): 0 | 1 {
  say(`left out: ${why}`)
  return isRequired ? 1 : 0
}
