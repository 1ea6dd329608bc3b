import http from 'node:http'
import type { Duplex } from 'node:stream'
import type { MapNode, NetworkMap } from '@meshwright/control-client'
import { formatIp, type Ip } from '@meshwright/ip'
import type { PingResult } from '@meshwright/mesh'
import { MeshRuntimeError } from './mesh-runtime.ts'

/** tailscale/tailscale:ipn/ipnlocal/local.go, pingPeerAPI. */
const TIMEOUT_MS = 10_000

/** Where a peer's PeerAPI is, by a family that this node has too; `undefined` where it offers none. */
export function peerApiAddress(map: NetworkMap, peer: MapNode): { readonly ip: Ip; readonly port: number; readonly url: string } | undefined {
  for (const [family, proto] of [[4, 'peerapi4'], [6, 'peerapi6']] as const) {
    const port = peer.hostinfo.Services?.find((service) => service.Proto === proto)?.Port ?? 0
    const ip = peer.addresses.find((own) => own.ip.family === family)?.ip
    if (port === 0 || ip === undefined || !map.self.addresses.some((own) => own.ip.family === family)) continue
    const host = family === 6 ? `[${formatIp(ip)}]` : formatIp(ip)
    return { ip, port, url: `http://${host}:${port}` }
  }
  return undefined
}

/** What of a node is asked. */
export interface PeerApiDoors {
  networkMap(): NetworkMap | undefined
  dialTcp(host: string, port: number, options: { readonly signal: AbortSignal }): Promise<Duplex>
}

/** Asks for the head of a peer's PeerAPI over the mesh; what fails is told in the result. Rejects when `signal` aborts. */
export async function pingPeerApi(node: PeerApiDoors, ip: Ip, options: { readonly timeoutMs?: number; readonly signal?: AbortSignal }): Promise<PingResult> {
  refuseAborted(options.signal)
  const map = node.networkMap()
  const peer = [...(map?.peers.values() ?? [])].find((each) => each.addresses.some((own) => own.ip.equals(ip)))
  const door = map && peer && peerApiAddress(map, peer)
  const result = { ip, peer: peer?.nodeKey, nodeName: peer === undefined ? '' : `${peer.name}.`, latencyMs: 0, endpoint: undefined, region: 0, regionCode: '', peerApiPort: undefined, ...(door && { peerApiUrl: door.url }) }
  if (peer === undefined) return { ...result, error: `no peer found with Tailscale IP ${formatIp(ip)}` }
  if (door === undefined) return { ...result, error: `no PeerAPI base found for peer ${peer.id} (${formatIp(ip)})` }
  const limit = AbortSignal.timeout(options.timeoutMs ?? TIMEOUT_MS)
  const signal = options.signal === undefined ? limit : AbortSignal.any([limit, options.signal])
  const started = performance.now()
  try {
    const socket = await node.dialTcp(formatIp(door.ip), door.port, { signal })
    try {
      const status = await head(socket, door, signal)
      return { ...result, latencyMs: performance.now() - started, error: status === 200 ? undefined : `HTTP status ${status}` }
    } finally {
      socket.destroy()
    }
  } catch (error) {
    refuseAborted(options.signal)
    return { ...result, error: limit.aborted ? 'no answer in time' : error instanceof Error ? error.message : String(error) }
  }
}

function refuseAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new MeshRuntimeError('RUNTIME_ABORTED', 'the ping was given up', { cause: signal.reason })
}

function head(socket: Duplex, door: { readonly ip: Ip; readonly port: number }, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = http.request({ method: 'HEAD', host: formatIp(door.ip), port: door.port, path: '/', signal, createConnection: () => socket })
    request.once('response', (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    request.once('error', reject)
    request.end()
  })
}
