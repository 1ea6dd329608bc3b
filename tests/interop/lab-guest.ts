import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { NodePrivateKey } from '@meshwright/crypto'
import { selfSignedCertificate, systemRandom } from '@meshwright/runtime-node'
import { BIN } from './lab-flow.ts'
import { RealHeadscale } from './lab-headscale.ts'
import { bundlePrograms, OurNode, type OurPrograms } from './lab-ours.ts'
import { freePort, interfaceAddress, Lab, type LabProcess } from './lab-process.ts'
import { Space } from './lab-space.ts'
import { Tailscaled, type TailscaledOptions } from './lab-tailscaled.ts'
import { startWeb, webThroughSocks } from './lab-web.ts'
import { type VersionFlow, versionFlows } from './lab-world.ts'

const REGION = 901
/** Where a node of ours in a space offers its SOCKS5 port to us. */
const SPACE_SOCKS_PORT = 1055

/** A node of either kind. */
export type GuestNode = OurNode | Tailscaled

/** A real derper that can be killed and started again at the same ports, with a certificate that all sides are told to trust: clients before 1.82 know no pins. */
export class KillableDerper {
  readonly mapFile: string
  readonly #lab: Lab
  readonly #args: readonly string[]
  readonly #port: number
  #process: LabProcess | undefined

  private constructor(lab: Lab, mapFile: string, args: readonly string[], port: number) {
    this.#lab = lab
    this.mapFile = mapFile
    this.#args = args
    this.#port = port
  }

  static async start(lab: Lab, address: string, certificate: { readonly cert: string; readonly key: string }): Promise<KillableDerper> {
    const [port, stunPort] = [await freePort(), await freePort()]
    const [config, certificates, mapFile] = [lab.at('derper.json'), lab.at('derper-certificates'), lab.at('derper.yaml')]
    writeFileSync(config, JSON.stringify({ PrivateKey: NodePrivateKey.generate(systemRandom).formatSecret() }), { mode: 0o600 })
    mkdirSync(certificates)
    copyFileSync(certificate.cert, `${certificates}/${address}.crt`)
    copyFileSync(certificate.key, `${certificates}/${address}.key`)
    const node = { name: `${REGION}a`, regionid: REGION, hostname: address, ipv4: address, ipv6: 'none', stunport: stunPort, derpport: port }
    // headscale takes no quoted number as key of a region, so JSON alone will not do.
    writeFileSync(mapFile, `regions:\n  ${REGION}: ${JSON.stringify({ regionid: REGION, regioncode: 'real', regionname: 'Real relay', nodes: [node] })}\n`)
    const args = ['-c', config, '-a', `${address}:${port}`, '-certmode', 'manual', '-certdir', certificates, '-hostname', address, '-http-port', '-1', '-stun-port', String(stunPort)]
    const derper = new KillableDerper(lab, mapFile, args, port)
    await derper.start(address)
    return derper
  }

  async start(address: string): Promise<void> {
    this.#process = this.#lab.start('derper', `${BIN}/derper`, this.#args)
    await this.#lab.until('derper listens', () => connects(address, this.#port))
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }
}

/** Our node as a guest: one release of tailscaled at a real headscale and a real derper that it has for itself. Nothing but the node is ours. */
export class GuestWorld {
  readonly version: string
  readonly lab: Lab
  readonly programs: OurPrograms
  readonly address: string
  readonly headscale: RealHeadscale
  readonly derper: KillableDerper
  /** A program behind every node of this computer, on loopback: see {@link startWeb}. */
  readonly web: number
  readonly #certificate: string
  readonly #nodes = new Map<string, Promise<GuestNode>>()
  #key: Promise<string> | undefined

  private constructor(version: string, lab: Lab, programs: OurPrograms, made: { readonly address: string; readonly headscale: RealHeadscale; readonly derper: KillableDerper; readonly web: number; readonly certificate: string }) {
    this.version = version
    this.lab = lab
    this.programs = programs
    this.address = made.address
    this.headscale = made.headscale
    this.derper = made.derper
    this.web = made.web
    this.#certificate = made.certificate
  }

  static async start(version: string, programs: OurPrograms, lab: Lab): Promise<GuestWorld> {
    const address = interfaceAddress() ?? ''
    const files = { cert: lab.at('relay.crt.pem'), key: lab.at('relay.key.pem') }
    const { cert, key } = selfSignedCertificate([address])
    writeFileSync(files.cert, cert)
    writeFileSync(files.key, key, { mode: 0o600 })
    const derper = await KillableDerper.start(lab, address, files)
    const headscale = new RealHeadscale(lab, BIN)
    await headscale.start(derper.mapFile, { acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] })
    await headscale.cli('users', 'create', 'alice')
    return new GuestWorld(version, lab, programs, { address, headscale, derper, web: await startWeb(lab, 'hello'), certificate: files.cert })
  }

  /** An auth key that may be used again and again. */
  key(): Promise<string> {
    this.#key ??= this.headscale.authKey('1')
    return this.#key
  }

  /** A real node, logged in; once for all flows. */
  real(name: string, options: TailscaledOptions = {}, ...flags: readonly string[]): Promise<Tailscaled> {
    return this.#once(name, async () => {
      const node = new Tailscaled(this.lab, BIN, name, { ...options, version: this.version, env: { SSL_CERT_FILE: this.#certificate, ...options.env } })
      await this.#join(node, flags)
      return node
    })
  }

  /** A node of ours in userspace mode, logged in; once for all flows. */
  ours(name: string, flags: readonly string[] = [], ...up: readonly string[]): Promise<OurNode> {
    return this.#once(name, async () => {
      const node = new OurNode(this.lab, this.programs, name, flags, { NODE_EXTRA_CA_CERTS: this.#certificate })
      await this.#join(node, up)
      return node
    })
  }

  /** A node of ours in a space, logged in; once for all flows. In userspace mode {@link socksOf} leads through it. */
  oursIn(space: Space, name: string, mode: 'tun' | 'userspace', ...up: readonly string[]): Promise<OurNode> {
    return this.#once(name, async () => {
      const flags = mode === 'tun' ? [] : ['--tun', 'userspace-networking', '--socks5-server', `0.0.0.0:${SPACE_SOCKS_PORT}`]
      const node = new OurNode(this.lab, this.programs, name, flags, { NODE_EXTRA_CA_CERTS: this.#certificate }, space.name)
      await this.#join(node, up)
      return node
    })
  }

  async #join(node: GuestNode, flags: readonly string[]): Promise<void> {
    const [key] = await Promise.all([this.key(), node.start()])
    await node.up(this.headscale.url, key, ...flags)
  }

  #once<T extends GuestNode>(name: string, make: () => Promise<T>): Promise<T> {
    const made = this.#nodes.get(name) ?? make()
    this.#nodes.set(name, made)
    return made as Promise<T> // a name belongs to one kind
  }

  /** A port of ours that leads to the SOCKS5 port of a node in a space. */
  async socksOf(space: Space): Promise<number> {
    return forwardPort(this.lab, await addressOf(space), SPACE_SOCKS_PORT)
  }

  /** Proves that pages come from `to` to `from`, and the other way round. */
  async expectToWork(a: GuestNode, b: GuestNode, limitMs?: number): Promise<void> {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const ip = await to.ip()
      await this.lab.until(`${from.name} reaches ${to.name}`, async () => (await webThroughSocks(from.socksPort, ip, this.web, { timeoutMs: 2_000 })).body.toString() === 'hello', limitMs)
    }
  }

  /** Approves what a node offers, and nothing else. */
  async approve(node: string, routes: string): Promise<void> {
    await this.headscale.cli('nodes', 'approve-routes', '-i', await this.headscale.nodeId(node), '-r', routes)
  }
}

/** Makes the flows of a suite, each with a world for each release. */
export function guestFlows(group: string, more: readonly string[] = []): VersionFlow<GuestWorld> {
  const base = new Lab()
  const worlds = new Map<string, Promise<GuestWorld>>()
  let programs: Promise<OurPrograms> | undefined
  const of = (version: string): Promise<GuestWorld> => {
    programs ??= bundlePrograms(base)
    const bundled = programs
    const lab = new Lab()
    base.onStop(() => lab.stop())
    const world = worlds.get(version) ?? bundled.then((made) => GuestWorld.start(version, made, lab))
    worlds.set(version, world)
    return world
  }
  const stop = async (): Promise<void> => {
    await Promise.allSettled([...worlds.values()])
    await base.stop()
  }
  return versionFlows(group, of, stop, ['headscale', 'derper', ...more])
}

/** The address of a space on its wire to us. */
export async function addressOf(space: Space): Promise<string> {
  const listed = await space.ip('-o', '-4', 'addr', 'show', 'dev', `${space.name}i`)
  const found = /inet ([0-9.]+)\//.exec(listed)?.[1]
  if (found === undefined) throw new Error(`no address of ${space.name} in ${listed}`)
  return found
}

/** A port on loopback whose connections end at another address. */
export async function forwardPort(lab: Lab, host: string, port: number): Promise<number> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer((client) => {
    const target = net.connect(port, host)
    for (const [a, b] of [[client, target], [target, client]] as const) {
      sockets.add(a)
      a.on('error', () => b.destroy())
      a.on('close', () => {
        sockets.delete(a)
        b.destroy()
      })
      a.pipe(b)
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  lab.onStop(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return address.port
}

function connects(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(port, host, () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}
