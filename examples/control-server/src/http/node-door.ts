import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { MachinePrivateKey } from '@meshwright/crypto'
import type { Prefix } from '@meshwright/ip'
import type { ControlService } from '../control-service.ts'
import { reasonOf } from '../failure.ts'
import type { Log } from '../log.ts'
import { acceptControl, serverCrypto, systemRandom } from '../runtime.ts'
import { clientAddress } from './client-address.ts'
import { HandshakeQueue } from './handshake-queue.ts'
import type { Newcomers } from './newcomers.ts'
import { NodeApi } from './node-api.ts'

/** What the door needs. */
export interface NodeDoorOptions {
  readonly machineKey: MachinePrivateKey
  readonly service: ControlService
  readonly log: Log
  readonly newcomers: Newcomers
  readonly trustedProxies: readonly Prefix[]
}

/** Takes upgrades to the Noise channel: handshakes stand in a queue, and who proves no node stays a newcomer. */
export class NodeDoor {
  readonly #options: NodeDoorOptions
  readonly #api: NodeApi
  readonly #queue = new HandshakeQueue()

  constructor(options: NodeDoorOptions) {
    this.#options = options
    this.#api = new NodeApi(options.service, options.log)
  }

  /** Takes over the socket of an upgrade to `/ts2021`. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { newcomers, trustedProxies } = this.#options
    socket.on('error', () => socket.destroy())
    newcomers.add(request.socket) // with new patience: for the handshake
    const source = clientAddress(request, trustedProxies)
    this.#queue.add(source, () => {
      if (socket.destroyed) return // it gave way, or did not wait
      void this.#accept(request, socket, head, source)
    })
  }

  async #accept(request: IncomingMessage, socket: Duplex, head: Buffer, source: string): Promise<void> {
    const { machineKey, log, newcomers } = this.#options
    try {
      const connection = await acceptControl(request, socket, head, { machineKey, random: systemRandom, provider: serverCrypto })
      newcomers.addStranger(request.socket)
      this.#api.serve(connection, source, () => newcomers.remove(request.socket))
    } catch (error) {
      log.debug('a control connection was refused', { source, reason: reasonOf(error) })
      if (!socket.writableEnded) socket.destroy()
    }
  }
}
