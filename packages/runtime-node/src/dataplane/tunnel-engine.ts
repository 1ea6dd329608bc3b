import { type Instant, MeshwrightError, type PacketBatch } from '@meshwright/core'
import type { CryptoProvider, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { CryptokeyRouter } from '@meshwright/cryptokey-router'
import { type Endpoint, PacketView } from '@meshwright/ip'
import { type DeviceStatus, type LoadMonitor, type OpenPlan, WireGuardDevice, type WireGuardOutput, type WireGuardPath } from '@meshwright/wireguard'
import { type ShownDevice, UAPI_EIO, type UapiChange, type UapiPeerChange } from '@meshwright/wireguard/text'
import { systemRandom } from '../random.ts'

/** What a peer without any address may send ahead: see `EnginePeer.held`. */
const MAX_HELD_PACKETS = 1024
const HELD_MS = 10_000
const MAX_PLACES = 8
const NO_PRESHARED_KEY: Uint8Array = new Uint8Array(32)

/** A path that leads to an address. */
export interface EndpointPath extends WireGuardPath {
  readonly endpoint: Endpoint
}

/** A place that a peer was heard from. */
export interface PeerPlace {
  readonly endpoint: Endpoint
  /** Milliseconds since 1970. */
  readonly at: number
}

/** What was not passed on, beside what the device counts itself. */
export interface TunnelDrops {
  /** Outgoing, and no peer owns the destination. */
  noRoute: number
  /** Incoming, and the source belongs to another peer or to none. */
  wrongSource: number
}

/** A peer as the router and the configuration know it: the device keeps the rest. */
export interface EnginePeer {
  readonly publicKey: NodePublicKey
  presharedKey: Uint8Array | undefined
  /** The latest places that it moved to, oldest first: a key that jumps to and fro is used in two places. */
  readonly places: PeerPlace[]
  /**
   * Packets of a peer that has no addresses yet. In a rotation the new key of a host is known beside the old one, without addresses,
   * until they move to it: what the host sends under its new key before that waits for the move, and is judged then.
   */
  held: { readonly packet: Uint8Array; readonly at: Instant }[]
}

/** What a {@link TunnelEngine} is made of. */
export interface TunnelEngineOptions<Path extends EndpointPath> {
  /** Interface name, for status. */
  readonly name: string
  /** The path to a configured endpoint. */
  readonly pathTo: (endpoint: Endpoint) => Path
  /** Default: the device's own. */
  readonly provider?: CryptoProvider
  readonly mtu?: number
  readonly loadMonitor?: LoadMonitor
  /** Default: the system's. */
  readonly random?: (length: number) => Uint8Array
  readonly wallClock?: () => number
  /** See the device; `false`: none, so that nothing depends on how fast this computer is. */
  readonly stopwatch?: false
  readonly log?: (level: 'error' | 'verbose', line: string) => void
}

/**
 * The engine of an interface, whichever lane carries its packets: the WireGuard device joined with allowed IPs, changed by UAPI
 * requests. It does no input or output of its own. Whoever hosts it opens sockets, moves packets, drains `device`, and hands every
 * output that is neither a datagram nor a packet to `note`.
 */
export class TunnelEngine<Path extends EndpointPath> {
  readonly device: WireGuardDevice<Path>
  readonly router: CryptokeyRouter<EnginePeer> = new CryptokeyRouter()
  readonly drops: TunnelDrops = { noRoute: 0, wrongSource: 0 }
  readonly #options: TunnelEngineOptions<Path>
  readonly #peers: Map<string, EnginePeer> = new Map()
  readonly #view: PacketView = new PacketView()
  #released: Uint8Array[] = []
  #privateKey: NodePrivateKey | undefined
  // The peer of the packet before: mostly that of the next, too.
  #lastKey: NodePublicKey | undefined
  #lastPeer: EnginePeer | undefined

  constructor(options: TunnelEngineOptions<Path>) {
    this.#options = options
    this.device = new WireGuardDevice<Path>({
      random: options.random ?? systemRandom,
      wallClock: options.wallClock ?? ((): number => Date.now()),
      ...(options.stopwatch !== false && { stopwatch: (): number => performance.now() }),
      ...(options.provider !== undefined && { provider: options.provider }),
      ...(options.mtu !== undefined && { mtu: options.mtu }),
      ...(options.loadMonitor !== undefined && { loadMonitor: options.loadMonitor }),
    })
  }

  /** Whether there is a key: a device with one wants to be reachable. */
  get hasKey(): boolean {
    return this.#privateKey !== undefined
  }

  /**
   * The peer that the packet is to go to; `undefined`, and counted, when nobody owns its destination.
   * @param packets how many it stands for, where it is a row
   */
  ownerOf(memory: Uint8Array, at: number, length: number, packets: number = 1): EnginePeer | undefined {
    const owner = this.#view.at(memory, at, length) ? this.router.peerFor(this.#view) : undefined
    if (owner === undefined) this.drops.noRoute += packets
    return owner
  }

  /** Whether a packet that the peer has sealed may come from where it says; else it is counted, or kept until the peer has addresses. */
  admits(now: Instant, publicKey: NodePublicKey, memory: Uint8Array, at: number, length: number): boolean {
    const peer = this.#peerOf(publicKey)
    if (peer !== undefined && this.#view.at(memory, at, length) && this.router.allows(peer, this.#view)) return true
    if (peer !== undefined && this.#mayHold(now, peer)) peer.held.push({ packet: memory.slice(at, at + length), at: now })
    else this.drops.wrongSource += 1
    return false
  }

  /** Opens a batch that came by one path; afterwards the slots that are `DONE` are packets: ask `admits` about each. */
  open(now: Instant, from: Path | undefined, batch: PacketBatch): OpenPlan<Path> {
    return this.device.open(now, from, batch)
  }

  /** Packets that waited for their peer's addresses and may be delivered now. */
  takeReleased(): Uint8Array[] {
    const released = this.#released
    if (released.length > 0) this.#released = []
    return released
  }

  /** Makes one change of a UAPI `set` that is neither about sockets nor about all peers; gives 0 or a negative errno. */
  change(now: Instant, change: Extract<UapiChange, { readonly type: 'privateKey' | 'peer' }>): number {
    if (change.type === 'peer') return this.#changePeer(now, change)
    this.#privateKey = change.key
    const own = change.key?.publicKey()
    if (own !== undefined) this.#forget(now, own)
    this.device.setPrivateKey(now, change.key)
    return 0
  }

  /**
   * Takes all peers away. The kernel forgets all, and what a peer sends until the next handshake is lost. Here, whoever the same request
   * names again begins with nothing but its session and the path to it.
   */
  replacePeers(now: Instant, later: readonly UapiChange[]): void {
    const named = new Set(later.flatMap((change) => (change.type === 'peer' && !change.remove && !change.updateOnly ? [change.publicKey.text] : [])))
    for (const peer of [...this.#peers.values()]) {
      if (!named.has(peer.publicKey.text)) {
        this.#forget(now, peer.publicKey)
        continue
      }
      this.router.removePeer(peer)
      peer.presharedKey?.fill(0)
      peer.presharedKey = undefined
      this.device.setPeer(now, { publicKey: peer.publicKey, presharedKey: NO_PRESHARED_KEY, persistentKeepaliveSeconds: 0 })
    }
  }

  /** What the device says beside datagrams and packets: peers that moved, for one. */
  note(output: Exclude<WireGuardOutput<Path>, { readonly type: 'transmit' | 'packet' }>): void {
    if (output.type === 'roamed') this.#notePlace(output.peer, output.path.endpoint)
  }

  /** The state as `wg` shows it, secrets included. */
  shown(now: Instant, listenPort: number, fwmark: number): ShownDevice {
    return {
      name: this.#options.name,
      ...(this.#privateKey !== undefined && { privateKey: this.#privateKey }),
      listenPort,
      fwmark,
      peers: this.status(now).peers.map((peer) => {
        const known = this.#peers.get(peer.publicKey.text)
        return {
          publicKey: peer.publicKey,
          ...(known?.presharedKey !== undefined && { presharedKey: known.presharedKey }),
          ...(peer.path !== undefined && { endpoint: peer.path.endpoint }),
          allowedIps: known === undefined ? [] : this.router.list(known),
          ...(peer.latestHandshake !== undefined && { latestHandshake: peer.latestHandshake }),
          receivedBytes: peer.receivedBytes,
          sentBytes: peer.sentBytes,
          persistentKeepaliveSeconds: peer.persistentKeepaliveSeconds,
        }
      }),
    }
  }

  /** The device's status: counters, states, no secrets. */
  status(now: Instant): DeviceStatus<Path> {
    return this.device.status(now)
  }

  /** Where a peer moved to lately, oldest first. */
  placesOf(publicKey: NodePublicKey): readonly PeerPlace[] {
    return this.#peers.get(publicKey.text)?.places ?? []
  }

  /** Forgets all peers and keys. */
  destroy(now: Instant): void {
    for (const peer of [...this.#peers.values()]) this.#forget(now, peer.publicKey)
    this.#privateKey = undefined
    this.device.destroy(now)
  }

  #changePeer(now: Instant, change: UapiPeerChange): number {
    if (change.remove) {
      this.#forget(now, change.publicKey)
      return 0
    }
    const known = this.#peers.get(change.publicKey.text)
    if (known === undefined && change.updateOnly) return 0
    let accepted: boolean
    try {
      accepted = this.device.setPeer(now, {
        publicKey: change.publicKey,
        ...(change.presharedKey !== undefined && { presharedKey: change.presharedKey }),
        ...(change.endpoint !== undefined && { path: this.#options.pathTo(change.endpoint) }),
      })
    } catch (error) {
      this.#options.log?.('error', error instanceof MeshwrightError ? error.message : 'a peer could not be changed')
      return UAPI_EIO
    }
    if (!accepted) return 0 // our own key
    const peer: EnginePeer = known ?? { publicKey: change.publicKey, presharedKey: undefined, places: [], held: [] }
    this.#peers.set(change.publicKey.text, peer)
    this.#lastKey = undefined
    if (change.presharedKey !== undefined) peer.presharedKey = change.presharedKey
    if (change.replaceAllowedIps) this.router.removePeer(peer)
    for (const { prefix, remove } of change.allowedIps) {
      if (remove) this.router.remove(prefix, peer)
      else this.router.insert(prefix, peer)
    }
    if (change.allowedIps.length > 0) this.#release(now, peer)
    // Last, since switching keepalives on sends one at once.
    const seconds = change.persistentKeepaliveSeconds
    if (seconds !== undefined) this.device.setPeer(now, { publicKey: change.publicKey, persistentKeepaliveSeconds: seconds })
    return 0
  }

  #forget(now: Instant, publicKey: NodePublicKey): void {
    const peer = this.#peers.get(publicKey.text)
    if (peer === undefined) return
    this.router.removePeer(peer)
    this.#peers.delete(publicKey.text)
    this.#lastKey = undefined
    peer.presharedKey?.fill(0)
    this.device.removePeer(now, publicKey)
  }

  #peerOf(publicKey: NodePublicKey): EnginePeer | undefined {
    if (publicKey === this.#lastKey) return this.#lastPeer
    this.#lastKey = publicKey
    this.#lastPeer = this.#peers.get(publicKey.text)
    return this.#lastPeer
  }

  #mayHold(now: Instant, peer: EnginePeer): boolean {
    for (let first = peer.held[0]; first !== undefined && now - first.at >= HELD_MS; first = peer.held[0]) peer.held.shift()
    return peer.held.length < MAX_HELD_PACKETS && this.router.list(peer).length === 0
  }

  #release(now: Instant, peer: EnginePeer): void {
    const { held } = peer
    peer.held = []
    for (const { packet, at } of held) if (now - at < HELD_MS && this.admits(now, peer.publicKey, packet, 0, packet.length)) this.#released.push(packet)
  }

  #notePlace(publicKey: NodePublicKey, endpoint: Endpoint): void {
    const places = this.#peers.get(publicKey.text)?.places
    places?.push({ endpoint, at: Date.now() })
    if (places !== undefined && places.length > MAX_PLACES) places.shift()
  }
}
