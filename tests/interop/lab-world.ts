import { afterAll, describe, test } from 'vitest'
import { Fleet, type FleetBase, FleetWorlds, OPEN_POLICY, relayCertificate, type User } from './lab-fleet.ts'
import { whyNot } from './lab-flow.ts'
import { type ListedNode, bundlePrograms, OurControl, OurRelay, writeRelayMap } from './lab-ours.ts'
import { Lab } from './lab-process.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { startWeb } from './lab-web.ts'
import { TAILSCALE_EXTRA, TAILSCALE_NEWEST, TAILSCALE_OLDEST } from './programs.ts'

/** The releases that are met in this run: the newest and the oldest, with `--all` more, with `--peer` the ones that it names. */
export const TAILSCALE_VERSIONS: readonly string[] = chosenVersions()

function chosenVersions(): readonly string[] {
  const peers = process.env['MESHWRIGHT_INTEROP_PEER']?.split(',')
  const extra = TAILSCALE_EXTRA.filter((version) => process.env['MESHWRIGHT_INTEROP_ALL'] === '1' || peers?.some((peer) => peer.endsWith(`@${version}`)) === true)
  return [TAILSCALE_NEWEST, TAILSCALE_OLDEST, ...extra].filter((version) => peers?.some((peer) => `tailscaled@${version}`.includes(peer)) ?? true)
}

/** Health lines that a release shows by nature, and that tell nothing of us. */
const USUAL_HEALTH: readonly RegExp[] = [
  // 1.80 in userspace mode, when the server names no resolvers.
  /getting OS base config is not supported/,
]

/** Health lines without those that a release shows by nature. */
export function quiet(health: readonly string[] | null): readonly string[] {
  return (health ?? []).filter((line) => !USUAL_HEALTH.some((usual) => usual.test(line)))
}

/** What is the same for the worlds of all versions: our programs, our relays, a trusted certificate. */
export interface Base extends FleetBase {
  readonly relays: readonly OurRelay[]
  readonly relayMap: string
}

/** How the worlds of a suite are made. */
export interface WorldOptions {
  /** Codes of the relays, each a region of its own from 900 on. Default: one, `ours`. */
  readonly relays?: readonly string[]
  /** All call the first of them home while it is there, however near the others are. */
  readonly preferFirst?: boolean
  /** Each version has relays of its own: for flows that stop them. */
  readonly apart?: boolean
  /** More lines for the configuration of the control server. */
  readonly lines?: readonly string[]
  /** In the place of `dns:` of the configuration; begins with `dns:`. */
  readonly dns?: (lab: Lab, address: string) => Promise<string>
  /** The policy at first, `null` for none at all. Default: everything is allowed. */
  readonly policy?: unknown
}

/** One release of tailscaled at a control server of ours that it has for itself, with users alice and bob. */
export class World extends Fleet<Base> {
  readonly control: OurControl
  readonly users: Readonly<Record<User, string>>

  private constructor(version: string, base: Base, lab: Lab, control: OurControl, users: Readonly<Record<User, string>>, web: number) {
    super(version, base, lab, web)
    this.control = control
    this.users = users
  }

  static async start(version: string, base: Base, options: WorldOptions): Promise<World> {
    const lab = new Lab()
    base.lab.onStop(() => lab.stop())
    const control = new OurControl(lab, base.programs, { ...(options.lines !== undefined && { lines: options.lines }), ...(options.dns !== undefined && { dns: await options.dns(lab, base.address) }) })
    await control.start(base.relayMap)
    const [alice, bob] = [await control.createUser('alice'), await control.createUser('bob')]
    if (options.policy !== null) await control.setPolicy(options.policy ?? OPEN_POLICY)
    return new World(version, base, lab, control, { alice, bob }, await startWeb(lab, 'hello'))
  }

  get url(): string {
    return this.control.url
  }

  key(user: User, ...flags: readonly string[]): Promise<string> {
    return this.control.authKey('-u', this.users[user], ...flags)
  }

  /** What the server lists, once it does. */
  listed(name: string): Promise<ListedNode> {
    return this.lab.until(`the server lists ${name}`, () => this.control.node(name))
  }

  /** What a daemon complains of, besides what its release always says. */
  async health(node: Tailscaled): Promise<readonly string[]> {
    return quiet((await node.status()).Health)
  }
}

/** The worlds of a suite at our control server. */
export class Worlds extends FleetWorlds<Base, World> {
  constructor(options: WorldOptions = {}) {
    super(() => startBase(options.relays ?? ['ours'], options.preferFirst === true), (version, base) => World.start(version, base, options), options.apart === true)
  }
}

async function startBase(codes: readonly string[], preferFirst: boolean): Promise<Base> {
  const lab = new Lab()
  const [programs, { address, certificate, trust }] = [await bundlePrograms(lab), relayCertificate(lab)]
  const relays = codes.map((code, i) => new OurRelay(lab, programs, { region: 900 + i, code, certificate }))
  try {
    for (const relay of relays) await relay.start(address)
  } catch (error) {
    await lab.stop() // nobody else knows of it
    throw error
  }
  const relayMap = lab.at('relays.yaml')
  // Real clients change their home only where the new one is 10 ms nearer.
  writeRelayMap(relayMap, relays, preferFirst ? Object.fromEntries(relays.slice(1).map((_, i) => [String(901 + i), 1_000])) : undefined)
  return { lab, programs, address, relays, relayMap, trust }
}

/** A row of the matrix: its name, what happens, and the limit of time. */
export type VersionFlow<T> = (flow: string, body: (given: T) => Promise<void>, timeoutMs?: number) => void

/**
 * Makes the flows of a suite. `flow('login by URL', ...)` is a row of the matrix with one cell for each version of tailscaled: the versions
 * run side by side, each with what `of` gives it; the flows of a suite run one after the other and may build on what earlier ones left.
 * @param stop ends all that `of` began
 * @param more more programs that are needed
 */
export function versionFlows<T>(group: string, of: (version: string) => Promise<T>, stop: () => Promise<void>, more: readonly string[] = []): VersionFlow<T> {
  afterAll(stop)
  return (flow, body, timeoutMs = 240_000) => {
    describe(group, () => {
      for (const version of TAILSCALE_VERSIONS) {
        const reason = whyNot([`tailscaled@${version}`, `tailscale@${version}`, ...more])
        test.concurrent(
          `${flow} [tailscaled@${version}]`,
          async (context) => {
            if (reason !== undefined && process.env['REQUIRE_INTEROP'] === '1') throw new Error(reason)
            if (reason !== undefined) {
              // The reporter leaves out the reason itself.
              Object.assign(context.task.meta, { skipReason: reason })
              context.skip(reason)
            }
            await body(await of(version))
          },
          timeoutMs,
        )
      }
    })
  }
}

/** As {@link versionFlows}, with a world for each version. */
export function worldFlows(group: string, worlds: Worlds, more: readonly string[] = []): VersionFlow<World> {
  return versionFlows(group, (version) => worlds.of(version), () => worlds.stop(), more)
}
