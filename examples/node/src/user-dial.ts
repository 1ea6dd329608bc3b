import { connect, isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { formatIp, isLoopback, parseIp } from '@meshwright/ip'
import type { RunningNode } from '@meshwright/runtime-node'

const SYSTEM_DIAL_MS = 60_000

/**
 * Connects as programs of this computer mean it: names of the mesh and addresses that some peer carries go through the mesh, everything
 * else is the system's. Rejects in the words of tailscaled, with Node's `code`.
 */
export async function userDial(node: RunningNode, host: string, port: number): Promise<Duplex> {
  const target = recordOf(node, host) ?? host
  const mesh = meshAddress(node, target) ?? (await exitAddress(node, target))
  try {
    return await (mesh === undefined ? systemDial(target, port) : node.dialTcp(mesh, port))
  } catch (error) {
    throw Object.assign(new Error(reason(error, host, mesh ?? host, port), { cause: error }), { code: codeOf(error) })
  }
}

function systemDial(host: string, port: number): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, allowHalfOpen: true, timeout: SYSTEM_DIAL_MS })
    socket.once('timeout', () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })))
    socket.once('connect', () => {
      socket.setTimeout(0)
      resolve(socket)
    })
    socket.once('error', reject)
  })
}

/** The address of a name that the control server adds to those of the mesh, in its own domain or elsewhere. */
function recordOf(node: RunningNode, host: string): string | undefined {
  const wanted = host.replace(/\.$/, '').toLowerCase()
  return node.networkMap()?.dns.ExtraRecords?.find(({ Name, Type = '' }) => ['', 'A', 'AAAA'].includes(Type) && Name.replace(/\.$/, '').toLowerCase() === wanted)?.Value
}

function meshAddress(node: RunningNode, host: string): string | undefined {
  if (node.whois(host) !== undefined) return host
  const status = node.status()
  const wanted = host.replace(/\.$/, '').toLowerCase()
  const named = [...status.peers, ...(status.self === undefined ? [] : [status.self])].find((peer) => peer.name.toLowerCase() === wanted || peer.name.split('.')[0]?.toLowerCase() === wanted)
  if (named !== undefined) return named.addresses[0] && formatIp(named.addresses[0])
  return status.magicDnsSuffix !== '' && wanted.endsWith(`.${status.magicDnsSuffix}`) ? host : undefined
}

// With an exit node all the rest goes there, and nowhere when it cannot be used; loopback is this computer all the same.
async function exitAddress(node: RunningNode, host: string): Promise<string | undefined> {
  if (node.prefs().exitNode === '') return undefined
  const [address] = isIP(host) === 0 ? await node.resolve(host) : [host]
  const ip = address === undefined ? undefined : parseIp(address)
  return ip === undefined || isLoopback(ip) ? undefined : formatIp(ip)
}

function reason(error: unknown, host: string, address: string, port: number): string {
  const where = `dial failure: connect tcp ${address.includes(':') ? `[${address}]` : address}:${port}`
  switch (codeOf(error)) {
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `resolve failure: lookup ${host}: no such host`
    case 'ECONNREFUSED':
      return `${where}: connection was refused`
    case 'ETIMEDOUT':
      return `${where}: operation timed out`
    default:
      return `${where}: ${error instanceof Error ? error.message : String(error)}`
  }
}

function codeOf(error: unknown): string | undefined {
  return typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}
