import net from 'node:net'
import type { HeadscaleWorld } from './lab-headscale-world.ts'
import type { OurNode } from './lab-ours.ts'
import type { Lab } from './lab-process.ts'
import type { Space } from './lab-space.ts'
import { socksIn } from './lab-traffic.ts'
import type { Tailscaled } from './lab-tailscaled.ts'

/** Where a node of ours in a space offers its SOCKS5 port to us. */
const SPACE_SOCKS_PORT = 1055

/** A node of either kind. */
export type GuestNode = OurNode | Tailscaled

/**
 * A node of ours in a space, logged in as alice: with a TUN device, or in userspace mode, and then {@link socksOf} leads through it.
 * @param up more flags for `meshwright up`
 */
export async function oursIn(world: HeadscaleWorld, space: Space, name: string, mode: 'tun' | 'userspace', ...up: readonly string[]): Promise<OurNode> {
  const flags = mode === 'tun' ? [] : ['--tun', 'userspace-networking', '--socks5-server', `0.0.0.0:${SPACE_SOCKS_PORT}`]
  const [node, key] = await Promise.all([world.ourDaemon(name, flags, space.name), world.reusable('alice')])
  await node.up(world.headscale.url, key, ...up)
  return node
}

/** A port of ours that leads to the SOCKS5 port of a space, whoever listens there. */
export async function socksOf(lab: Lab, space: Space): Promise<number> {
  return forwardPort(lab, await addressOf(space), SPACE_SOCKS_PORT)
}

/** Starts a proxy in a space that dials by the kernel, into the mesh by the TUN device there; gives a port of ours as {@link socksOf}. */
export async function kernelSocksOf(lab: Lab, space: Space): Promise<number> {
  await socksIn(lab, space.name, SPACE_SOCKS_PORT)
  return socksOf(lab, space)
}

/** Approves what a node offers, and nothing else; '' for nothing. */
export async function approve(world: HeadscaleWorld, node: string, routes: string): Promise<void> {
  await world.headscale.cli('nodes', 'approve-routes', '-i', await world.headscale.nodeId(node), '-r', routes)
}

/** IPv4 and IPv6 addresses of a node inside the mesh. */
export async function addressesOf(node: GuestNode): Promise<readonly [string, string]> {
  const [v4 = '', v6 = ''] = (await node.status()).TailscaleIPs ?? []
  return [v4, v6]
}

/** The address of a space on its wire to us. */
export async function addressOf(space: Space): Promise<string> {
  const listed = await space.ip('-o', '-4', 'addr', 'show', 'dev', `${space.name}i`)
  const found = /inet ([0-9.]+)\//.exec(listed)?.[1]
  if (found === undefined) throw new Error(`no address of ${space.name} in ${listed}`)
  return found
}

/** Drops all UDP outside of a TUN device, both ways, until the table `cut` of the space is deleted. */
export async function cutOuterUdp(space: Space, device: string): Promise<void> {
  const chain = (name: string, hook: string, way: string): string => `nft add chain inet cut ${name} '{ type filter hook ${hook} priority 0; policy accept; }'; nft add rule inet cut ${name} ${way} != ${device} meta l4proto udp drop`
  await space.sh(`nft add table inet cut; ${chain('out', 'output', 'oifname')}; ${chain('in', 'input', 'iifname')}`)
}

/** Drops all UDP on the wire of a space to us, both ways, until its table `cut` is deleted. */
export async function cutUdp(space: Space): Promise<void> {
  const chain = (name: string, hook: string, way: string): string => `nft add chain inet cut ${name} '{ type filter hook ${hook} priority 0; policy accept; }'; nft add rule inet cut ${name} ${way} ${space.name}i meta l4proto udp drop`
  await space.sh(`nft add table inet cut; ${chain('out', 'output', 'oifname')}; ${chain('in', 'input', 'iifname')}`)
}

/** A port on loopback whose connections end at another address. */
async function forwardPort(lab: Lab, host: string, port: number): Promise<number> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer({ allowHalfOpen: true }, (client) => {
    const target = net.connect({ host, port, allowHalfOpen: true })
    for (const [a, b] of [[client, target], [target, client]] as const) {
      sockets.add(a)
      a.on('error', () => b.destroy())
      a.on('close', () => sockets.delete(a))
      a.pipe(b)
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  lab.onStop(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return address.port
}
