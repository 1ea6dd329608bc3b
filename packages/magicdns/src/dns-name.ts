/** Longest name on the wire, its final empty label included (RFC 1035 section 2.3.4). */
export const MAX_NAME_BYTES = 255
/** Longest label. */
export const MAX_LABEL_BYTES = 63

/**
 * A domain name as text: labels in order, ended by a dot; the root is `.`. A dot or backslash inside a label is written `\.` and `\\`,
 * bytes outside printable ASCII `\DDD` (RFC 1035 section 5.1). Letters keep their case; names compare without it.
 */
export type DnsName = string

/** Lower case (ASCII alone) and a final dot: equal names have equal texts. */
export function canonicalName(text: string): DnsName {
  const lower = text.replace(/[A-Z]/g, (letter) => letter.toLowerCase())
  return lower.endsWith('.') && !/(^|[^\\])(\\\\)*\\\.$/.test(lower) ? lower : `${lower}.`
}

/** True when `name` is `suffix` or lies under it; both canonical. */
export function isUnder(name: DnsName, suffix: DnsName): boolean {
  return suffix === '.' || name === suffix || name.endsWith(`.${suffix}`)
}

/** The name without its first label; `undefined` for the root. */
export function parentName(name: DnsName): DnsName | undefined {
  if (name === '.') return undefined
  for (let i = 0; i < name.length; i += 1) {
    if (name[i] === '\\') i += 1
    else if (name[i] === '.') return name.slice(i + 1) || '.'
  }
  return undefined
}

/** Reads a label's bytes as text. */
export function formatLabel(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) {
    if (byte === 0x2e || byte === 0x5c) text += `\\${String.fromCharCode(byte)}`
    else if (byte > 0x20 && byte < 0x7f) text += String.fromCharCode(byte)
    else text += `\\${String(byte).padStart(3, '0')}`
  }
  return text
}

/** The labels of a name as bytes; `undefined` when it is not a name that fits the wire. */
export function parseLabels(name: DnsName): Uint8Array[] | undefined {
  if (name === '.' || name === '') return []
  const labels: Uint8Array[] = []
  let label: number[] = []
  let total = 1
  for (let i = 0; i < name.length; i += 1) {
    const code = name.charCodeAt(i)
    if (code === 0x2e) {
      if (label.length === 0 || label.length > MAX_LABEL_BYTES) return undefined
      total += label.length + 1
      labels.push(Uint8Array.from(label))
      label = []
    } else if (code === 0x5c) {
      const digits = /^[0-9]{3}/.exec(name.slice(i + 1))?.[0]
      const value = digits === undefined ? name.charCodeAt(i + 1) : Number(digits)
      if (!(value <= 255)) return undefined
      label.push(value)
      i += digits === undefined ? 1 : 3
    } else if (code > 0x20 && code < 0x7f) label.push(code)
    else return undefined
  }
  if (label.length > 0) {
    if (label.length > MAX_LABEL_BYTES) return undefined
    total += label.length + 1
    labels.push(Uint8Array.from(label))
  }
  return total > MAX_NAME_BYTES ? undefined : labels
}
