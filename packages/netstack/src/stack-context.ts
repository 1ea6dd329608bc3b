import { Outbox, type Instant, type RandomSource } from '@meshwright/core'
import type { Ip } from '@meshwright/ip'
import { PacketBuilder } from './ip-packet.ts'
import { ChunkPool } from './send-buffer.ts'
import { type DropReason, NetstackError, type NetstackOptions, type NetstackOutput, type NetstackSettings } from './netstack-io.ts'

const RATE_PER_SECOND = 1_000
const RATE_BURST = 200
const EPHEMERAL_FIRST = 32_768
const EPHEMERAL_COUNT = 28_232

/** What the layers of a stack share: settings, addresses, the outbox, counters. */
export class StackContext {
  readonly outbox: Outbox<NetstackOutput> = new Outbox()
  readonly builder: PacketBuilder
  readonly chunks: ChunkPool = new ChunkPool()
  readonly random: RandomSource
  readonly settings: NetstackSettings
  readonly dropped: Map<DropReason, number> = new Map()
  received = 0
  sent = 0
  #addresses: readonly Ip[] = []
  #v4: Set<number> = new Set()
  #v6: Map<number, readonly Ip[]> = new Map()
  #nextId = 1
  #tokens = RATE_BURST
  #tokensAt = 0

  constructor(random: RandomSource, options: NetstackOptions) {
    this.random = random
    this.settings = settingsOf(options)
    this.builder = new PacketBuilder(new DataView(random(4).buffer).getUint32(0))
    this.setAddresses(options.addresses ?? [])
  }

  get addresses(): readonly Ip[] {
    return this.#addresses
  }

  setAddresses(addresses: readonly Ip[]): void {
    this.#addresses = [...addresses]
    this.#v4 = new Set()
    const v6 = new Map<number, Ip[]>()
    for (const ip of addresses) {
      if (ip.family === 4) this.#v4.add(lastWord(ip.bytes))
      else v6.set(lastWord(ip.bytes), [...(v6.get(lastWord(ip.bytes)) ?? []), ip])
    }
    this.#v6 = v6
  }

  isLocal(address: Uint8Array): boolean {
    if (address.length === 4) return this.#v4.has(lastWord(address))
    return this.#v6.get(lastWord(address))?.some((ip) => ip.bytes.every((byte, i) => byte === address[i])) ?? false
  }

  /** The address that flows to `remote` come from. @throws NETSTACK_NO_SOURCE */
  sourceFor(remote: Ip): Ip {
    const source = this.#addresses.find((ip) => ip.family === remote.family)
    if (source === undefined) {
      throw new NetstackError('NETSTACK_NO_SOURCE', `no local IPv${remote.family} address to reach ${remote.key} from`, {
        remedy: 'call setLocalAddresses first',
      })
    }
    return source
  }

  /** A fresh number for an id of any kind. */
  nextId(): number {
    const id = this.#nextId
    this.#nextId += 1
    return id
  }

  /** True when that number has been given out. */
  wasIssued(id: number): boolean {
    return Number.isInteger(id) && id > 0 && id < this.#nextId
  }

  packet(bytes: Uint8Array): void {
    this.sent += 1
    this.outbox.push({ type: 'packet', bytes })
  }

  drop(reason: DropReason): void {
    this.dropped.set(reason, (this.dropped.get(reason) ?? 0) + 1)
  }

  /** Takes a token for an unasked answer (resets, ICMP errors): a flood must not make us flood others. */
  mayAnswer(now: Instant): boolean {
    this.#tokens = Math.min(RATE_BURST, this.#tokens + (Math.max(0, now - this.#tokensAt) * RATE_PER_SECOND) / 1000)
    this.#tokensAt = now
    if (this.#tokens < 1) {
      this.drop('rate')
      return false
    }
    this.#tokens -= 1
    return true
  }

  /** A random free port of the ephemeral range. @throws NETSTACK_PORTS_EXHAUSTED */
  ephemeralPort(isFree: (port: number) => boolean): number {
    const start = new DataView(this.random(4).buffer).getUint32(0) % EPHEMERAL_COUNT
    for (let i = 0; i < EPHEMERAL_COUNT; i += 1) {
      const port = EPHEMERAL_FIRST + ((start + i) % EPHEMERAL_COUNT)
      if (isFree(port)) return port
    }
    throw new NetstackError('NETSTACK_PORTS_EXHAUSTED', 'no free local port', { remedy: 'close flows first' })
  }
}

/** True for addresses that no packet may come from: unspecified, loopback, multicast, broadcast. */
export function isMartianSource(address: Uint8Array): boolean {
  const first = address[0] ?? 0
  if (address.length === 4) return first === 0 || first === 127 || first >= 224
  if (first === 0xff) return true
  for (let i = 0; i < 15; i += 1) if (address[i] !== 0) return false
  return (address[15] ?? 0) <= 1
}

/** True for addresses that name no single host. */
export function isMulticast(address: Uint8Array): boolean {
  return address.length === 4 ? (address[0] ?? 0) >= 224 : address[0] === 0xff
}

/** @throws NETSTACK_PORT_INVALID */
export function checkPort(port: number, lowest: number): void {
  if (!Number.isInteger(port) || port < lowest || port > 65_535) throw new NetstackError('NETSTACK_PORT_INVALID', `not a port: ${port}`)
}

function lastWord(address: Uint8Array): number {
  const at = address.length - 4
  return (((address[at] ?? 0) << 24) | ((address[at + 1] ?? 0) << 16) | ((address[at + 2] ?? 0) << 8) | (address[at + 3] ?? 0)) >>> 0
}

function settingsOf(options: NetstackOptions): NetstackSettings {
  const within = (name: string, value: number, least: number, most: number): number => {
    if (!(value >= least && value <= most))
      throw new NetstackError('NETSTACK_OPTION_INVALID', `${name} must be from ${least} to ${most}, not ${value}`)
    return value
  }
  return {
    mtu: within('mtu', options.mtu ?? 1280, 576, 65_535),
    promiscuous: options.promiscuous ?? false,
    offerUnclaimed: options.offerUnclaimed ?? false,
    maxFlows: within('maxFlows', options.maxFlows ?? 16_384, 1, 1_000_000),
    maxHalfOpen: within('maxHalfOpen', options.maxHalfOpen ?? 1_024, 1, 100_000),
    maxSendBufferBytes: within('maxSendBufferBytes', options.maxSendBufferBytes ?? 4_194_304, 1, 1_073_741_823),
    maxReceiveBufferBytes: within('maxReceiveBufferBytes', options.maxReceiveBufferBytes ?? 4_194_304, 1, 1_073_741_823),
    timeWaitMs: within('timeWaitMs', options.timeWaitMs ?? 60_000, 1, 600_000),
    delayedAckMs: within('delayedAckMs', options.delayedAckMs ?? 40, 1, 500),
    synRetries: within('synRetries', options.synRetries ?? 6, 0, 20),
    maxRetries: within('maxRetries', options.maxRetries ?? 12, 1, 100),
    keepAlive: options.keepAlive,
    windowScaling: options.windowScaling ?? true,
    timestamps: options.timestamps ?? true,
    selectiveAcks: options.selectiveAcks ?? true,
  }
}
