import type { MapNode, NetworkMap } from '@meshwright/control-client'
import { type Instant, Outbox, type RandomSource } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { Ip, PacketView } from '@meshwright/ip'
import type { EngineOutput, NodeEngine } from './node-engine.ts'
import { nodeWithAddress } from './node-status.ts'
import { type EndedPing, TunnelPings } from './pings.ts'
import type { PingKind, PingResult } from './status.ts'

/** What pings need of the node around them. */
export interface PingSurroundings {
  readonly map: NetworkMap | undefined
  readonly engine: NodeEngine | undefined
  readonly state: string
}

/** A user's pings of every kind, from the question to its one result. */
export class NodePings {
  readonly #tunnel: TunnelPings
  readonly #disco: Map<number, { readonly ip: Ip; readonly peer: MapNode }> = new Map()
  readonly #outbox: Outbox<{ readonly type: 'pinged'; readonly id: number; readonly result: PingResult }> = new Outbox()
  readonly #around: () => PingSurroundings

  constructor(random: RandomSource, around: () => PingSurroundings) {
    this.#tunnel = new TunnelPings(random)
    this.#around = around
  }

  /** Begins a ping; exactly one result with this id follows. */
  start(now: Instant, id: number, ip: Ip, kind: PingKind, timeoutMs?: number, sizeBytes?: number): void {
    const { map, engine, state } = this.#around()
    const peer = map && nodeWithAddress(map, ip)
    const from = map?.self.addresses.find((own) => own.ip.family === ip.family)?.ip
    if (map === undefined || peer === undefined || engine === undefined || from === undefined) {
      return this.#end(id, ip, peer, { error: state === 'running' ? 'no matching peer' : `this node is not running (${state})` })
    }
    if (peer === map.self) return this.#end(id, ip, peer, { error: undefined, latencyMs: 0 })
    if (kind === 'peerapi') return this.#end(id, ip, peer, { error: 'peerapi pings are sent over a TCP connection to the peer' })
    if (kind === 'disco') {
      this.#disco.set(id, { ip, peer })
      return engine.ping(now, peer.nodeKey, id, sizeBytes)
    }
    const packet = this.#tunnel.start(now, { id, kind, from, to: ip, peer: peer.nodeKey, ...(timeoutMs === undefined ? {} : { timeoutMs }) })
    if (packet === undefined) this.#end(id, ip, peer, { error: 'too many pings are under way' })
    else if (kind === 'TSMP') engine.sendTo(now, peer.nodeKey, packet)
    else engine.handleInput(now, { type: 'packet', bytes: packet })
  }

  /** Takes an inner packet; true when it answers a ping of ours, and is then nobody else's. */
  takes(now: Instant, view: PacketView): boolean {
    const ended = this.#tunnel.echoReply(now, view)
    if (ended !== undefined) this.#tunnelEnded(ended)
    return ended !== undefined
  }

  /** Takes a TSMP pong. */
  pong(now: Instant, peer: NodePublicKey, data: Uint8Array, peerApiPort: number): void {
    const ended = this.#tunnel.pong(now, peer, data, peerApiPort)
    if (ended !== undefined) this.#tunnelEnded(ended)
  }

  /** Takes what became of a disco ping. */
  discoEnded(output: Extract<EngineOutput, { readonly type: 'pinged' | 'pingFailed' }>): void {
    const asked = this.#disco.get(output.id)
    if (asked === undefined) return
    this.#disco.delete(output.id)
    if (output.type === 'pingFailed') {
      return this.#end(output.id, asked.ip, asked.peer, { error: output.code === 'PATH_PING_NO_PATH' ? 'no path to the peer is known' : 'no answer in time' })
    }
    const { via } = output
    const how = via.type === 'direct' ? { endpoint: via.endpoint } : { region: via.region }
    this.#end(output.id, asked.ip, asked.peer, { error: undefined, latencyMs: output.latencyMs, ...how })
  }

  /** The engine is gone, and with it what its pings would have brought. */
  engineGone(): void {
    for (const [id, { ip, peer }] of this.#disco) this.#end(id, ip, peer, { error: 'the node was stopped' })
    this.#disco.clear()
  }

  handleTimeout(now: Instant): void {
    for (const ended of this.#tunnel.expire(now)) this.#tunnelEnded(ended)
  }

  pollOutput(): { readonly type: 'pinged'; readonly id: number; readonly result: PingResult } | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.#tunnel.pollTimeout()
  }

  #tunnelEnded(ended: EndedPing): void {
    const peer = this.#around().map?.peersByKey.get(ended.ping.peer.text)
    const what = ended.latencyMs === undefined ? { error: 'no answer in time' } : { error: undefined, latencyMs: ended.latencyMs, peerApiPort: ended.peerApiPort }
    this.#end(ended.ping.id, ended.ping.ip, peer, what)
  }

  #end(id: number, ip: Ip, peer: MapNode | undefined, what: Partial<PingResult> & { readonly error: string | undefined }): void {
    const region = what.region ?? 0
    const result: PingResult = {
      ip,
      peer: peer?.nodeKey,
      nodeName: peer?.name.split('.')[0] ?? '',
      latencyMs: 0,
      endpoint: undefined,
      peerApiPort: undefined,
      ...what,
      region,
      regionCode: this.#around().map?.relays.regions.get(region)?.code ?? '',
    }
    this.#outbox.push({ type: 'pinged', id, result })
  }
}
