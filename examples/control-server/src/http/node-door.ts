import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { MachinePrivateKey } from '@meshwright/crypto'
import type { Prefix } from '@meshwright/ip'
import type { ControlService } from '../control-service.ts'
import { reasonOf } from '../failure.ts'
import type { Log } from '../log.ts'
import { acceptControl, type Gate, type Newcomers, serverCrypto, systemRandom } from '../runtime.ts'
import { BodyBudget } from './body.ts'
import { clientAddress } from './client-address.ts'
import { NodeApi, type NodeApiFigures } from './node-api.ts'
import { Visitor } from './visitor.ts'

/** What all strangers together may have sent that is not worked on yet. Beyond it the connection that sends more is ended. */
const UNREAD_BYTES = 8_388_608

/** What the door needs. */
export interface NodeDoorOptions {
  readonly machineKey: MachinePrivateKey
  readonly service: ControlService
  readonly log: Log
  readonly newcomers: Newcomers
  readonly gate: Gate
  readonly trustedProxies: readonly Prefix[]
}

/** Takes upgrades to the Noise channel: handshakes and all that strangers say wait for their turn, and who proves no node stays a newcomer. */
export class NodeDoor {
  readonly #options: NodeDoorOptions
  readonly #api: NodeApi
  readonly #unread = new BodyBudget(UNREAD_BYTES)

  constructor(options: NodeDoorOptions) {
    this.#options = options
    this.#api = new NodeApi(options.service, options.log)
  }

  /** For metrics; `unreadBytes`: what strangers have sent that is not worked on yet. */
  get figures(): NodeApiFigures & { readonly unreadBytes: number } {
    return { ...this.#api.figures, unreadBytes: this.#unread.taken }
  }

  /** Takes over the socket of an upgrade to `/ts2021`. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { newcomers, gate, trustedProxies } = this.#options
    socket.on('error', () => socket.destroy())
    newcomers.add(request.socket) // with new patience: for the handshake
    const source = clientAddress(request, trustedProxies)
    gate.add(source, () => {
      if (socket.destroyed) return // it gave way, or did not wait
      void this.#accept(request, socket, head, source)
    })
  }

  async #accept(request: IncomingMessage, socket: Duplex, head: Buffer, source: string): Promise<void> {
    const { machineKey, log, newcomers, gate } = this.#options
    const visitor = new Visitor(gate, source, this.#unread)
    try {
      const connection = await acceptControl(request, socket, head, { machineKey, random: systemRandom, provider: serverCrypto, pace: visitor })
      newcomers.addStranger(request.socket)
      this.#api.serve(connection, source, {
        proved: () => {
          newcomers.remove(request.socket)
          visitor.proved(connection.machineKey.text)
        },
        asked: () => visitor.asked(),
        refused: () => visitor.refuse(),
      })
    } catch (error) {
      log.debug('a control connection was refused', { source, reason: reasonOf(error) })
      if (!socket.writableEnded) socket.destroy()
    }
  }
}
