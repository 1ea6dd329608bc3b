import { existsSync } from 'node:fs'
import { runSystem } from './system-command.ts'

/** By whom the system's name servers are set: nobody, `resolvconf` (openresolv or Debian's), or systemd-resolved. */
export type SystemDnsManager = 'off' | 'resolvconf' | 'resolved'

/** What the system is to ask. */
export interface SystemDnsPlan {
  readonly servers: readonly string[]
  /** Domains that are appended to short names. */
  readonly search: readonly string[]
  /** Domains whose names these servers know. */
  readonly domains: readonly string[]
  /** True when all other names are theirs as well. */
  readonly everything: boolean
}

/** Sets the system's name servers for the names of the mesh, and takes them back. `/etc/resolv.conf` is only touched by the manager. */
export class SystemDns {
  readonly #manager: SystemDnsManager
  readonly #device: string
  readonly #onProblem: (line: string) => void
  #present = ''

  constructor(manager: SystemDnsManager, device: string, onProblem: (line: string) => void) {
    this.#manager = manager
    this.#device = device
    this.#onProblem = onProblem
  }

  /** Makes the system ask as the plan says; `undefined`: as if there were no mesh. */
  async apply(plan: SystemDnsPlan | undefined): Promise<void> {
    const text = JSON.stringify(plan) ?? ''
    if (this.#manager === 'off' || text === this.#present) return
    this.#present = text
    try {
      if (plan === undefined) await removeDns(this.#manager, this.#device)
      else if (this.#manager === 'resolvconf') await toResolvconf(this.#device, plan)
      else await toResolved(this.#device, plan)
    } catch (error) {
      this.#onProblem(error instanceof Error ? error.message : String(error))
    }
  }

  async close(): Promise<void> {
    if (this.#present !== '') await this.apply(undefined)
  }
}

/** Takes back what was set for a device, whoever set it. With the device, systemd-resolved has forgotten it by itself. */
export async function removeDns(manager: Exclude<SystemDnsManager, 'off'>, device: string): Promise<void> {
  if (manager === 'resolvconf') await runSystem('resolvconf', ['-f', '-d', record(device)])
  else if (existsSync(`/sys/class/net/${device}`)) await runSystem('resolvectl', ['revert', device])
}

// Without -x the servers of others are asked when ours cannot answer. What follows the record is for openresolv; Debian's resolvconf passes it over.
async function toResolvconf(device: string, plan: SystemDnsPlan): Promise<void> {
  const lines = [...plan.servers.map((server) => `nameserver ${server}`), ...(plan.search.length === 0 ? [] : [`search ${plan.search.join(' ')}`])]
  await runSystem('resolvconf', ['-a', record(device), ...(plan.everything ? ['-x'] : [])], `${lines.join('\n')}\n`)
}

async function toResolved(device: string, plan: SystemDnsPlan): Promise<void> {
  await runSystem('resolvectl', ['dns', device, ...plan.servers])
  const routed = plan.everything ? ['~.'] : plan.domains.filter((domain) => !plan.search.includes(domain)).map((domain) => `~${domain}`)
  await runSystem('resolvectl', ['domain', device, ...plan.search, ...routed])
  // Without routed domains it would be asked for names of others too.
  await runSystem('resolvectl', ['default-route', device, plan.everything ? 'yes' : 'no'])
}

// Names of tunnels stand before all others in both programs' order (resolvconf.conf(5), interface-order(5)): what is asked second is not asked for
// names that the first says do not exist. A metric would put it behind those that have none.
function record(device: string): string {
  return `tun0.${device}.meshwright`
}
