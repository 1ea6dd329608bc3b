import type { KernelBorder } from './kernel-border.ts'
import {
  CMSG_HEADER_BYTES, IP_TOS, IPV6_TCLASS, MSG_CONTROL_AT, MSG_CONTROLLEN_AT, MSG_CTRUNC, MSG_FLAGS_AT, MSG_IOV_AT, MSG_IOVLEN_AT, MSG_NAMELEN_AT, MSG_TRUNC,
  SOCKADDR6_BYTES, SOL_IP, SOL_IPV6, SOL_UDP, UDP_GRO, UDP_SEGMENT,
} from './linux-abi.ts'

/** What one header needs of the arena: the header, an iovec, an address, control messages. */
export const MESSAGE_BYTES = 256
const IOV_AT = 64
const NAME_AT = 80
const NAME_BYTES = 32
const CONTROL_AT = 112
const CONTROL_BYTES = 128
/** A control message with a number in it, padded to a multiple of 8. */
const CMSG_BYTES = 24

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true)
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true)
}

/** struct msghdr for one row at a time to be sent: where it lies, whom it goes to, the length of its segments, the traffic class. */
export class SendMessage {
  readonly at: number
  readonly #view: DataView
  readonly #bytes: Uint8Array
  readonly #base: number

  constructor(border: KernelBorder, bytes: Uint8Array, view: DataView, at: number) {
    this.at = at
    this.#view = view
    this.#bytes = bytes
    this.#base = border.base
    bytes.fill(0, at, at + MESSAGE_BYTES)
    setU64(view, at, border.base + at + NAME_AT)
    setU64(view, at + MSG_IOV_AT, border.base + at + IOV_AT)
    setU64(view, at + MSG_IOVLEN_AT, 1)
    // The traffic class first, then the length of segments: either, both or none are shown to the kernel.
    const tos = at + CONTROL_AT
    setU64(view, tos, CMSG_HEADER_BYTES + 4)
    const segment = tos + CMSG_BYTES
    setU64(view, segment, CMSG_HEADER_BYTES + 2)
    view.setInt32(segment + 8, SOL_UDP, true)
    view.setInt32(segment + 12, UDP_SEGMENT, true)
  }

  /** Whom it goes to, as struct sockaddr. */
  to(socketAddress: Uint8Array): void {
    this.#bytes.set(socketAddress, this.at + NAME_AT)
    this.#view.setUint32(this.at + MSG_NAMELEN_AT, socketAddress.length, true)
    const isIpv6 = socketAddress.length === SOCKADDR6_BYTES
    const tos = this.at + CONTROL_AT
    this.#view.setInt32(tos + 8, isIpv6 ? SOL_IPV6 : SOL_IP, true)
    this.#view.setInt32(tos + 12, isIpv6 ? IPV6_TCLASS : IP_TOS, true)
  }

  /** @param segmentBytes 0 for one datagram */
  row(from: number, length: number, segmentBytes: number, trafficClass: number): void {
    const view = this.#view
    const { at } = this
    setU64(view, at + IOV_AT, this.#base + from)
    view.setUint32(at + IOV_AT + 8, length, true)
    const tos = at + CONTROL_AT
    const control = trafficClass === 0 ? tos + CMSG_BYTES : tos
    const controlBytes = (trafficClass === 0 ? 0 : CMSG_BYTES) + (segmentBytes === 0 ? 0 : CMSG_BYTES)
    view.setInt32(tos + CMSG_HEADER_BYTES, trafficClass, true)
    view.setUint16(tos + CMSG_BYTES + CMSG_HEADER_BYTES, segmentBytes, true)
    setU64(view, at + MSG_CONTROL_AT, controlBytes === 0 ? 0 : this.#base + control)
    view.setUint32(at + MSG_CONTROLLEN_AT, controlBytes, true)
  }
}

/** struct msghdr to receive one row at a time with. */
export class ReceiveMessage {
  readonly at: number
  /** Where the sender's struct sockaddr is. */
  readonly nameAt: number
  /** What `read` found out: length of each datagram of the row but the last; the outer traffic class. */
  segmentBytes = 0
  trafficClass = 0
  readonly #view: DataView

  /** @param from where rows are received to */
  constructor(border: KernelBorder, bytes: Uint8Array, view: DataView, at: number, from: number, length: number) {
    this.at = at
    this.nameAt = at + NAME_AT
    this.#view = view
    bytes.fill(0, at, at + MESSAGE_BYTES)
    setU64(view, at, border.base + this.nameAt)
    setU64(view, at + MSG_IOV_AT, border.base + at + IOV_AT)
    setU64(view, at + MSG_IOVLEN_AT, 1)
    setU64(view, at + MSG_CONTROL_AT, border.base + at + CONTROL_AT)
    setU64(view, at + IOV_AT, border.base + from)
    setU64(view, at + IOV_AT + 8, length)
  }

  /** To be called before every receiving: the kernel writes lengths here. */
  reset(): void {
    const view = this.#view
    view.setUint32(this.at + MSG_NAMELEN_AT, NAME_BYTES, true)
    view.setUint32(this.at + MSG_CONTROLLEN_AT, CONTROL_BYTES, true)
    view.setUint32(this.at + MSG_CONTROLLEN_AT + 4, 0, true)
    view.setInt32(this.at + MSG_FLAGS_AT, 0, true)
  }

  /** How many bytes of the sender's address there are; 0 when the kernel says something impossible. */
  get nameBytes(): number {
    const length = this.#view.getUint32(this.at + MSG_NAMELEN_AT, true)
    return length <= NAME_BYTES ? length : 0
  }

  /** Reads what the kernel said about the `received` bytes; `false` when it does not fit together: then the row is not to be touched. */
  read(received: number): boolean {
    const view = this.#view
    this.segmentBytes = received
    this.trafficClass = 0
    if ((view.getInt32(this.at + MSG_FLAGS_AT, true) & (MSG_TRUNC | MSG_CTRUNC)) !== 0) return false
    const length = view.getUint32(this.at + MSG_CONTROLLEN_AT, true)
    if (length > CONTROL_BYTES || view.getUint32(this.at + MSG_CONTROLLEN_AT + 4, true) !== 0) return false
    const control = this.at + CONTROL_AT
    for (let at = 0; at + CMSG_HEADER_BYTES <= length; ) {
      const bytes = view.getUint32(control + at, true)
      if (bytes < CMSG_HEADER_BYTES || at + bytes > length || view.getUint32(control + at + 4, true) !== 0) return false
      const level = view.getInt32(control + at + 8, true)
      const type = view.getInt32(control + at + 12, true)
      const data = control + at + CMSG_HEADER_BYTES
      if (level === SOL_UDP && type === UDP_GRO) {
        if (bytes < CMSG_HEADER_BYTES + 4) return false
        this.segmentBytes = view.getInt32(data, true)
        if (this.segmentBytes <= 0 || this.segmentBytes > received) return false
      } else if (level === SOL_IP && type === IP_TOS) {
        if (bytes < CMSG_HEADER_BYTES + 1) return false
        this.trafficClass = view.getUint8(data)
      } else if (level === SOL_IPV6 && type === IPV6_TCLASS) {
        if (bytes < CMSG_HEADER_BYTES + 4) return false
        this.trafficClass = view.getInt32(data, true) & 255
      }
      at += (bytes + 7) & ~7
    }
    return true
  }
}
