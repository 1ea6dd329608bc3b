/** The outcome of one golden case. */
export interface CaseResult {
  /** Group within the kind, such as `handshakes` or `acl/accepted`. */
  readonly group: string
  /** Names the case in the list of failures. */
  readonly id: string
  /** True only if every expected field was met. */
  readonly passed: boolean
  /** For people: the first difference. */
  readonly detail?: string
}

/** A kind of golden data: reads a file or folder of its form and judges our code by it. */
export interface Kind {
  readonly name: string
  /** Where its data is by default, relative to the folder of shared data. */
  readonly defaultPath: string
  /** Whether the data may stand in this repository (`tests/vectors`); if not it is read from MESHWRIGHT_SHARED alone. */
  readonly copied: boolean
  /** All cases of a file or folder. Throws {@link UnknownForm} for data of another form. */
  run(path: string): Promise<readonly CaseResult[]>
}

/** The path holds no data of the form that the kind reads. */
export class UnknownForm extends Error {
  constructor(path: string, expected: string) {
    super(`${path}: not of the expected form (${expected})`)
    this.name = 'UnknownForm'
  }
}
