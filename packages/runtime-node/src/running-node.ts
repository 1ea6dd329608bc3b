import type http from 'node:http'
import type { Duplex } from 'node:stream'
import type { NetworkMap } from '@meshwright/control-client'
import type { MeshStatus, PathStory, PingKind, PingResult, Prefs, WhoIs } from '@meshwright/mesh'
import type { JsonObject } from './go-prefs.ts'

/** How a node is started. */
export interface MeshNodeOptions {
  /** The control server's address, `https://control.example` or `http://127.0.0.1:8080`. */
  readonly controlUrl: string
  /** Where keys and preferences are kept, mode 0600, written atomically. Absent: in memory, for ephemeral nodes and tests. */
  readonly stateFile?: string
  readonly hostname?: string
  /** A pre-auth key: logs in without a person. */
  readonly authKey?: string
  /** Logs out on `close`, so that the control server forgets the node. */
  readonly ephemeral?: boolean
  /** UDP port for WireGuard, disco and STUN; 0 or absent: any free one. */
  readonly port?: number
  readonly advertiseRoutes?: readonly string[]
  readonly advertiseTags?: readonly string[]
  readonly acceptRoutes?: boolean
  readonly shieldsUp?: boolean
  /** Loopback addresses count as endpoints: only for several nodes on one machine, as demos and tests have. */
  readonly allowLoopback?: boolean
  /** Never use UDP: everything goes by relay. For networks that block UDP, and for demos and tests of that. */
  readonly blockUdp?: boolean
  /** Start in the state `stopped` when the state file says so (daemons); embedders leave it out and are up. */
  readonly respectStoredPrefs?: boolean
  /** Ends the start: nothing stays open, and the promise rejects with its reason. Afterwards it means nothing: see `close`. */
  readonly signal?: AbortSignal
  /** Called when a person must open a URL to log this node in. */
  readonly onAuthUrl?: (url: string) => void
  /** One line of what happens, without secrets; `level` is `debug`, `info` or `warn`. */
  readonly log?: (level: 'debug' | 'info' | 'warn', line: string) => void
}

/** Who carries a node's packets, and how that is doing. */
export interface DataPlaneReport {
  /** `worker`: a thread of its own, in rows. `portable`: the event loop, between a TUN device and sockets. `userspace`: the node's own TCP/IP stack. */
  readonly lane: 'worker' | 'portable' | 'userspace'
  /** In userspace: how datagrams come and go. `calls`: many for each system call (Linux, with `koffi`). `singles`: one for each, by Node. */
  readonly datagrams?: 'calls' | 'singles'
  /** Why it is no better one, or that it has ended for good. */
  readonly reason?: string
  /** Which offloads are in use. Absent while a worker has told nothing yet, like `counters`. */
  readonly offloads?: Readonly<Record<string, boolean>>
  /** What went through, by the same names on every lane; in userspace the stack of the node stands for the TUN device. */
  readonly counters?: Readonly<Record<string, number>>
  /** How often a worker died and was started again; 0 where there is none. */
  readonly restarts?: number
}

/** A connection over the mesh: a stream in `node:net` terms. */
export interface MeshSocket extends Duplex {
  readonly remoteAddress: string
  readonly remotePort: number
  readonly localAddress: string
  readonly localPort: number
  /** Emits `timeout` after so many milliseconds without a byte in either direction; 0 for never. */
  setTimeout(ms: number, listener?: () => void): this
  /** Here for programs that were written for `net.Socket`: nothing is held back anyway. */
  setNoDelay(on?: boolean): this
  setKeepAlive(on?: boolean, delayMs?: number): this
  /** Breaks it: the other end sees a reset, and no orderly end. */
  resetAndDestroy(): this
  /** A connection over the mesh never keeps the process alive; its node does. */
  ref(): this
  unref(): this
}

/** Whoever has a far end: a `MeshSocket`, or a socket of Node. */
export interface HasRemote {
  readonly remoteAddress?: string | undefined
}

/** What came by such a connection: a request to an HTTP server on the mesh. */
export interface HasSocket {
  readonly socket: HasRemote
}

/** A listener on the mesh. */
export interface MeshListener {
  readonly port: number
  close(): void
}

/** A UDP socket on the mesh. */
export interface MeshUdpSocket {
  readonly port: number
  /** `false` when it was dropped: the socket or its node is closed, or the node has no address now that reaches that one. Throws for what is no address, port or datagram. */
  send(bytes: Uint8Array, port: number, address: string): boolean
  close(): void
}

/** How `up` asks for a login. */
export interface LoginOptions {
  readonly authKey?: string
  /** Makes a new node key even if the present one is still good. */
  readonly forceReauth?: boolean
  /** Turns to another control server: the node starts anew there. */
  readonly controlUrl?: string
}

/** How long `ready` waits, and for what. */
export interface ReadyOptions {
  readonly signal?: AbortSignal
  /** Then it rejects with `RUNTIME_NOT_READY`. Absent: never. */
  readonly timeoutMs?: number
  /** How many of the peers that are online must have answered, at most: default 8; 0 takes the word of the control server alone. */
  readonly peers?: number
}

/** A node that runs. All of it works without root. */
export interface RunningNode {
  status(): MeshStatus
  prefs(): Prefs
  /**
   * Resolves once peers know this node: it is logged in and has a fresh map, its home relay has let it in, the control server has
   * answered that it took its endpoints and home relay, and peers that are online have answered a ping (or had 3 s for it). Rejects with
   * a `NotReadyError`, whose `step` names what hangs, when the time is over, the signal aborts, or the node is closed.
   */
  ready(wait?: AbortSignal | ReadyOptions): Promise<void>
  /** Changes preferences; they are on disk when it returns. */
  setPrefs(change: Partial<Prefs>): void
  /** Takes part: sets `wantRunning`, logs in where that is needed. */
  up(login?: LoginOptions): void
  /** Takes no part, stays known. */
  down(): void
  /** Tells the control server that this node's key is no more, and forgets it. */
  logout(options?: { readonly signal?: AbortSignal }): Promise<void>
  /** Connects to `host` (name of the mesh or address) and `port`. Rejects with a plain reason. */
  dialTcp(host: string, port: number, options?: { readonly signal?: AbortSignal; readonly timeoutMs?: number }): Promise<MeshSocket>
  /** Accepts connections from the mesh that the policy allows; port 0 chooses one. */
  listenTcp(port: number, onConnection: (socket: MeshSocket) => void): MeshListener
  /** Binds a UDP port on the mesh; port 0 chooses one. */
  listenUdp(port: number, onMessage: (bytes: Uint8Array, from: { readonly address: string; readonly port: number }) => void): MeshUdpSocket
  /** Addresses of a name: of the mesh first, then of the system. */
  resolve(name: string, options?: { readonly signal?: AbortSignal }): Promise<readonly string[]>
  /** Pings a node: by disco, inside the tunnel (`TSMP`, `ICMP`), or its PeerAPI. `sizeBytes`: the length of the datagrams, of disco alone. */
  ping(address: string, kind: PingKind, options?: { readonly timeoutMs?: number; readonly sizeBytes?: number; readonly signal?: AbortSignal }): Promise<PingResult>
  /** Who stands behind `address`, `address:port`, a request to an HTTP server on the mesh, or the far end of a connection: `whois(request)`, `whois(socket)`. */
  whois(from: string | HasRemote | HasSocket): WhoIs | undefined
  /** An agent for Node's HTTP client whose connections go over the mesh: `http.get(url, { agent: node.agent() })`. */
  agent(options?: http.AgentOptions): http.Agent
  /** `fetch` over the mesh, for `http:` URLs of its names and addresses. Redirects are handed back, not followed. */
  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>
  /** The network map in force. */
  networkMap(): NetworkMap | undefined
  /** Who does the cryptography: `openssl-ffi`, `wasm`, `node` or `noble`; see `fastCryptoProvider`. */
  readonly crypto: string
  /** Name of the TUN device; `undefined` in userspace mode. */
  readonly tunName: string | undefined
  /** Members of tailscaled's preferences that this node keeps for other programs without acting on them, by their Go names. */
  foreignPrefs(): Readonly<JsonObject>
  /** Changes some of them; they are on disk when it returns. */
  setForeignPrefs(change: Readonly<JsonObject>): void
  /** Blocks or frees UDP while running: see `MeshNodeOptions.blockUdp`. */
  setUdpBlocked(blocked: boolean): void
  /** The story of a path: candidates, probes, what was refused and what was chosen, as lines for people. */
  explainPath(address: string): readonly string[]
  /** The same as data; `undefined` when nobody of the mesh is called so or has the address. */
  pathStory(address: string): PathStory | undefined
  /** Resolves when `status` and `explainPath` show this moment: a data plane in a thread of its own tells of itself a second late. */
  refresh(): Promise<void>
  /** Who carries packets, and how it is doing. */
  dataPlane(): Promise<DataPlaneReport>
  /** Calls `listener` after every change of `status()` that a person would notice. Returns the way to stop it. */
  onChange(listener: () => void): () => void
  /** Stops everything; nothing of it keeps the process alive afterwards. */
  close(): Promise<void>
}
