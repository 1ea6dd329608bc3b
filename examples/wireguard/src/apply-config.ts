import { type Endpoint, type Ip, parseIp } from '@meshwright/ip'
import type { ConfigFile, UapiChange } from '@meshwright/wireguard/text'
import { resolveBySystem } from './endpoint-names.ts'
import { UsageError } from './usage-error.ts'

/** What makes an interface that of a file, as `wg setconf` would say it. Names of endpoints are resolved. @throws UsageError */
export async function changesFor(config: ConfigFile): Promise<readonly UapiChange[]> {
  const own = config.interface
  const changes: UapiChange[] = []
  if (own.privateKey !== undefined) changes.push({ type: 'privateKey', key: own.privateKey })
  if (own.listenPort !== undefined) changes.push({ type: 'listenPort', port: own.listenPort })
  if (own.fwmark !== undefined) changes.push({ type: 'fwmark', mark: own.fwmark })
  for (const { publicKey, presharedKey, endpoint, persistentKeepaliveSeconds, allowedIps } of config.peers) {
    if (publicKey === undefined) continue
    const place = endpoint && (await resolve(endpoint))
    changes.push({
      type: 'peer', publicKey, remove: false, updateOnly: false, replaceAllowedIps: true, allowedIps: allowedIps.map((prefix) => ({ prefix, remove: false })),
      ...(presharedKey !== undefined && { presharedKey }),
      ...(place !== undefined && { endpoint: place }),
      ...(persistentKeepaliveSeconds !== undefined && { persistentKeepaliveSeconds }),
    })
  }
  return changes
}

/** The addresses of the interface in a wg-quick file. */
export function addressesOf(config: ConfigFile): readonly Ip[] {
  return config.interface.addresses.flatMap((text) => parseIp(text.split('/')[0] ?? '') ?? [])
}

async function resolve({ host, port }: { readonly host: string; readonly port: number }): Promise<Endpoint | undefined> {
  const literal = parseIp(host)
  if (literal !== undefined) return { ip: literal, port }
  try {
    const [first = ''] = await resolveBySystem(host)
    const ip = parseIp(first)
    return ip && { ip, port }
  } catch (error) {
    throw new UsageError(`the endpoint ${host} cannot be resolved: ${error instanceof Error ? error.message : String(error)}`, 1)
  }
}
