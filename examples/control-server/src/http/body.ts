import type { Readable } from 'node:stream'

/** Bodies that are being read hold memory of this kind: a number of bytes for all of one kind together. */
export class BodyBudget {
  readonly #bytes: number
  #left: number

  constructor(bytes: number) {
    this.#bytes = bytes
    this.#left = bytes
  }

  /** Bytes that are taken now. */
  get taken(): number {
    return this.#bytes - this.#left
  }

  /** Whether so many bytes could be taken now. */
  has(bytes: number): boolean {
    return bytes <= this.#left
  }

  /** Takes bytes, or gives `false` when there are not so many left. */
  take(bytes: number): boolean {
    if (bytes > this.#left) return false
    this.#left -= bytes
    return true
  }

  give(bytes: number): void {
    this.#left += bytes
  }
}

/** Why a body was not read: too long, too slow, no memory for it now, or the other side broke off. */
export type BodyProblem = 'too-long' | 'too-slow' | 'busy' | 'gone'

/** How a body is read. */
export interface BodyLimits {
  readonly bytes: number
  readonly withinMs: number
  /** How long it says that it will be: what could not be read as a whole is not begun. What it says is checked, not believed. */
  readonly declared?: number
  /** Budgets that it counts against while it is being read. */
  readonly budgets: readonly BodyBudget[]
  /** What goes beyond so many bytes counts against one more budget, which long bodies share. */
  readonly long?: { readonly beyond: number; readonly budget: BodyBudget }
}

/** Time for a body: even 1 MiB over a poor line. */
export const BODY_WITHIN_MS = 30_000

/**
 * Everything a request says, or why not. What is too much is left unread and the stream open, so that the caller can say so; then the
 * caller must close it.
 */
export function readBody(stream: Readable, limits: BodyLimits): Promise<Uint8Array | BodyProblem> {
  return new Promise((resolve) => {
    const parts: Uint8Array[] = []
    let length = 0
    // How much of a body of so many bytes each budget pays for.
    const payers = [...limits.budgets.map((budget) => ({ budget, beyond: 0 })), ...(limits.long === undefined ? [] : [limits.long])]
    const share = (beyond: number, bytes: number): number => Math.max(0, bytes - beyond)
    const finish = (problem?: BodyProblem): void => {
      clearTimeout(timer)
      stream.off('data', onData).off('end', onEnd).off('close', onClose).off('error', onClose)
      for (const { budget, beyond } of payers) budget.give(share(beyond, length))
      if (problem === undefined) return resolve(parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts))
      stream.pause()
      resolve(problem)
    }
    const onData = (part: Uint8Array): void => {
      if (length + part.length > limits.bytes) return finish('too-long')
      const more = (beyond: number): number => share(beyond, length + part.length) - share(beyond, length)
      const refusing = payers.findIndex(({ budget, beyond }) => !budget.take(more(beyond)))
      if (refusing >= 0) {
        for (const { budget, beyond } of payers.slice(0, refusing)) budget.give(more(beyond))
        return finish('busy')
      }
      length += part.length
      parts.push(part)
    }
    const onEnd = (): void => finish()
    const onClose = (): void => finish('gone') // the other side broke off: there is nobody to tell
    const timer = setTimeout(() => finish('too-slow'), limits.withinMs).unref()
    if (stream.destroyed) return onClose()
    const { declared = 0 } = limits
    if (declared > limits.bytes) return finish('too-long')
    if (payers.some(({ budget, beyond }) => !budget.has(share(beyond, declared)))) return finish('busy')
    stream.on('data', onData).on('end', onEnd).on('close', onClose).on('error', onClose)
  })
}
