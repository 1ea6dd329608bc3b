import { writeFileSync } from 'node:fs'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { BIN } from './lab-flow.ts'
import { RealDerper, RealHeadscale, type RealHeadscaleOptions, writeRealRelayMap } from './lab-headscale.ts'
import { bundlePrograms, OurNode, type OurPrograms } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled, type TailscaledOptions } from './lab-tailscaled.ts'
import { startWeb, webThroughSocks } from './lab-web.ts'
import { versionFlows, type VersionFlow } from './lab-world.ts'

const RELAY_MAP = 'relays.yaml'
/** Programs besides the tailscaled of the cell. */
const PROGRAMS_NEEDED = ['headscale', 'derper']

/** What is the same for all versions of a suite: our node, a real derper, a certificate that all trust. */
export interface HeadscaleBase {
  readonly lab: Lab
  readonly programs: OurPrograms
  /** The address of this computer that the relay listens at. */
  readonly address: string
  readonly relay: RealDerper
  readonly trust: Readonly<Record<'SSL_CERT_FILE' | 'NODE_EXTRA_CA_CERTS', string>>
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

/** Everybody may talk with everybody. */
export const HEADSCALE_OPEN: Readonly<Record<string, unknown>> = { tagOwners: { 'tag:srv': ['alice@'] }, acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }

/** A real headscale with a real derper, users alice and bob, one release of tailscaled, and nodes of ours as guests. */
export class HeadscaleWorld {
  readonly version: string
  readonly base: HeadscaleBase
  readonly lab: Lab
  readonly headscale: RealHeadscale
  /** A program behind every node, on loopback: see {@link startWeb}. */
  readonly web: number
  readonly #nodes = new Map<string, Promise<OurNode | Tailscaled>>()
  readonly #keys = new Map<string, Promise<string>>()

  private constructor(version: string, base: HeadscaleBase, lab: Lab, headscale: RealHeadscale, web: number) {
    this.version = version
    this.base = base
    this.lab = lab
    this.headscale = headscale
    this.web = web
  }

  static async start(version: string, base: HeadscaleBase, options: HeadscaleWorldOptions): Promise<HeadscaleWorld> {
    const lab = new Lab()
    base.lab.onStop(() => lab.stop())
    const { dns, policy = HEADSCALE_OPEN, ...rest } = options
    const headscale = new RealHeadscale(lab, BIN, { ...rest, ...(dns !== undefined && { dns: await dns(lab, base.address) }) })
    writeRealRelayMap(lab.at(RELAY_MAP), [base.relay.region])
    await headscale.start(lab.at(RELAY_MAP), policy, ['alice', 'bob'])
    return new HeadscaleWorld(version, base, lab, headscale, await startWeb(lab, 'hello'))
  }

  /** The relay map of this headscale, which has it for itself. */
  get relayMap(): string {
    return this.lab.at(RELAY_MAP)
  }

  /** A new auth key of a user's; without a user for flags that name tags. */
  async key(user: 'alice' | 'bob' | undefined, ...flags: readonly string[]): Promise<string> {
    const owner = user === undefined ? [] : ['-u', user === 'alice' ? '1' : '2']
    return this.headscale.cli('preauthkeys', 'create', '-e', '1h', ...owner, ...flags)
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
    await node.up(this.headscale.url, key, ...flags)
    return node
  }

  /** As {@link join}, once for all flows of a suite. */
  real(name: string, user: 'alice' | 'bob' = 'alice', options: TailscaledOptions = {}, ...flags: readonly string[]): Promise<Tailscaled> {
    return this.#once(name, () => this.join(name, user, options, ...flags))
  }

  /** A node of ours, running and not logged in. @param netns with a TUN device in this network namespace */
  async ourDaemon(name: string, flags: readonly string[] = [], netns?: string): Promise<OurNode> {
    const node = new OurNode(this.lab, this.base.programs, name, flags, { NODE_EXTRA_CA_CERTS: this.base.trust.NODE_EXTRA_CA_CERTS }, netns)
    await node.start()
    return node
  }

  /** A node of ours, logged in, once for all flows of a suite. */
  ours(name: string = 'ours', user: 'alice' | 'bob' = 'alice', ...flags: readonly string[]): Promise<OurNode> {
    return this.#once(name, async () => {
      const [node, key] = await Promise.all([this.ourDaemon(name), this.reusable(user)])
      await node.up(this.headscale.url, key, ...flags)
      return node
    })
  }

  #once<T extends OurNode | Tailscaled>(name: string, make: () => Promise<T>): Promise<T> {
    const made = this.#nodes.get(name) ?? make()
    this.#nodes.set(name, made)
    return made as Promise<T> // a name belongs to one kind
  }

  /** Proves that packets pass from each to the other; nodes in userspace mode. */
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
}

/** The worlds of a suite, one for each version, each made when the first flow asks for it. */
export class HeadscaleWorlds {
  readonly #options: HeadscaleWorldOptions
  readonly #worlds = new Map<string, Promise<HeadscaleWorld>>()
  readonly #bases = new Map<string, Promise<HeadscaleBase>>()

  constructor(options: HeadscaleWorldOptions = {}) {
    this.#options = options
  }

  of(version: string): Promise<HeadscaleWorld> {
    const made = this.#worlds.get(version) ?? this.#base(version).then((base) => HeadscaleWorld.start(version, base, this.#options))
    this.#worlds.set(version, made)
    return made
  }

  #base(version: string): Promise<HeadscaleBase> {
    const key = this.#options.apart === true ? version : ''
    const made = this.#bases.get(key) ?? startBase()
    this.#bases.set(key, made)
    return made
  }

  /** Ends every program of every world. */
  async stop(): Promise<void> {
    await Promise.allSettled([...this.#worlds.values()])
    for (const base of this.#bases.values()) await base.then(({ lab }) => lab.stop())
  }
}

async function startBase(): Promise<HeadscaleBase> {
  const lab = new Lab()
  const [programs, address] = [await bundlePrograms(lab, ['daemon', 'cli']), interfaceAddress() ?? '']
  const certificate = { cert: lab.at('relay.crt.pem'), key: lab.at('relay.key.pem') }
  const { cert, key } = selfSignedCertificate([address])
  writeFileSync(certificate.cert, cert)
  writeFileSync(certificate.key, key)
  const relay = new RealDerper(lab, BIN, { certificate })
  await relay.start(address)
  return { lab, programs, address, relay, trust: { SSL_CERT_FILE: certificate.cert, NODE_EXTRA_CA_CERTS: certificate.cert } }
}

/** As `worldFlows` of our control server: a row of the matrix with one cell for each version of tailscaled, at a real headscale. */
export function headscaleFlows(group: string, worlds: HeadscaleWorlds, more: readonly string[] = []): VersionFlow<HeadscaleWorld> {
  return versionFlows(`our node at headscale, ${group}`, (version) => worlds.of(version), () => worlds.stop(), [...PROGRAMS_NEEDED, ...more])
}
