import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

interface Owed {
  readonly answers: Map<ServerResponse, IncomingMessage>
  then: (() => void) | undefined
}

/** Knows the answers that connections still wait for, so that nothing is written into the middle of one. */
export class Unanswered {
  readonly #owed = new WeakMap<Socket, Owed>()

  /** A request came, and this will be its answer. Gives how many its connection waits for now. */
  add(request: IncomingMessage, response: ServerResponse): number {
    const { socket } = request
    const owed: Owed = this.#owed.get(socket) ?? { answers: new Map(), then: undefined }
    this.#owed.set(socket, owed)
    owed.answers.set(response, request)
    response.once('close', () => {
      owed.answers.delete(response)
      if (owed.answers.size > 0) return
      this.#owed.delete(socket)
      owed.then?.()
    })
    return owed.answers.size
  }

  /** The answer to a request whose body is not complete. */
  incomplete(socket: Socket): ServerResponse | undefined {
    for (const [response, request] of this.#owed.get(socket)?.answers ?? []) if (!request.complete) return response
    return undefined
  }

  /** Calls `then` once all answers of the connection have been given, at once where none is owed; the last one to ask is called. */
  after(socket: Socket, then: () => void): void {
    const owed = this.#owed.get(socket)
    if (owed === undefined) then()
    else owed.then = then
  }
}
