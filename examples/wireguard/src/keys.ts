import { readFileSync } from 'node:fs'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'
import { formatPublicKey, formatSecretKey, parseKeyText } from '@meshwright/wireguard/text'
import { UsageError } from './usage-error.ts'

/** A new private key, as `wg genkey` prints it. */
export function genkey(): string {
  return `${formatSecretKey(NodePrivateKey.generate(systemRandom).secretBytes)}\n`
}

/** A new preshared key, as `wg genpsk` prints it. */
export function genpsk(): string {
  return `${formatSecretKey(systemRandom(32))}\n`
}

/** The public key of the private key on standard input, as `wg pubkey` prints it. @throws UsageError */
export function pubkey(): string {
  const bytes = parseKeyText(readFileSync(0, 'utf8').trim())
  const key = bytes && NodePrivateKey.fromBytes(bytes)
  if (key === undefined) throw new UsageError('a private key of 44 characters is expected on standard input', 1)
  return `${formatPublicKey(key.publicKey())}\n`
}
