import dgram from 'node:dgram'
import { lookup } from 'node:dns/promises'
import net from 'node:net'
import { parseIp } from '@meshwright/ip'
import { SocketMarker } from './socket-mark.ts'

const MAX_KNOWN_NAMES = 1024
/** A connection that fails at once tells at the next tick, which comes after all microtasks: whoever awaited the socket is listening by then. */
const MICROTASK: Promise<void> = Promise.resolve()

/** Opens the sockets on which a node itself talks: with its control server, relays, peers, DNS servers. */
export interface Outside {
  /** A TCP socket that begins to connect, to a name or an address; listen for `error` without awaiting anything else first. Rejects when the name has no address. */
  connect(host: string, port: number): Promise<net.Socket>
  /** A UDP socket, bound: IPv6 sockets take IPv6 alone. Rejects with an error whose `code` is Node's. */
  bindUdp(type: 'udp4' | 'udp6', port: number, address: string | undefined): Promise<dgram.Socket>
}

/** The system's usual way. */
export const systemOutside: Outside = {
  async connect(host, port) {
    await MICROTASK
    return net.connect({ host, port })
  },
  bindUdp: (type, port, address) => bound(newUdp(type), { port, ...(address !== undefined && { address }) }),
}

/**
 * The way past the node's own TUN device: every packet carries `mark`, for which rules of the system know other routes. Names that cannot be
 * looked up have the addresses that they had last, since the way to the DNS server may lead through the mesh that is being mended.
 */
export async function markedOutside(mark: number): Promise<Outside> {
  const marker = await SocketMarker.open(mark)
  const known = new Map<string, readonly { readonly address: string; readonly family: number }[]>()
  const addressesOf = async (host: string): Promise<readonly { readonly address: string; readonly family: number }[]> => {
    try {
      const found = await lookup(host, { all: true })
      if (known.size >= MAX_KNOWN_NAMES) known.clear()
      known.set(host, found)
      return found
    } catch (error) {
      const last = known.get(host)
      if (last === undefined) throw error
      return last
    }
  }
  return {
    async connect(host, port) {
      const family = net.isIP(host)
      const found = family === 0 ? await addressesOf(host) : [{ address: host, family }]
      const first = found.find((each) => each.family === 4) ?? found[0]
      if (first === undefined) throw Object.assign(new Error(`no address for ${host}`), { code: 'ENOTFOUND' })
      await MICROTASK
      return marker.tcp(first.family === 6 ? 6 : 4).connect({ host: first.address, port })
    },
    async bindUdp(type, port, address) {
      const fd = marker.udp(type === 'udp4' ? 4 : 6, port, address === undefined ? undefined : addressBytes(address))
      return adoptUdp(type, fd)
    },
  }
}

/** Hands a bound descriptor to Node, whose it is from then on. Rejects when it is no UDP socket. */
export function adoptUdp(type: 'udp4' | 'udp6', fd: number): Promise<dgram.Socket> {
  return bound(newUdp(type), { fd })
}

function newUdp(type: 'udp4' | 'udp6'): dgram.Socket {
  // Addresses are literals always: Node's own look-up would cost a turn of the event loop for each datagram.
  const literal = (host: string, _options: unknown, done: (error: null, address: string, family: number) => void): void => done(null, host, type === 'udp4' ? 4 : 6)
  return dgram.createSocket({ type, ipv6Only: type === 'udp6', lookup: literal })
}

function bound(socket: dgram.Socket, where: dgram.BindOptions): Promise<dgram.Socket> {
  return new Promise((resolve, reject) => {
    socket.once('error', (error) => {
      socket.close()
      reject(error)
    })
    socket.bind(where, () => {
      socket.removeAllListeners('error')
      resolve(socket)
    })
  })
}

function addressBytes(text: string): Uint8Array | undefined {
  const ip = parseIp(text)
  return ip?.bytes
}
