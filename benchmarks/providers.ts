import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { nodeCryptoProvider } from '../packages/runtime-node/src/node-crypto.ts'

/** The reference that every ratio of cryptography is taken against. */
export const reference: CryptoProvider = nobleProvider

/** Every provider that works on this machine, save the reference. */
export function providers(): readonly CryptoProvider[] {
  return [nodeCryptoProvider]
}
