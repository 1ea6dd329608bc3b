/** How Node's own functions tell of an abort: `name`, `code`, and the signal's reason as `cause`. */
export function abortError(message: string, signal: AbortSignal | undefined): Error & { readonly code: 'ABORT_ERR' } {
  return Object.assign(new Error(message, { cause: signal?.reason }), { name: 'AbortError', code: 'ABORT_ERR' as const })
}

/** @throws such an error when the signal has aborted */
export function refuseAborted(signal: AbortSignal | undefined, message: string): void {
  if (signal?.aborted === true) throw abortError(message, signal)
}
