import { isIPv6 } from 'node:net'
import { answerBinding } from '@meshwright/nat-traversal'
import { openUdp, type UdpSocket } from './udp.ts'

/** How the STUN service listens. */
export interface StunServiceOptions {
  /** UDP port (default 3478); 0: any free one. */
  readonly port?: number
  /** One address to bind; absent: all of both families. */
  readonly address?: string
  /** Answer every well-formed Binding request, not those of relay clients alone. */
  readonly anyClient?: boolean
}

/** A STUN service that runs. */
export interface StunService {
  readonly portIpv4: number | undefined
  readonly portIpv6: number | undefined
  /** Datagrams that were answered, and that were not worth an answer. */
  stats(): { readonly answered: number; readonly ignored: number }
  close(): Promise<void>
}

/**
 * Tells clients the address that the network shows of them. The port is bound in both families apart, so that IPv4 clients are told
 * IPv4 addresses.
 * @throws UdpError (the promise rejects with it) when the port cannot be had
 */
export async function startStunService(options: StunServiceOptions = {}): Promise<StunService> {
  const { address } = options
  let answered = 0
  let ignored = 0
  const socket: UdpSocket = await openUdp({
    port: options.port ?? 3478,
    ...(address !== undefined && (isIPv6(address) ? { ipv4: false as const, ipv6: address } : { ipv4: address, ipv6: false as const })),
    onDatagram: (bytes, from) => {
      const answer = answerBinding(bytes, from, { anyClient: options.anyClient ?? false })
      if (answer === undefined) ignored += 1
      else if (socket.send(from, answer)) answered += 1
    },
  })
  return {
    portIpv4: socket.portIpv4,
    portIpv6: socket.portIpv6,
    stats: () => ({ answered, ignored }),
    close: () => socket.close(),
  }
}
