import { randomBytes } from 'node:crypto'
import { encodeJson, MapChunkReader, type MapRequest, type RegisterRequest, ZERO_NODE_KEY } from '@meshwright/control-protocol'
import { MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { type ControlConnection, type ControlDialOptions, dialControl, fastCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'

const VERSION = 142
const CRYPTO = fastCryptoProvider()
const STABLE_ID = /"StableID":"([^"]+)"/g
const TRIES = 5

/** What a light client tells of what it hears. */
export interface LightEvents {
  /** A frame that is no keepalive: its JSON as text in which every byte is a character. */
  frame(client: LightClient, text: string): void
  /** Its stream ended without being asked to. */
  lost(client: LightClient): void
}

/**
 * A node that only talks with its control server: Noise, HTTP/2, registration, a poll and updates of its own facts, all as a real one
 * sends them. It reads of its map what it must to know when it is complete, so that hundreds of them cost less than the server.
 */
export class LightClient {
  readonly index: number
  /** The `StableID`s of the peers that it has been told of. */
  readonly peers: Set<string> = new Set()
  readonly #events: LightEvents
  readonly #machineKey = MachinePrivateKey.generate(systemRandom)
  readonly #nodeKey: string
  readonly #discoKey: string
  readonly #way: Pick<ControlDialOptions, 'outside' | 'ca'>
  #connection: ControlConnection | undefined
  #endpoints: readonly string[]
  #id = ''
  #frames = 0
  #bytes = 0
  #replacedEnded = 0

  /**
   * @param keys of whom it is, where somebody must be able to speak with them; else of nobody
   * @param outside how it connects; default: the system's way
   * @param ca whom it trusts to speak for the server, where that has TLS of its own
   */
  constructor(index: number, events: LightEvents, keys?: { readonly nodeKey: string; readonly discoKey: string }, outside?: ControlDialOptions['outside'], ca?: string) {
    this.index = index
    this.#nodeKey = keys?.nodeKey ?? `nodekey:${randomBytes(32).toString('hex')}`
    this.#discoKey = keys?.discoKey ?? `discokey:${randomBytes(32).toString('hex')}`
    this.#events = events
    this.#way = { ...(outside !== undefined && { outside }), ...(ca !== undefined && { ca }) }
    this.#endpoints = [`203.0.113.${index % 250}:${10_000 + (index % 50_000)}`, `192.168.${index >> 8}.${index & 255}:41641`]
  }

  /** Its own `StableID`, once the first frame has come. */
  get id(): string {
    return this.#id
  }

  /** Frames and bytes of map bodies since the poll began. */
  get frames(): number {
    return this.#frames
  }

  get bytes(): number {
    return this.#bytes
  }

  /** How many polls have ended of which this client had opened another one since, or that it had dropped. */
  get replacedEnded(): number {
    return this.#replacedEnded
  }

  get name(): string {
    return `load-${this.index}`
  }

  get nodeKey(): string {
    return this.#nodeKey
  }

  /** Connects and registers. @throws Error when it is refused */
  async join(url: string, serverKey: MachinePublicKey, authKey: string): Promise<void> {
    await this.#dial(url, serverKey)
    const body: RegisterRequest = { Version: VERSION, NodeKey: this.#nodeKey, OldNodeKey: ZERO_NODE_KEY, Auth: { AuthKey: authKey }, Hostinfo: this.#hostinfo() }
    const answer = await this.#ask('/machine/register', body)
    const refused = /"Error":"([^"]+)"/.exec(answer.text)?.[1]
    if (answer.status !== 200 || refused !== undefined) throw new Error(`${this.name} is not registered: ${answer.status} ${refused ?? answer.text.slice(0, 200)}`)
  }

  /** Opens the poll and tells of itself, as real clients do: both at once. */
  async poll(): Promise<void> {
    const connection = this.#connection
    if (connection === undefined) throw new Error('not connected')
    this.peers.clear()
    const reader = new MapChunkReader()
    const body: MapRequest = { Version: VERSION, KeepAlive: true, Stream: true, NodeKey: this.#nodeKey, DiscoKey: this.#discoKey, Hostinfo: this.#hostinfo() }
    let isOver = false
    const lost = (): void => {
      // A refused poll ends too, and is one loss.
      if (isOver) return
      isOver = true
      if (this.#connection === connection) this.#events.lost(this)
      else this.#replacedEnded += 1
    }
    connection.request(post('/machine/map', body), {
      response: (status) => {
        if (status !== 200) lost()
      },
      chunk: (bytes) => {
        this.#bytes += bytes.length
        reader.push(bytes)
        for (let json = reader.next(); json !== undefined; json = reader.next()) this.#frame(Buffer.from(json.buffer, json.byteOffset, json.length).toString('latin1'))
      },
      end: lost,
      failed: lost,
    })
    await this.update()
  }

  /** Opens so many polls, some at once, as no decent client does; gives what each was answered with. */
  async polls(count: number): Promise<number[]> {
    const connection = this.#connection
    if (connection === undefined) throw new Error('not connected')
    const statuses: number[] = []
    const one = (): Promise<void> =>
      new Promise((resolve) => {
        const body: MapRequest = { Version: VERSION, KeepAlive: true, Stream: true, NodeKey: this.#nodeKey, DiscoKey: this.#discoKey, Hostinfo: this.#hostinfo() }
        const over = (): void => resolve()
        const cancel = connection.request(post('/machine/map', body), {
          response: (status) => {
            statuses.push(status)
            cancel()
            resolve()
          },
          chunk: () => undefined,
          end: over,
          failed: over,
        })
      })
    for (let left = count; left > 0; left -= 50) await Promise.all(Array.from({ length: Math.min(50, left) }, one))
    return statuses
  }

  /** Tells of itself, with other endpoints if some are given. */
  async update(endpoints: readonly string[] = this.#endpoints): Promise<void> {
    this.#endpoints = endpoints
    const body: MapRequest = {
      Version: VERSION,
      KeepAlive: true,
      OmitPeers: true,
      NodeKey: this.#nodeKey,
      DiscoKey: this.#discoKey,
      Hostinfo: this.#hostinfo(),
      Endpoints: endpoints,
      EndpointTypes: endpoints.map(() => 1),
    }
    const { status } = await this.#ask('/machine/map', body)
    if (status !== 200) throw new Error(`${this.name}: an update was answered with ${status}`)
  }

  /** Drops the connection as a machine that lost its network does: without a word. */
  drop(): void {
    const connection = this.#connection
    this.#connection = undefined
    connection?.close()
  }

  /** Connects and polls again. */
  async reconnect(url: string, serverKey: MachinePublicKey): Promise<void> {
    await this.#dial(url, serverKey)
    await this.poll()
  }

  async #dial(url: string, serverKey: MachinePublicKey): Promise<void> {
    for (let left = TRIES; ; left -= 1) {
      try {
        this.#connection = await dialControl({ url, serverKey, machineKey: this.#machineKey, random: systemRandom, provider: CRYPTO, version: VERSION, timeoutMs: 30_000, ...this.#way })
        return
      } catch (error) {
        if (left === 1) throw error
      }
    }
  }

  #frame(text: string): void {
    if (text === '{"KeepAlive":true}') return
    this.#frames += 1
    for (const [, id = ''] of text.matchAll(STABLE_ID)) this.peers.add(id)
    if (text.includes('"PeersRemoved":[')) for (const id of /"PeersRemoved":\[([0-9,]*)\]/.exec(text)?.[1]?.split(',') ?? []) this.peers.delete(id)
    // The node itself is in frames that name it, and no peer: `Node` comes first or is told by its key.
    if (this.#id === '') this.#id = new RegExp(`"StableID":"([^"]+)","Name":"${this.name}\\.`).exec(text)?.[1] ?? ''
    this.peers.delete(this.#id)
    this.#events.frame(this, text)
  }

  #ask(path: string, body: object): Promise<{ readonly status: number; readonly text: string }> {
    const connection = this.#connection
    if (connection === undefined) return Promise.reject(new Error('not connected'))
    return new Promise((resolve, reject) => {
      const parts: Uint8Array[] = []
      let status = 0
      connection.request(post(path, body), {
        response: (code) => {
          status = code
        },
        chunk: (bytes) => parts.push(bytes),
        end: () => resolve({ status, text: Buffer.concat(parts).toString('utf8') }),
        failed: (message) => reject(new Error(`${this.name}: ${path}: ${message}`)),
      })
    })
  }

  #hostinfo(): NonNullable<MapRequest['Hostinfo']> {
    return {
      IPNVersion: '1.102.5',
      BackendLogID: '0'.repeat(64),
      OS: 'linux',
      OSVersion: '6.1.0',
      Distro: 'debian',
      DistroVersion: '12',
      Hostname: this.name,
      Machine: 'x86_64',
      GoArch: 'amd64',
      Services: [{ Proto: 'peerapi4', Port: 40_000 + (this.index % 20_000) }],
      NetInfo: { MappingVariesByDestIP: false, WorkingUDP: true, PreferredDERP: 900, DERPLatency: { '900-v4': 0.001 } },
    }
  }
}

function post(path: string, body: object): { method: string; path: string; headers: Readonly<Record<string, string>>; body: Uint8Array } {
  return { method: 'POST', path, headers: { 'content-type': 'application/json' }, body: encodeJson(body) }
}
