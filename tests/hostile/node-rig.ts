import http from 'node:http'
import net from 'node:net'
import type { RunningNode } from '@meshwright/runtime-node'
import { startMeshNode } from '@meshwright/runtime-node'
import { bundlePrograms, OurNode, type OurPrograms, type OurStatus } from '../interop/lab-ours.ts'
import { freePort, Lab, pause } from '../interop/lab-process.ts'
import { Space, SPACE_WEB_PORT } from '../interop/lab-space.ts'
import { type Json, LiarControl, type Poll, wireNode } from './liar-control.ts'

const VICTIM_ID = 1
const FRIEND_ID = 2

/** Addresses in every map of the rig. */
export const VICTIM_IP = '100.64.0.1'
export const FRIEND_IP = '100.64.0.2'

/** Drops that say nothing of the friend's packets: a session that the victim has forgotten does. */
const BESIDE = /^(disco|dns|udp)-|^wireguard-(?!unknown-index)/

/** What a map says beside its nodes. */
export interface MapMore {
  readonly frame?: Json
  readonly friend?: Json
  readonly self?: Json
  readonly filter?: readonly Json[]
}

/** Everything from everybody. */
export const OPEN_FILTER: readonly Json[] = [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }]
/** The port of the service only, from the friend only. */
export const onlyFriend = (port: number): readonly Json[] => [{ SrcIPs: [FRIEND_IP], DstPorts: [{ IP: VICTIM_IP, Ports: { First: port, Last: port } }] }]

/**
 * A real `meshwrightd` (the victim) and a second node in this process (the friend), both told by one lying control server. What the victim
 * lets in is asked by dialling: the friend connects to services behind the victim.
 */
export class NodeRig {
  readonly lab: Lab = new Lab()
  readonly control: LiarControl = new LiarControl()
  victim!: OurNode
  friend!: RunningNode
  /** Behind the victim: the port that the honest filter opens, and one that it does not. */
  openPort = 0
  shutPort = 0
  relays: Json = {}
  #programs!: OurPrograms
  readonly #services: net.Server[] = []
  readonly #flags: { readonly blockUdp?: boolean }
  readonly #behindDevice: boolean
  readonly #env: Readonly<Record<string, string>>
  #rss = 0
  /** Connections that services behind the victim have taken. */
  served = 0
  /** More peers in every honest map of the victim, and what its filter says of them. */
  readonly guests: Json[] = []
  readonly guestRules: Json[] = []

  /**
   * @param flags of both nodes @param env of the victim
   * @param behindDevice the victim has a TUN device, in a network namespace of its own whose page is behind the open port: see `whyNoSpaces`
   */
  constructor(flags: { readonly blockUdp?: boolean } = {}, env: Readonly<Record<string, string>> = {}, behindDevice: boolean = false) {
    this.#flags = flags
    this.#env = env
    this.#behindDevice = behindDevice
  }

  /** Starts all, and gives both nodes an honest map. */
  async start(relays: Json = {}): Promise<this> {
    this.relays = relays
    this.#programs = await bundlePrograms(this.lab)
    await this.control.start()
    const space = this.#behindDevice ? await Space.make(this.lab, 'victim', { url: this.control.url }) : undefined
    ;[this.openPort, this.shutPort] = space === undefined ? [await this.#service(), await this.#service()] : [SPACE_WEB_PORT, SPACE_WEB_PORT + 1]
    this.control.map = (poll, name) => poll.send(this.honest(name))
    this.victim = new OurNode(this.lab, this.#programs, 'victim', ['--allow-loopback', ...(this.#flags.blockUdp === true ? ['--block-udp'] : [])], this.#env, space?.name)
    await this.victim.start()
    this.friend = await startMeshNode({ controlUrl: this.control.url, hostname: 'friend', authKey: 'any', allowLoopback: true, ...this.#flags })
    await this.victim.up(this.control.url, 'any')
    await this.lab.until('both have said where they are', () => [...this.control.nodes.values()].filter((node) => (this.#flags.blockUdp === true || (node.Endpoints ?? []).length > 0) && node.DiscoKey !== undefined).length === 2)
    this.tellAll()
    await this.lab.until('the friend is let in', () => this.letsIn(this.openPort))
    this.#rss = this.victim.rssBytes
    return this
  }

  async stop(): Promise<void> {
    await this.friend?.close()
    for (const service of this.#services) service.close()
    await this.lab.stop()
    await this.control.stop()
  }

  /** A whole map as a node of the mesh should get it. */
  honest(name: string, more: MapMore = {}): Json {
    const self = name === 'victim'
    const filter = more.filter ?? (self ? [...onlyFriend(this.openPort), ...this.guestRules] : OPEN_FILTER)
    const other = self ? this.node('friend', more.friend) : this.node('victim')
    return {
      Node: this.node(name, more.self),
      Peers: [...(other === undefined ? [] : [other]), ...(self ? this.guests : [])],
      PacketFilters: { '*': null, base: filter },
      Domain: 'liar.test',
      UserProfiles: [{ ID: 1, LoginName: 'alice@liar.test', DisplayName: 'alice' }],
      DERPMap: { Regions: this.relays },
      ...more.frame,
    }
  }

  /** One of the two as it described itself. */
  node(name: string, more: Json = {}): Json | undefined {
    const said = this.control.nodes.get(name)
    const self = name === 'victim'
    const home = Object.keys(this.relays)[0]
    return said && wireNode(self ? VICTIM_ID : FRIEND_ID, name, said.NodeKey, { DiscoKey: said.DiscoKey, Endpoints: said.Endpoints ?? [], ...(home === undefined ? {} : { HomeDERP: Number(home) }), ...more })
  }

  /** Tells both the honest map again: whatever was said before is over. */
  tellAll(): void {
    for (const name of ['victim', 'friend']) this.pollOf(name)?.send(this.honest(name))
  }

  pollOf(name: string): Poll | undefined {
    return this.control.pollOf(name)
  }

  /** Says frames to the victim on its open stream. */
  async say(...frames: readonly Json[]): Promise<void> {
    const poll = await this.lab.until('the victim listens', () => this.pollOf('victim'))
    for (const frame of frames) poll.send(frame)
  }

  /** Whether the victim lets the friend in to a port; decided by a connection, or by a drop that the victim has counted. */
  async letsIn(port: number): Promise<boolean> {
    const before = await this.drops()
    const abort = new AbortController()
    let outcome: boolean | undefined
    this.friend.dialTcp(VICTIM_IP, port, { signal: abort.signal, timeoutMs: 2_000 }).then(
      (socket) => {
        outcome = true
        socket.destroy()
      },
      () => (outcome ??= false),
    )
    while (outcome === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 20))
      if ((await this.drops()) > before) outcome ??= false
    }
    abort.abort()
    return outcome
  }

  /** The victim lives, has not grown, hears an honest server again, and lets in what that says and nothing else. */
  async unharmed(growthBytes: number = 200 * 1_048_576): Promise<void> {
    this.control.map = (poll, name) => poll.send(this.honest(name))
    await this.lab.until('the victim has an honest map', async () => {
      const poll = this.pollOf('victim')
      const own = this.node('victim')
      if (poll === undefined || own === undefined || poll.request.NodeKey !== own['Key']) return false
      this.tellAll()
      if ((await this.status()).BackendState !== 'Running') return false
      if (await this.letsIn(this.openPort)) return true
      // Where the friend keeps a session that the victim has had to forget, a packet of the victim makes a new one at once.
      return void (await this.ping(FRIEND_IP, 'TSMP', 500))
    }, 60_000)
    if (await this.letsIn(this.shutPort)) throw new Error('the victim lets in what no rule allows')
    // What was held for a moment comes back once garbage is collected, which work brings about; what is kept does not.
    const grown = (): number => this.victim.rssBytes - this.#rss
    for (const deadline = performance.now() + 30_000; grown() > growthBytes && performance.now() < deadline; await pause(100)) this.tellAll()
    if (grown() > growthBytes) throw new Error(`the victim has grown by ${Math.round(grown() / 1_048_576)} MiB, and keeps it`)
  }

  /** Waits until the victim's health, as a person reads it, matches. */
  async health(pattern: RegExp, limitMs: number = 20_000): Promise<string> {
    let lines: readonly string[] = []
    return this.lab.until(`health says ${String(pattern)}`, async () => {
      lines = (await this.status()).Health
      return lines.find((line) => pattern.test(line))
    }, limitMs)
  }

  /** What the victim says of itself, without its peers. */
  async status(): Promise<OurStatus> {
    const text = await this.#ask('GET', 'status?peers=false', 10_000)
    if (text === undefined) throw new Error(`the victim does not answer\n${this.victim.log.slice(-2_000)}`)
    return JSON.parse(text) as OurStatus // our own daemon's
  }

  #ask(method: string, what: string, timeoutMs: number): Promise<string | undefined> {
    return new Promise((resolve) => {
      const request = http.request({ socketPath: this.lab.at('victim.sock'), method, path: `/localapi/v0/${what}`, headers: { Host: 'local-tailscaled.sock' }, agent: false, timeout: timeoutMs }, (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (more: string) => (text += more))
        response.once('end', () => resolve(text))
        response.once('error', () => resolve(undefined))
      })
      request.on('timeout', () => request.destroy())
      request.on('error', () => resolve(undefined))
      request.end()
    })
  }

  /** How many packets have been dropped for these reasons; without any: for every reason that concerns packets. */
  async drops(...reasons: readonly string[]): Promise<number> {
    return Object.entries((await this.status()).Meshwright.Drops).reduce((sum, [reason, count]) => ((reasons.length === 0 ? !BESIDE.test(reason) : reasons.includes(reason)) ? sum + count : sum), 0)
  }

  /** How many entries the victim's tables hold. */
  async held(): Promise<Readonly<Record<string, number>>> {
    return (await this.status()).Meshwright.Held
  }

  /** Has the victim ping an address, inside the tunnel; gives what came of it. */
  async ping(ip: string, type: 'TSMP' | 'disco', timeoutMs: number): Promise<string | undefined> {
    return this.#ask('POST', `ping?ip=${ip}&type=${type}`, timeoutMs)
  }

  /** Waits until so many more packets have been dropped for these reasons. */
  async dropped(before: number, more: number, ...reasons: readonly string[]): Promise<void> {
    let now = 0
    await this.lab.until(`${more} packets are dropped as ${reasons.join(' or ')}`, async () => (now = await this.drops(...reasons)) >= before + more, 20_000).catch((error: unknown) => {
      throw new Error(`${now - before} of ${more} were dropped as ${reasons.join(' or ')}`, { cause: error })
    })
  }

  async #service(): Promise<number> {
    const port = await freePort()
    const server = net.createServer((socket) => {
      socket.on('error', () => undefined)
      this.served += 1
      socket.end('hello')
    })
    this.#services.push(server)
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
    return port
  }
}
