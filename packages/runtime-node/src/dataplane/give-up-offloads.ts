import type { KernelBorder } from './kernel-border.ts'
import type { LaneOffloads, SocketPair } from './lane-context.ts'
import { SOL_UDP, TUNSETOFFLOAD, UDP_GRO } from './linux-abi.ts'
import type { Scratch } from './udp-pair.ts'

/** None of them. */
export const NO_OFFLOADS: Readonly<LaneOffloads> = { tso: false, uso: false, udpJoin: false, gso: false, gro: false }

/** From now on the kernel gives packets and datagrams, no rows of them: by the device, and by sockets that are open already. */
export function giveUpOffloads(border: KernelBorder, { view, at }: Scratch, tun: { readonly fd: number; readonly hasVnetHeader: boolean }, sockets: SocketPair | undefined): void {
  // What was in its queue before comes as rows still, and is cut as ever.
  if (tun.hasVnetHeader) border.ioctlValue(tun.fd, TUNSETOFFLOAD, 0)
  view.setInt32(at, 0, true)
  for (const fd of [sockets?.ipv4 ?? -1, sockets?.ipv6 ?? -1]) if (fd >= 0) border.setsockopt(fd, SOL_UDP, UDP_GRO, at, 4)
}
