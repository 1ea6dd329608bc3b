import dgram from 'node:dgram'
import net from 'node:net'
import type { Duplex } from 'node:stream'
import { type Endpoint, formatIp, type Ip, isLoopback } from '@meshwright/ip'
import type { DatagramWay, FlowCarrier, ForwardUnclaimed } from './flow-carrier.ts'
import { runSystem } from './system-command.ts'

/** Datagram flows that have a socket at a time; more are dropped. */
export const MAX_DATAGRAM_FLOWS = 1024
/** How long a machine behind this node may take to answer a connection: as long as the kernel's own first few tries. */
const CONNECT_MS = 30_000
/** Pings of machines behind this node under way at a time, each a process; more are not answered. */
const MAX_PINGS = 16
const PING_SECONDS = '3'

/** What a carrier decides by. */
export interface OutsideFlowsOptions {
  /** Whether an address is this node's own in the mesh. */
  readonly isOwn: (ip: Ip) => boolean
  /** Whether an address is behind this node: in a route that it offers and that is approved. */
  readonly isBehind: (ip: Ip) => boolean
  /** Connections to this node itself that no listener claims. */
  readonly unclaimed?: ForwardUnclaimed | undefined
  /** Where datagrams to this node itself go that no socket claims; `undefined`: nowhere. */
  readonly unclaimedDatagrams?: ((local: Endpoint) => Endpoint | undefined) | undefined
}

/**
 * A subnet router and exit node in user space: what peers send to machines behind this node goes on by sockets of the system, which give it
 * this computer's address; pings by the system's `ping`, which needs no rights. The packet filter has admitted it before; what is not in an
 * offered route, and loopback always, is refused here once more.
 */
export class OutsideFlows implements FlowCarrier {
  readonly #options: OutsideFlowsOptions
  #sockets = 0
  #pings = 0

  constructor(options: OutsideFlowsOptions) {
    this.#options = options
  }

  readonly connect: ForwardUnclaimed = (local, remote) => {
    if (this.#options.isOwn(local.ip)) return this.#options.unclaimed?.(local, remote) ?? Promise.resolve(undefined)
    return this.#mayPass(local.ip) ? connectOut(local) : Promise.resolve(undefined)
  }

  datagrams(local: Endpoint, _remote: Endpoint, onDatagram: (bytes: Uint8Array) => void): DatagramWay | undefined {
    const to = this.#options.isOwn(local.ip) ? this.#options.unclaimedDatagrams?.(local) : this.#mayPass(local.ip) ? local : undefined
    if (to === undefined || this.#sockets >= MAX_DATAGRAM_FLOWS) return undefined
    this.#sockets += 1
    return datagramsOut(to, onDatagram, () => (this.#sockets -= 1))
  }

  async echo(to: Ip): Promise<boolean> {
    if (!this.#mayPass(to) || this.#pings >= MAX_PINGS) return false
    this.#pings += 1
    try {
      await runSystem('ping', ['-n', '-q', '-c', '1', '-W', PING_SECONDS, formatIp(to)])
      return true
    } catch {
      return false // no answer, or no `ping`: silence either way
    } finally {
      this.#pings -= 1
    }
  }

  #mayPass(ip: Ip): boolean {
    return !isLoopback(ip) && this.#options.isBehind(ip)
  }
}

function connectOut(to: Endpoint): Promise<Duplex | undefined> {
  return new Promise((resolve) => {
    const socket = net.connect({ host: formatIp(to.ip), port: to.port, allowHalfOpen: true, noDelay: true })
    const timer = setTimeout(() => socket.destroy(new Error('no answer')), CONNECT_MS)
    socket.once('error', () => {
      clearTimeout(timer)
      resolve(undefined)
    })
    socket.once('connect', () => {
      clearTimeout(timer)
      resolve(socket)
    })
  })
}

/** A socket that talks with one far end alone. What is sent before it is connected waits in it. */
function datagramsOut(to: Endpoint, onDatagram: (bytes: Uint8Array) => void, onClose: () => void): DatagramWay {
  const socket = dgram.createSocket(to.ip.family === 4 ? 'udp4' : 'udp6')
  const waiting: Uint8Array[] = []
  let state: 'connecting' | 'open' | 'closed' = 'connecting'
  const close = (): void => {
    if (state === 'closed') return
    state = 'closed'
    waiting.length = 0
    socket.close()
    onClose()
  }
  socket.on('message', (bytes) => onDatagram(bytes))
  // Also what ICMP says of an earlier datagram: the next one may arrive.
  socket.on('error', () => {
    if (state === 'connecting') close()
  })
  socket.connect(to.port, formatIp(to.ip), (error?: Error) => {
    if (state !== 'connecting') return
    if (error !== undefined && error !== null) return close()
    state = 'open'
    for (const bytes of waiting.splice(0)) socket.send(bytes)
  })
  return {
    send: (bytes) => {
      if (state === 'open') socket.send(bytes)
      else if (state === 'connecting' && waiting.length < 16) waiting.push(bytes)
    },
    close,
  }
}
