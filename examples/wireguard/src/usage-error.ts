/** Something that the user can put right: its message is printed alone, without a stack. */
export class UsageError extends Error {
  readonly status: number

  /** @param status exit status: 2 for wrong usage or input, 1 when the world is to blame */
  constructor(message: string, status: 1 | 2 = 2) {
    super(message)
    this.status = status
  }
}
