// Loaded into a program before its own code (`--import`), in all its threads: writes down every key that it gives to node:crypto, with which
// MESHWRIGHT_CRYPTO=node does all of its work: private keys, the keys of handshakes and those of sessions. One line for each: kind and hex.
import crypto from 'node:crypto'
import { appendFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

const file = process.env['KEY_RECORDER_FILE']
const seen = new Set()

function note(kind, bytes) {
  if (file === undefined || bytes.length < 16) return
  const line = `${kind} ${Buffer.from(bytes).toString('hex')}\n`
  if (seen.has(line) || seen.size > 100_000) return
  seen.add(line)
  appendFileSync(file, line)
}

for (const name of ['createCipheriv', 'createDecipheriv']) {
  const made = crypto[name]
  crypto[name] = (cipher, key, ...rest) => {
    if (cipher === 'chacha20-poly1305') note('session', key)
    return made(cipher, key, ...rest)
  }
}
const { createHmac, createPrivateKey } = crypto
crypto.createHmac = (hash, key, ...rest) => {
  if (hash === 'blake2s256' && key instanceof Uint8Array) note('chain', key)
  return createHmac(hash, key, ...rest)
}
crypto.createPrivateKey = (wanted) => {
  // PKCS #8 of X25519 ends in the 32 bytes of the key (RFC 8410).
  if (wanted?.format === 'der' && wanted.key instanceof Uint8Array) note('private', wanted.key.subarray(-32))
  return createPrivateKey(wanted)
}
syncBuiltinESMExports()
