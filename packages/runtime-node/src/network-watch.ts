import { readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { type Endpoint, formatEndpoint, formatIp, parseIp } from '@meshwright/ip'
import { type Interfaces, localEndpoints } from './local-endpoints.ts'

/** The network of this computer, as far as connections hang on it. */
export interface NetworkStanding {
  /** Its addresses that are worth telling, without ports. */
  readonly addresses: readonly string[]
  /** The interface and gateway of the best default route of each family; `undefined` where the system does not show its routes. */
  readonly routes: string | undefined
}

/** What came of a look at the network. */
export type NetworkChange =
  /** All as before. */
  | 'none'
  /** Addresses came or went that no connection hangs on: those of containers, virtual machines, another cable. */
  | 'addresses'
  /** The way out is another one, or the address is gone that connections were made from: they may be dead without knowing it. */
  | 'connections'

/**
 * Compares two looks at the network. Interfaces that come and go beside the way that is in use (tailscaled calls each that has an address a
 * major change: tailscale/tailscale:net/netmon/netmon.go, isInterestingInterfaceChange) cost no connection.
 * @param inUse the local addresses of connections that are open
 */
export function networkChange(before: NetworkStanding, after: NetworkStanding, inUse: readonly string[]): NetworkChange {
  const gone = before.addresses.filter((address) => !after.addresses.includes(address))
  const come = after.addresses.filter((address) => !before.addresses.includes(address))
  if (before.routes !== after.routes) return 'connections'
  if (gone.length === 0 && come.length === 0) return 'none'
  if (after.routes === undefined) return 'connections' // which way is in use is not to be seen
  // Without any connection there is nothing to lose by making all anew.
  return inUse.length === 0 || gone.some((address) => inUse.includes(address)) ? 'connections' : 'addresses'
}

const UP = 1 //               RTF_UP (Linux uapi, route.h)
const REJECT = 0x0200 //      RTF_REJECT
const NOWHERE = '0'.repeat(32)

/**
 * The best default routes of Linux, as `interface>gateway` each; `undefined` on other systems.
 * @param own the node's own device, which leads into the mesh and not out
 */
export function defaultRoutes(own: string | undefined): string | undefined {
  if (process.platform !== 'linux') return undefined
  const read = (file: string): string => {
    try {
      return readFileSync(`/proc/self/net/${file}`, 'utf8')
    } catch {
      return '' // a kernel without that family
    }
  }
  const ipv4 = read('route')
  return ipv4 === '' ? undefined : bestDefaultRoutes(ipv4, read('ipv6_route'), own)
}

/** As {@link defaultRoutes}, of the text of `/proc/net/route` and `/proc/net/ipv6_route` (proc(5)). */
export function bestDefaultRoutes(ipv4: string, ipv6: string, own: string | undefined): string {
  const four = rows(ipv4).flatMap(([device = '', to, gateway = '', flags = '', , , metric = '', mask]) =>
    to === '00000000' && mask === '00000000' && isWayOut(device, flags, own) ? [{ way: `${device}>${gateway}`, metric: Number.parseInt(metric, 10) }] : [],
  )
  const six = rows(ipv6).flatMap(([to, length, , , gateway = '', metric = '', , , flags = '', device = '']) =>
    to === NOWHERE && length === '00' && isWayOut(device, flags, own) ? [{ way: `${device}>${gateway}`, metric: Number.parseInt(metric, 16) }] : [],
  )
  return [four, six].map((routes) => best(routes)).join(' ')
}

function rows(text: string): readonly (readonly string[])[] {
  return text.split('\n').map((line) => line.trim().split(/\s+/))
}

function isWayOut(device: string, flags: string, own: string | undefined): boolean {
  const bits = Number.parseInt(flags, 16)
  return device !== 'lo' && device !== own && (bits & UP) !== 0 && (bits & REJECT) === 0
}

// Several of the best metric (the routers of an IPv6 network) are taken in the order of their names: the kernel's own changes by itself.
function best(routes: readonly { readonly way: string; readonly metric: number }[]): string {
  const least = Math.min(...routes.map(({ metric }) => metric))
  return routes.filter(({ metric }) => metric === least).map(({ way }) => way).sort().join(',')
}

const LOOK_EVERY_MS = 5_000

/** What a {@link NetworkWatch} looks at, and whom it tells. */
export interface NetworkWatchOptions {
  /** The ports of the node's UDP socket. */
  readonly ports: () => { readonly ipv4: number | undefined; readonly ipv6: number | undefined }
  readonly allowLoopback: boolean
  /** The node's own device. */
  readonly device: () => string | undefined
  /** Asks the system for its interfaces; throws where it cannot say. Those of `node:os` unless given. */
  readonly interfaces?: () => Interfaces
  /** The local addresses of connections that are open. */
  readonly inUse: () => readonly string[]
  /** The addresses of this computer have changed, or are told for the first time. */
  readonly onEndpoints: (endpoints: readonly Endpoint[]) => void
  /** Connections may be dead: see {@link networkChange}. */
  readonly onConnections: () => void
}

/** Looks at the addresses and default routes of this computer every 5 seconds. */
export class NetworkWatch {
  readonly #options: NetworkWatchOptions
  #timer: NodeJS.Timeout | undefined
  #endpoints: readonly Endpoint[] = []
  #told = ''
  #standing: NetworkStanding | undefined

  constructor(options: NetworkWatchOptions) {
    this.#options = options
  }

  /** What was told last. */
  get endpoints(): readonly Endpoint[] {
    return this.#endpoints
  }

  start(): void {
    this.look()
    this.#timer ??= setInterval(() => this.look(), LOOK_EVERY_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Tells the addresses once more at the next look, since somebody else is to hear them. */
  forget(): void {
    this.#told = ''
  }

  look(): void {
    const { ports, allowLoopback, device, inUse, onEndpoints, onConnections } = this.#options
    const interfaces = this.#interfaces()
    if (interfaces === undefined) return
    const endpoints = localEndpoints(ports(), allowLoopback, interfaces)
    // Routes that were shown before, and cannot be read now, are taken for the same.
    const standing = { addresses: endpoints.map(({ ip }) => formatIp(ip)), routes: defaultRoutes(device()) ?? this.#standing?.routes }
    const change = this.#standing === undefined ? 'none' : networkChange(this.#standing, standing, inUse().map(plainAddress))
    this.#standing = standing
    const text = endpoints.map(formatEndpoint).join()
    if (text !== this.#told) {
      this.#told = text
      this.#endpoints = endpoints
      onEndpoints(endpoints)
    }
    if (change === 'connections') onConnections()
  }

  #interfaces(): Interfaces | undefined {
    try {
      return (this.#options.interfaces ?? networkInterfaces)()
    } catch {
      return undefined // no descriptor is left for the question, or the system is short of memory: the next look may tell
    }
  }
}

function plainAddress(text: string): string {
  const ip = parseIp(text.replace(/^::ffff:(?=\d+\.)/, '').split('%')[0] ?? '')
  return ip === undefined ? text : formatIp(ip)
}
