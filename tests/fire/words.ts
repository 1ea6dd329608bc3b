/** Which lane is put under fire. */
export type FireLane = 'mesh' | 'engine'

/** Packets of a kind, told apart by the port they go to (mesh) or the address they come from (engine). */
export const CHANNELS = ['always', 'odd', 'even', 'never'] as const
export type Channel = (typeof CHANNELS)[number]
/** The channel that a policy lets through beside `always`; `never` is in none. */
export type Allowed = 'odd' | 'even'

/** UDP ports of the channels on the mesh lane; on the bare engine all go to the first. */
export const PORTS: Readonly<Record<Channel, number>> = { always: 7000, odd: 7001, even: 7002, never: 7003 }
/** Addresses that the channels come from on the bare engine; on the mesh lane all come from the first. */
export const SOURCES: Readonly<Record<Channel, string>> = { always: '10.88.0.1', odd: '10.88.0.3', even: '10.88.0.4', never: '10.88.0.5' }
/** Addresses inside the tunnel of the end that sends and the end that answers. */
export const INNER: Readonly<Record<FireLane, readonly [string, string]>> = { mesh: ['100.64.0.1', '100.64.0.2'], engine: ['10.88.0.1', '10.88.0.2'] }

/** A peer that comes and goes, and that packets are sent to all the time: its number, its address inside, where it would be outside. */
export const GUEST: { readonly index: number; readonly inner: Readonly<Record<FireLane, string>>; readonly port: number } = { index: 50, inner: { mesh: '100.64.0.50', engine: '10.88.1.50' }, port: 10_050 }

/** Where packets of a channel come from and go to. */
export function endsOf(lane: FireLane, channel: Channel): { readonly source: string; readonly target: string; readonly port: number } {
  const [own, other] = INNER[lane]
  return lane === 'mesh' ? { source: own, target: other, port: PORTS[channel] } : { source: SOURCES[channel], target: other, port: PORTS.always }
}

/** Microseconds of the computer's clock that never jumps: the same in all processes. */
export function microseconds(): number {
  return Number(process.hrtime.bigint() / 1_000n)
}

/** What a node process is told, each answered by one line. */
export type NodeCommand =
  /** The peers beside the two ends, and who may come in. Answered once it is in force. */
  | { readonly op: 'apply'; readonly others: readonly number[]; readonly allowed: Allowed }
  | { readonly op: 'rekey' }
  /** Garbage is collected in both threads. */
  | { readonly op: 'collect' }
  | { readonly op: 'status' }
  | { readonly op: 'close' }

/** Every answer: when the command came and when it was done. */
export interface NodeAnswer {
  readonly begun: number
  readonly done: number
  readonly status?: NodeStatus
}

/** How a node process is doing. */
export interface NodeStatus {
  readonly mainHeapBytes: number
  readonly workerHeapBytes: number
  readonly rssBytes: number
  readonly descriptors: number
  /** Peers that the engine knows. */
  readonly peers: number
  /** Time of the last handshake with the other end; another one is another session. */
  readonly latestHandshake: number
  readonly restarts: number
  readonly counters: Readonly<Record<string, number>>
  readonly drops: Readonly<Record<string, number>>
}

/** What the answering end has seen since it last told. */
export interface Seen {
  /** Channel, when it was sent, when it was received. */
  readonly got: readonly (readonly [Channel, number, number])[]
  readonly answered: number
}

/** What the sending end has seen so far. */
export interface Sent {
  readonly sent: Readonly<Record<Channel, number>>
  readonly toGuest: number
  /** Answers on the channel `always` that came whole. */
  readonly whole: number
  readonly changed: number
  /** Answers that came twice, or after ten seconds. */
  readonly twice: number
  /** Not answered within ten seconds. */
  readonly lost: number
  readonly waiting: number
}
