import type { MeshStatus, PeerStatus, PingResult, ReadyStep } from '@meshwright/mesh'
import { MeshRuntimeError } from './mesh-runtime.ts'
import type { ReadyOptions } from './running-node.ts'

/** What the waiting needs to know of a node. */
export interface Awaited {
  /** The first step that is not done; `undefined` when all are. */
  waitsFor(): ReadyStep | undefined
  isClosed(): boolean
  status(): Pick<MeshStatus, 'authUrl' | 'lastError' | 'health'> & { readonly peers: readonly Pick<PeerStatus, 'online' | 'expired' | 'addresses'>[] }
  /** Asks a peer inside the tunnel. */
  probe(address: string, options: { readonly timeoutMs: number }): Promise<Pick<PingResult, 'error'>>
  onChange(listener: () => void): () => void
}

/** A node that did not become ready: `step` is where it stands. */
export class NotReadyError extends MeshRuntimeError {
  /** The first step that is not done. */
  readonly step: ReadyStep | 'peers'

  constructor(code: 'RUNTIME_NOT_READY' | 'RUNTIME_ABORTED' | 'RUNTIME_CLOSED', step: ReadyStep | 'peers', why: string, cause?: unknown) {
    super(code, `the node ${code === 'RUNTIME_CLOSED' ? 'was closed before it was ready' : 'is not ready'}: ${MISSING[step]} (step "${step}")${why === '' ? '' : `: ${why}`}`, { cause })
    this.step = step
  }
}

const MISSING: Readonly<Record<ReadyStep | 'peers', string>> = {
  up: 'it is down, and waits for up()',
  login: 'the control server has not let it in',
  map: 'the control server has not sent a network map that has this node in it',
  approval: 'the control server holds this machine back until an admin approves it',
  relay: 'it has no connection with its home relay',
  told: 'the control server has not taken its endpoints and home relay',
  peers: 'peers have not answered yet',
}

/** Peers that are asked whether they know this node, at most. */
const DEFAULT_PROBED = 8
const PROBE_EVERY_MS = 250
/** Who is called online and does not answer in this time is not waited for: it may have gone away just now. */
const PROBE_LIMIT_MS = 3_000

/**
 * Resolves once every step is done (see `ReadyStep` of `@meshwright/mesh`) and peers have shown that they know this node: up to
 * `options.peers` of those that the control server calls online have answered a TSMP ping, or had 3 s for it. A peer can only answer when it
 * has this node in its own map, with keys and a way to it.
 * @throws NotReadyError (the promise rejects) `RUNTIME_NOT_READY` when the time is over, `RUNTIME_ABORTED`, `RUNTIME_CLOSED`
 */
export async function untilReady(node: Awaited, options: ReadyOptions): Promise<void> {
  const limit = new AbortController()
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => limit.abort(), options.timeoutMs)
  const signal = options.signal === undefined ? limit.signal : AbortSignal.any([options.signal, limit.signal])
  const over = (step: ReadyStep | 'peers'): NotReadyError | undefined => {
    if (node.isClosed()) return new NotReadyError('RUNTIME_CLOSED', step, '')
    if (!signal.aborted) return undefined
    return options.signal?.aborted === true ? new NotReadyError('RUNTIME_ABORTED', step, whyOf(node), options.signal.reason) : new NotReadyError('RUNTIME_NOT_READY', step, whyOf(node))
  }
  try {
    for (let step = node.waitsFor(); step !== undefined; step = node.waitsFor()) {
      const error = over(step)
      if (error !== undefined) throw error
      await nextChange(node, signal)
    }
    await peersAnswer(node, options.peers ?? DEFAULT_PROBED, signal)
    const error = over('peers')
    if (error !== undefined) throw error
  } finally {
    clearTimeout(timer)
  }
}

/** What is known of why it does not go on, for people. */
function whyOf(node: Awaited): string {
  const { authUrl, lastError, health } = node.status()
  if (authUrl !== undefined) return `someone must open ${authUrl}`
  return [...new Set([...(lastError === undefined ? [] : [lastError]), ...health])].slice(0, 3).join('; ')
}

function nextChange(node: Awaited, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stop()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const stop = node.onChange(done)
    signal.addEventListener('abort', done, { once: true })
    if (signal.aborted) done()
  })
}

// Asked again and again, beside each other: the first words to a peer are lost while it does not know this node.
function peersAnswer(node: Awaited, most: number, signal: AbortSignal): Promise<void> {
  const waiting = new Set(onlinePeers(node).slice(0, most))
  if (waiting.size === 0 || signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    const done = (): void => {
      clearInterval(timer)
      clearTimeout(limit)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const leave = (address: string): void => {
      waiting.delete(address)
      if (waiting.size === 0) done()
    }
    const ask = (): void => {
      const online = new Set(onlinePeers(node))
      for (const address of waiting) {
        if (node.isClosed() || !online.has(address)) leave(address)
        else node.probe(address, { timeoutMs: PROBE_LIMIT_MS }).then((result) => (result.error === undefined ? leave(address) : undefined), () => undefined) // the next one says more
      }
    }
    const timer = setInterval(ask, PROBE_EVERY_MS)
    const limit = setTimeout(done, PROBE_LIMIT_MS)
    signal.addEventListener('abort', done, { once: true })
    ask()
  })
}

function onlinePeers(node: Awaited): readonly string[] {
  return node.status().peers.flatMap((peer) => (peer.online === true && !peer.expired && peer.addresses[0] !== undefined ? [peer.addresses[0].key] : []))
}
