import type { RelayMap, RelayNode, RelayRegion } from '@meshwright/core'
import { decoder, flag, float, integer, type JsonDecoder, list, object, record, required, type Shape, text } from './shape.ts'

/** More regions than this are not looked at: real maps have a few dozen, and each costs sockets and time. */
export const MAX_RELAY_REGIONS = 1_000
/** More relays of one region than this are not looked at. */
export const MAX_RELAYS_OF_REGION = 100
const MAX_PORT = 65_535
const NO_STUN = -1

/** One relay server on the wire; {@link RelayNode} is the same in this project's words. */
export interface DERPNode {
  readonly Name: string
  readonly RegionID: number
  readonly HostName: string
  readonly CertName?: string
  readonly IPv4?: string
  readonly IPv6?: string
  readonly STUNPort?: number
  readonly STUNOnly?: boolean
  readonly DERPPort?: number
  readonly InsecureForTests?: boolean
  readonly STUNTestIP?: string
  readonly CanPort80?: boolean
}

/** A relay region on the wire. */
export interface DERPRegion {
  readonly RegionID: number
  readonly RegionCode: string
  readonly RegionName: string
  readonly Latitude?: number
  readonly Longitude?: number
  readonly Avoid?: boolean
  readonly NoMeasureNoHome?: boolean
  readonly Nodes?: readonly DERPNode[]
}

/** Weights for the choice of a home relay, by region number. */
export interface DERPHomeParams {
  readonly RegionScore?: Readonly<Record<string, number>>
}

/** All relays (tailscale/tailscale:tailcfg/derpmap.go). `Regions` absent in a later frame: keep the known ones. */
export interface DERPMap {
  readonly HomeParams?: DERPHomeParams
  /** By region number in decimal. */
  readonly Regions?: Readonly<Record<string, DERPRegion>>
  readonly omitDefaultRegions?: boolean
}

const derpNode: Shape<DERPNode> = object<DERPNode>({
  Name: required(text, ''),
  RegionID: required(integer, 0),
  HostName: required(text, ''),
  CertName: text,
  IPv4: text,
  IPv6: text,
  STUNPort: integer,
  STUNOnly: flag,
  DERPPort: integer,
  InsecureForTests: flag,
  STUNTestIP: text,
  CanPort80: flag,
})

const derpRegion: Shape<DERPRegion> = object<DERPRegion>({
  RegionID: required(integer, 0),
  RegionCode: required(text, ''),
  RegionName: required(text, ''),
  Latitude: float,
  Longitude: float,
  Avoid: flag,
  NoMeasureNoHome: flag,
  Nodes: list(derpNode),
})

/** Reads a `DERPMap`. */
export const derpMap: Shape<DERPMap> = object<DERPMap>({
  HomeParams: object<DERPHomeParams>({ RegionScore: record(float) }),
  Regions: record(derpRegion),
  omitDefaultRegions: flag,
})

/** Decodes a DERPMap. */
export const decodeDERPMap: JsonDecoder<DERPMap> = decoder(derpMap)

/**
 * The relays of a DERPMap in the words of `@meshwright/core`. Left out are regions whose number is not a positive integer, relays whose port
 * is none, and everything past {@link MAX_RELAY_REGIONS} regions or {@link MAX_RELAYS_OF_REGION} relays of one; a STUN port that is none means no STUN.
 */
export function relayMapFromDERPMap(map: DERPMap): RelayMap {
  const regions = new Map<number, RelayRegion>()
  for (const [key, region] of Object.entries(map.Regions ?? {})) {
    const id = region.RegionID === 0 ? Number(key) : region.RegionID
    if (!Number.isSafeInteger(id) || id <= 0) continue
    if (regions.size === MAX_RELAY_REGIONS && !regions.has(id)) continue
    regions.set(id, {
      id,
      code: region.RegionCode,
      name: region.RegionName,
      ...(region.Avoid === true && { avoid: true }),
      ...(region.NoMeasureNoHome === true && { noMeasureNoHome: true }),
      nodes: (region.Nodes ?? []).filter(({ DERPPort = 0 }) => DERPPort >= 0 && DERPPort <= MAX_PORT).slice(0, MAX_RELAYS_OF_REGION).map((node) => relayNode(id, node)),
    })
  }
  return { regions }
}

/** The wire form of a relay map, for servers. */
export function derpMapFromRelayMap(map: RelayMap): DERPMap {
  const regions: [string, DERPRegion][] = []
  for (const [id, region] of [...map.regions].sort(([a], [b]) => a - b)) {
    regions.push([
      String(id),
      {
        RegionID: id,
        RegionCode: region.code,
        RegionName: region.name,
        ...(region.avoid === true && { Avoid: true }),
        ...(region.noMeasureNoHome === true && { NoMeasureNoHome: true }),
        Nodes: region.nodes.map(derpNodeFrom),
      },
    ])
  }
  return { Regions: Object.fromEntries(regions) }
}

function relayNode(regionId: number, node: DERPNode): RelayNode {
  return {
    name: node.Name,
    regionId,
    hostName: node.HostName,
    ...(given(node.CertName) && { certName: node.CertName }),
    ...(given(node.IPv4) && { ipv4: node.IPv4 }),
    ...(given(node.IPv6) && { ipv6: node.IPv6 }),
    ...(node.STUNPort !== undefined && node.STUNPort !== 0 && { stunPort: node.STUNPort > 0 && node.STUNPort <= MAX_PORT ? node.STUNPort : NO_STUN }),
    ...(node.STUNOnly === true && { stunOnly: true }),
    ...(node.DERPPort !== undefined && node.DERPPort !== 0 && { derpPort: node.DERPPort }),
    ...(node.InsecureForTests === true && { insecureForTests: true }),
    ...(node.CanPort80 === true && { canPort80: true }),
  }
}

function derpNodeFrom(node: RelayNode): DERPNode {
  return {
    Name: node.name,
    RegionID: node.regionId,
    HostName: node.hostName,
    ...(node.certName !== undefined && { CertName: node.certName }),
    ...(node.ipv4 !== undefined && { IPv4: node.ipv4 }),
    ...(node.ipv6 !== undefined && { IPv6: node.ipv6 }),
    ...(node.stunPort !== undefined && { STUNPort: node.stunPort }),
    ...(node.stunOnly === true && { STUNOnly: true }),
    ...(node.derpPort !== undefined && { DERPPort: node.derpPort }),
    ...(node.insecureForTests === true && { InsecureForTests: true }),
    ...(node.canPort80 === true && { CanPort80: true }),
  }
}

function given(text: string | undefined): text is string {
  return text !== undefined && text !== ''
}
