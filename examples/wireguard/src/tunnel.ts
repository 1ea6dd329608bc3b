import { DONE, equalBytes, type Instant, MeshwrightError, PacketBatch } from '@meshwright/core'
import type { CryptoProvider, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { CryptokeyRouter } from '@meshwright/cryptokey-router'
import { type Endpoint, formatEndpoint, PacketView } from '@meshwright/ip'
import { type Driver, drive, openUdp, packetSlab, suspendAwareClock, systemRandom, type UdpSocket } from '@meshwright/runtime-node'
import { type DeviceStatus, type LoadMonitor, WireGuardDevice, type WireGuardInput, type WireGuardOutput, type WireGuardPath } from '@meshwright/wireguard'
import { type ShownDevice, UAPI_EADDRINUSE, UAPI_EIO, type UapiChange, type UapiPeerChange } from '@meshwright/wireguard/text'

/** Packets that are sealed or opened together, at most: as many as the kernel gives in one turn. */
const BATCH_SLOTS = 64
/** Longer packets, which only interfaces with a large MTU have, go one by one. */
const SLOT_BYTES = 2048
/** What a peer without any address may send ahead: see `KnownPeer.held`. */
const MAX_HELD_PACKETS = 1024
const HELD_MS = 10_000
const MAX_PLACES = 8
const NO_PRESHARED_KEY: Uint8Array = new Uint8Array(32)
/** What is under way to a port that was given up arrives within this time. */
const OLD_SOCKET_MS = 1_000

/** A path over UDP. */
export interface UdpPath extends WireGuardPath {
  readonly endpoint: Endpoint
}

/** What a {@link Tunnel} is made of. */
export interface TunnelOptions {
  /** Interface name, for status. */
  readonly name: string
  /** Default: the engine's own. */
  readonly provider?: CryptoProvider
  readonly mtu?: number
  readonly loadMonitor?: LoadMonitor
  /** An inner packet whose source belongs to the peer that sent it; the bytes are the receiver's. */
  readonly deliver: (packet: Uint8Array) => void
  /** Something worth a line in a log; never holds a secret. */
  readonly log?: (level: 'error' | 'verbose', line: string) => void
  /** Marks a UDP socket (SO_MARK) for policy routing; `false` when that cannot be done. Absent: marks are refused. */
  readonly setMark?: (port: number, mark: number) => boolean
  /** A handshake stays without answer, or is given up: its peer may have moved. Gives where it was tried. */
  readonly onUnanswered?: (peer: NodePublicKey, tried: Endpoint | undefined) => void
}

/** A place that a peer was heard from. */
export interface PeerPlace {
  readonly endpoint: Endpoint
  /** Milliseconds since 1970. */
  readonly at: number
}

/** A peer as the router and the configuration know it: the engine keeps the rest. */
interface KnownPeer {
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

/** What the tunnel did not pass on, for packets outside the engine's own counters. */
export interface TunnelDrops {
  /** Outgoing, and no peer owns the destination. */
  noRoute: number
  /** Incoming, and the source belongs to another peer or to none. */
  wrongSource: number
}

/**
 * A WireGuard interface: the engine joined with allowed IPs and with a UDP socket, changed by UAPI requests. Where inner packets come
 * from and go to (a TUN device, a stack in user space) is the caller's affair.
 */
export class Tunnel {
  readonly drops: TunnelDrops = { noRoute: 0, wrongSource: 0 }
  readonly #options: TunnelOptions
  readonly #device: WireGuardDevice<UdpPath>
  readonly #driver: Driver<WireGuardInput<UdpPath>>
  readonly #clock: () => Instant = suspendAwareClock()
  readonly #router: CryptokeyRouter<KnownPeer> = new CryptokeyRouter()
  readonly #peers: Map<string, KnownPeer> = new Map()
  readonly #view: PacketView = new PacketView()
  readonly #sealing: PacketBatch
  readonly #opening: PacketBatch
  #openingFrom: UdpPath | undefined
  #openingSoon: NodeJS.Immediate | undefined
  #privateKey: NodePrivateKey | undefined
  #mark = 0
  #socket: UdpSocket | undefined
  /** Whether its port was not asked for by its number. */
  #isAnyPort = false
  #oldSocket: { readonly socket: UdpSocket; readonly timer: NodeJS.Timeout } | undefined
  #closed = false
  /** Requests wait for each other: a socket takes time to open. */
  #queue: Promise<unknown> = Promise.resolve()

  constructor(options: TunnelOptions) {
    this.#options = options
    const batch = (): PacketBatch => (options.provider === undefined ? PacketBatch.slab(BATCH_SLOTS, SLOT_BYTES) : packetSlab(options.provider, BATCH_SLOTS, SLOT_BYTES))
    this.#sealing = batch()
    this.#opening = batch()
    this.#device = new WireGuardDevice<UdpPath>({
      random: systemRandom,
      wallClock: () => Date.now(),
      stopwatch: () => performance.now(),
      ...(options.provider !== undefined && { provider: options.provider }),
      ...(options.mtu !== undefined && { mtu: options.mtu }),
      ...(options.loadMonitor !== undefined && { loadMonitor: options.loadMonitor }),
    })
    this.#driver = drive(this.#device, this.#clock, (output) => this.#perform(output))
  }

  /** Sends an inner packet to the peer that owns its destination. */
  send(packet: Uint8Array): void {
    const peer = this.#view.at(packet) ? this.#router.peerFor(this.#view) : undefined
    if (peer === undefined) this.drops.noRoute += 1
    else this.#driver.feed({ type: 'packet', peer: peer.publicKey, bytes: packet })
  }

  /** Sends inner packets, in order, each to the peer that owns its destination; neighbours with one destination are sealed together. */
  sendAll(packets: readonly Uint8Array[]): void {
    const batch = this.#sealing
    let peer: KnownPeer | undefined
    for (const packet of packets) {
      const owner = this.#view.at(packet) ? this.#router.peerFor(this.#view) : undefined
      if (owner === undefined) {
        this.drops.noRoute += 1
        continue
      }
      if (peer !== undefined && (owner !== peer || batch.count === batch.capacity || packet.length > SLOT_BYTES)) this.#sealAll(peer)
      peer = owner
      if (packet.length > SLOT_BYTES) this.#driver.feed({ type: 'packet', peer: owner.publicKey, bytes: packet })
      else batch.addCopy(packet)
    }
    if (peer !== undefined) this.#sealAll(peer)
  }

  /** Makes the changes of a UAPI `set`, in order; resolves with 0 or the negative errno of the one that failed, where it stopped. */
  apply(changes: readonly UapiChange[]): Promise<number> {
    return this.#enqueue(async () => {
      for (const [i, change] of changes.entries()) {
        const errno = change.type === 'replacePeers' ? this.#replacePeers(changes.slice(i + 1)) : await this.#change(change)
        if (errno !== 0) return errno
      }
      // A device with a key wants to be reachable and to send, even if nobody chose a port.
      return this.#privateKey !== undefined && this.#socket === undefined ? this.#listen(0) : 0
    })
  }

  /** The state as `wg` shows it, secrets included. */
  shown(): ShownDevice {
    const status = this.status()
    return {
      name: this.#options.name,
      ...(this.#privateKey !== undefined && { privateKey: this.#privateKey }),
      listenPort: this.port,
      fwmark: this.#mark,
      peers: status.peers.map((peer) => {
        const known = this.#peers.get(peer.publicKey.text)
        return {
          publicKey: peer.publicKey,
          ...(known?.presharedKey !== undefined && { presharedKey: known.presharedKey }),
          ...(peer.path !== undefined && { endpoint: peer.path.endpoint }),
          allowedIps: known === undefined ? [] : this.#router.list(known),
          ...(peer.latestHandshake !== undefined && { latestHandshake: peer.latestHandshake }),
          receivedBytes: peer.receivedBytes,
          sentBytes: peer.sentBytes,
          persistentKeepaliveSeconds: peer.persistentKeepaliveSeconds,
        }
      }),
    }
  }

  /** The engine's status: counters, states, no secrets. */
  status(): DeviceStatus<UdpPath> {
    return this.#driver.act(() => this.#device.status(this.#clock()))
  }

  /** Where a peer moved to lately, oldest first. */
  placesOf(publicKey: NodePublicKey): readonly PeerPlace[] {
    return this.#peers.get(publicKey.text)?.places ?? []
  }

  /** The UDP port, 0 before there is one. */
  get port(): number {
    return this.#socket?.portIpv4 ?? this.#socket?.portIpv6 ?? 0
  }

  /** The MTU of the interface has changed. */
  setMtu(mtu: number): void {
    this.#driver.act(() => this.#device.setMtu(mtu))
  }

  /** Stops; keys are wiped. */
  close(): Promise<void> {
    return this.#enqueue(async () => {
      this.#closed = true
      clearImmediate(this.#openingSoon)
      this.#driver.act((now) => {
        for (const key of this.#device.peerKeys()) this.#device.removePeer(now, key)
        this.#device.setPrivateKey(now, undefined)
      })
      this.#driver.stop()
      await this.#endOldSocket()
      await this.#socket?.close()
      this.#socket = undefined
    })
  }

  #enqueue<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#queue.then(work)
    this.#queue = result.catch(() => undefined)
    return result
  }

  // The kernel forgets all, and what a peer sends until the next handshake is lost. Here, whoever the same request names again begins with
  // nothing but its session and the path to it.
  #replacePeers(later: readonly UapiChange[]): number {
    const named = new Set(later.flatMap((change) => (change.type === 'peer' && !change.remove && !change.updateOnly ? [change.publicKey.text] : [])))
    for (const peer of [...this.#peers.values()]) {
      if (!named.has(peer.publicKey.text)) {
        this.#forget(peer.publicKey)
        continue
      }
      this.#router.removePeer(peer)
      peer.presharedKey?.fill(0)
      peer.presharedKey = undefined
      this.#driver.act((now) => this.#device.setPeer(now, { publicKey: peer.publicKey, presharedKey: NO_PRESHARED_KEY, persistentKeepaliveSeconds: 0 }))
    }
    return 0
  }

  async #change(change: Exclude<UapiChange, { readonly type: 'replacePeers' }>): Promise<number> {
    switch (change.type) {
      case 'privateKey': {
        this.#privateKey = change.key
        const own = change.key?.publicKey()
        if (own !== undefined) this.#forget(own)
        this.#driver.act((now) => this.#device.setPrivateKey(now, change.key))
        return 0
      }
      case 'listenPort':
        return this.#listen(change.port)
      case 'fwmark':
        if (!this.#applyMark(change.mark)) return UAPI_EADDRINUSE
        this.#mark = change.mark
        return 0
      case 'peer':
        return this.#changePeer(change)
    }
  }

  #changePeer(change: UapiPeerChange): number {
    if (change.remove) {
      this.#forget(change.publicKey)
      return 0
    }
    const known = this.#peers.get(change.publicKey.text)
    if (known === undefined && change.updateOnly) return 0
    let accepted: boolean
    try {
      accepted = this.#driver.act((now) =>
        this.#device.setPeer(now, {
          publicKey: change.publicKey,
          ...(change.presharedKey !== undefined && { presharedKey: change.presharedKey }),
          ...(change.endpoint !== undefined && { path: pathTo(change.endpoint) }),
        }),
      )
    } catch (error) {
      this.#log('error', error instanceof MeshwrightError ? error.message : 'a peer could not be changed')
      return UAPI_EIO
    }
    if (!accepted) return 0 // our own key
    const peer: KnownPeer = known ?? { publicKey: change.publicKey, presharedKey: undefined, places: [], held: [] }
    this.#peers.set(change.publicKey.text, peer)
    if (change.presharedKey !== undefined) peer.presharedKey = change.presharedKey
    if (change.replaceAllowedIps) this.#router.removePeer(peer)
    for (const { prefix, remove } of change.allowedIps) {
      if (remove) this.#router.remove(prefix, peer)
      else this.#router.insert(prefix, peer)
    }
    if (change.allowedIps.length > 0) this.#release(peer)
    // Last, since switching keepalives on sends one at once.
    const seconds = change.persistentKeepaliveSeconds
    if (seconds !== undefined) this.#driver.act((now) => this.#device.setPeer(now, { publicKey: change.publicKey, persistentKeepaliveSeconds: seconds }))
    return 0
  }

  #forget(publicKey: NodePublicKey): void {
    const peer = this.#peers.get(publicKey.text)
    if (peer === undefined) return
    this.#router.removePeer(peer)
    this.#peers.delete(publicKey.text)
    peer.presharedKey?.fill(0)
    this.#driver.act((now) => this.#device.removePeer(now, publicKey))
  }

  /**
   * Moves to another port, 0 for any: then a port that was not asked for by its number is kept. No datagram is lost on the way: the new
   * socket is there before the old one goes, peers hear of it at once, and what is still under way to the old one is read for a while.
   * A port that cannot be had changes nothing.
   */
  async #listen(port: number): Promise<number> {
    if (this.#socket !== undefined && (port === this.port || (port === 0 && this.#isAnyPort))) {
      this.#isAnyPort = port === 0
      return 0
    }
    await this.#endOldSocket()
    let socket: UdpSocket
    try {
      socket = await openUdp({
        port,
        onDatagram: (bytes, from) => this.#arrived(bytes, from),
        onError: (error) => this.#log('verbose', `UDP: ${error.message}`),
      })
    } catch (error) {
      this.#log('error', error instanceof Error ? error.message : 'no UDP socket')
      return UAPI_EADDRINUSE
    }
    const old = this.#socket
    this.#socket = socket
    this.#isAnyPort = port === 0
    this.#log('verbose', `UDP port ${this.port}`)
    const isMarked = this.#mark === 0 || this.#applyMark(this.#mark)
    if (old !== undefined) {
      this.#oldSocket = { socket: old, timer: setTimeout(() => void this.#endOldSocket(), OLD_SOCKET_MS) }
      for (const { publicKey, state } of this.status().peers) if (state === 'established') this.#driver.act((now) => this.#device.sendKeepalive(now, publicKey))
    }
    return isMarked ? 0 : UAPI_EADDRINUSE
  }

  async #endOldSocket(): Promise<void> {
    const old = this.#oldSocket
    this.#oldSocket = undefined
    clearTimeout(old?.timer)
    await old?.socket.close()
  }

  #sealAll(peer: KnownPeer): void {
    const batch = this.#sealing
    if (batch.count > 0 && this.#driver.act((now) => this.#device.seal(now, peer.publicKey, batch)) > 0) {
      const to = this.#device.pathOf(peer.publicKey)?.endpoint
      for (let slot = 0; slot < batch.count && to !== undefined; slot += 1) {
        // A copy, since the socket may keep what the kernel does not take at once.
        if (batch.verdict[slot] === DONE) this.#socket?.send(to, Uint8Array.from(batch.result(slot)))
      }
    }
    batch.reset()
  }

  // What the kernel has in one turn of the event loop is opened together, as long as it comes from one place.
  #arrived(bytes: Uint8Array, from: Endpoint): void {
    const known = this.#openingFrom
    const isSame = known !== undefined && known.endpoint.port === from.port && equalBytes(known.endpoint.ip.bytes, from.ip.bytes)
    if (!isSame || this.#opening.count === this.#opening.capacity || bytes.length > SLOT_BYTES) this.#openAll()
    const path = isSame ? known : pathTo(from)
    if (bytes.length > SLOT_BYTES) return this.#driver.feed({ type: 'datagram', bytes, from: path })
    this.#openingFrom = path
    this.#opening.addCopy(bytes)
    this.#openingSoon ??= setImmediate(() => this.#openAll())
  }

  #openAll(): void {
    if (this.#openingSoon !== undefined) clearImmediate(this.#openingSoon)
    this.#openingSoon = undefined
    const batch = this.#opening
    if (batch.count === 0) return
    const opened = this.#driver.act((now) => {
      const plan = this.#device.open(now, this.#openingFrom, batch)
      const packets: { readonly peer: NodePublicKey; readonly packet: Uint8Array }[] = []
      for (let slot = 0; slot < batch.count; slot += 1) {
        const peer = batch.verdict[slot] === DONE ? plan.peerOf(slot) : undefined
        if (peer !== undefined) packets.push({ peer, packet: Uint8Array.from(batch.result(slot)) })
      }
      batch.reset()
      return packets
    })
    for (const { peer, packet } of opened) this.#received(peer, packet)
  }

  #received(publicKey: NodePublicKey, packet: Uint8Array): void {
    const peer = this.#peers.get(publicKey.text)
    if (peer !== undefined && this.#view.at(packet) && this.#router.allows(peer, this.#view)) {
      if (!this.#closed) this.#options.deliver(packet)
    } else if (peer !== undefined && this.#mayHold(peer)) {
      peer.held.push({ packet, at: this.#clock() })
    } else this.drops.wrongSource += 1
  }

  #mayHold(peer: KnownPeer): boolean {
    const now = this.#clock()
    for (let first = peer.held[0]; first !== undefined && now - first.at >= HELD_MS; first = peer.held[0]) peer.held.shift()
    return peer.held.length < MAX_HELD_PACKETS && this.#router.list(peer).length === 0
  }

  #release(peer: KnownPeer): void {
    const { held } = peer
    peer.held = []
    for (const { packet, at } of held) if (this.#clock() - at < HELD_MS) this.#received(peer.publicKey, packet)
  }

  #applyMark(mark: number): boolean {
    if (mark === 0 && this.#mark === 0) return true
    if (this.#options.setMark === undefined) return false
    return this.#socket === undefined || this.#options.setMark(this.port, mark)
  }

  #perform(output: WireGuardOutput<UdpPath>): void {
    switch (output.type) {
      case 'transmit':
        if (output.to !== undefined) this.#socket?.send(output.to.endpoint, output.bytes)
        return
      case 'packet':
        return this.#received(output.peer, output.bytes)
      case 'roamed':
        this.#notePlace(output.peer, output.path.endpoint)
        return this.#log('verbose', `peer ${output.peer} is now at ${output.path.id}`)
      case 'handshakeRetry':
        this.#options.onUnanswered?.(output.peer, this.#device.pathOf(output.peer)?.endpoint)
        return this.#log('verbose', `peer ${output.peer}: handshake not answered, attempt ${output.attempt}`)
      case 'handshakeFailed':
        this.#options.onUnanswered?.(output.peer, this.#device.pathOf(output.peer)?.endpoint)
        return this.#log('verbose', `peer ${output.peer}: no answer, given up`)
      default:
        this.#log('verbose', `peer ${output.peer}: ${output.type}`)
    }
  }

  #notePlace(publicKey: NodePublicKey, endpoint: Endpoint): void {
    const places = this.#peers.get(publicKey.text)?.places
    places?.push({ endpoint, at: Date.now() })
    if (places !== undefined && places.length > MAX_PLACES) places.shift()
  }

  #log(level: 'error' | 'verbose', line: string): void {
    this.#options.log?.(level, line)
  }
}

/** The path to an address: its bytes and port are what cookies are bound to. */
export function pathTo(endpoint: Endpoint): UdpPath {
  const cookieBytes = new Uint8Array(endpoint.ip.bytes.length + 2)
  cookieBytes.set(endpoint.ip.bytes)
  new DataView(cookieBytes.buffer).setUint16(endpoint.ip.bytes.length, endpoint.port)
  return { id: formatEndpoint(endpoint), cookieBytes, endpoint }
}
