import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The program for `node --import` that writes down every key that another one works with. */
export const KEY_RECORDER: string = fileURLToPath(new URL('key-recorder.mjs', import.meta.url))

/** What makes a program work with `node:crypto` alone and its keys known; it must be started with `--import` of the recorder. */
export const recorderEnvironment = (file: string): Readonly<Record<string, string>> => ({ MESHWRIGHT_CRYPTO: 'node', KEY_RECORDER_FILE: file })

/** The keys that were written down, as hex digits, by kind: `private`, `chain`, `session`. */
export function recordedKeys(file: string): ReadonlyMap<string, readonly string[]> {
  const kinds = new Map<string, string[]>()
  for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
    const [kind = '', hex = ''] = line.split(' ')
    const known = kinds.get(kind)
    if (known === undefined) kinds.set(kind, [hex])
    else known.push(hex)
  }
  return kinds
}

/** How many of the keys stand in a text, in any form that a program could write them in. */
export function keysIn(text: string, keys: Iterable<string>): number {
  let found = 0
  for (const hex of keys) {
    const bytes = Buffer.from(hex, 'hex')
    const forms = [hex, hex.toUpperCase(), bytes.toString('base64').replace(/=+$/, ''), bytes.toString('base64url'), bytes.join(','), bytes.join(', '), bytes.join(' '), bytes.toString('latin1')]
    if (forms.some((form) => text.includes(form))) found += 1
  }
  return found
}
