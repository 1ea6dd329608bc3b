export {
  CAPABILITY_VERSION,
  CAPVER_CERT_PIN,
  CAPVER_DISPLAY_MESSAGES,
  CAPVER_EARLY_PAYLOAD,
  CAPVER_HOME_DERP,
  CAPVER_NIL_ALLOWED_IPS,
  CAPVER_READ_ONLY_STREAM,
  CAPVER_REGISTER_429,
  MIN_CAPABILITY_VERSION,
  releaseOfCapabilityVersion,
} from './capability-version.ts'
export { countJsonItems, encodeJson, formatJson, MAX_JSON_DEPTH, MAX_JSON_ITEMS, parseJson, type WireInteger } from './json.ts'
export { decodeDocument, type Decoded, type JsonDecoder } from './shape.ts'
export { formatTime, parseOptionalTime, parseTime, ZERO_TIME } from './time.ts'
export {
  ZERO_DISCO_KEY,
  ZERO_MACHINE_KEY,
  ZERO_NODE_KEY,
  type Base64Text,
  type DiscoKeyText,
  type EndpointText,
  type MachineKeyText,
  type NetworkLockKeyText,
  type NodeKeyText,
  type PrefixText,
  type TimeText,
} from './keys.ts'
export { decodeHostinfo, type Hostinfo, type Location, type NetInfo, type Service } from './hostinfo.ts'
export { decodeNode, TAGGED_DEVICES_USER_ID, type CapMap, type Node, type NodeId, type UserId, type UserProfile } from './node.ts'
export { decodeDNSConfig, type DnsRecord, type DNSConfig, type Resolver } from './dns.ts'
export {
  decodeDERPMap,
  derpMapFromRelayMap,
  relayMapFromDERPMap,
  type DERPHomeParams,
  type DERPMap,
  type DERPNode,
  type DERPRegion,
  MAX_RELAY_REGIONS,
  MAX_RELAYS_OF_REGION,
} from './derp-map.ts'
export {
  decodeSSHAction,
  decodeSSHPolicy,
  type SSHAction,
  type SSHPolicy,
  type SSHPrincipal,
  type SSHRecorderFailureAction,
  type SSHRule,
} from './ssh.ts'
export { decodeFilterRules } from './filter.ts'
export {
  decodeRegisterRequest,
  decodeRegisterResponse,
  LOGOUT_EXPIRY,
  type Login,
  type RegisterAuth,
  type RegisterRequest,
  type RegisterResponse,
  type User,
} from './register.ts'
export {
  decodeMapRequest,
  ENDPOINT_EXPLICIT,
  ENDPOINT_LOCAL,
  ENDPOINT_PORTMAPPED,
  ENDPOINT_STUN,
  ENDPOINT_STUN4_LOCAL_PORT,
  ENDPOINT_UNKNOWN,
  mapRequestKind,
  type MapRequest,
  type MapRequestKind,
} from './map-request.ts'
export {
  decodeMapResponse,
  type ClientVersion,
  type ControlDialPlan,
  type ControlIPCandidate,
  type DisplayMessage,
  type MapDebug,
  type MapResponse,
  type PeerChange,
  type TKAInfo,
} from './map-response.ts'
export {
  decodeC2nRequest,
  decodeC2nResponse,
  decodePingRequest,
  decodePingResponse,
  encodeC2nResponse,
  type C2nRequest,
  type C2nResponse,
  type PingRequest,
  type PingResponse,
} from './c2n.ts'
export {
  decodeAuditLogRequest,
  decodeEarlyNoise,
  decodeHealthChangeRequest,
  decodeOverTLSPublicKeyResponse,
  decodeQueryFeatureRequest,
  decodeQueryFeatureResponse,
  decodeSetDeviceAttributesRequest,
  decodeSetDNSRequest,
  decodeTokenRequest,
  decodeTokenResponse,
  type AuditLogRequest,
  type EarlyNoise,
  type HealthChangeRequest,
  type OverTLSPublicKeyResponse,
  type QueryFeatureRequest,
  type QueryFeatureResponse,
  type SetDeviceAttributesRequest,
  type SetDNSRequest,
  type TokenRequest,
  type TokenResponse,
} from './rpc.ts'
export {
  decodeInitiation,
  formatHandshakeHeader,
  INITIATION_BYTES,
  MAX_RECORD_PLAINTEXT_BYTES,
  NOISE_HANDSHAKE_HEADER,
  NOISE_UPGRADE,
  parseHandshakeHeader,
  RESPONSE_BYTES,
} from './noise-messages.ts'
export { NoiseInitiator, type NoiseFailureCode, type NoiseInitiatorOptions, type NoiseInitiatorOutput, type NoiseReceived } from './noise-initiator.ts'
export { NoiseResponder, type NoiseResponderInput, type NoiseResponderOptions, type NoiseResponderOutput } from './noise-responder.ts'
export {
  DEFAULT_MAX_MAP_FRAME_BYTES,
  encodeKeepAliveChunk,
  encodeMapChunk,
  frameMapPayload,
  MapChunkReader,
  type MapChunkFailure,
  type MapChunkReaderOptions,
  type MapCompression,
} from './map-chunk.ts'
export { decodeZstdRaw, encodeZstdRaw } from './zstd.ts'
