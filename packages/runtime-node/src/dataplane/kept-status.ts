import type { DeviceStatus } from '@meshwright/wireguard'
import type { ShownDevice } from '@meshwright/wireguard/text'
import type { KeptCounters } from './kept-counters.ts'
import type { EndpointPath, TunnelDrops } from './tunnel-engine.ts'
import type { LaneStatus } from './worker-messages.ts'

const PEER = 'peer '

/** The parts of a status that count. */
export interface CountingStatus {
  readonly device: DeviceStatus<EndpointPath>
  readonly drops: Readonly<TunnelDrops>
  readonly lane: LaneStatus
}

/** A status whose counters go on from those of the workers before. */
export function keptStatus(kept: KeptCounters, { device, drops, lane }: CountingStatus): CountingStatus {
  const present = new Set(device.peers.map(({ publicKey }) => PEER + publicKey.text))
  kept.forget((name) => name.startsWith(PEER) && !present.has(name.slice(0, name.indexOf(' ', PEER.length))))
  return {
    drops: kept.showAll('tunnel', { ...drops }),
    lane: { ...lane, counters: kept.showAll('lane', { ...lane.counters }), joined: kept.showAll('joined', { ...lane.joined }) },
    device: {
      ...device,
      cookieRepliesSent: kept.show('cookieRepliesSent', device.cookieRepliesSent),
      drops: kept.showMap('device', device.drops),
      peers: device.peers.map((peer) => {
        const { receivedBytes, sentBytes, receivedPackets, sentPackets, handshakesCompleted, cookiesReceived } = peer
        const under = PEER + peer.publicKey.text
        return { ...peer, ...kept.showAll(under, { receivedBytes, sentBytes, receivedPackets, sentPackets, handshakesCompleted, cookiesReceived }), drops: kept.showMap(`${under} drops`, peer.drops) }
      }),
    },
  }
}

/** The same status when nobody carries packets any more: what was counted, and no session. */
export function withoutSessions({ device, drops, lane }: CountingStatus): CountingStatus {
  return { drops, lane, device: { ...device, peers: device.peers.map((peer) => ({ ...peer, state: 'idle', sessionAgeMs: undefined, stagedPackets: 0 })) } }
}

/** The same for what `wg` shows. */
export function keptShown(kept: KeptCounters, device: ShownDevice): ShownDevice {
  return { ...device, peers: device.peers.map(({ receivedBytes, sentBytes, ...peer }) => ({ ...peer, ...kept.showAll(PEER + peer.publicKey.text, { receivedBytes, sentBytes }) })) }
}
