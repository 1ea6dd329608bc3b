import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { formatPrefix, isExitRoute, type Prefix } from '@meshwright/ip'
import type { Prefs } from '@meshwright/mesh'
import type { NetworkMap } from '@meshwright/control-client'
import { openTun, type TunDevice } from './tun-linux.ts'

const MTU = 1280
/** Worse than what a system gives its own routes: a network that is really there wins over one that a peer offers. */
const ROUTE_METRIC = 5270
const IP_TIMEOUT_MS = 5_000
/** Where the DNS service of the mesh answers (tailscale/tailscale:net/tsaddr). */
const SERVICE_ADDRESSES = ['100.100.100.100/32', 'fd7a:115c:a1e0::53/128']

/** How the link tells of what happens. */
export interface TunLinkOptions {
  /** Name of the device; `%d` in it becomes a number. */
  readonly name: string
  /** A packet that this computer sends into the mesh. */
  readonly onPacket: (packet: Uint8Array) => void
  /** The device is gone, or `ip` refused: one line. */
  readonly onProblem: (line: string) => void
}

/** What the system is to have: addresses and routes as texts, sorted by nobody. */
export interface TunPlan {
  readonly addresses: ReadonlySet<string>
  readonly routes: ReadonlySet<string>
}

/**
 * The TUN device of a node, with its addresses, its MTU and its routes, which the program `ip` sets. The device is not persistent: when it
 * is closed, and when the process is killed, the kernel takes back device, addresses and routes.
 */
export class TunLink {
  readonly name: string
  readonly #device: TunDevice
  readonly #options: TunLinkOptions
  #present: TunPlan = { addresses: new Set(), routes: new Set() }
  #wanted: TunPlan = this.#present
  #work: Promise<void> | undefined
  #closed = false

  private constructor(device: TunDevice, options: TunLinkOptions) {
    this.name = device.name
    this.#device = device
    this.#options = options
  }

  /**
   * Opens the device and brings it up.
   * @throws TunError with a remedy (the promise rejects); Error when `ip` is not there or refuses
   */
  static async open(options: TunLinkOptions): Promise<TunLink> {
    let link: TunLink | undefined
    const device = await openTun({
      name: options.name,
      onPackets: (packets) => {
        if (link !== undefined && !link.#closed) for (const packet of packets) options.onPacket(packet)
      },
      onError: (error) => options.onProblem(`the TUN device ${options.name} is lost: ${error.message}`),
    })
    link = new TunLink(device, options)
    try {
      await ip(['link', 'set', 'dev', device.name, 'mtu', String(MTU), 'up'])
    } catch (error) {
      await device.close()
      throw error
    }
    return link
  }

  /** Hands a packet from the mesh to the kernel. */
  deliver(packet: Uint8Array): boolean {
    return this.#device.write(packet)
  }

  /** Makes the system's addresses and routes those of a plan, one change after the other; a newer plan replaces one that waits. */
  apply(plan: TunPlan): void {
    this.#wanted = plan
    this.#work ??= this.#reconcile().finally(() => {
      this.#work = undefined
    })
  }

  /** Resolves when the last plan is in force. */
  async settled(): Promise<void> {
    while (this.#work !== undefined) await this.#work
  }

  /** Takes the device back, and with it all addresses and routes. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.settled()
    await this.#device.close()
  }

  async #reconcile(): Promise<void> {
    while (!this.#closed && this.#wanted !== this.#present) {
      const plan = this.#wanted
      const { addresses, routes } = this.#present
      // Routes go before the addresses that they may lean on, and come after them.
      for (const route of routes) if (!plan.routes.has(route)) await this.#run([family(route), 'route', 'del', route, 'dev', this.name, 'metric', String(ROUTE_METRIC)])
      for (const address of addresses) if (!plan.addresses.has(address)) await this.#run([family(address), 'addr', 'del', address, 'dev', this.name])
      for (const address of plan.addresses) if (!addresses.has(address)) await this.#run([family(address), 'addr', 'replace', address, 'dev', this.name, ...(address.includes(':') ? ['nodad'] : [])])
      for (const route of plan.routes) if (!routes.has(route)) await this.#run([family(route), 'route', 'replace', route, 'dev', this.name, 'metric', String(ROUTE_METRIC)])
      this.#present = plan
    }
  }

  async #run(words: readonly string[]): Promise<void> {
    await ip(words).catch((error: unknown) => this.#options.onProblem(error instanceof Error ? error.message : String(error)))
  }
}

/** What the system is to have for a network map: own addresses; routes to peers, to what they carry, and to the DNS service. */
export function planFor(map: NetworkMap | undefined, prefs: Prefs): TunPlan {
  if (map === undefined || !prefs.wantRunning) return { addresses: new Set(), routes: new Set() }
  const routes = new Set(SERVICE_ADDRESSES)
  const own = new Set(map.self.addresses.map(formatPrefix))
  for (const peer of map.peers.values()) {
    const addresses = new Set(peer.addresses.map(formatPrefix))
    for (const prefix of peer.allowedIps) {
      const text = formatPrefix(prefix)
      if (!isExitRoute(prefix) && (addresses.has(text) || prefs.acceptRoutes)) routes.add(text)
    }
  }
  const families = new Set([...own].map((text) => text.includes(':')))
  return { addresses: own, routes: new Set([...routes].filter((route) => families.has(route.includes(':')) && !own.has(route))) }
}

/** Why packets for routes that this node offers would not be passed on by the system; empty when they are, or none are offered. */
export function forwardingHints(routes: readonly Prefix[], read: (file: string) => string = (file) => readFileSync(file, 'utf8')): readonly string[] {
  const check = (bits: 4 | 6, file: string, key: string): readonly string[] => {
    if (!routes.some((route) => route.ip.family === bits)) return []
    try {
      if (read(file).trim() !== '0') return []
    } catch {
      return [] // a system without this family has nothing to pass on
    }
    return [`IPv${bits} forwarding is off, so routes that this node offers lead nowhere: switch it on with "sysctl -w ${key}=1"`]
  }
  return [...check(4, '/proc/sys/net/ipv4/ip_forward', 'net.ipv4.ip_forward'), ...check(6, '/proc/sys/net/ipv6/conf/all/forwarding', 'net.ipv6.conf.all.forwarding')]
}

function family(text: string): string {
  return text.includes(':') ? '-6' : '-4'
}

function ip(words: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile('ip', words, { timeout: IP_TIMEOUT_MS }, (error, _out, said) => {
      if (error === null) return resolve()
      const reason = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'the program "ip" is missing: install iproute2' : said.trim() || error.message
      reject(new Error(`"ip ${words.join(' ')}": ${reason}`, { cause: error }))
    })
  })
}
