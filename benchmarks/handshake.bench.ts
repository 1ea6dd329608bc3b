import type { CryptoProvider } from '@meshwright/crypto'
import type { Contender, Question } from './measure.ts'
import { providers, reference } from './providers.ts'
import { Tunnel } from './tunnel.ts'

/** How many whole WireGuard handshakes, both ends of them, does each provider allow, against noble? */
export function questions(): readonly Question[] {
  return [{ name: 'handshake/both-ends', unit: 'handshakes', setup: () => ({ baseline: shaking(reference), contenders: providers().map(shaking) }) }]
}

function shaking(provider: CryptoProvider): Contender {
  const tunnel = new Tunnel(provider)
  return { name: provider.name, run: () => tunnel.shake() }
}
