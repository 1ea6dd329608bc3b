import { type Hostinfo, hostinfo } from './hostinfo.ts'
import type { WireInteger } from './json.ts'
import { type Base64Text, networkLockKey, type NetworkLockKeyText, nodeKey, type NodeKeyText, type TimeText, ZERO_NODE_KEY } from './keys.ts'
import { base64, bigInteger, decoder, flag, integer, type JsonDecoder, object, raw, required, type Shape, text, time } from './shape.ts'

/** How a registration proves that it may join. */
export interface RegisterAuth {
  readonly AuthKey?: string
  readonly Oauth2Token?: unknown
}

/** `POST /machine/register` (tailscale/tailscale:tailcfg/tailcfg.go). Who asks is the machine key of the Noise session. */
export interface RegisterRequest {
  /** Capability version; never 0 from a client. */
  readonly Version: number
  /** The key being registered. */
  readonly NodeKey: NodeKeyText
  /** The previous key or the zero key; not a sign of rotation by itself. */
  readonly OldNodeKey?: NodeKeyText
  readonly NLKey?: NetworkLockKeyText
  readonly Auth?: RegisterAuth
  /** Zero: the server decides; past: expire this key now (logout); future: a shorter life is asked for. */
  readonly Expiry?: TimeText
  /** The AuthURL received before: hold the request until the verdict. */
  readonly Followup?: string
  readonly Hostinfo?: Hostinfo
  readonly Ephemeral?: boolean
  readonly NodeKeySignature?: Base64Text
  /** A number or a text such as `signature-none`: only Windows certificates use it. */
  readonly SignatureType?: unknown
  readonly Timestamp?: TimeText
  readonly DeviceCert?: Base64Text
  readonly Signature?: Base64Text
  /** A recommended tailnet; with `required:` in front no other will do. */
  readonly Tailnet?: string
}

/** The user of a registration. */
export interface User {
  readonly ID: WireInteger
  readonly DisplayName: string
  readonly ProfilePicURL?: string
  readonly Created?: TimeText
}

/** The login of a registration. */
export interface Login {
  readonly ID: WireInteger
  readonly Provider: string
  readonly LoginName: string
  readonly DisplayName: string
  readonly ProfilePicURL?: string
}

/** The answer, always with status 200. A non-empty `Error` voids all else; a non-empty `AuthURL` means "not yet, ask a person". */
export interface RegisterResponse {
  readonly User?: User
  readonly Login?: Login
  /** The client must come back with a new node key. */
  readonly NodeKeyExpired: boolean
  readonly MachineAuthorized: boolean
  readonly AuthURL: string
  readonly NodeKeySignature?: Base64Text
  readonly Error: string
}

/** The expiry that real clients send to log out, Unix second 123. Servers: any time in the past. */
export const LOGOUT_EXPIRY: TimeText = '1970-01-01T00:02:03Z'

const user: Shape<User> = object<User>({ ID: required(bigInteger, 0), DisplayName: required(text, ''), ProfilePicURL: text, Created: time })

const login: Shape<Login> = object<Login>({
  ID: required(bigInteger, 0),
  Provider: required(text, ''),
  LoginName: required(text, ''),
  DisplayName: required(text, ''),
  ProfilePicURL: text,
})

/** Decodes a RegisterRequest. */
export const decodeRegisterRequest: JsonDecoder<RegisterRequest> = decoder(
  object<RegisterRequest>({
    Version: required(integer, 0),
    NodeKey: required(nodeKey, ZERO_NODE_KEY),
    OldNodeKey: nodeKey,
    NLKey: networkLockKey,
    Auth: object<RegisterAuth>({ AuthKey: text, Oauth2Token: raw }),
    Expiry: time,
    Followup: text,
    Hostinfo: hostinfo,
    Ephemeral: flag,
    NodeKeySignature: base64,
    SignatureType: raw,
    Timestamp: time,
    DeviceCert: base64,
    Signature: base64,
    Tailnet: text,
  }),
)

/** Decodes a RegisterResponse. */
export const decodeRegisterResponse: JsonDecoder<RegisterResponse> = decoder(
  object<RegisterResponse>({
    User: user,
    Login: login,
    NodeKeyExpired: required(flag, false),
    MachineAuthorized: required(flag, false),
    AuthURL: required(text, ''),
    NodeKeySignature: base64,
    Error: required(text, ''),
  }),
)
