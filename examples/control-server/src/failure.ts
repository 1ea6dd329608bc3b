/** Something that the person at the keyboard can put right: shown as one line and its remedy, never as a stack. */
export class Failure extends Error {
  readonly remedy: string | undefined
  /** 1: it was tried and failed; 2: it was asked for wrongly. */
  readonly status: 1 | 2

  constructor(message: string, options: { readonly remedy?: string; readonly status?: 1 | 2; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'Failure'
    this.remedy = options.remedy
    this.status = options.status ?? 1
  }
}

/** What went wrong, in one line. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
