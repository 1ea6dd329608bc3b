import { isIPv6 } from 'node:net'
import { answerBinding } from '@meshwright/nat-traversal'
import { type Endpoint, formatIp } from '@meshwright/ip'
import { openUdp, type UdpSocket } from './udp.ts'

/** Answers to one address in a second: a site with thousands of clients asks for less, and who pretends to be somebody else has no more sent to them. */
const ANSWERS_PER_SECOND = 1_000
const WINDOW_MS = 1_000
/** Addresses that are counted in a second. More are answered uncounted: who is asked by so many has other worries. */
const MAX_COUNTED = 65_536

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
  /** Datagrams that were answered, that were not worth an answer, and questions of addresses that ask too much. */
  stats(): { readonly answered: number; readonly ignored: number; readonly limited: number }
  close(): Promise<void>
}

/** Counts the answers to each address in a second. */
class AnswerLimit {
  readonly #counts = new Map<string, number>()
  #since = 0

  allows(from: Endpoint): boolean {
    const now = performance.now()
    if (now - this.#since >= WINDOW_MS) {
      this.#since = now
      this.#counts.clear()
    }
    const source = formatIp(from.ip)
    const count = this.#counts.get(source) ?? 0
    if (count >= ANSWERS_PER_SECOND) return false
    if (count > 0 || this.#counts.size < MAX_COUNTED) this.#counts.set(source, count + 1)
    return true
  }
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
  let limited = 0
  const limit = new AnswerLimit()
  const socket: UdpSocket = await openUdp({
    port: options.port ?? 3478,
    ...(address !== undefined && (isIPv6(address) ? { ipv4: false as const, ipv6: address } : { ipv4: address, ipv6: false as const })),
    onDatagram: (bytes, from) => {
      const answer = answerBinding(bytes, from, { anyClient: options.anyClient ?? false })
      if (answer === undefined) ignored += 1
      else if (!limit.allows(from)) limited += 1
      else if (socket.send(from, answer)) answered += 1
    },
  })
  return {
    portIpv4: socket.portIpv4,
    portIpv6: socket.portIpv6,
    stats: () => ({ answered, ignored, limited }),
    close: () => socket.close(),
  }
}
