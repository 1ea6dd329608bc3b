import { after, earlier, type Instant, type Machine, Outbox, type PacketBatch, type RandomSource, type RelayMap, type RelayNode, type RelayRegion } from '@meshwright/core'
import type { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientOutput } from '@meshwright/derp'

/** A relay that is not home is left when nothing has gone through it for this long (tailscale/tailscale:wgengine/magicsock/derp.go). */
export const RELAY_IDLE_MS = 60_000
/** The first wait before a lost relay is dialled again; each failure doubles it. */
export const RELAY_RETRY_MIN_MS = 250
/** The longest wait between two dials of a relay. */
export const RELAY_RETRY_MAX_MS = 5_000

/** What happens to connections with relays. `link` is the number that `dial` gave. */
export type RelayLinksInput =
  | { readonly type: 'opened'; readonly link: number; readonly serverKey?: NodePublicKey }
  | { readonly type: 'bytes'; readonly link: number; readonly bytes: Uint8Array }
  | { readonly type: 'writable'; readonly link: number }
  | { readonly type: 'closed'; readonly link: number; readonly reason?: string }

/** Why a peer is gone: it is not at this relay (tailscale/tailscale:derp, PeerGoneReasonNotHere). */
const NOT_HERE = 1

/** What connections with relays need, and what they bring. */
export type RelayLinksOutput =
  | { readonly type: 'dial'; readonly link: number; readonly region: RelayRegion; readonly node: RelayNode }
  | { readonly type: 'write'; readonly link: number; readonly bytes: Uint8Array }
  | { readonly type: 'close'; readonly link: number }
  | { readonly type: 'packet'; readonly region: number; readonly source: NodePublicKey; readonly packet: Uint8Array }
  | { readonly type: 'connected'; readonly region: number }
  | { readonly type: 'disconnected'; readonly region: number; readonly reason: string }
  | { readonly type: 'peerGone'; readonly region: number; readonly peer: NodePublicKey; readonly isNotHere: boolean }

/** Where the connection with a region stands. */
export type RelayLinkState = 'absent' | 'dialling' | 'connected' | 'waiting'

interface Link {
  readonly id: number
  readonly region: number
  readonly client: DerpClient
  connected: boolean
  /** `close` has been asked for: what still comes is passed over. */
  ended: boolean
}

interface Region {
  link: Link | undefined
  failures: number
  retryAt: Instant | undefined
  lastUse: Instant
  problem: string | undefined
}

/**
 * The node's connections with relay regions: home always, others while they are used. One machine over many `DerpClient`s.
 *
 * | state of a region | on | next |
 * |---|---|---|
 * | absent | first packet for it, or it becomes home | dialling |
 * | dialling | opened, then ServerInfo | connected |
 * | dialling, connected | closed or failed | waiting (250 ms doubling to 5 s, with jitter) |
 * | waiting | time is up | dialling |
 * | any but home | 60 s without use | absent |
 */
export class RelayLinks implements Machine<RelayLinksInput, RelayLinksOutput> {
  readonly #outbox: Outbox<RelayLinksOutput> = new Outbox()
  readonly #random: RandomSource
  readonly #regions: Map<number, Region> = new Map()
  readonly #links: Map<number, Link> = new Map()
  readonly #nextLink: () => number
  #privateKey: NodePrivateKey
  #map: RelayMap = { regions: new Map() }
  #home = 0
  #bytesIn = 0
  #bytesOut = 0
  readonly #drops: Map<string, number> = new Map()

  /** @param nextLink gives numbers for connections, never the same twice, also where one `RelayLinks` follows another */
  constructor(options: { readonly privateKey: NodePrivateKey; readonly random: RandomSource; readonly nextLink: () => number }) {
    this.#privateKey = options.privateKey
    this.#random = options.random
    this.#nextLink = options.nextLink
  }

  /** Payload bytes that came and went by relays since the start. */
  get traffic(): { readonly bytesIn: number; readonly bytesOut: number } {
    return { bytesIn: this.#bytesIn, bytesOut: this.#bytesOut }
  }

  /** Packets of ours that no connection took, by reason: those of connections that are over as well. */
  get drops(): ReadonlyMap<string, number> {
    const all = new Map(this.#drops)
    for (const { client } of this.#links.values()) addDrops(all, client)
    return all
  }

  /** The regions of the relay map. */
  regions(): readonly number[] {
    return [...this.#regions.keys()]
  }

  /** The home region, 0 for none. */
  get home(): number {
    return this.#home
  }

  /** True when the region's relay has let us in. */
  isConnected(region: number): boolean {
    return this.#regions.get(region)?.link?.connected ?? false
  }

  /** Where the connection with a region stands: see the table above. */
  state(region: number): RelayLinkState {
    const known = this.#regions.get(region)
    if (known === undefined) return 'absent'
    return known.link === undefined ? 'waiting' : known.link.connected ? 'connected' : 'dialling'
  }

  /** What is wrong with a region's relay, in plain words; `undefined` when nothing is known to be. */
  problem(region: number): string | undefined {
    return this.#regions.get(region)?.problem
  }

  /** Takes the regions that may be used; connections with regions that are gone, or whose servers changed, end. */
  setMap(now: Instant, map: RelayMap): void {
    const before = this.#map
    this.#map = map
    for (const region of [...this.#regions.keys()]) {
      if (JSON.stringify(before.regions.get(region)?.nodes) === JSON.stringify(map.regions.get(region)?.nodes)) continue
      this.#leave(region)
    }
    if (this.#home !== 0) this.#reach(now, this.#home)
  }

  /** Chooses the home region; 0 for none. */
  setHome(now: Instant, region: number): void {
    if (region === this.#home) return
    const former = this.#regions.get(this.#home)
    former?.link?.client.setPreferred(now, false)
    this.#home = region
    const link = this.#regions.get(region)?.link
    if (link !== undefined) link.client.setPreferred(now, true)
    else if (region !== 0) this.#reach(now, region)
    this.#settle(now)
  }

  /** Starts anew under another node key. */
  setPrivateKey(now: Instant, privateKey: NodePrivateKey): void {
    this.#privateKey = privateKey
    for (const region of [...this.#regions.keys()]) this.#leave(region)
    if (this.#home !== 0) this.#reach(now, this.#home)
  }

  /** Ends all connections. */
  closeAll(): void {
    for (const region of [...this.#regions.keys()]) this.#leave(region)
    this.#home = 0
  }

  /** The network has changed: connections may be dead without knowing it, so they are made anew. */
  rebind(now: Instant): void {
    for (const region of [...this.#regions.keys()]) {
      const used = this.#regions.get(region)?.lastUse
      this.#leave(region)
      if (region === this.#home || (used !== undefined && now - used < RELAY_IDLE_MS)) this.#reach(now, region)
    }
  }

  /** Sends a packet to a peer through a region, connecting first where needed. `false` when the region is unknown: dropped. */
  send(now: Instant, region: number, peer: NodePublicKey, packet: Uint8Array): boolean {
    const state = this.#reach(now, region)
    if (state === undefined) return false
    state.lastUse = now
    if (state.link === undefined) return false
    const sent = state.link.client.send(now, peer, packet)
    if (sent) this.#bytesOut += packet.length
    this.#drain(now, state.link)
    return sent
  }

  /** As {@link RelayLinks.send} for the results of a batch's slots that are `DONE`, in their order. */
  sendBatch(now: Instant, region: number, peer: NodePublicKey, batch: PacketBatch): void {
    const state = this.#reach(now, region)
    if (state === undefined) return
    state.lastUse = now
    if (state.link === undefined) return
    this.#bytesOut += state.link.client.sendBatch(now, peer, batch)
    this.#drain(now, state.link)
  }

  handleInput(now: Instant, input: RelayLinksInput): void {
    const link = this.#links.get(input.link)
    if (link === undefined || link.ended) return
    switch (input.type) {
      case 'opened':
        link.client.handleInput(now, input.serverKey === undefined ? { type: 'opened' } : { type: 'opened', serverKey: input.serverKey })
        break
      case 'bytes':
        link.client.handleInput(now, { type: 'bytes', bytes: input.bytes })
        break
      case 'writable':
        link.client.handleInput(now, { type: 'writable' })
        break
      case 'closed':
        this.#drain(now, link)
        this.#lose(now, link, input.reason ?? 'the connection was closed')
        break
    }
    this.#drain(now, link)
  }

  handleTimeout(now: Instant): void {
    for (const [id, region] of [...this.#regions]) {
      if (region.link !== undefined) {
        region.link.client.handleTimeout(now)
        this.#drain(now, region.link)
      }
      if (region.retryAt !== undefined && now >= region.retryAt) this.#dial(now, id, region)
      if (id !== this.#home && now >= after(region.lastUse, RELAY_IDLE_MS)) this.#leave(id)
    }
  }

  pollOutput(): RelayLinksOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    let due: Instant | undefined
    for (const [id, region] of this.#regions) {
      due = earlier(earlier(due, region.retryAt), region.link?.client.pollTimeout())
      if (id !== this.#home) due = earlier(due, after(region.lastUse, RELAY_IDLE_MS))
    }
    return due
  }

  #reach(now: Instant, id: number): Region | undefined {
    if (!this.#map.regions.has(id)) return undefined
    let region = this.#regions.get(id)
    if (region === undefined) {
      region = { link: undefined, failures: 0, retryAt: undefined, lastUse: now, problem: undefined }
      this.#regions.set(id, region)
    }
    if (region.link === undefined && region.retryAt === undefined) this.#dial(now, id, region)
    return region
  }

  #dial(now: Instant, id: number, region: Region): void {
    region.retryAt = undefined
    const description = this.#map.regions.get(id)
    const nodes = (description?.nodes ?? []).filter((node) => node.stunOnly !== true)
    const node = nodes[region.failures % Math.max(1, nodes.length)]
    if (description === undefined || node === undefined) {
      region.problem = `relay region ${id} has no server in the relay map`
      region.failures += 1
      region.retryAt = after(now, RELAY_RETRY_MAX_MS)
      return
    }
    const link: Link = {
      id: this.#nextLink(),
      region: id,
      client: new DerpClient({ privateKey: this.#privateKey, random: this.#random, preferred: id === this.#home }),
      connected: false,
      ended: false,
    }
    region.link = link
    this.#links.set(link.id, link)
    this.#outbox.push({ type: 'dial', link: link.id, region: description, node })
  }

  #leave(id: number): void {
    const region = this.#regions.get(id)
    if (region === undefined) return
    this.#regions.delete(id)
    if (region.link !== undefined) this.#end(region.link)
  }

  #end(link: Link): void {
    if (link.ended) return
    link.ended = true
    this.#links.delete(link.id)
    addDrops(this.#drops, link.client)
    this.#outbox.push({ type: 'close', link: link.id })
  }

  #lose(now: Instant, link: Link, reason: string): void {
    const region = this.#regions.get(link.region)
    this.#end(link)
    if (region === undefined || region.link !== link) return
    region.link = undefined
    if (link.connected) region.failures = 0
    const wait = Math.min(RELAY_RETRY_MAX_MS, RELAY_RETRY_MIN_MS * 2 ** Math.min(region.failures, 10))
    const jitter = (this.#random(1)[0] ?? 0) / 256
    region.failures += 1
    region.retryAt = after(now, wait * (0.5 + jitter))
    region.problem = reason
    this.#outbox.push({ type: 'disconnected', region: link.region, reason })
  }

  #settle(now: Instant): void {
    for (const region of this.#regions.values()) if (region.link !== undefined) this.#drain(now, region.link)
  }

  #drain(now: Instant, link: Link): void {
    for (let output = link.client.pollOutput(); output !== undefined; output = link.client.pollOutput()) {
      if (!link.ended) this.#translate(now, link, output)
    }
  }

  #translate(now: Instant, link: Link, output: DerpClientOutput): void {
    switch (output.type) {
      case 'write':
        this.#outbox.push({ type: 'write', link: link.id, bytes: output.bytes })
        return
      case 'packet': {
        const region = this.#regions.get(link.region)
        if (region !== undefined) region.lastUse = now
        this.#bytesIn += output.packet.length
        this.#outbox.push({ type: 'packet', region: link.region, source: output.source, packet: output.packet })
        return
      }
      case 'connected': {
        const region = this.#regions.get(link.region)
        if (region !== undefined) {
          region.failures = 0
          region.problem = undefined
        }
        link.connected = true
        this.#outbox.push({ type: 'connected', region: link.region })
        return
      }
      case 'peerGone':
        this.#outbox.push({ type: 'peerGone', region: link.region, peer: output.peer, isNotHere: output.reason === NOT_HERE })
        return
      case 'health': {
        const region = this.#regions.get(link.region)
        if (region !== undefined) region.problem = output.problem
        return
      }
      case 'failed':
        this.#lose(now, link, `the relay connection failed: ${output.code}`)
        return
      case 'close':
        this.#lose(now, link, 'the relay connection was given up')
        return
      case 'restarting':
      case 'peerPresent':
      case 'pong':
        return
    }
  }
}

function addDrops(to: Map<string, number>, client: DerpClient): void {
  for (const [reason, count] of Object.entries(client.stats().dropped)) if (count > 0) to.set(reason, (to.get(reason) ?? 0) + count)
}
