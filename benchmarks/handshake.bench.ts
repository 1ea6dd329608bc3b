import type { Contender, Question } from './measure.ts'
import { type Candidate, candidates, reference } from './providers.ts'
import { Tunnel } from './tunnel.ts'

/** How many whole WireGuard handshakes, both ends of them, does each provider allow, against noble? */
export function questions(): readonly Question[] {
  return [{ name: 'handshake/both-ends', unit: 'handshakes', setup: () => ({ baseline: shaking(reference), contenders: candidates().map(shaking) }) }]
}

function shaking({ name, provider }: Candidate): Contender {
  const tunnel = new Tunnel(provider)
  return { name, run: () => tunnel.shake() }
}
