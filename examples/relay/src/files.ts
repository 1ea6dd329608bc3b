import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { parseHex } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { selfSignedCertificate, systemRandom } from '@meshwright/runtime-node/relay'
import { type RelayOptions, UsageError } from './options.ts'

/** The relay's private key; made, with mode 0600, when the file is missing. A file that cannot be read is never replaced. */
export function loadPrivateKey(file: string): NodePrivateKey {
  if (!existsSync(file)) {
    const key = NodePrivateKey.generate(systemRandom)
    write(file, `${JSON.stringify({ PrivateKey: key.formatSecret() })}\n`)
    return key
  }
  let value: unknown
  try {
    value = JSON.parse(read(file))
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`${file} is not JSON: it should be {"PrivateKey":"privkey:..."}; restore it, or remove it to get a new key`)
  }
  const text = typeof value === 'object' && value !== null && 'PrivateKey' in value ? value.PrivateKey : undefined
  const key = typeof text === 'string' ? NodePrivateKey.parse(text) : undefined
  if (key === undefined) throw new UsageError(`${file} holds no private key: it should be {"PrivateKey":"privkey:..."} with 64 hex digits`)
  return key
}

/** The secret that relays of one region share. */
export function loadMeshKey(file: string): Uint8Array {
  const key = parseHex(read(file).trim(), 32)
  if (key === undefined) throw new UsageError(`${file} holds no mesh key: it should be 64 hex digits`)
  return key
}

/** Certificate chain and key, from files or made new. */
export function loadCertificate(options: RelayOptions): { readonly cert: string; readonly key: string } {
  const { cert, key } = options
  if (cert !== undefined && key !== undefined && (!options.selfSigned || existsSync(cert) || existsSync(key))) return { cert: read(cert), key: read(key) }
  const made = selfSignedCertificate([options.hostName])
  if (cert !== undefined && key !== undefined) {
    write(key, made.key)
    write(cert, made.cert)
  }
  return made
}

/** Any text file that the command line names. */
export function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new UsageError(`${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  }
}

function write(file: string, text: string): void {
  try {
    writeFileSync(file, text, { mode: 0o600, flag: 'wx' })
  } catch (error) {
    throw new UsageError(`${file} cannot be written: ${error instanceof Error ? error.message : String(error)}`)
  }
}
