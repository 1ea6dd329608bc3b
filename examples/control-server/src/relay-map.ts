import { isIP } from 'node:net'
import { decodeDERPMap, type DERPHomeParams, type DERPMap, type DERPNode, type DERPRegion } from '@meshwright/control-protocol'
import type { RelaySettings, ServerSettings } from './config/load.ts'
import { readYaml } from './config/yaml.ts'
import { Failure, reasonOf } from './failure.ts'

/** Names of a relay map file (small or capital letters are the same, as to headscale) to those of the wire. */
const REGION_FIELDS: Readonly<Record<string, string>> = {
  regionid: 'RegionID', regioncode: 'RegionCode', regionname: 'RegionName', latitude: 'Latitude', longitude: 'Longitude', avoid: 'Avoid',
  nomeasurenohome: 'NoMeasureNoHome', nodes: 'Nodes',
} // prettier-ignore
const NODE_FIELDS: Readonly<Record<string, string>> = {
  name: 'Name', regionid: 'RegionID', hostname: 'HostName', certname: 'CertName', ipv4: 'IPv4', ipv6: 'IPv6', stunport: 'STUNPort', stunonly: 'STUNOnly',
  derpport: 'DERPPort', insecurefortests: 'InsecureForTests', stuntestip: 'STUNTestIP', canport80: 'CanPort80',
} // prettier-ignore

/** The relays that clients may use: all files in order, later ones replace regions and scores of the same number; then the embedded one, with the pin of its own certificate. */
export function buildRelayMap(settings: ServerSettings, pin?: string): DERPMap {
  return withEmbedded(readRelayMaps(settings), settings, pin)
}

/** The relays of all files. @throws Failure naming the file and the key */
export function readRelayMaps(settings: ServerSettings): DERPMap {
  const regions = new Map<string, DERPRegion>()
  const scores: Record<string, number> = {}
  for (const file of settings.relayMapPaths) {
    const map = readRelayMap(file)
    for (const [id, region] of Object.entries(map.Regions ?? {})) regions.set(id, region)
    Object.assign(scores, map.HomeParams?.RegionScore)
  }
  return { Regions: Object.fromEntries(regions), ...(Object.keys(scores).length > 0 && { HomeParams: { RegionScore: scores } }) }
}

/** The map with the embedded relay, if there is one that clients are to be told of; `pin` when its certificate is its own. */
export function withEmbedded(map: DERPMap, settings: ServerSettings, pin: string | undefined): DERPMap {
  const { relay } = settings
  return relay?.addRegion === true ? { ...map, Regions: { ...map.Regions, [String(relay.regionId)]: embeddedRegion(relay, settings.serverUrl, pin) } } : map
}

/** The relays of a file. @throws Failure naming the file and the key */
export function readRelayMap(file: string): DERPMap {
  let value: unknown
  const { document } = readYaml(file, 'the relay map', 'check derp.paths')
  try {
    value = document.toJS()
  } catch (error) {
    throw new Failure(`cannot read the relay map ${file}: ${reasonOf(error).split('\n')[0] ?? ''}`, { remedy: 'check derp.paths', status: 2, cause: error })
  }
  const top = entries(file, 'the relay map', value)
  const regions = top.find(([name]) => name === 'regions')?.[1]
  const unknown = top.find(([name]) => name !== 'regions' && name !== 'homeparams')
  if (unknown !== undefined) throw new Failure(`${file}: unknown key ${unknown[0]}`, { remedy: 'a relay map has the keys regions and homeparams', status: 2 })
  const home = homeParams(file, top.find(([name]) => name === 'homeparams')?.[1])
  const wire = { ...(home !== undefined && { HomeParams: home }), Regions: Object.fromEntries(entries(file, 'regions', regions).map(([id, region]) => [id, renamed(file, `regions.${id}`, region, REGION_FIELDS)])) }
  const decoded = decodeDERPMap(wire)
  if (!decoded.ok) throw new Failure(`${file}: ${decoded.path}: ${decoded.problem}`, { status: 2 })
  return decoded.value
}

/** How much nearer (below 1) or farther (above 1) than measured a region counts where clients choose their home. */
function homeParams(file: string, value: unknown): DERPHomeParams | undefined {
  if (value === undefined) return undefined
  const scores: Record<string, number> = {}
  for (const [name, item] of entries(file, 'homeparams', value)) {
    if (name !== 'regionscore') throw new Failure(`${file}: homeparams: unknown key ${name}`, { remedy: 'known key: regionscore', status: 2 })
    for (const [id, score] of entries(file, 'homeparams.regionscore', item)) {
      if (typeof score !== 'number' || !(score > 0) || !Number.isFinite(score)) throw new Failure(`${file}: homeparams.regionscore.${id} must be a number above 0`, { status: 2 })
      scores[id] = score
    }
  }
  return { RegionScore: scores }
}

function renamed(file: string, where: string, value: unknown, names: Readonly<Record<string, string>>): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [name, item] of entries(file, where, value)) {
    const wire = names[name.toLowerCase()]
    if (wire === undefined) throw new Failure(`${file}: ${where}: unknown key ${name}`, { remedy: `known keys: ${Object.keys(names).join(', ')}`, status: 2 })
    result[wire] = wire === 'Nodes' && Array.isArray(item) ? item.map((node: unknown, i) => renamed(file, `${where}.nodes[${i}]`, node, NODE_FIELDS)) : item
  }
  return result
}

function entries(file: string, where: string, value: unknown): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Failure(`${file}: ${where} must be a mapping`, { status: 2 })
  return Object.entries(value)
}

/** The host of a server's URL, without the brackets of IPv6. */
export function hostOf(serverUrl: string): string {
  return new URL(serverUrl).hostname.replace(/^\[|\]$/g, '')
}

/** The relay inside this server: same host and port as the control connection. */
function embeddedRegion(relay: RelaySettings, serverUrl: string, pin: string | undefined): DERPRegion {
  const [url, host] = [new URL(serverUrl), hostOf(serverUrl)]
  const stunPort = relay.stunListenAddr === '' ? -1 : Number(relay.stunListenAddr.slice(relay.stunListenAddr.lastIndexOf(':') + 1))
  const family = isIP(host)
  const ipv4 = relay.ipv4 !== '' ? relay.ipv4 : family === 4 ? host : ''
  const ipv6 = relay.ipv6 !== '' ? relay.ipv6 : family === 6 ? host : family === 4 ? 'none' : ''
  const node: DERPNode = {
    Name: String(relay.regionId),
    RegionID: relay.regionId,
    HostName: host,
    ...(pin !== undefined && { CertName: pin }),
    STUNPort: stunPort,
    DERPPort: url.port !== '' ? Number(url.port) : url.protocol === 'https:' ? 443 : 80,
    ...(ipv4 !== '' && { IPv4: ipv4 }),
    ...(ipv6 !== '' && { IPv6: ipv6 }),
  }
  return { RegionID: relay.regionId, RegionCode: relay.regionCode, RegionName: relay.regionName, Nodes: [node] }
}
