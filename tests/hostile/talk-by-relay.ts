import { randomBytes } from 'node:crypto'
import type { NodePrivateKey } from '@meshwright/crypto'
import { expect } from 'vitest'
import { Lab } from '../interop/lab-process.ts'
import { type RelayAddress, RelayClient } from '../interop/lab-relay.ts'

/** Two nodes come to a relay by TLS, and the first sends a packet to the second. */
export async function talkByRelay(relay: RelayAddress, keys: readonly NodePrivateKey[]): Promise<void> {
  const lab = new Lab()
  try {
    const clients = await Promise.all(keys.map((key) => RelayClient.dial(lab, relay, { key })))
    await Promise.all(clients.map((client) => client.until('connected')))
    const [from, to] = clients
    if (from === undefined || to === undefined) throw new Error('two keys are needed')
    const bytes = randomBytes(1_000)
    from.send(to, bytes)
    expect(Buffer.compare((await to.until('packet')).packet, bytes)).toBe(0)
  } finally {
    await lab.stop()
  }
}
