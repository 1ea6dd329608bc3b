import { keyText, type Shape } from './shape.ts'

/** `nodekey:` and 64 hex digits in lower case; parse it with `NodePublicKey.parse`. */
export type NodeKeyText = string
/** `mkey:` and 64 hex digits. */
export type MachineKeyText = string
/** `discokey:` and 64 hex digits. */
export type DiscoKeyText = string
/** `nlpub:` and 64 hex digits: a node's key for signing node keys. */
export type NetworkLockKeyText = string
/** RFC 3339; `ZERO_TIME` means none. */
export type TimeText = string
/** Padded standard base64. */
export type Base64Text = string
/** `100.64.0.1/32`. Not checked when decoding: parse it with `parsePrefix`. */
export type PrefixText = string
/** `1.2.3.4:41641` or `[2001:db8::1]:41641`. Not checked when decoding: parse it with `parseEndpoint`. */
export type EndpointText = string

/** The key that stands for "none" in a field that may not be left out. Never send an empty text: it fails the whole document. */
export const ZERO_NODE_KEY: NodeKeyText = `nodekey:${'0'.repeat(64)}`
/** The zero machine key. */
export const ZERO_MACHINE_KEY: MachineKeyText = `mkey:${'0'.repeat(64)}`
/** The zero disco key. */
export const ZERO_DISCO_KEY: DiscoKeyText = `discokey:${'0'.repeat(64)}`

/** Reads a `NodeKeyText`. */
export const nodeKey: Shape<NodeKeyText> = keyText('nodekey:', 64)
/** Reads a `MachineKeyText`. */
export const machineKey: Shape<MachineKeyText> = keyText('mkey:', 64)
/** Reads a `DiscoKeyText`. */
export const discoKey: Shape<DiscoKeyText> = keyText('discokey:', 64)
/** Reads a `string`. */
export const challengeKey: Shape<string> = keyText('chalpub:', 64)
/** Reads a `NetworkLockKeyText`. */
export const networkLockKey: Shape<NetworkLockKeyText> = keyText('(?:nl|tl)pub:', 64)
