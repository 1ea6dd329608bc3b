/** What a target has to say when it held. */
export interface FuzzReport {
  readonly inputs: number
  /** By how much the process had grown at the end. */
  readonly grownBytes: number
  /** What became of the inputs, if the target tells. */
  readonly outcomes?: Readonly<Record<string, number>>
}

/** Something that eats hostile bytes. */
export interface FuzzTarget {
  readonly name: string
  /** Inputs of a run that names no number; default: that of decoders. */
  readonly defaultInputs?: number
  /** Feeds it that many inputs made from the seed. @throws Error with seed and input when a rule is broken */
  run(inputs: number, seed: number, progress: (done: number) => void): FuzzReport
}

// The same files are read by the test runner, which runs every target as a test, and by `npm run fuzz`, which collects them first.
let collected: FuzzTarget[] | undefined

/** From now on targets are collected and no tests are made. */
export function collectTargets(): void {
  collected ??= []
}

/** Takes a target, if targets are being collected; `undefined` is no target but asks. */
export function collect(target: FuzzTarget | undefined): boolean {
  if (collected === undefined) return false
  if (target !== undefined) collected.push(target)
  return true
}

/** The targets collected since it was last asked. */
export function takeTargets(): readonly FuzzTarget[] {
  return collected?.splice(0) ?? []
}
