import { after, equalBytes, type Instant, type Machine, Outbox, type RandomSource } from '@meshwright/core'
import { type Endpoint, equalEndpoints, type Ip, parsePrefix, type Prefix, prefixContains } from '@meshwright/ip'
import { isLinkLocal, isLoopback, isPrivate } from '../paths/endpoint-refusal.ts'
import { decodeNatPmpResponse, encodeNatPmpAddressRequest, encodeNatPmpMapRequest, GATEWAY_PORT, type PortMapRequest } from './nat-pmp.ts'
import { decodePcpResponse, encodePcpAnnounce, encodePcpMapRequest, PCP_NONCE_BYTES } from './pcp.ts'

const PROBE_MS = 250 //          tailscale/tailscale:net/portmapper
const CREATE_MS = 5_000
const FIRST_RETRY_MS = 250 //    RFC 6886 section 3.1, doubling
const LIFETIME_SECONDS = 7_200
const LEAST_LIFETIME_SECONDS = 120 // a gateway that says less is asked no more often than once a minute
const RETRY_UNAVAILABLE_MS = 600_000
const RENEWAL_RETRY_MS = 60_000
const EPOCH_SLACK_SECONDS = 2

/** Where the mapping is asked for. IPv4 only. */
export interface PortMapNetwork {
  /** The default route's router. */
  readonly gateway: Ip
  /** Our address on the way to it. */
  readonly self: Ip
  /** Port of our UDP socket. */
  readonly internalPort: number
}

/** A datagram on the socket that is used for port mapping (not the node's own). */
export interface PortMapInput {
  readonly type: 'datagram'
  readonly bytes: Uint8Array
  readonly from: Endpoint
}

/** Why there is no mapping. */
export type PortMapFailure =
  /** No gateway speaks NAT-PMP or PCP. */
  | 'PORTMAP_NO_SERVICE'
  /** It refused. */
  | 'PORTMAP_REFUSED'
  | 'PORTMAP_TIMEOUT'
  /** The external address is itself private or a carrier's: the mapping would be useless from outside. */
  | 'PORTMAP_DOUBLE_NAT'

/** What a {@link PortMapper} owes. */
export type PortMapOutput =
  | { readonly type: 'transmit'; readonly bytes: Uint8Array; readonly to: Endpoint }
  /** The external endpoint leads to us; also when it has changed. */
  | { readonly type: 'mapped'; readonly endpoint: Endpoint; readonly protocol: 'nat-pmp' | 'pcp' }
  /** The mapping that was told before is gone. */
  | { readonly type: 'unmapped' }
  | { readonly type: 'unavailable'; readonly code: PortMapFailure }

type State =
  | { readonly name: 'off' }
  | { readonly name: 'probing'; readonly seen: Set<'nat-pmp' | 'pcp'>; readonly due: Instant }
  | { readonly name: 'creating'; readonly protocol: 'nat-pmp' | 'pcp'; readonly other: boolean; readonly sends: number; readonly endsAt: Instant; readonly due: Instant }
  | { readonly name: 'mapped'; readonly protocol: 'nat-pmp' | 'pcp'; readonly due: Instant }
  | { readonly name: 'unavailable'; readonly due: Instant }

const CARRIER: Prefix | undefined = parsePrefix('100.64.0.0/10')

/**
 * Keeps one UDP port of ours open on the gateway by NAT-PMP (RFC 6886) or PCP (RFC 6887).
 *
 * | state | event | next |
 * |---|---|---|
 * | off | `setNetwork` | probing (both protocols are asked) |
 * | probing | 250 ms | creating by PCP where it alone answered, else by NAT-PMP; unavailable without any answer |
 * | creating | success | mapped |
 * | creating | refusal or 5 s | creating by the other protocol where it answered too; mapped while an older mapping stands; else unavailable |
 * | mapped | half the lifetime, or the gateway restarted | creating (the same port again, the old mapping is still told) |
 * | unavailable | 10 min | probing |
 *
 * The internal port is always the socket's and a PCP mapping keeps its nonce, so that renewals renew.
 */
export class PortMapper implements Machine<PortMapInput, PortMapOutput> {
  readonly #outbox: Outbox<PortMapOutput> = new Outbox()
  readonly #random: RandomSource
  #state: State = { name: 'off' }
  #network: PortMapNetwork | undefined
  #nonce: Uint8Array = new Uint8Array(PCP_NONCE_BYTES)
  #externalIp: Ip | undefined
  #mappedPort: number | undefined
  #mappedLifetimeSeconds = 0
  #told: Endpoint | undefined
  #expiresAt: Instant | undefined
  #epoch: { readonly at: Instant; readonly seconds: number } | undefined

  constructor(config: { readonly random: RandomSource }) {
    this.#random = config.random
  }

  get state(): 'off' | 'probing' | 'creating' | 'mapped' | 'unavailable' {
    return this.#state.name
  }

  /** The external endpoint that leads to us now. */
  get endpoint(): Endpoint | undefined {
    return this.#told
  }

  /** A new gateway, address or port: the old mapping is released and forgotten. `undefined`: stop. Only private addresses are mapped. */
  setNetwork(now: Instant, network: PortMapNetwork | undefined): void {
    const old = this.#network
    if (old !== undefined && network !== undefined && old.gateway.equals(network.gateway) && old.self.equals(network.self) && old.internalPort === network.internalPort) return
    if (old !== undefined && (this.#state.name === 'mapped' || this.#told !== undefined)) this.#release(old)
    this.#forget()
    const usable = network !== undefined && network.self.family === 4 && network.gateway.family === 4 && isPrivate(network.self)
    this.#network = usable ? network : undefined
    this.#epoch = undefined
    if (usable) this.#probe(now)
    else this.#state = { name: 'off' }
  }

  handleInput(now: Instant, input: PortMapInput): void {
    const network = this.#network
    if (network === undefined || !input.from.ip.unmapped().equals(network.gateway) || input.from.port !== GATEWAY_PORT) return
    const pmp = decodeNatPmpResponse(input.bytes)
    const pcp = pmp === undefined ? decodePcpResponse(input.bytes) : undefined
    const answer = pmp ?? pcp
    if (answer === undefined) return
    const restarted = this.#noteEpoch(now, answer.epochSeconds)
    if (this.#state.name === 'probing' && answer.result === 0) this.#state.seen.add(pmp === undefined ? 'pcp' : 'nat-pmp')
    if (pmp?.type === 'address' && pmp.result === 0) {
      this.#externalIp = pmp.externalIp
      this.#maybeMapped(now)
    } else if (pmp?.type === 'mapped' && this.#isCreating('nat-pmp')) {
      if (pmp.result !== 0) return this.#failed(now, 'PORTMAP_REFUSED')
      if (pmp.internalPort !== network.internalPort) return
      this.#mappedPort = pmp.externalPort
      this.#mappedLifetimeSeconds = pmp.lifetimeSeconds
      this.#maybeMapped(now)
    } else if (pcp?.type === 'mapped' && this.#isCreating('pcp') && equalBytes(pcp.nonce, this.#nonce)) {
      if (pcp.result !== 0) return this.#failed(now, 'PORTMAP_REFUSED')
      if (pcp.internalPort !== network.internalPort) return
      this.#externalIp = pcp.externalIp
      this.#mappedPort = pcp.externalPort
      this.#mappedLifetimeSeconds = pcp.lifetimeSeconds
      this.#maybeMapped(now)
    } else if (restarted && this.#state.name === 'mapped') {
      this.#create(now, this.#state.protocol, false) // a restarted gateway has forgotten the mapping (RFC 6887 section 8.5)
    }
  }

  handleTimeout(now: Instant): void {
    const state = this.#state
    if (state.name === 'off' || now < state.due) return
    switch (state.name) {
      case 'probing':
        if (state.seen.size === 0) return this.#unavailable(now, 'PORTMAP_NO_SERVICE')
        return this.#create(now, state.seen.has('nat-pmp') ? 'nat-pmp' : 'pcp', state.seen.size > 1)
      case 'creating':
        if (now >= state.endsAt) return this.#failed(now, 'PORTMAP_TIMEOUT')
        return this.#send(now, state)
      case 'mapped':
        return this.#create(now, state.protocol, false)
      case 'unavailable':
        return this.#probe(now)
    }
  }

  pollOutput(): PortMapOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.#state.name === 'off' ? undefined : this.#state.due
  }

  #probe(now: Instant): void {
    const network = this.#network
    if (network === undefined) return
    this.#nonce = this.#random(PCP_NONCE_BYTES)
    this.#transmit(network, encodeNatPmpAddressRequest())
    this.#transmit(network, encodePcpAnnounce(network.self))
    this.#state = { name: 'probing', seen: new Set(), due: after(now, PROBE_MS) }
  }

  #create(now: Instant, protocol: 'nat-pmp' | 'pcp', other: boolean): void {
    this.#mappedPort = undefined
    this.#send(now, { name: 'creating', protocol, other, sends: 0, endsAt: after(now, CREATE_MS), due: now })
  }

  #send(now: Instant, state: Extract<State, { name: 'creating' }>): void {
    const network = this.#network
    if (network === undefined) return
    const request: PortMapRequest = { internalPort: network.internalPort, suggestedPort: this.#told?.port ?? network.internalPort, lifetimeSeconds: LIFETIME_SECONDS }
    if (state.protocol === 'pcp') {
      this.#transmit(network, encodePcpMapRequest(network.self, this.#nonce, request, this.#told?.ip))
    } else {
      this.#transmit(network, encodeNatPmpAddressRequest())
      this.#transmit(network, encodeNatPmpMapRequest(request))
    }
    const next = after(now, FIRST_RETRY_MS * 2 ** state.sends)
    this.#state = { ...state, sends: state.sends + 1, due: next < state.endsAt ? next : state.endsAt }
  }

  /** NAT-PMP tells address and port in two answers: the mapping stands when both are there. */
  #maybeMapped(now: Instant): void {
    const ip = this.#externalIp
    const port = this.#mappedPort
    if (this.#state.name !== 'creating' || ip === undefined || port === undefined || port === 0) return
    if (isPrivate(ip) || isLoopback(ip) || isLinkLocal(ip) || (CARRIER !== undefined && prefixContains(CARRIER, ip))) return this.#unavailable(now, 'PORTMAP_DOUBLE_NAT')
    const { protocol } = this.#state
    const lifetimeMs = Math.max(LEAST_LIFETIME_SECONDS, Math.min(LIFETIME_SECONDS, this.#mappedLifetimeSeconds)) * 1_000
    this.#expiresAt = after(now, lifetimeMs)
    this.#state = { name: 'mapped', protocol, due: after(now, lifetimeMs / 2) }
    const endpoint = { ip, port }
    if (this.#told !== undefined && equalEndpoints(this.#told, endpoint)) return
    this.#told = endpoint
    this.#outbox.push({ type: 'mapped', endpoint, protocol })
  }

  #failed(now: Instant, code: PortMapFailure): void {
    if (this.#state.name === 'creating' && this.#state.other) return this.#create(now, this.#state.protocol === 'pcp' ? 'nat-pmp' : 'pcp', false)
    // A renewal that was not answered: the mapping still stands until its life is over.
    if (this.#state.name === 'creating' && code === 'PORTMAP_TIMEOUT' && this.#told !== undefined && this.#expiresAt !== undefined && now < this.#expiresAt) {
      const again = after(now, RENEWAL_RETRY_MS)
      this.#state = { name: 'mapped', protocol: this.#state.protocol, due: again < this.#expiresAt ? again : this.#expiresAt }
      return
    }
    this.#unavailable(now, code)
  }

  #unavailable(now: Instant, code: PortMapFailure): void {
    this.#forget()
    this.#outbox.push({ type: 'unavailable', code })
    this.#state = { name: 'unavailable', due: after(now, RETRY_UNAVAILABLE_MS) }
  }

  #forget(): void {
    this.#externalIp = undefined
    this.#mappedPort = undefined
    if (this.#told === undefined) return
    this.#told = undefined
    this.#outbox.push({ type: 'unmapped' })
  }

  #release(network: PortMapNetwork): void {
    const request = { internalPort: network.internalPort, suggestedPort: 0, lifetimeSeconds: 0 }
    const pcp = this.#state.name !== 'off' && 'protocol' in this.#state && this.#state.protocol === 'pcp'
    this.#transmit(network, pcp ? encodePcpMapRequest(network.self, this.#nonce, request, undefined) : encodeNatPmpMapRequest(request))
  }

  /** True when the gateway's clock has gone back since its last answer: it was restarted. */
  #noteEpoch(now: Instant, seconds: number): boolean {
    const last = this.#epoch
    this.#epoch = { at: now, seconds }
    return last !== undefined && seconds + EPOCH_SLACK_SECONDS < last.seconds + ((now - last.at) / 1_000) * 0.875
  }

  #isCreating(protocol: 'nat-pmp' | 'pcp'): boolean {
    return this.#state.name === 'creating' && this.#state.protocol === protocol
  }

  #transmit(network: PortMapNetwork, bytes: Uint8Array): void {
    this.#outbox.push({ type: 'transmit', bytes, to: { ip: network.gateway, port: GATEWAY_PORT } })
  }
}
