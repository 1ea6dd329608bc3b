import { expect } from 'vitest'
import { Fleet, type FleetBase, FleetWorlds, OPEN_POLICY, relayCertificate, type User } from './lab-fleet.ts'
import { BIN } from './lab-flow.ts'
import { RealDerper, RealHeadscale, type RealHeadscaleOptions, writeRealRelayMap } from './lab-headscale.ts'
import { bundlePrograms, type OurNode } from './lab-ours.ts'
import { Lab } from './lab-process.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { startWeb } from './lab-web.ts'
import { versionFlows, type VersionFlow } from './lab-world.ts'

const RELAY_MAP = 'relays.yaml'
/** Programs besides the tailscaled of the cell. */
const PROGRAMS_NEEDED = ['headscale', 'derper']

/** What is the same for all versions of a suite: our node, a real derper, a certificate that all trust. */
export interface HeadscaleBase extends FleetBase {
  readonly relay: RealDerper
}

/** How the worlds of a suite are made. */
export interface HeadscaleWorldOptions extends Omit<RealHeadscaleOptions, 'dns'> {
  /** Each version has a relay of its own: for flows that stop it. */
  readonly apart?: boolean
  /** As {@link RealHeadscaleOptions.dns}, for what must be started first. */
  readonly dns?: (lab: Lab, address: string) => Promise<string>
  /** The policy at first. Default: everything is allowed. */
  readonly policy?: unknown
}

/** A real headscale with a real derper, users alice and bob, one release of tailscaled, and nodes of ours as guests. */
export class HeadscaleWorld extends Fleet<HeadscaleBase> {
  readonly headscale: RealHeadscale

  private constructor(version: string, base: HeadscaleBase, lab: Lab, headscale: RealHeadscale, web: number) {
    super(version, base, lab, web)
    this.headscale = headscale
  }

  static async start(version: string, base: HeadscaleBase, options: HeadscaleWorldOptions): Promise<HeadscaleWorld> {
    const lab = new Lab()
    base.lab.onStop(() => lab.stop())
    const { dns, policy = OPEN_POLICY, ...rest } = options
    const headscale = new RealHeadscale(lab, BIN, { ...rest, ...(dns !== undefined && { dns: await dns(lab, base.address) }) })
    writeRealRelayMap(lab.at(RELAY_MAP), [base.relay.region])
    await headscale.start(lab.at(RELAY_MAP), policy, ['alice', 'bob'])
    return new HeadscaleWorld(version, base, lab, headscale, await startWeb(lab, 'hello'))
  }

  /** The relay map of this headscale, which has it for itself. */
  get relayMap(): string {
    return this.lab.at(RELAY_MAP)
  }

  get url(): string {
    return this.headscale.url
  }

  /** A new auth key of a user's; without a user for flags that name tags. */
  async key(user: User | undefined, ...flags: readonly string[]): Promise<string> {
    const owner = user === undefined ? [] : ['-u', user === 'alice' ? '1' : '2']
    return this.headscale.cli('preauthkeys', 'create', '-e', '1h', ...owner, ...flags)
  }

  /**
   * Waits until both reach each other once our node has another key. tailscaled 1.92 hands keys to its WireGuard and to its sockets side by side: when the
   * sockets are later, WireGuard refuses the key ("ParseEndpoint: unknown node key"), and is not asked again before the peers change. Down and up does that.
   */
  async expectToWorkAnew(node: OurNode, real: Tailscaled, limitMs?: number): Promise<void> {
    const key = (await this.headscale.node(node.name))?.node_key.replace('nodekey:', '') ?? ''
    expect(key).toMatch(/^[0-9a-f]{64}$/)
    if (this.version.startsWith('1.92.')) {
      const refusal = (): boolean => real.log.includes(`failed to set endpoint ${key}`)
      const ip = await node.ip()
      await this.lab.until('the real client reaches our node, or has refused its key', async () => refusal() || (await this.reaches(real, ip)))
      if (refusal()) {
        await real.cli('down')
        await real.cli('up')
      }
    }
    await this.expectToWork(node, real, limitMs)
  }
}

/** The worlds of a suite at a real headscale. */
export class HeadscaleWorlds extends FleetWorlds<HeadscaleBase, HeadscaleWorld> {
  constructor(options: HeadscaleWorldOptions = {}) {
    super(startBase, (version, base) => HeadscaleWorld.start(version, base, options), options.apart === true)
  }
}

async function startBase(): Promise<HeadscaleBase> {
  const lab = new Lab()
  const [programs, { address, certificate, trust }] = [await bundlePrograms(lab, ['daemon', 'cli']), relayCertificate(lab)]
  const relay = new RealDerper(lab, BIN, { certificate })
  await relay.start(address)
  return { lab, programs, address, relay, trust }
}

/** As `worldFlows` of our control server: a row of the matrix with one cell for each version of tailscaled, at a real headscale. */
export function headscaleFlows(group: string, worlds: HeadscaleWorlds, more: readonly string[] = []): VersionFlow<HeadscaleWorld> {
  return versionFlows(`our node at headscale, ${group}`, (version) => worlds.of(version), () => worlds.stop(), [...PROGRAMS_NEEDED, ...more])
}
