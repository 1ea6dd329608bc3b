import type { MapNode, NetworkMap } from '@meshwright/control-client'
import { formatEndpoint } from '@meshwright/ip'
import { EndpointRules, isLie } from '@meshwright/nat-traversal'

const MAX_SHOWN = 3

/** An address of a peer that can be nobody's. */
interface EndpointLie {
  readonly text: string
  /** Only because it is loopback. */
  readonly loopback: boolean
}

// Deltas leave most nodes as they are, and relays change rarely: each node is judged once.
const judged: WeakMap<NetworkMap['relays'], WeakMap<MapNode, readonly EndpointLie[]>> = new WeakMap()
const HONEST: readonly EndpointLie[] = []

/**
 * Tells of peers whose addresses in a map are loopback, multicast, nowhere or a relay's. The path finder tries none of them.
 * @param allowLoopback nodes that share one machine on purpose do name loopback
 */
export function endpointLies(map: NetworkMap, allowLoopback: boolean): readonly string[] {
  let known = judged.get(map.relays)
  if (known === undefined) judged.set(map.relays, (known = new WeakMap()))
  let rules: Rules | undefined
  const liars: { readonly name: string; readonly texts: readonly string[] }[] = []
  for (const peer of map.peers.values()) {
    let lies = known.get(peer)
    if (lies === undefined) {
      rules ??= rulesOf(map.relays)
      lies = judge(peer, rules)
      known.set(peer, lies)
    }
    const told = allowLoopback ? lies.filter(({ loopback }) => !loopback) : lies
    if (told.length > 0) liars.push({ name: peer.name.split('.')[0] || peer.stableId, texts: told.map(({ text }) => text) })
  }
  const [first] = liars
  if (first === undefined) return []
  const shown = first.texts.slice(0, MAX_SHOWN).join(', ')
  const others = liars.length > 1 ? `, and such of ${liars.length - 1} more nodes` : ''
  return [`The control server names addresses of ${first.name} that can be nobody's (${shown}${first.texts.length > MAX_SHOWN ? ', ...' : ''})${others}: they are not tried. What such a node reports of itself is to be checked`]
}

/** The same rules twice: what is refused even where loopback is allowed, and what is not. */
interface Rules {
  readonly lenient: EndpointRules
  readonly strict: EndpointRules
}

function rulesOf(relays: NetworkMap['relays']): Rules {
  const rules = { lenient: new EndpointRules({ allowLoopback: true }), strict: new EndpointRules() }
  rules.lenient.setRelayMap(relays)
  rules.strict.setRelayMap(relays)
  return rules
}

function judge(peer: MapNode, { lenient, strict }: Rules): readonly EndpointLie[] {
  const lies = peer.endpoints.flatMap((endpoint) => {
    const text = formatEndpoint(endpoint)
    return isLie(strict.refusal(endpoint, text)) ? [{ text, loopback: !isLie(lenient.refusal(endpoint, text)) }] : []
  })
  return lies.length === 0 ? HONEST : lies
}
