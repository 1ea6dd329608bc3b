import { formatHex, parseHex, type UnixMillis, utf8Encode } from '@meshwright/core'
import { constantTimeEqual } from '@meshwright/crypto'
import type { Context } from './context.ts'
import type { AuthKeyRecord } from './records.ts'

const TEXT_PREFIX = 'hskey-auth-'
const PREFIX_LENGTH = 12
const SECRET_LENGTH = 64

/** What an administrator says of a new key. */
export interface NewAuthKey {
  readonly userId: number | undefined
  readonly reusable: boolean
  readonly ephemeral: boolean
  readonly tags: readonly string[]
  readonly expiresAt: UnixMillis
}

/** Makes a key; `text` is the secret, shown once and stored nowhere. Text: `hskey-auth-`, 12 hex digits, `-`, 64 hex digits. */
export function createAuthKey(context: Context, wanted: NewAuthKey): { readonly record: AuthKeyRecord; readonly text: string } {
  let prefix = formatHex(context.random(PREFIX_LENGTH / 2))
  while (context.state.authKeyByPrefix(prefix) !== undefined) prefix = formatHex(context.random(PREFIX_LENGTH / 2))
  const text = `${TEXT_PREFIX}${prefix}-${formatHex(context.random(SECRET_LENGTH / 2))}`
  const record: AuthKeyRecord = {
    id: context.state.takeId('nextAuthKeyId'),
    prefix,
    hash: hashOf(context, text),
    userId: wanted.tags.length > 0 ? undefined : wanted.userId,
    reusable: wanted.reusable,
    ephemeral: wanted.ephemeral,
    used: false,
    tags: [...new Set(wanted.tags)].sort(),
    createdAt: context.wallNow(),
    expiresAt: wanted.expiresAt,
    revoked: false,
  }
  context.state.putAuthKey(record)
  return { record, text }
}

/** The key that a text is, good or spent; `undefined` for any other text. Compares in constant time. */
export function findAuthKey(context: Context, text: string): AuthKeyRecord | undefined {
  // Both parts may hold hyphens in keys that other servers made: split by length, never at a hyphen.
  if (text.length !== TEXT_PREFIX.length + PREFIX_LENGTH + 1 + SECRET_LENGTH || !text.startsWith(TEXT_PREFIX)) return undefined
  const record = context.state.authKeyByPrefix(text.slice(TEXT_PREFIX.length, TEXT_PREFIX.length + PREFIX_LENGTH))
  if (record === undefined) return undefined
  const expected = parseHex(record.hash)
  const given = context.crypto.hash(utf8Encode(text))
  return expected !== undefined && constantTimeEqual(expected, given) ? record : undefined
}

/** Why a key lets nobody in any more, in the words that clients know; `undefined` while it does. */
export function authKeyProblem(record: AuthKeyRecord, wallNow: UnixMillis): string | undefined {
  if (record.revoked) return 'authkey revoked'
  if (wallNow >= record.expiresAt) return 'authkey expired'
  if (record.used && !record.reusable) return 'authkey already used'
  return undefined
}

/** How a key is shown: enough to tell it from others, nothing to log in with. */
export function shownAuthKey(record: AuthKeyRecord): string {
  return `${TEXT_PREFIX}${record.prefix}-***`
}

function hashOf(context: Context, text: string): string {
  return formatHex(context.crypto.hash(utf8Encode(text)))
}
