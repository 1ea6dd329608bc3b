import { after, assertNever, type Instant, utf8Decode, utf8Encode } from '@meshwright/core'
import type { Endpoint, Ip } from '@meshwright/ip'
import { DEFAULT_PREFS, MeshNode, type MeshOutput, type MeshState, type PeerStatus } from '@meshwright/mesh'
import type { UdpId } from '@meshwright/netstack'
import { type Actor, type Host, SeededRandom, type StreamEnd, type UdpSocket, type VirtualNetwork } from '@meshwright/testkit'
import type { ControlSite } from './control-site.ts'
import { RELAY_LATENCY_MS, type RelaySite } from './relay-site.ts'
import type { Transcript } from './transcript.ts'

const PORT = 41641
const ECHO_PORT = 7

/** Where a node stands and what it is given to stand there. */
export interface MeshHostConfig {
  readonly name: string
  readonly seed: number
  readonly network: VirtualNetwork
  readonly host: Host
  readonly control: ControlSite
  readonly relay: RelaySite
  readonly transcript: Transcript
}

/** How a TCP connection went. */
export interface DialResult {
  /** Milliseconds until it was up; `undefined`: never. */
  readonly openedAfterMs: number | undefined
  readonly echoed: string
}

/** A mesh node on a virtual host, with a UDP echo service on port 7 of its mesh address and TCP echo where it is asked for. */
export class MeshHost implements Actor {
  readonly node: MeshNode
  readonly name: string
  readonly host: Host
  readonly states: MeshState[] = []
  readonly log: string[] = []
  /** Sequence numbers of UDP echoes that came back, with their round trips. */
  readonly echoes: Map<number, number> = new Map()
  readonly #config: MeshHostConfig
  readonly #socket: UdpSocket
  readonly #relayEnds: Map<number, StreamEnd> = new Map()
  readonly #cancels: Map<number, () => void> = new Map()
  readonly #sentAt: Map<number, Instant> = new Map()
  readonly #dials: Map<number, { readonly at: Instant; openedAfterMs: number | undefined; echoed: string }> = new Map()
  readonly #echo: UdpId
  readonly #client: UdpId
  #sequence = 0
  #deaf = false

  constructor(config: MeshHostConfig) {
    const { network, host, name } = config
    this.#config = config
    this.name = name
    this.host = host
    this.#socket = host.bind(PORT, (now, datagram) => {
      config.transcript.note(now, `${name} udp`, datagram.bytes)
      this.#act(() => this.node.handleInput(now, { type: 'datagram', bytes: datagram.bytes, from: datagram.from }))
    })
    this.node = new MeshNode(network.clock.now, {
      random: new SeededRandom(config.seed).bytes,
      wallClock: network.clock.wallClock,
      controlUrl: 'http://control.test',
      prefs: { ...DEFAULT_PREFS, hostname: name },
    })
    this.#echo = this.node.withStack(this.#now, (stack) => stack.bindUdp(ECHO_PORT))
    this.#client = this.node.withStack(this.#now, (stack) => stack.bindUdp('any'))
    this.#act(() => this.node.handleInput(this.#now, { type: 'localEndpoints', endpoints: this.#socket.endpoints }))
  }

  get #now(): Instant {
    return this.#config.network.clock.now
  }

  pollTimeout(): Instant | undefined {
    return this.node.pollTimeout()
  }

  handleTimeout(now: Instant): void {
    this.#act(() => this.node.handleTimeout(now))
  }

  up(authKey: string): void {
    this.#act(() => this.node.up(this.#now, { authKey }))
  }

  /** Deaf, it hears nothing of what the control server says: a node that does not obey. Later its connection breaks, and it hears again. */
  setDeaf(deaf: boolean): void {
    this.#deaf = deaf
    if (!deaf) this.#config.control.breakConnections(this.node.controlIdentity.publicKey().text)
  }

  /** The node's first mesh address. */
  get address(): Ip {
    const ip = this.node.map?.self.addresses[0]?.ip
    if (ip === undefined) throw new Error(`${this.name} has no address`)
    return ip
  }

  peer(other: string): PeerStatus | undefined {
    return this.node.status(this.#now).peers.find((peer) => peer.name.startsWith(`${other}.`))
  }

  /** Sends one UDP datagram to the echo service of a node; gives its number. */
  sendEcho(to: Ip): number {
    this.#sequence += 1
    const sequence = this.#sequence
    this.#sentAt.set(sequence, this.#now)
    this.#act(() => this.node.withStack(this.#now, (stack) => stack.sendUdp(this.#now, this.#client, { ip: to, port: ECHO_PORT }, utf8Encode(`echo ${sequence}`))))
    return sequence
  }

  /** Listens on a TCP port and sends back what comes. */
  serveEcho(port: number): void {
    this.#act(() => this.node.withStack(this.#now, (stack) => stack.listenTcp(port)))
  }

  /** Connects, says something, and notes what comes back. */
  dial(to: Endpoint): () => DialResult {
    const at = this.#now
    const dial = { at, openedAfterMs: undefined, echoed: '' }
    this.#act(() => this.#dials.set(this.node.withStack(at, (stack) => stack.connectTcp(at, to)), dial))
    return () => dial
  }

  #act(change: () => void): void {
    change()
    for (let output = this.node.pollOutput(); output !== undefined; output = this.node.pollOutput()) this.#perform(output)
  }

  #perform(output: MeshOutput): void {
    const { network, relay, control, transcript } = this.#config
    switch (output.type) {
      case 'datagram':
        return this.#socket.send(output.to, output.bytes)
      case 'relayDial': {
        const { link } = output
        const end = relay.connect(this.name, {
          data: (now, bytes) => {
            transcript.note(now, `${this.name} relay`, bytes)
            this.#act(() => this.node.handleInput(now, { type: 'relay', input: { type: 'bytes', link, bytes } }))
          },
          closed: (now) => this.#act(() => this.node.handleInput(now, { type: 'relay', input: { type: 'closed', link } })),
        })
        this.#relayEnds.set(link, end)
        network.schedule(after(this.#now, 2 * RELAY_LATENCY_MS - 1), (now) => this.#act(() => this.node.handleInput(now, { type: 'relay', input: { type: 'opened', link } })))
        return
      }
      case 'relayWrite':
        this.#relayEnds.get(output.link)?.write(output.bytes)
        return this.node.handleInput(this.#now, { type: 'relay', input: { type: 'writable', link: output.link } })
      case 'relayClose':
        this.#relayEnds.get(output.link)?.close()
        this.#relayEnds.delete(output.link)
        return
      case 'control': {
        const request = output.output
        if (request.type === 'cancel') return this.#cancels.get(request.id)?.()
        const { id, path, body } = request
        const take: Parameters<ControlSite['request']>[0]['take'] = (now, event) => {
          if (!this.#deaf) this.#act(() => this.node.handleInput(now, { type: 'control', input: { ...event, id } }))
        }
        this.#cancels.set(id, control.request({ machineKey: this.node.controlIdentity.publicKey().text, path, body, take }))
        return
      }
      case 'flow':
        return this.#flow(output.output)
      case 'state':
        this.states.push(output.state)
        return
      case 'log':
        this.log.push(`${this.#now} ${output.line}`)
        return
      case 'measureRelay': {
        const region = output.region.id
        network.schedule(after(this.#now, 2 * RELAY_LATENCY_MS), (now) =>
          this.#act(() => this.node.handleInput(now, { type: 'relayMeasured', region, latencyMs: 2 * RELAY_LATENCY_MS })),
        )
        return
      }
      case 'saveState':
      case 'changed':
      case 'pinged':
      case 'loggedOut':
      case 'openUrl':
      case 'deliver':
      case 'dnsCancel':
        return
      case 'dnsForward':
      case 'resolveRelay':
        throw new Error(`${this.name} asks for a name, and none is used here`)
      default:
        assertNever(output)
    }
  }

  #flow(output: Extract<MeshOutput, { readonly type: 'flow' }>['output']): void {
    switch (output.type) {
      case 'udp':
        if (output.socket === this.#echo) return this.node.withStack(this.#now, (stack) => stack.sendUdp(this.#now, this.#echo, output.from, output.bytes))
        return this.#echoed(Number(utf8Decode(output.bytes).split(' ')[1]))
      case 'opened': {
        const dial = this.#dials.get(output.flow)
        if (dial === undefined) return
        dial.openedAfterMs = this.#now - dial.at
        this.node.withStack(this.#now, (stack) => stack.write(this.#now, output.flow, utf8Encode('over the mesh')))
        return
      }
      case 'data': {
        const dial = this.#dials.get(output.flow)
        this.node.withStack(this.#now, (stack) => {
          stack.consumed(this.#now, output.flow, output.bytes.length)
          if (dial === undefined) stack.write(this.#now, output.flow, output.bytes)
          else stack.shutdownWrite(this.#now, output.flow)
        })
        if (dial !== undefined) dial.echoed += utf8Decode(output.bytes)
        return
      }
      case 'ended':
        return this.node.withStack(this.#now, (stack) => stack.shutdownWrite(this.#now, output.flow))
      case 'incoming':
        return this.node.withStack(this.#now, (stack) => stack.refuse(this.#now, output.flow))
      default:
    }
  }

  #echoed(sequence: number): void {
    const sentAt = this.#sentAt.get(sequence)
    if (sentAt === undefined) throw new Error(`${this.name} heard an echo of what it never sent`)
    this.echoes.set(sequence, this.#now - sentAt)
    this.#config.transcript.note(this.#now, `${this.name} echo ${sequence}`, new Uint8Array(0))
  }
}
