import { type Hostinfo, hostinfo } from './hostinfo.ts'
import { type Base64Text, discoKey, type DiscoKeyText, type EndpointText, nodeKey, type NodeKeyText, type TimeText, ZERO_NODE_KEY } from './keys.ts'
import { base64, decoder, flag, integer, type JsonDecoder, list, object, required, text, time } from './shape.ts'

/** How an endpoint was learnt: the numbers of `EndpointTypes`. */
export const ENDPOINT_UNKNOWN = 0
/** An address of a local interface. */
export const ENDPOINT_LOCAL = 1
/** Seen by a STUN server. */
export const ENDPOINT_STUN = 2
/** Given by a port mapping. */
export const ENDPOINT_PORTMAPPED = 3
/** The STUN IPv4 address with the fixed local port. */
export const ENDPOINT_STUN4_LOCAL_PORT = 4
/** Set by the operator. */
export const ENDPOINT_EXPLICIT = 5

/**
 * `POST /machine/map` (tailscale/tailscale:tailcfg/tailcfg.go).
 *
 * | Stream | OmitPeers | ReadOnly | meaning and answer |
 * |---|---|---|---|
 * | true | - | false | long poll: a full frame, then deltas. Hostinfo, Endpoints and DiscoKey are ignored from version 68 |
 * | false | true | false | lite update: store Hostinfo, Endpoints, DiscoKey; 200, the body may be empty; disturbs no poll |
 * | false | true | true | one full frame without peers |
 * | false | false | any | one full frame, then the end |
 */
export interface MapRequest {
  /** Capability version. */
  readonly Version: number
  /** `zstd`, or absent for plain JSON. */
  readonly Compress?: string
  readonly KeepAlive?: boolean
  readonly NodeKey: NodeKeyText
  readonly DiscoKey?: DiscoKeyText
  readonly HardwareAttestationKey?: string
  readonly HardwareAttestationKeySignature?: Base64Text
  readonly HardwareAttestationKeySignatureTimestamp?: TimeText
  readonly Stream?: boolean
  readonly Hostinfo?: Hostinfo
  readonly Endpoints?: readonly EndpointText[]
  /** Parallel to `Endpoints`. */
  readonly EndpointTypes?: readonly number[]
  readonly MapSessionHandle?: string
  readonly MapSessionSeq?: number
  readonly TKAHead?: string
  readonly ReadOnly?: boolean
  readonly OmitPeers?: boolean
  readonly DebugFlags?: readonly string[]
  readonly ConnectionHandleForTest?: string
}

/** Decodes a MapRequest. */
export const decodeMapRequest: JsonDecoder<MapRequest> = decoder(
  object<MapRequest>({
    Version: required(integer, 0),
    Compress: text,
    KeepAlive: flag,
    NodeKey: required(nodeKey, ZERO_NODE_KEY),
    DiscoKey: discoKey,
    HardwareAttestationKey: text,
    HardwareAttestationKeySignature: base64,
    HardwareAttestationKeySignatureTimestamp: time,
    Stream: flag,
    Hostinfo: hostinfo,
    Endpoints: list(text),
    EndpointTypes: list(integer),
    MapSessionHandle: text,
    MapSessionSeq: integer,
    TKAHead: text,
    ReadOnly: flag,
    OmitPeers: flag,
    DebugFlags: list(text),
    ConnectionHandleForTest: text,
  }),
)

/** What a map request asks for; see the table at {@link MapRequest}. */
export type MapRequestKind = 'stream' | 'lite' | 'fetch'

/** Tells the kinds of map requests apart. */
export function mapRequestKind(request: MapRequest): MapRequestKind {
  if (request.Stream === true) return 'stream'
  return request.OmitPeers === true && request.ReadOnly !== true ? 'lite' : 'fetch'
}
