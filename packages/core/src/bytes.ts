/** True when both hold the same bytes. Not constant time: for public values only (`@meshwright/crypto` compares secrets). */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false
  return true
}

/** A new array with all parts one behind the other. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const bytes = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

const HEX = '0123456789abcdef'
/** So many bytes are made text at once: a call takes only so many arguments. */
const HEX_CHUNK = 1_024

/** Lower-case hexadecimal of bytes. */
export function formatHex(bytes: Uint8Array): string {
  // Not digit by digit: engines keep such a text as a chain of its pieces, 1.5 KB for a key of 32 bytes.
  let text = ''
  for (let from = 0; from < bytes.length; from += HEX_CHUNK) {
    const codes: number[] = []
    for (const byte of bytes.subarray(from, from + HEX_CHUNK)) codes.push(HEX.charCodeAt(byte >> 4), HEX.charCodeAt(byte & 15))
    text += String.fromCharCode(...codes)
  }
  return text
}

/** Bytes of a hexadecimal text of either case; `undefined` when it is not one, or not of `length` bytes where that is given. */
export function parseHex(text: string, length?: number): Uint8Array | undefined {
  if (text.length % 2 !== 0 || (length !== undefined && text.length !== length * 2) || !/^[0-9a-fA-F]*$/.test(text)) return undefined
  const bytes = new Uint8Array(text.length / 2)
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = Number.parseInt(text.slice(i * 2, i * 2 + 2), 16)
  return bytes
}

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

/** Standard base64 with padding (RFC 4648 section 4). */
export function formatBase64(bytes: Uint8Array): string {
  const parts: string[] = []
  for (let i = 0; i < bytes.length; i += 3) {
    const word = ((bytes[i] ?? 0) << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0)
    const left = bytes.length - i
    parts.push(
      BASE64.charAt(word >> 18) +
        BASE64.charAt((word >> 12) & 63) +
        (left > 1 ? BASE64.charAt((word >> 6) & 63) : '=') +
        (left > 2 ? BASE64.charAt(word & 63) : '='),
    )
  }
  return parts.join('')
}

/** Bytes of standard, padded base64; `undefined` for any other text, also when spare bits are not zero (RFC 4648 section 3.5). */
export function parseBase64(text: string): Uint8Array | undefined {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return undefined
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0
  const bytes = new Uint8Array((text.length / 4) * 3)
  for (let i = 0, at = 0; i < text.length; i += 4, at += 3) {
    let word = 0
    for (let j = 0; j < 4; j += 1) {
      const c = text.charAt(i + j)
      word = (word << 6) | (c === '=' ? 0 : BASE64.indexOf(c))
    }
    bytes[at] = word >> 16
    bytes[at + 1] = (word >> 8) & 255
    bytes[at + 2] = word & 255
  }
  const spare = padding === 0 ? 0 : padding === 1 ? bytes[bytes.length - 1] : (bytes[bytes.length - 2] ?? 0) | (bytes[bytes.length - 1] ?? 0)
  if (spare !== 0) return undefined
  return bytes.subarray(0, bytes.length - padding)
}
