import { writeFileSync } from 'node:fs'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { afterAll, describe, test } from 'vitest'
import { BIN, whyNot } from './lab-flow.ts'
import { type ListedNode, bundlePrograms, OurControl, OurNode, type OurPrograms, OurRelay, writeRelayMap } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled, type TailscaledOptions } from './lab-tailscaled.ts'
import { startWeb, webThroughSocks } from './lab-web.ts'
import { TAILSCALE_EXTRA, TAILSCALE_NEWEST, TAILSCALE_OLDEST } from './programs.ts'

/** Everybody may talk with everybody. */
export const OPEN_POLICY: unknown = { tagOwners: { 'tag:srv': ['alice@'] }, acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }

/** The releases that are met in this run: the newest and the oldest, with `--all` more, with `--peer` the ones that it names. */
export const TAILSCALE_VERSIONS: readonly string[] = chosenVersions()

function chosenVersions(): readonly string[] {
  const peer = process.env['MESHWRIGHT_INTEROP_PEER']
  const extra = TAILSCALE_EXTRA.filter((version) => process.env['MESHWRIGHT_INTEROP_ALL'] === '1' || peer?.endsWith(`@${version}`) === true)
  return [TAILSCALE_NEWEST, TAILSCALE_OLDEST, ...extra].filter((version) => peer === undefined || `tailscaled@${version}`.includes(peer))
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

/** What is the same for the worlds of all versions: our programs, a relay, a trusted certificate. */
export interface Base {
  readonly lab: Lab
  readonly programs: OurPrograms
  /** The address of this computer that relays listen at. */
  readonly address: string
  readonly relays: readonly OurRelay[]
  readonly relayMap: string
  /** For daemons: how they come to trust the relays. */
  readonly trust: Readonly<Record<'SSL_CERT_FILE' | 'NODE_EXTRA_CA_CERTS', string>>
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
export class World {
  readonly version: string
  readonly base: Base
  readonly lab: Lab
  readonly control: OurControl
  readonly users: Readonly<Record<'alice' | 'bob', string>>
  /** A program behind every node, on loopback: see {@link startWeb}. */
  readonly web: number
  readonly #nodes = new Map<string, Promise<OurNode | Tailscaled>>()
  readonly #keys = new Map<string, Promise<string>>()

  constructor(version: string, base: Base, lab: Lab, control: OurControl, users: Readonly<Record<'alice' | 'bob', string>>, web: number) {
    this.version = version
    this.base = base
    this.lab = lab
    this.control = control
    this.users = users
    this.web = web
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

  /** A new auth key of a user's. */
  key(user: 'alice' | 'bob', ...flags: readonly string[]): Promise<string> {
    return this.control.authKey('-u', this.users[user], ...flags)
  }

  /** A reusable auth key of a user's, made once. */
  reusable(user: 'alice' | 'bob'): Promise<string> {
    const made = this.#keys.get(user) ?? this.key(user, '--reusable')
    this.#keys.set(user, made)
    return made
  }

  /** A daemon of this release, running and not logged in. */
  async daemon(name: string, options: TailscaledOptions = {}): Promise<Tailscaled> {
    const node = new Tailscaled(this.lab, BIN, name, { ...options, version: this.version, env: { SSL_CERT_FILE: this.base.trust.SSL_CERT_FILE, ...options.env } })
    await node.start()
    return node
  }

  /** A daemon of this release, logged in. */
  async join(name: string, user: 'alice' | 'bob' = 'alice', options: TailscaledOptions = {}, ...flags: readonly string[]): Promise<Tailscaled> {
    const [node, key] = await Promise.all([this.daemon(name, options), this.reusable(user)])
    await node.up(this.control.url, key, ...flags)
    return node
  }

  /** As {@link join}, once for all flows of a suite. */
  real(name: string, user: 'alice' | 'bob' = 'alice', options: TailscaledOptions = {}): Promise<Tailscaled> {
    return this.#once(name, () => this.join(name, user, options))
  }

  /** A node of ours, logged in, once for all flows of a suite. */
  ours(name: string = 'ours', user: 'alice' | 'bob' = 'alice', flags: readonly string[] = []): Promise<OurNode> {
    return this.#once(name, async () => {
      const node = new OurNode(this.lab, this.base.programs, name, flags, { NODE_EXTRA_CA_CERTS: this.base.trust.NODE_EXTRA_CA_CERTS })
      const [key] = await Promise.all([this.reusable(user), node.start()])
      await node.up(this.control.url, key)
      return node
    })
  }

  #once<T extends OurNode | Tailscaled>(name: string, make: () => Promise<T>): Promise<T> {
    const made = this.#nodes.get(name) ?? make()
    this.#nodes.set(name, made)
    return made as Promise<T> // a name belongs to one kind
  }

  /** What the server lists, once it does. */
  listed(name: string): Promise<ListedNode> {
    return this.lab.until(`the server lists ${name}`, () => this.control.node(name))
  }

  /** Proves that packets pass from each to the other. */
  async expectToWork(a: OurNode | Tailscaled, b: OurNode | Tailscaled, limitMs?: number): Promise<void> {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const ip = await to.ip()
      await this.lab.until(`${from.name} reaches ${to.name}`, async () => (await webThroughSocks(from.socksPort, ip, this.web, { timeoutMs: 2_000 })).body.toString() === 'hello', limitMs)
    }
  }

  /** Whether a page of `to` opens within a moment. */
  reaches(from: OurNode | Tailscaled, to: string, port: number = this.web, timeoutMs: number = 500): Promise<boolean> {
    return webThroughSocks(from.socksPort, to, port, { timeoutMs }).then(() => true, () => false)
  }

  /** What a daemon complains of, besides what its release always says. */
  async health(node: Tailscaled): Promise<readonly string[]> {
    return quiet((await node.status()).Health)
  }
}

/** The worlds of a suite, one for each version, each made when the first flow asks for it. */
export class Worlds {
  readonly #options: WorldOptions
  readonly #worlds = new Map<string, Promise<World>>()
  readonly #bases = new Map<string, Promise<Base>>()

  constructor(options: WorldOptions = {}) {
    this.#options = options
  }

  #base(version: string): Promise<Base> {
    const key = this.#options.apart === true ? version : ''
    const made = this.#bases.get(key) ?? startBase(this.#options.relays ?? ['ours'], this.#options.preferFirst === true)
    this.#bases.set(key, made)
    return made
  }

  of(version: string): Promise<World> {
    const made = this.#worlds.get(version) ?? this.#base(version).then((base) => World.start(version, base, this.#options))
    this.#worlds.set(version, made)
    // What could not be made is made anew for the next flow: one slow moment is not the failure of all.
    made.catch(() => {
      this.#worlds.delete(version)
    })
    return made
  }

  /** Ends every program of every world. */
  async stop(): Promise<void> {
    await Promise.allSettled([...this.#worlds.values()])
    for (const base of await Promise.allSettled(this.#bases.values())) if (base.status === 'fulfilled') await base.value.lab.stop()
  }
}

async function startBase(codes: readonly string[], preferFirst: boolean): Promise<Base> {
  const lab = new Lab()
  const [programs, address] = [await bundlePrograms(lab), interfaceAddress() ?? '']
  const certificate = { cert: lab.at('relay.crt.pem'), key: lab.at('relay.key.pem') }
  const { cert, key } = selfSignedCertificate([address])
  writeFileSync(certificate.cert, cert)
  writeFileSync(certificate.key, key)
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
  return { lab, programs, address, relays, relayMap, trust: { SSL_CERT_FILE: certificate.cert, NODE_EXTRA_CA_CERTS: certificate.cert } }
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
