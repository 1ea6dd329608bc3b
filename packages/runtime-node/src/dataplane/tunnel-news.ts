import type { NodePublicKey } from '@meshwright/crypto'
import { formatEndpoint } from '@meshwright/ip'
import type { CountedPosts } from './counted-posts.ts'
import type { TunnelOutput } from './tunnel-lane.ts'
import type { FromWorker } from './worker-messages.ts'

/** While more messages than these wait for the other thread, what peers can cause at will is not told, or told later. */
export const MAX_UNTAKEN_NEWS = 256

/**
 * What an interface tells of its peers to the thread that has started its own. A peer can cause it as often as it likes (by another address
 * with every packet, say), so while that thread does not come to what it was told, lines of a log and attempts are left out, and of each
 * peer the last place alone is kept for later.
 */
export class TunnelNews {
  readonly #posts: CountedPosts<FromWorker>
  readonly #moved: Map<string, FromWorker> = new Map()

  constructor(posts: CountedPosts<FromWorker>) {
    this.#posts = posts
  }

  /** Tells of an output of the device. @param tried where its peer was believed to be */
  note(output: TunnelOutput, tried: string | undefined): void {
    const peer = output.peer.bytes
    switch (output.type) {
      case 'roamed':
        this.#moved.set(output.peer.text, { type: 'roamed', peer, endpoint: formatEndpoint(output.path.endpoint) })
        this.tellMoved()
        return this.log('verbose', `peer ${output.peer} is now at ${output.path.id}`)
      case 'handshakeRetry':
        if (!this.#isBehind) this.#posts.post({ type: 'unanswered', peer, endpoint: tried })
        return this.log('verbose', `peer ${output.peer}: handshake not answered, attempt ${output.attempt}`)
      case 'handshakeFailed':
        // Once in a minute and a half for a peer, whatever others do.
        this.#posts.post({ type: 'unanswered', peer, endpoint: tried })
        return this.log('verbose', `peer ${output.peer}: no answer, given up`)
      default:
        this.log('verbose', `peer ${output.peer}: ${output.type}`)
    }
  }

  /** Tells a line for a log; an error always. */
  log(level: 'error' | 'verbose', line: string): void {
    if (level === 'error' || !this.#isBehind) this.#posts.post({ type: 'log', level, line })
  }

  /** Tells where peers have moved to, as far as there is room: for a look now and then. */
  tellMoved(): void {
    for (const [peer, message] of this.#moved) {
      if (this.#isBehind) return
      this.#moved.delete(peer)
      this.#posts.post(message)
    }
  }

  /** A peer is somewhere by somebody's order now: where it was before and that was not told yet is no news. */
  forgetPlace(peer: NodePublicKey): void {
    this.#moved.delete(peer.text)
  }

  get #isBehind(): boolean {
    return this.#posts.untaken >= MAX_UNTAKEN_NEWS
  }
}
