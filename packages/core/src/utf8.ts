const REPLACEMENT = 0xfffd

/** UTF-8 bytes of a string (RFC 3629). Lone surrogates become U+FFFD, as in the Encoding Standard. */
export function utf8Encode(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 3)
  let at = 0
  for (let i = 0; i < text.length; i += 1) {
    let code = text.charCodeAt(i)
    if (code < 0x80) {
      bytes[at++] = code
      continue
    }
    if (code >= 0xd800 && code <= 0xdfff) {
      const low = code <= 0xdbff ? text.charCodeAt(i + 1) : Number.NaN
      if (low >= 0xdc00 && low <= 0xdfff) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)
        i += 1
      } else {
        code = REPLACEMENT
      }
    }
    if (code < 0x800) {
      bytes[at++] = 0xc0 | (code >> 6)
    } else {
      if (code < 0x10000) {
        bytes[at++] = 0xe0 | (code >> 12)
      } else {
        bytes[at++] = 0xf0 | (code >> 18)
        bytes[at++] = 0x80 | ((code >> 12) & 0x3f)
      }
      bytes[at++] = 0x80 | ((code >> 6) & 0x3f)
    }
    bytes[at++] = 0x80 | (code & 0x3f)
  }
  return bytes.subarray(0, at)
}

/** The string that UTF-8 bytes stand for; every malformed part (overlong, surrogate, cut off) becomes U+FFFD. Never throws. */
export function utf8Decode(bytes: Uint8Array): string {
  return decode(bytes, false) ?? ''
}

/** As {@link utf8Decode}, but `undefined` when any part is malformed. */
export function utf8DecodeStrict(bytes: Uint8Array): string | undefined {
  return decode(bytes, true)
}

function decode(bytes: Uint8Array, strict: boolean): string | undefined {
  const parts: string[] = []
  let units: number[] = []
  let at = 0
  while (at < bytes.length) {
    const first = bytes[at] ?? 0
    at += 1
    let code = first
    if (first >= 0x80) {
      const more = first >= 0xc2 && first <= 0xdf ? 1 : first >= 0xe0 && first <= 0xef ? 2 : first >= 0xf0 && first <= 0xf4 ? 3 : 0
      code = more === 0 ? -1 : first & (0x3f >> more)
      // Bounds of the first continuation byte exclude overlong forms, surrogates and code points above U+10FFFF (Unicode table 3-7).
      let least = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80
      let most = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf
      for (let i = 0; i < more; i += 1) {
        const next = bytes[at]
        if (next === undefined || next < least || next > most) {
          code = -1
          break
        }
        code = (code << 6) | (next & 0x3f)
        at += 1
        least = 0x80
        most = 0xbf
      }
      if (code < 0) {
        if (strict) return undefined
        code = REPLACEMENT
      }
    }
    if (code >= 0x10000) units.push(0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff))
    else units.push(code)
    if (units.length >= 4096) {
      parts.push(String.fromCharCode(...units))
      units = []
    }
  }
  parts.push(String.fromCharCode(...units))
  return parts.join('')
}
