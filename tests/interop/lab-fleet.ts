import { writeFileSync } from 'node:fs'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { BIN } from './lab-flow.ts'
import { OurNode, type OurPrograms } from './lab-ours.ts'
import { interfaceAddress, type Lab } from './lab-process.ts'
import { Tailscaled, type TailscaledOptions } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'

/** The users of every world. */
export type User = 'alice' | 'bob'

/** Everybody may talk with everybody. */
export const OPEN_POLICY: Readonly<Record<string, unknown>> = { tagOwners: { 'tag:srv': ['alice@'] }, acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }

/** For daemons: how they come to trust the relays. */
export type Trust = Readonly<Record<'SSL_CERT_FILE' | 'NODE_EXTRA_CA_CERTS', string>>

/** What is the same for the worlds of all versions: our programs and a certificate for relays that all daemons trust. */
export interface FleetBase {
  readonly lab: Lab
  readonly programs: OurPrograms
  /** The address of this computer that relays listen at. */
  readonly address: string
  readonly trust: Trust
}

/** A certificate for the address that relays listen at, written into the lab, and how daemons come to trust it. */
export function relayCertificate(lab: Lab): { readonly address: string, readonly certificate: { readonly cert: string, readonly key: string }, readonly trust: Trust } {
  const address = interfaceAddress() ?? ''
  const certificate = { cert: lab.at('relay.crt.pem'), key: lab.at('relay.key.pem') }
  const { cert, key } = selfSignedCertificate([address])
  writeFileSync(certificate.cert, cert)
  writeFileSync(certificate.key, key)
  return { address, certificate, trust: { SSL_CERT_FILE: certificate.cert, NODE_EXTRA_CA_CERTS: certificate.cert } }
}

/** The nodes of one control server, real ones of one release and our own. Who the server is, the heirs say. */
export abstract class Fleet<B extends FleetBase> {
  readonly version: string
  readonly base: B
  readonly lab: Lab
  /** A program behind every node, on loopback: see `startWeb`. */
  readonly web: number
  readonly #nodes = new Map<string, Promise<OurNode | Tailscaled>>()
  readonly #keys = new Map<string, Promise<string>>()

  protected constructor(version: string, base: B, lab: Lab, web: number) {
    this.version = version
    this.base = base
    this.lab = lab
    this.web = web
  }

  /** Where nodes log in. */
  abstract get url(): string

  /** A new auth key of a user's. */
  abstract key(user: User, ...flags: readonly string[]): Promise<string>

  /** A reusable auth key of a user's, made once. */
  reusable(user: User): Promise<string> {
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
  async join(name: string, user: User = 'alice', options: TailscaledOptions = {}, ...flags: readonly string[]): Promise<Tailscaled> {
    const [node, key] = await Promise.all([this.daemon(name, options), this.reusable(user)])
    await node.up(this.url, key, ...flags)
    return node
  }

  /** As {@link join}, once for all flows of a suite. */
  real(name: string, user: User = 'alice', options: TailscaledOptions = {}, ...flags: readonly string[]): Promise<Tailscaled> {
    return this.#once(name, () => this.join(name, user, options, ...flags))
  }

  /** A node of ours, running and not logged in. @param netns with a TUN device in this network namespace */
  async ourDaemon(name: string, flags: readonly string[] = [], netns?: string): Promise<OurNode> {
    const node = new OurNode(this.lab, this.base.programs, name, flags, { NODE_EXTRA_CA_CERTS: this.base.trust.NODE_EXTRA_CA_CERTS }, netns)
    await node.start()
    return node
  }

  /** A node of ours, logged in, once for all flows of a suite. @param flags of the daemon @param up flags of `meshwright up` */
  ours(name: string = 'ours', user: User = 'alice', flags: readonly string[] = [], ...up: readonly string[]): Promise<OurNode> {
    return this.#once(name, async () => {
      const [node, key] = await Promise.all([this.ourDaemon(name, flags), this.reusable(user)])
      await node.up(this.url, key, ...up)
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
export class FleetWorlds<B extends FleetBase, W> {
  readonly #startBase: () => Promise<B>
  readonly #startWorld: (version: string, base: B) => Promise<W>
  readonly #apart: boolean
  readonly #worlds = new Map<string, Promise<W>>()
  readonly #bases = new Map<string, Promise<B>>()

  /** @param apart each version has relays of its own: for flows that stop them */
  constructor(startBase: () => Promise<B>, startWorld: (version: string, base: B) => Promise<W>, apart: boolean) {
    this.#startBase = startBase
    this.#startWorld = startWorld
    this.#apart = apart
  }

  #base(version: string): Promise<B> {
    const key = this.#apart ? version : ''
    const made = this.#bases.get(key) ?? this.#startBase()
    this.#bases.set(key, made)
    return made
  }

  of(version: string): Promise<W> {
    const made = this.#worlds.get(version) ?? this.#base(version).then((base) => this.#startWorld(version, base))
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
