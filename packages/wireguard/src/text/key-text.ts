import { formatBase64, parseBase64 } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'

/** A WireGuard key as `wg` writes it: 44 characters of base64. For public keys; a secret goes through `formatSecretKey` alone. */
export function formatPublicKey(key: NodePublicKey): string {
  return formatBase64(key.bytes)
}

/** Base64 of a secret, for configuration files with mode 0600 and the private side of a UAPI socket, and nothing else. */
export function formatSecretKey(bytes: Uint8Array): string {
  return formatBase64(bytes)
}

/** 32 bytes of exactly 44 characters of base64 with zero spare bits; `undefined` for any other text. */
export function parseKeyText(text: string): Uint8Array | undefined {
  const bytes = text.length === 44 ? parseBase64(text) : undefined
  return bytes?.length === 32 ? bytes : undefined
}

/** A public key as `wg` writes it. */
export function parsePublicKey(text: string): NodePublicKey | undefined {
  const bytes = parseKeyText(text)
  return bytes && NodePublicKey.fromBytes(bytes)
}
