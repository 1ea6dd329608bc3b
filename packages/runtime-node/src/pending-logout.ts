import { MeshRuntimeError } from './mesh-runtime.ts'

/** A control server that does not confirm a logout is not waited for any longer; it is told again at the next chance. */
const LOGOUT_TIMEOUT_MS = 10_000

/** A logout that waits for the word of the control server. */
export class PendingLogout {
  #confirmed: (() => void) | undefined

  /** The server has confirmed. */
  confirmed(): void {
    this.#confirmed?.()
  }

  /** Begins one: resolves when it is confirmed, or after 10 s; rejects when `signal` aborts. */
  begin(start: () => void, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const over = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        this.#confirmed = undefined
      }
      const onAbort = (): void => {
        over()
        reject(new MeshRuntimeError('RUNTIME_ABORTED', 'the control server has not confirmed the logout', { cause: signal?.reason }))
      }
      const done = (): void => {
        over()
        resolve()
      }
      const timer = setTimeout(done, LOGOUT_TIMEOUT_MS)
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#confirmed = done
      start()
    })
  }
}
