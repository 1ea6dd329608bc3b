import { MeshRuntimeError } from './mesh-runtime.ts'

/** What the waiting needs to know of a node. */
export interface Awaited {
  isReady(): boolean
  isClosed(): boolean
  /** What is missing, for people. */
  why(): string
  onChange(listener: () => void): () => void
}

/** Resolves once the node is ready; rejects when it is closed or `signal` aborts. */
export async function untilReady(node: Awaited, signal: AbortSignal | undefined): Promise<void> {
  while (!node.isReady()) {
    if (node.isClosed()) throw new MeshRuntimeError('RUNTIME_CLOSED', 'the node was closed before it was ready')
    await new Promise<void>((resolve, reject) => {
      const stop = node.onChange(() => done())
      const onAbort = (): void => {
        stop()
        reject(new MeshRuntimeError('RUNTIME_ABORTED', `the node is not ready: ${node.why()}`))
      }
      const done = (): void => {
        stop()
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      if (signal?.aborted === true) onAbort()
    })
  }
}
