import { challengeKey, machineKey, type MachineKeyText, nodeKey, type NodeKeyText, type TimeText, ZERO_MACHINE_KEY, ZERO_NODE_KEY } from './keys.ts'
import { decoder, flag, integer, type JsonDecoder, object, raw, record, required, text, time } from './shape.ts'

/** Answer to `GET /key?v=VERSION`, outside the Noise channel. */
export interface OverTLSPublicKeyResponse {
  /** All zeros from servers without the protocol of before 2022. */
  readonly legacyPublicKey: MachineKeyText
  /** The server's Noise key; zero: the server is too old. */
  readonly publicKey: MachineKeyText
}

/** First message of the server inside the Noise channel, optional. */
export interface EarlyNoise {
  /** `chalpub:` and 64 hex digits. */
  readonly nodeKeyChallenge?: string
}

/** `POST /machine/set-dns`: publish a TXT record for a certificate. Answer 200 `{}` only when the record is visible. */
export interface SetDNSRequest {
  readonly Version: number
  readonly NodeKey: NodeKeyText
  readonly Name: string
  readonly Type: string
  readonly Value: string
}

/** `POST /machine/id-token`. */
export interface TokenRequest {
  readonly CapVersion: number
  readonly NodeKey: NodeKeyText
  readonly Audience: string
}

/** Answer to {@link TokenRequest}. */
export interface TokenResponse {
  readonly id_token: string
}

/** `POST /machine/feature/query`. */
export interface QueryFeatureRequest {
  readonly Feature: string
  readonly NodeKey: NodeKeyText
}

/** Answer to {@link QueryFeatureRequest}. */
export interface QueryFeatureResponse {
  readonly Complete?: boolean
  readonly Text?: string
  readonly URL?: string
  readonly ShouldWait?: boolean
}

/** `POST /machine/audit-log`. */
export interface AuditLogRequest {
  readonly Version: number
  readonly NodeKey: NodeKeyText
  readonly Action: string
  readonly Details?: string
  readonly Timestamp?: TimeText
}

/** `PATCH /machine/set-device-attr`: null deletes an attribute. */
export interface SetDeviceAttributesRequest {
  readonly Version: number
  readonly NodeKey: NodeKeyText
  /** Attribute name to text, number, boolean or null. */
  readonly Update: Readonly<Record<string, unknown>>
}

/** `POST /machine/update-health`, from clients before 2025-10. Answer 204. */
export interface HealthChangeRequest {
  readonly Subsys: string
  readonly Error?: string
  readonly NodeKey: NodeKeyText
}

/** Decodes an OverTLSPublicKeyResponse. */
export const decodeOverTLSPublicKeyResponse: JsonDecoder<OverTLSPublicKeyResponse> = decoder(
  object<OverTLSPublicKeyResponse>({
    legacyPublicKey: required(machineKey, ZERO_MACHINE_KEY),
    publicKey: required(machineKey, ZERO_MACHINE_KEY),
  }),
)

/** Decodes an EarlyNoise. */
export const decodeEarlyNoise: JsonDecoder<EarlyNoise> = decoder(object<EarlyNoise>({ nodeKeyChallenge: challengeKey }))

/** Decodes a SetDNSRequest. */
export const decodeSetDNSRequest: JsonDecoder<SetDNSRequest> = decoder(
  object<SetDNSRequest>({
    Version: required(integer, 0),
    NodeKey: required(nodeKey, ZERO_NODE_KEY),
    Name: required(text, ''),
    Type: required(text, ''),
    Value: required(text, ''),
  }),
)

/** Decodes a TokenRequest. */
export const decodeTokenRequest: JsonDecoder<TokenRequest> = decoder(
  object<TokenRequest>({ CapVersion: required(integer, 0), NodeKey: required(nodeKey, ZERO_NODE_KEY), Audience: required(text, '') }),
)

/** Decodes a TokenResponse. */
export const decodeTokenResponse: JsonDecoder<TokenResponse> = decoder(object<TokenResponse>({ id_token: required(text, '') }))

/** Decodes a QueryFeatureRequest. */
export const decodeQueryFeatureRequest: JsonDecoder<QueryFeatureRequest> = decoder(
  object<QueryFeatureRequest>({ Feature: required(text, ''), NodeKey: required(nodeKey, ZERO_NODE_KEY) }),
)

/** Decodes a QueryFeatureResponse. */
export const decodeQueryFeatureResponse: JsonDecoder<QueryFeatureResponse> = decoder(
  object<QueryFeatureResponse>({ Complete: flag, Text: text, URL: text, ShouldWait: flag }),
)

/** Decodes an AuditLogRequest. */
export const decodeAuditLogRequest: JsonDecoder<AuditLogRequest> = decoder(
  object<AuditLogRequest>({
    Version: required(integer, 0),
    NodeKey: required(nodeKey, ZERO_NODE_KEY),
    Action: required(text, ''),
    Details: text,
    Timestamp: time,
  }),
)

/** Decodes a SetDeviceAttributesRequest. */
export const decodeSetDeviceAttributesRequest: JsonDecoder<SetDeviceAttributesRequest> = decoder(
  object<SetDeviceAttributesRequest>({
    Version: required(integer, 0),
    NodeKey: required(nodeKey, ZERO_NODE_KEY),
    Update: required<Readonly<Record<string, unknown>>>(record<unknown>(raw, null), {}),
  }),
)

/** Decodes a HealthChangeRequest. */
export const decodeHealthChangeRequest: JsonDecoder<HealthChangeRequest> = decoder(
  object<HealthChangeRequest>({ Subsys: required(text, ''), Error: text, NodeKey: required(nodeKey, ZERO_NODE_KEY) }),
)
