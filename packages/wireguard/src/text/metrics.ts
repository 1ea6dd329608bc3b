import type { UnixMillis } from '@meshwright/core'
import type { DeviceStatus, PeerStatus } from '../types.ts'
import { formatPublicKey } from './key-text.ts'

interface Metric {
  readonly name: string
  readonly type: 'counter' | 'gauge'
  readonly help: string
  /** Label text behind the interface's, and the value. */
  readonly samples: readonly (readonly [labels: string, value: number])[]
}

/** The state of a device in the text format of Prometheus (prometheus.io/docs/instrumenting/exposition_formats). Holds no secret. */
export function formatMetrics(status: DeviceStatus, interfaceName: string, wallNow: UnixMillis): string {
  const perPeer = (value: (peer: PeerStatus) => number | undefined): (readonly [string, number])[] =>
    status.peers.flatMap((peer) => {
      const known = value(peer)
      return known === undefined ? [] : [[`,peer="${formatPublicKey(peer.publicKey)}"`, known] as const]
    })
  const metrics: Metric[] = [
    { name: 'wireguard_sent_bytes_total', type: 'counter', help: 'Bytes of datagrams sent to a peer.', samples: perPeer((peer) => peer.sentBytes) },
    { name: 'wireguard_received_bytes_total', type: 'counter', help: 'Bytes of authentic datagrams received from a peer.', samples: perPeer((peer) => peer.receivedBytes) },
    { name: 'wireguard_handshakes_total', type: 'counter', help: 'Handshakes completed with a peer.', samples: perPeer((peer) => peer.handshakesCompleted) },
    {
      name: 'wireguard_latest_handshake_seconds',
      type: 'gauge',
      help: 'Seconds since the latest handshake with a peer.',
      samples: perPeer((peer) => (peer.latestHandshake === undefined ? undefined : Math.max(0, wallNow - peer.latestHandshake) / 1000)),
    },
    { name: 'wireguard_staged_packets', type: 'gauge', help: 'Packets that wait for a session with a peer.', samples: perPeer((peer) => peer.stagedPackets) },
    {
      name: 'wireguard_peer_drops_total',
      type: 'counter',
      help: 'Drops that could be laid to a peer, by reason.',
      samples: status.peers.flatMap((peer) => Array.from(peer.drops, ([reason, count]) => [`,peer="${formatPublicKey(peer.publicKey)}",reason="${reason}"`, count] as const)),
    },
    { name: 'wireguard_device_drops_total', type: 'counter', help: 'All drops, by reason.', samples: Array.from(status.drops, ([reason, count]) => [`,reason="${reason}"`, count] as const) },
    {
      name: 'wireguard_rate_limited_total',
      type: 'counter',
      help: 'Handshakes refused because their source sent too many, or because handshakes had taken all the time that they may take.',
      samples: (['rate-limited', 'overloaded'] as const).map((reason) => [`,reason="${reason}"`, status.drops.get(reason) ?? 0] as const),
    },
    { name: 'wireguard_cookies_received_total', type: 'counter', help: 'Cookies that a peer under load has sent us.', samples: perPeer((peer) => peer.cookiesReceived) },
    { name: 'wireguard_cookie_replies_total', type: 'counter', help: 'Cookie replies sent while under load.', samples: [['', status.cookieRepliesSent]] },
    { name: 'wireguard_under_load', type: 'gauge', help: '1 while handshakes must bring a cookie.', samples: [['', status.underLoad ? 1 : 0]] },
  ]
  const name = interfaceName.replace(/[\\"\n]/g, '_')
  return metrics
    .map((metric) => {
      const head = `# HELP ${metric.name} ${metric.help}\n# TYPE ${metric.name} ${metric.type}\n`
      return head + metric.samples.map(([labels, value]) => `${metric.name}{interface="${name}"${labels}} ${value}\n`).join('')
    })
    .join('')
}
