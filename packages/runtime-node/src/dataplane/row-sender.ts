import type { Instant } from '@meshwright/core'
import type { LaneContext } from './lane-context.ts'
import { EINVAL, EIO, EMSGSIZE, SOCKADDR6_BYTES } from './linux-abi.ts'
import { SendMessage } from './message-header.ts'
import type { UdpPath } from './socket-address.ts'

/** For so long a path that refused a row gets single datagrams. */
const SINGLES_MS = 10_000

/**
 * Sends rows of datagrams by one system call. Where the device below cannot (EIO), rows are given up for good; where a path is too
 * narrow for the segments (EINVAL, EMSGSIZE), for a while on that path: the kernel cuts single datagrams into fragments.
 * (WireGuard/wireguard-go:conn/errors_linux.go)
 */
export class RowSender {
  readonly #context: LaneContext
  readonly #message: SendMessage
  #path: UdpPath | undefined

  constructor(context: LaneContext) {
    this.#context = context
    this.#message = new SendMessage(context.border, context.bytes, context.view, context.map.send)
  }

  /** Sends `length` bytes from `from`: datagrams of `segment` bytes, the last one may be shorter. */
  send(now: Instant, path: UdpPath, from: number, length: number, segment: number, trafficClass: number): void {
    const { border, counters, offloads } = this.#context
    const fd = this.#socketFor(path)
    if (fd < 0) {
      counters.sendDrops += Math.ceil(length / segment)
      return
    }
    if (this.#path !== path) {
      this.#path = path
      this.#message.to(path.socketAddress)
    }
    if (length > segment) {
      if (!offloads.gso || path.singlesUntil > now) return this.#sendSingles(fd, from, length, segment, trafficClass)
      this.#message.row(from, length, segment, trafficClass)
      const sent = border.sendmsg(fd, this.#message.at, 0)
      counters.udpSends += 1
      if (sent >= 0) return
      if (sent === -EIO) offloads.gso = false
      else if (sent === -EINVAL || sent === -EMSGSIZE) path.singlesUntil = now + SINGLES_MS
      else {
        counters.sendDrops += Math.ceil(length / segment)
        return
      }
      counters.splitRows += 1
    }
    this.#sendSingles(fd, from, length, segment, trafficClass)
  }

  /** Sends a datagram of the engine's own. */
  sendCopy(now: Instant, path: UdpPath, bytes: Uint8Array, trafficClass: number): void {
    const { single } = this.#context.map
    this.#context.bytes.set(bytes, single)
    this.send(now, path, single, bytes.length, bytes.length, trafficClass)
  }

  #sendSingles(fd: number, from: number, length: number, segment: number, trafficClass: number): void {
    const { border, counters } = this.#context
    for (let at = 0; at < length; at += segment) {
      this.#message.row(from + at, Math.min(segment, length - at), 0, trafficClass)
      if (border.sendmsg(fd, this.#message.at, 0) < 0) counters.sendDrops += 1
      counters.udpSends += 1
    }
  }

  #socketFor(path: UdpPath): number {
    const { sockets } = this.#context
    if (sockets === undefined) return -1
    return path.socketAddress.length === SOCKADDR6_BYTES ? sockets.ipv6 : sockets.ipv4
  }
}
