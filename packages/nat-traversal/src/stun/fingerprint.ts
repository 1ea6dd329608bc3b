const FINGERPRINT_XOR = 0x5354554e // RFC 8489 section 14.7: "STUN"
const REVERSED_POLYNOMIAL = 0xedb88320 // CRC-32/ISO-HDLC (ITU V.42)

const table: Uint32Array = /* @__PURE__ */ makeTable()

/** The value of a FINGERPRINT attribute over `bytes`: CRC-32 XOR 0x5354554e, unsigned (RFC 8489 section 14.7). */
export function fingerprintOf(bytes: Uint8Array): number {
  return (crc32(bytes) ^ FINGERPRINT_XOR) >>> 0
}

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (table[(crc ^ byte) & 255] ?? 0) ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

function makeTable(): Uint32Array {
  const entries = new Uint32Array(256)
  for (let i = 0; i < 256; i += 1) {
    let entry = i
    for (let bit = 0; bit < 8; bit += 1) entry = (entry & 1) === 1 ? REVERSED_POLYNOMIAL ^ (entry >>> 1) : entry >>> 1
    entries[i] = entry
  }
  return entries
}
