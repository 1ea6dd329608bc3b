import http from 'node:http'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpServer } from '@meshwright/derp'
import { attachDerpServer, suspendAwareClock, systemRandom } from '@meshwright/runtime-node'

/** A relay of ours in this process, on every address of loopback, whose clients may lie as they like. */
export class HonestRelay {
  readonly #http: http.Server = http.createServer()
  readonly #service = attachDerpServer(undefined, new DerpServer({ privateKey: NodePrivateKey.generate(systemRandom), random: systemRandom }), { clock: suspendAwareClock() })

  /** Gives its port. */
  async start(): Promise<number> {
    this.#http.on('upgrade', (request, socket, head) => {
      socket.on('error', () => undefined)
      this.#service.handleUpgrade(request, socket, head)
    })
    await new Promise<void>((resolve) => this.#http.listen(0, resolve))
    const address = this.#http.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  stop(): void {
    this.#service.close()
    this.#http.close()
    this.#http.closeAllConnections()
  }
}
