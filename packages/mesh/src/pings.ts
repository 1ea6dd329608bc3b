import { after, earlier, type Instant, type RandomSource, utf8Encode } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { encodeIcmpEcho, ICMPV4_ECHO_REPLY, ICMPV6_ECHO_REPLY, type Ip, type PacketView } from '@meshwright/ip'
import { encodeTsmpPing, TSMP_PING_BYTES } from './tsmp.ts'

/** How long a ping may stay without answer. */
export const PING_TIMEOUT_MS = 5_000
/** The most pings under way at a time. */
export const MAX_PINGS = 256

const ICMP_DATA = utf8Encode('meshwright ping')

/** A ping inside the tunnel that waits for its answer. */
export interface WaitingPing {
  readonly id: number
  readonly kind: 'TSMP' | 'ICMP'
  readonly ip: Ip
  readonly peer: NodePublicKey
  readonly sentAt: Instant
  readonly due: Instant
  readonly token: string
}

/** A ping that has ended. */
export interface EndedPing {
  readonly ping: WaitingPing
  /** `undefined` when nobody answered in time. */
  readonly latencyMs: number | undefined
  readonly peerApiPort: number | undefined
}

/** Pings inside the tunnel: TSMP, which any node answers, and ICMP echo, which the policy must allow. Bounded. */
export class TunnelPings {
  readonly #random: RandomSource
  readonly #waiting: Map<string, WaitingPing> = new Map()

  constructor(random: RandomSource) {
    this.#random = random
  }

  /** The packet to send, or `undefined` when too many pings are under way. */
  start(now: Instant, ping: { readonly id: number; readonly kind: 'TSMP' | 'ICMP'; readonly from: Ip; readonly to: Ip; readonly peer: NodePublicKey; readonly timeoutMs?: number }): Uint8Array | undefined {
    if (this.#waiting.size >= MAX_PINGS) return undefined
    const data = this.#random(TSMP_PING_BYTES)
    const identifier = ((data[0] ?? 0) << 8) | (data[1] ?? 0)
    const sequence = ((data[2] ?? 0) << 8) | (data[3] ?? 0)
    const token = ping.kind === 'TSMP' ? tsmpToken(ping.peer, data) : icmpToken(ping.to, identifier, sequence)
    this.#waiting.set(token, { id: ping.id, kind: ping.kind, ip: ping.to, peer: ping.peer, sentAt: now, due: after(now, ping.timeoutMs ?? PING_TIMEOUT_MS), token })
    if (ping.kind === 'TSMP') return encodeTsmpPing(ping.from, ping.to, data)
    return encodeIcmpEcho({ kind: 'request', src: ping.from, dst: ping.to, identifier, sequence, payload: ICMP_DATA })
  }

  /** Takes a TSMP pong. */
  pong(now: Instant, peer: NodePublicKey, data: Uint8Array, peerApiPort: number): EndedPing | undefined {
    return this.#end(now, tsmpToken(peer, data), peerApiPort)
  }

  /** Takes an inner packet; an answer to one of our echo requests is ours and nobody else's. */
  echoReply(now: Instant, view: PacketView): EndedPing | undefined {
    if (this.#waiting.size === 0 || !view.isIcmp || view.isFragment || view.payloadLength < 0) return undefined
    if (view.icmpType !== (view.family === 4 ? ICMPV4_ECHO_REPLY : ICMPV6_ECHO_REPLY)) return undefined
    const at = view.offset + view.headerLength
    const header = view.memory.subarray(at, at + 8)
    const from = view.src()
    if (header.length < 8 || from === undefined) return undefined
    return this.#end(now, icmpToken(from, ((header[4] ?? 0) << 8) | (header[5] ?? 0), ((header[6] ?? 0) << 8) | (header[7] ?? 0)), undefined)
  }

  /** Pings whose time is up. */
  expire(now: Instant): readonly EndedPing[] {
    const ended = [...this.#waiting.values()].filter((ping) => now >= ping.due)
    for (const ping of ended) this.#waiting.delete(ping.token)
    return ended.map((ping) => ({ ping, latencyMs: undefined, peerApiPort: undefined }))
  }

  pollTimeout(): Instant | undefined {
    let due: Instant | undefined
    for (const ping of this.#waiting.values()) due = earlier(due, ping.due)
    return due
  }

  #end(now: Instant, token: string, peerApiPort: number | undefined): EndedPing | undefined {
    const ping = this.#waiting.get(token)
    if (ping === undefined) return undefined
    this.#waiting.delete(token)
    return { ping, latencyMs: now - ping.sentAt, peerApiPort }
  }
}

function tsmpToken(peer: NodePublicKey, data: Uint8Array): string {
  return `tsmp ${peer.text} ${data.join('.')}`
}

function icmpToken(to: Ip, identifier: number, sequence: number): string {
  return `icmp ${to.key} ${identifier} ${sequence}`
}
