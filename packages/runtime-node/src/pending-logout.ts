import { MeshRuntimeError } from './mesh-runtime.ts'

/** A control server that does not confirm a logout is not waited for any longer; it is told again at the next chance. */
const LOGOUT_TIMEOUT_MS = 10_000

/** Logouts that wait for the word of the control server: several at a time are one for it, and each waits as long as it wants to. */
export class PendingLogout {
  /** How each ends that waits: confirmed, or given up as the node closes. */
  readonly #waiting: Set<(given?: Error) => void> = new Set()

  /** The server has confirmed. */
  confirmed(): void {
    for (const end of [...this.#waiting]) end()
  }

  /** The node is closed: nobody will hear of it. */
  giveUp(): void {
    for (const end of [...this.#waiting]) end(new MeshRuntimeError('RUNTIME_CLOSED', 'the node was closed before the control server confirmed the logout'))
  }

  /** Begins one: resolves when it is confirmed, or after 10 s; rejects when `signal` aborts, and does nothing when it has aborted before. */
  begin(start: () => void, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (error?: Error): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        this.#waiting.delete(end)
        if (error === undefined) resolve()
        else reject(error)
      }
      const aborted = (told: string): Error => new MeshRuntimeError('RUNTIME_ABORTED', told, { cause: signal?.reason })
      const onAbort = (): void => end(aborted('the control server has not confirmed the logout'))
      if (signal?.aborted === true) return reject(aborted('the logout was given up before it began'))
      const timer = setTimeout(end, LOGOUT_TIMEOUT_MS)
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(end)
      try {
        start()
      } catch (error) {
        end(error instanceof Error ? error : new Error(String(error)))
      }
    })
  }
}
