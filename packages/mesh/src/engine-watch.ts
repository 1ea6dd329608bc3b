import type { Instant } from '@meshwright/core'
import type { PathFinder } from '@meshwright/nat-traversal'
import type { DataPlane } from './dataplane.ts'
import type { EngineWatch } from './node-engine.ts'
import type { PeerLie } from './peer-lies.ts'

/** A peer whose engine is sound sends none such, ever. */
const TELL_MALFORMED = 30

/** What both packet paths and the path finder have seen of liars, and what they hold. Changes nothing. */
export function watchEngine(now: Instant, plane: DataPlane, paths: PathFinder, earlyHandshakes: number): EngineWatch {
  const { device } = plane
  const { tables, drops } = device.figures(now)
  const { candidates, pings } = paths.status(now)
  const malformed = (drops.get('inner-malformed') ?? 0) < TELL_MALFORMED ? [] : device.peerKeys().flatMap((peer): readonly PeerLie[] => {
    const count = device.peerStatus(now, peer)?.drops.get('inner-malformed') ?? 0
    return count < TELL_MALFORMED ? [] : [{ peer, kind: 'packet', count }]
  })
  return {
    lies: [...plane.lies.told(now), ...malformed],
    flooded: plane.lies.flooded(now),
    held: { sessions: tables.indices, 'handshake-sources': tables.sources, candidates, 'disco-pings': pings, 'early-handshakes': earlyHandshakes, flows: plane.filter.flowCount, lies: plane.lies.size },
  }
}
