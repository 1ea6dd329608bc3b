import { removeDns, SystemDns, type SystemDnsManager } from './system-dns.ts'
import { runSystem } from './system-command.ts'
import { removeMasquerade, setMasquerade } from './system-nat.ts'
import { refuseWhileInForce, removeRoutes, SystemRoutes } from './system-routes.ts'
import { openTun, type TunDevice, type TunStats } from './tun-linux.ts'
import { NO_PLAN, type TunPlan } from './tun-plan.ts'

const MTU = 1280
const NO_STATS: TunStats = { read: 0, written: 0, refused: 0, lost: 0 }
/** A device that somebody else reads counts for itself. */
type LinkedDevice = Omit<TunDevice, 'stats'> & Partial<Pick<TunDevice, 'stats'>>

/** How the link tells of what happens. */
export interface TunLinkOptions {
  /** A device that is open already, in the place of a new one: whoever opened it reads its packets. */
  readonly device?: LinkedDevice | undefined
  /** Name of the device; `%d` in it becomes a number. */
  readonly name: string
  /** Who sets the system's name servers; `off` leaves them alone. */
  readonly dns: SystemDnsManager
  /** A packet that this computer sends into the mesh. */
  readonly onPacket: (packet: Uint8Array) => void
  /** The device is gone, or `ip` refused: one line. */
  readonly onProblem: (line: string) => void
}

/**
 * The TUN device of a node, with its addresses, its MTU and what leads to it. The device is not persistent: when it is closed, and when the
 * process is killed, the kernel takes back device, addresses and routes; rules, name servers and masquerading are taken back by `close`, by
 * the next link, and by {@link cleanUpSystem}.
 */
export class TunLink {
  readonly name: string
  readonly #device: LinkedDevice
  readonly #options: TunLinkOptions
  readonly #routes: SystemRoutes
  readonly #dns: SystemDns
  #present: TunPlan = NO_PLAN
  #wanted: TunPlan = NO_PLAN
  #work: Promise<void> | undefined
  #closed = false

  private constructor(device: LinkedDevice, options: TunLinkOptions) {
    this.name = device.name
    this.#device = device
    this.#options = options
    this.#routes = new SystemRoutes(device.name, options.onProblem)
    this.#dns = new SystemDns(options.dns, device.name, options.onProblem)
  }

  /**
   * Opens the device and brings it up.
   * @throws TunError with a remedy (the promise rejects); Error when `ip` is not there or refuses
   */
  static async open(options: TunLinkOptions): Promise<TunLink> {
    let link: TunLink | undefined
    const device = options.device ?? await openTun({
      name: options.name,
      onPackets: (packets) => {
        if (link !== undefined && !link.#closed) for (const packet of packets) options.onPacket(packet)
      },
      onError: (error) => options.onProblem(`the TUN device ${options.name} is lost: ${error.message}`),
    })
    link = new TunLink(device, options)
    try {
      await refuseWhileInForce()
      await runSystem('ip', ['link', 'set', 'dev', device.name, 'mtu', String(MTU), 'up'])
      await link.#routes.open()
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

  /** What went through the device, where it is read by this thread. */
  stats(): TunStats {
    return this.#device.stats?.() ?? NO_STATS
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
    await this.#dns.close()
    if (this.#present.masquerade) await removeMasquerade()
    await this.#routes.close()
    await this.#device.close()
  }

  async #reconcile(): Promise<void> {
    while (!this.#closed && this.#wanted !== this.#present) {
      const plan = this.#wanted
      const { addresses, masquerade } = this.#present
      // Addresses come before the routes that may lean on them, and go after them.
      for (const address of plan.addresses) if (!addresses.has(address)) await this.#try(runSystem('ip', [family(address), 'addr', 'replace', address, 'dev', this.name, ...(address.includes(':') ? ['nodad'] : [])]))
      await this.#routes.apply(plan.routes)
      for (const address of addresses) if (!plan.addresses.has(address)) await this.#try(runSystem('ip', [family(address), 'addr', 'del', address, 'dev', this.name]))
      if (plan.masquerade !== masquerade) await this.#try(plan.masquerade ? setMasquerade(this.name) : removeMasquerade())
      await this.#dns.apply(plan.dns)
      this.#present = plan
    }
  }

  async #try(work: Promise<unknown>): Promise<void> {
    await work.catch((error: unknown) => this.#options.onProblem(error instanceof Error ? error.message : String(error)))
  }
}

/**
 * Takes back all that a device's link has set in the system, also when its process was killed.
 * @throws TunError (the promise rejects) while a node lives that needs it, and nothing is done then; Error when the name servers could not be
 * taken back, and all else has been then
 */
export async function cleanUpSystem(device: string, dns: SystemDnsManager): Promise<void> {
  await refuseWhileInForce()
  await removeMasquerade()
  await removeRoutes()
  if (dns !== 'off') await removeDns(dns, device)
}

function family(text: string): string {
  return text.includes(':') ? '-6' : '-4'
}
