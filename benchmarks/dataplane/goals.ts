/** A figure, as it is printed. */
export interface Figure {
  readonly name: string
  readonly ratio?: number
  readonly value?: number
  readonly unit: string
  readonly min: number
  readonly max: number
  readonly rounds: number
  readonly baseline: string
  /** Medians of what was measured, in `unit`: only comparable on one machine. */
  readonly own?: number
  readonly other?: number
  readonly must?: number
  readonly aim?: number
}

/** What must be reached, and what is aimed at. */
export interface Goal {
  readonly must: number
  readonly aim: number
  /** Less is better. */
  readonly less?: true
}

export const GOALS: Readonly<Record<string, Goal>> = {
  'tcp-tun': { must: 1.25, aim: 1.7 },
  'udp-tun': { must: 2, aim: 3.2 },
  'cpu-tun': { must: 0.75, aim: 0.55, less: true },
  'tcp-tun-wasm': { must: 0.9, aim: 1.15 },
  'tcp-mesh': { must: 1.15, aim: 1.5 },
  'cpu-mesh': { must: 0.85, aim: 0.65, less: true },
  'mesh-share': { must: 0.9, aim: 0.97 },
  'udp-clean': { must: 1.5, aim: 2.5 },
  ping: { must: 1, aim: 0.7, less: true },
  'tcp-64': { must: 1, aim: 1.3 },
  userspace: { must: 0.6, aim: 0.75 },
  rss: { must: 0.6, aim: 0.35, less: true },
  'retained-heap': { must: 0, aim: 0, less: true },
}

/** `true` where there is no goal. */
export function isMet({ name, ratio, value }: Figure): boolean {
  const goal = GOALS[name]
  const got = ratio ?? value ?? Number.NaN
  return goal === undefined || (goal.less === true ? got <= goal.must : got >= goal.must)
}

export function round3(value: number): number {
  return Math.round(value * 1000) / 1000
}

export function middle(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? (sorted[half] ?? Number.NaN) : ((sorted[half - 1] ?? Number.NaN) + (sorted[half] ?? Number.NaN)) / 2
}

/** A figure of ratios of rounds, or of values. */
export function figure(name: string, unit: string, baseline: string, kind: 'ratio' | 'value', values: readonly number[], medians: Pick<Figure, 'own' | 'other'> = {}): Figure {
  const goal = GOALS[name]
  return {
    name, unit, [kind]: round3(middle(values)), min: round3(Math.min(...values)), max: round3(Math.max(...values)), rounds: values.length, baseline, ...medians, ...(goal !== undefined && { must: goal.must, aim: goal.aim }),
  }
}

/** As text, a line for each. */
export function report(machine: string, figures: readonly Figure[], leftOut: readonly string[]): string {
  const lines = figures.map((each) => {
    const { name, ratio, value, unit, min, max, rounds, baseline, own, other, must, aim } = each
    const medians = own === undefined || other === undefined ? '' : ` (${own} and ${other})`
    const verdict = must === undefined ? '' : `; must ${must}, aim ${aim}: ${isMet(each) ? 'met' : 'NOT MET'}`
    return `${name.padEnd(18)}${String(ratio ?? value).padStart(7)}  [${min} to ${max}]  ${rounds} rounds  ${unit}${medians}, against ${baseline}${verdict}`
  })
  return `${machine}\n\n${lines.join('\n')}\n${leftOut.map((line) => `left out: ${line}\n`).join('')}`
}

/** Of figures that were wanted, those of which no round gave a number, and for which no other reason is known: they are not passed over in silence. */
export function withoutRounds(wanted: readonly string[], figures: readonly Figure[], leftOut: readonly string[]): readonly string[] {
  const missing = wanted.filter((name) => !figures.some((each) => each.name === name) && !leftOut.some((line) => line.includes(name)))
  return missing.map((name) => `${name}: no round gave a number`)
}
