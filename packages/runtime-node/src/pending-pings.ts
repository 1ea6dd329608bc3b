import type { PingResult } from '@meshwright/mesh'
import { MeshRuntimeError } from './mesh-runtime.ts'

interface Waiting {
  readonly resolve: (result: PingResult) => void
  readonly reject: (error: Error) => void
}

/** Pings that are under way, by the numbers that the machine knows them by. */
export class PendingPings {
  readonly #waiting: Map<number, Waiting> = new Map()
  #next = 1

  /** Begins one: `start` gets its number. Rejects when `signal` aborts or all are given up. */
  begin(start: (id: number) => void, signal: AbortSignal | undefined): Promise<PingResult> {
    return new Promise((resolve, reject) => {
      const id = this.#next
      this.#next += 1
      const onAbort = (): void => {
        this.#waiting.delete(id)
        reject(new MeshRuntimeError('RUNTIME_ABORTED', 'the ping was given up', { cause: signal?.reason }))
      }
      if (signal?.aborted === true) return onAbort()
      signal?.addEventListener('abort', onAbort, { once: true })
      const over = (): void => signal?.removeEventListener('abort', onAbort)
      this.#waiting.set(id, {
        resolve: (result) => {
          over()
          resolve(result)
        },
        reject: (error) => {
          over()
          reject(error)
        },
      })
      start(id)
    })
  }

  /** One has ended. */
  ended(id: number, result: PingResult): void {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    waiting?.resolve(result)
  }

  /** None of them will be answered. */
  giveUp(): void {
    const all = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const { reject } of all) reject(new MeshRuntimeError('RUNTIME_CLOSED', 'the node was closed before the ping was answered'))
  }
}
