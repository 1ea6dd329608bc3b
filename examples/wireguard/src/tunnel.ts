import { DONE, equalBytes, type Instant, PacketBatch } from '@meshwright/core'
import type { CryptoProvider, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint } from '@meshwright/ip'
import { type Driver, drive, openUdp, packetSlab, suspendAwareClock, type UdpSocket, type UdpStats } from '@meshwright/runtime-node'
import { type EnginePeer, type EndpointPath, type PeerPlace, type TunnelDrops, TunnelEngine } from '@meshwright/runtime-node/dataplane'
import type { DeviceStatus, LoadMonitor, WireGuardInput, WireGuardOutput } from '@meshwright/wireguard'
import { type ShownDevice, UAPI_EADDRINUSE, type UapiChange } from '@meshwright/wireguard/text'

/** Packets that are sealed or opened together, at most: as many as the kernel gives in one turn. */
const BATCH_SLOTS = 64
/** Longer packets, which only interfaces with a large MTU have, go one by one. */
const SLOT_BYTES = 2048
/** What is under way to a port that was given up arrives within this time. */
const OLD_SOCKET_MS = 1_000

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

/**
 * A WireGuard interface: the engine joined with allowed IPs and with a UDP socket, changed by UAPI requests. Where inner packets come
 * from and go to (a TUN device, a stack in user space) is the caller's affair.
 */
export class Tunnel {
  readonly #options: TunnelOptions
  readonly #engine: TunnelEngine<EndpointPath>
  readonly #driver: Driver<WireGuardInput<EndpointPath>>
  readonly #clock: () => Instant = suspendAwareClock()
  readonly #sealing: PacketBatch
  readonly #opening: PacketBatch
  #openingFrom: EndpointPath | undefined
  #openingSoon: NodeJS.Immediate | undefined
  #mark = 0
  #socket: UdpSocket | undefined
  /** Whether its port was not asked for by its number. */
  #isAnyPort = false
  /** What went through sockets that are closed. */
  #closedUdp: UdpStats = { datagramsIn: 0, datagramsOut: 0, dropped: 0 }
  #oldSocket: { readonly socket: UdpSocket; readonly timer: NodeJS.Timeout } | undefined
  #closed = false
  /** Requests wait for each other: a socket takes time to open. */
  #queue: Promise<unknown> = Promise.resolve()

  constructor(options: TunnelOptions) {
    this.#options = options
    const batch = (): PacketBatch => (options.provider === undefined ? PacketBatch.slab(BATCH_SLOTS, SLOT_BYTES) : packetSlab(options.provider, BATCH_SLOTS, SLOT_BYTES))
    this.#sealing = batch()
    this.#opening = batch()
    this.#engine = new TunnelEngine<EndpointPath>({
      name: options.name,
      pathTo,
      ...(options.provider !== undefined && { provider: options.provider }),
      ...(options.mtu !== undefined && { mtu: options.mtu }),
      ...(options.loadMonitor !== undefined && { loadMonitor: options.loadMonitor }),
      ...(options.log !== undefined && { log: options.log }),
    })
    this.#driver = drive(this.#engine.device, this.#clock, (output) => this.#perform(output))
  }

  /** What was not passed on. */
  get drops(): Readonly<TunnelDrops> {
    return this.#engine.drops
  }

  /** Sends an inner packet to the peer that owns its destination. */
  send(packet: Uint8Array): void {
    const peer = this.#engine.ownerOf(packet, 0, packet.length)
    if (peer !== undefined) this.#driver.feed({ type: 'packet', peer: peer.publicKey, bytes: packet })
  }

  /** Sends inner packets, in order, each to the peer that owns its destination; neighbours with one destination are sealed together. */
  sendAll(packets: readonly Uint8Array[]): void {
    const batch = this.#sealing
    let peer: EnginePeer | undefined
    for (const packet of packets) {
      const owner = this.#engine.ownerOf(packet, 0, packet.length)
      if (owner === undefined) continue
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
      return this.#engine.hasKey && this.#socket === undefined ? this.#listen(0) : 0
    })
  }

  /** The state as `wg` shows it, secrets included. */
  shown(): ShownDevice {
    return this.#driver.act((now) => this.#engine.shown(now, this.port, this.#mark))
  }

  /** The engine's status: counters, states, no secrets. */
  status(): DeviceStatus<EndpointPath> {
    return this.#driver.act((now) => this.#engine.status(now))
  }

  /** Where a peer moved to lately, oldest first. */
  placesOf(publicKey: NodePublicKey): readonly PeerPlace[] {
    return this.#engine.placesOf(publicKey)
  }

  /** The UDP port, 0 before there is one. */
  get port(): number {
    return this.#socket?.portIpv4 ?? this.#socket?.portIpv6 ?? 0
  }

  /** What went through all its sockets so far. */
  udpStats(): UdpStats {
    return [this.#oldSocket?.socket.stats(), this.#socket?.stats()].reduce<UdpStats>((sum, one) => (one === undefined ? sum : together(sum, one)), this.#closedUdp)
  }

  /** The MTU of the interface has changed. */
  setMtu(mtu: number): void {
    this.#driver.act(() => this.#engine.device.setMtu(mtu))
  }

  /** Stops; keys are wiped. */
  close(): Promise<void> {
    return this.#enqueue(async () => {
      this.#closed = true
      clearImmediate(this.#openingSoon)
      this.#driver.act((now) => this.#engine.destroy(now))
      this.#driver.stop()
      await this.#endOldSocket()
      const socket = this.#socket
      this.#socket = undefined
      await this.#end(socket)
    })
  }

  #enqueue<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#queue.then(work)
    this.#queue = result.catch(() => undefined)
    return result
  }

  #replacePeers(later: readonly UapiChange[]): number {
    this.#driver.act((now) => this.#engine.replacePeers(now, later))
    return 0
  }

  async #change(change: Exclude<UapiChange, { readonly type: 'replacePeers' }>): Promise<number> {
    switch (change.type) {
      case 'listenPort':
        return this.#listen(change.port)
      case 'fwmark':
        if (!this.#applyMark(change.mark)) return UAPI_EADDRINUSE
        this.#mark = change.mark
        return 0
      case 'privateKey':
      case 'peer': {
        const errno = this.#driver.act((now) => this.#engine.change(now, change))
        if (!this.#closed) for (const packet of this.#engine.takeReleased()) this.#options.deliver(packet)
        return errno
      }
    }
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
      for (const { publicKey, state } of this.status().peers) if (state === 'established') this.#driver.act((now) => this.#engine.device.sendKeepalive(now, publicKey))
    }
    return isMarked ? 0 : UAPI_EADDRINUSE
  }

  async #endOldSocket(): Promise<void> {
    const old = this.#oldSocket
    this.#oldSocket = undefined
    clearTimeout(old?.timer)
    await this.#end(old?.socket)
  }

  async #end(socket: UdpSocket | undefined): Promise<void> {
    if (socket === undefined) return
    this.#closedUdp = together(this.#closedUdp, socket.stats())
    await socket.close()
  }

  #sealAll(peer: EnginePeer): void {
    const batch = this.#sealing
    if (batch.count > 0 && this.#driver.act((now) => this.#engine.device.seal(now, peer.publicKey, batch)) > 0) {
      const to = this.#engine.device.pathOf(peer.publicKey)?.endpoint
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
    const packets = this.#driver.act((now) => {
      const plan = this.#engine.open(now, this.#openingFrom, batch)
      const admitted: Uint8Array[] = []
      for (let slot = 0; slot < batch.count; slot += 1) {
        const peer = batch.verdict[slot] === DONE ? plan.peerOf(slot) : undefined
        if (peer !== undefined && this.#engine.admits(now, peer, batch.memory, batch.target[slot] ?? 0, batch.targetLength[slot] ?? 0)) admitted.push(Uint8Array.from(batch.result(slot)))
      }
      batch.reset()
      return admitted
    })
    if (!this.#closed) for (const packet of packets) this.#options.deliver(packet)
  }

  #applyMark(mark: number): boolean {
    if (mark === 0 && this.#mark === 0) return true
    if (this.#options.setMark === undefined) return false
    return this.#socket === undefined || this.#options.setMark(this.port, mark)
  }

  #perform(output: WireGuardOutput<EndpointPath>): void {
    switch (output.type) {
      case 'transmit':
        if (output.to !== undefined) this.#socket?.send(output.to.endpoint, output.bytes)
        return
      case 'packet':
        if (this.#engine.admits(this.#clock(), output.peer, output.bytes, 0, output.bytes.length) && !this.#closed) this.#options.deliver(output.bytes)
        return
      case 'roamed':
        this.#engine.note(output)
        return this.#log('verbose', `peer ${output.peer} is now at ${output.path.id}`)
      case 'handshakeRetry':
        this.#options.onUnanswered?.(output.peer, this.#engine.device.pathOf(output.peer)?.endpoint)
        return this.#log('verbose', `peer ${output.peer}: handshake not answered, attempt ${output.attempt}`)
      case 'handshakeFailed':
        this.#options.onUnanswered?.(output.peer, this.#engine.device.pathOf(output.peer)?.endpoint)
        return this.#log('verbose', `peer ${output.peer}: no answer, given up`)
      default:
        this.#log('verbose', `peer ${output.peer}: ${output.type}`)
    }
  }

  #log(level: 'error' | 'verbose', line: string): void {
    this.#options.log?.(level, line)
  }
}

function together(a: UdpStats, b: UdpStats): UdpStats {
  return { datagramsIn: a.datagramsIn + b.datagramsIn, datagramsOut: a.datagramsOut + b.datagramsOut, dropped: a.dropped + b.dropped }
}

/** The path to an address: its bytes and port are what cookies are bound to. */
export function pathTo(endpoint: Endpoint): EndpointPath {
  const cookieBytes = new Uint8Array(endpoint.ip.bytes.length + 2)
  cookieBytes.set(endpoint.ip.bytes)
  new DataView(cookieBytes.buffer).setUint16(endpoint.ip.bytes.length, endpoint.port)
  return { id: formatEndpoint(endpoint), cookieBytes, endpoint }
}
