import type { Instant } from '@meshwright/core'
import { type Endpoint, formatEndpoint, type Ip } from '@meshwright/ip'
import type { SeededRandom } from '../seeded-random.ts'

/** On what the external port of an inside socket depends, or what an inbound packet must match (RFC 4787 sections 4.1 and 5). */
export type NatDependence = 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent'

/** How a box treats UDP. */
export interface NatConfig {
  readonly mapping: NatDependence
  readonly filtering: NatDependence
  /** How external ports are chosen (RFC 4787 section 4.2): the inside port where free, at random, or one after the other from 50000. */
  readonly ports: 'preserve' | 'random' | 'sequential'
  /** False: a stateful firewall that leaves addresses alone, so the inside has public ones. */
  readonly translates: boolean
  /** Whether inside hosts reach each other by external addresses (RFC 4787 section 6). */
  readonly hairpin: boolean
  /** No UDP passes at all. */
  readonly blockUdp: boolean
  /** A mapping or permission without outbound packets is gone after this time (RFC 4787 section 4.3), in milliseconds. */
  readonly timeoutMs: number
  /**
   * An unsolicited packet from outside makes the box use another port towards its sender later: what Linux does with plain MASQUERADE
   * and an INPUT chain that accepts.
   */
  readonly earlyPacketSpoils: boolean
}

/** A name of {@link NAT_KINDS}. */
export type NatKind =
  | 'firewall'
  | 'full-cone'
  | 'addr-restricted'
  | 'port-restricted'
  | 'symmetric'
  | 'symmetric-adm'
  | 'symmetric-eif'
  | 'symmetric-seq'
  | 'linux'
  | 'udp-blocked'

const CONE: NatConfig = {
  mapping: 'endpoint-independent',
  filtering: 'endpoint-independent',
  ports: 'random',
  translates: true,
  hairpin: false,
  blockUdp: false,
  timeoutMs: 60_000,
  earlyPacketSpoils: false,
}

/** The kinds of boxes by their usual names. */
export const NAT_KINDS: Readonly<Record<NatKind, NatConfig>> = {
  firewall: { ...CONE, translates: false, filtering: 'address-and-port-dependent' },
  'full-cone': CONE,
  'addr-restricted': { ...CONE, filtering: 'address-dependent' },
  'port-restricted': { ...CONE, filtering: 'address-and-port-dependent' },
  symmetric: { ...CONE, mapping: 'address-and-port-dependent', filtering: 'address-and-port-dependent' },
  'symmetric-adm': { ...CONE, mapping: 'address-dependent', filtering: 'address-and-port-dependent' },
  'symmetric-eif': { ...CONE, mapping: 'address-and-port-dependent' },
  'symmetric-seq': { ...CONE, mapping: 'address-and-port-dependent', filtering: 'address-and-port-dependent', ports: 'sequential' },
  linux: { ...CONE, filtering: 'address-and-port-dependent', ports: 'preserve', earlyPacketSpoils: true },
  'udp-blocked': { ...CONE, blockUdp: true },
}

interface Mapping {
  readonly inside: Endpoint
  readonly port: number
  lastOut: Instant
  /** Something has come in by it. */
  answered: boolean
  /** By remote address, or address and port, or '' for everybody: when it was last sent to. */
  readonly permissions: Map<string, Instant>
}

const FIRST_PORT = 32_768
const PORTS = 28_232
const FIRST_SEQUENTIAL_PORT = 50_000

/** One NAT box or firewall: gives each packet its translated address, or `undefined` for a drop. Pure; the network moves the packets. */
export class Nat {
  readonly #random: SeededRandom
  readonly #byInside: Map<string, Mapping> = new Map()
  readonly #byPort: Map<string, Mapping> = new Map()
  readonly #spoilt: Map<string, Instant> = new Map()
  #config: NatConfig
  #external: Ip | undefined
  #nextPort = FIRST_SEQUENTIAL_PORT

  /** @param external its address outside; `undefined` for one that does not translate */
  constructor(config: NatConfig, external: Ip | undefined, random: SeededRandom) {
    this.#config = config
    this.#external = external
    this.#random = random
  }

  get config(): NatConfig {
    return this.#config
  }

  get external(): Ip | undefined {
    return this.#external
  }

  /** Changes its kind in place; mappings are kept. */
  configure(config: NatConfig): void {
    this.#config = config
  }

  /** Forgets all mappings and permissions, as after a restart. */
  flush(): void {
    this.#byInside.clear()
    this.#byPort.clear()
    this.#spoilt.clear()
  }

  /** Gives it another address outside and forgets all mappings. */
  renumber(external: Ip): void {
    this.#external = external
    this.flush()
  }

  /** A packet leaves: its source as seen outside. */
  outbound(now: Instant, from: Endpoint, to: Endpoint): Endpoint | undefined {
    const config = this.#config
    if (config.blockUdp) return undefined
    const destination = dependentPart(config.mapping, to)
    const inside = formatEndpoint(from)
    const spoilt = this.#isSpoilt(now, from, to)
    const key = `${inside}|${spoilt ? `spoilt ${formatEndpoint(to)}` : destination}`
    let mapping = this.#byInside.get(key)
    if (mapping === undefined || this.#expired(now, mapping.lastOut)) {
      const old = mapping && this.#portKey(mapping.inside, mapping.port)
      if (old !== undefined && this.#byPort.get(old) === mapping) this.#byPort.delete(old)
      mapping = { inside: from, port: this.#allocate(now, from, spoilt), lastOut: now, answered: false, permissions: new Map() }
      this.#byInside.set(key, mapping)
      this.#byPort.set(this.#portKey(from, mapping.port), mapping)
    }
    mapping.lastOut = now
    mapping.permissions.set(dependentPart(config.filtering, to), now)
    return { ip: config.translates ? (this.#external ?? from.ip) : from.ip, port: mapping.port }
  }

  /** A packet arrives from outside: the inside endpoint it goes to. */
  inbound(now: Instant, from: Endpoint, to: Endpoint): Endpoint | undefined {
    if (this.#config.blockUdp) return undefined
    const mapping = this.#byPort.get(this.#portKey(to, to.port))
    const live = mapping !== undefined && !this.#expired(now, mapping.lastOut)
    const permitted = live ? mapping.permissions.get(dependentPart(this.#config.filtering, from)) : undefined
    if (live && permitted !== undefined && !this.#expired(now, permitted)) {
      // The packet opens a flow, and answers follow it: back through this port, unless another flow to that place works already.
      const key = `${formatEndpoint(mapping.inside)}|${dependentPart(this.#config.mapping, from)}`
      const usual = this.#byInside.get(key)
      if (usual === undefined || !usual.answered || this.#expired(now, usual.lastOut)) this.#byInside.set(key, mapping)
      mapping.answered = true
      return mapping.inside
    }
    if (this.#config.earlyPacketSpoils) this.#spoilt.set(`${formatEndpoint(from)}|${to.port}`, now)
    return undefined
  }

  #portKey(endpoint: Endpoint, port: number): string {
    return this.#config.translates ? String(port) : `${endpoint.ip.key}|${port}`
  }

  /** Whether the usual port towards `to` has been taken by a flow from there. */
  #isSpoilt(now: Instant, from: Endpoint, to: Endpoint): boolean {
    if (!this.#config.earlyPacketSpoils) return false
    const usual = this.#byInside.get(`${formatEndpoint(from)}|${dependentPart(this.#config.mapping, to)}`)
    const at = this.#spoilt.get(`${formatEndpoint(to)}|${usual?.port ?? from.port}`)
    return at !== undefined && !this.#expired(now, at)
  }

  #allocate(now: Instant, from: Endpoint, spoilt: boolean): number {
    const free = (port: number): boolean => {
      const holder = this.#byPort.get(this.#portKey(from, port))
      return holder === undefined || this.#expired(now, holder.lastOut)
    }
    if (!this.#config.translates) return from.port
    if (this.#config.ports === 'preserve' && !spoilt && free(from.port)) return from.port
    for (let tries = 0; tries < PORTS; tries += 1) {
      const port = this.#config.ports === 'sequential' ? this.#nextPort++ : FIRST_PORT + this.#random.below(PORTS)
      if (this.#nextPort > 65_535) this.#nextPort = FIRST_PORT
      if (free(port)) return port
    }
    throw new RangeError('the NAT box has no free port left')
  }

  #expired(now: Instant, since: Instant): boolean {
    return now - since > this.#config.timeoutMs
  }
}

function dependentPart(dependence: NatDependence, remote: Endpoint): string {
  if (dependence === 'endpoint-independent') return ''
  return dependence === 'address-dependent' ? remote.ip.key : formatEndpoint(remote)
}
