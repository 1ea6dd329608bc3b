import { after, earlier, type Instant, type Outbox, type RandomSource } from '@meshwright/core'
import { countJsonItems, decodeDocument, decodeMapResponse, MapChunkReader, MAX_JSON_ITEMS, type MapChunkReaderOptions, type MapRequest, type MapResponse } from '@meshwright/control-protocol'
import { Backoff } from './backoff.ts'
import type { ControlClientOutput, ControlProblemCode } from './events.ts'
import type { Requests, StreamEvent } from './requests.ts'

/** What a map session needs from the client around it. */
export interface MapSessionSurroundings {
  readonly outbox: Outbox<ControlClientOutput>
  readonly requests: Requests
  readonly random: RandomSource
  readonly request: () => MapRequest
  /** One frame; `first` for the first that is no keepalive. Gives `false` when it cannot be used: the poll is then dropped. */
  readonly frame: (now: Instant, response: MapResponse, first: boolean) => boolean
  /** The server does not know the node key. Gives `true` when something else is done about it than to poll again. */
  readonly unknown: (now: Instant) => boolean
  readonly reader: MapChunkReaderOptions
}

/** A poll that is silent for this long is dead (tailscale/tailscale:control/controlclient/direct.go; servers send every 50 to 60 s). */
export const WATCHDOG_MS = 120_000
const MAX_SLEEP_MS = 300_000
/** A stream that lasted this long was a success: the next try comes at once. One that ends sooner, frames or not, is a failure more. */
const STEADY_MS = 5_000
/**
 * What the frames of one stream may come to. Deltas add to the map, so it is the stream that bounds its memory; a new stream begins with what is
 * in force, so that an honest server loses one round trip.
 */
const MAX_STREAM_BYTES = 268_435_456
const MAX_STREAM_ITEMS = 2 * MAX_JSON_ITEMS

type MapPhase =
  | { readonly state: 'stopped' }
  | { readonly state: 'polling'; readonly id: number; readonly reader: MapChunkReader; status: number; frames: number; bytes: number; items: number; readonly begun: Instant; due: Instant }
  /** `asked`: the server wants the pause. */
  | { readonly state: 'waiting'; readonly due: Instant; readonly asked: boolean }

/**
 * The long poll: keeps exactly one open while started, starts it again after any end.
 *
 * | state | edge | to |
 * |---|---|---|
 * | stopped | start | polling |
 * | polling | end, failure, unreadable frame | waiting (back-off; none before the first failure in a row) |
 * | polling | 120 s without a frame, reconnect | polling, anew |
 * | waiting | time | polling |
 * | any | stop | stopped |
 */
export class MapSession {
  readonly #around: MapSessionSurroundings
  readonly #backoff: Backoff
  #phase: MapPhase = { state: 'stopped' }
  #up = false

  constructor(around: MapSessionSurroundings) {
    this.#around = around
    this.#backoff = new Backoff(around.random)
  }

  get state(): MapPhase['state'] {
    return this.#phase.state
  }

  /** Whether the running poll has given a map. */
  get up(): boolean {
    return this.#up
  }

  get due(): Instant | undefined {
    return this.#phase.state === 'stopped' ? undefined : earlier(this.#phase.due, undefined)
  }

  /** Starts a new poll, instead of a running one. */
  start(now: Instant): void {
    this.stop()
    this.#backoff.reset()
    this.#poll(now)
  }

  stop(): void {
    if (this.#phase.state === 'polling') this.#around.requests.cancel(this.#phase.id)
    this.#phase = { state: 'stopped' }
    this.#setUp(false)
  }

  /** The network has changed: what failed before may work now. A poll that is open is left to its connection. */
  networkChanged(now: Instant): void {
    if (this.#phase.state !== 'waiting' || this.#phase.asked) return
    this.#backoff.reset()
    this.#poll(now)
  }

  /** This node itself gives its connection up: the poll that was on it goes on with a new one, and that is no failure of the server. */
  reconnect(now: Instant): void {
    if (this.#phase.state !== 'polling') return this.networkChanged(now)
    this.#around.requests.cancel(this.#phase.id)
    this.#setUp(false)
    this.#backoff.reset()
    this.#poll(now)
  }

  handleTimeout(now: Instant): void {
    const phase = this.#phase
    if (phase.state === 'stopped' || now < phase.due) return
    if (phase.state === 'waiting') return this.#poll(now)
    this.#around.requests.cancel(phase.id)
    this.#setUp(false)
    this.#problem('CONTROL_MAP_SILENT', `the control server has been silent for ${WATCHDOG_MS / 1000} s: polling anew`, 0)
    this.#poll(now)
  }

  #poll(now: Instant): void {
    const body = this.#around.request()
    const id = this.#around.requests.stream(now, { path: '/machine/map', body, nodeKeys: [body.NodeKey] }, (at, event) => this.#take(at, event))
    this.#phase = { state: 'polling', id, reader: new MapChunkReader(this.#around.reader), status: 0, frames: 0, bytes: 0, items: 0, begun: now, due: after(now, WATCHDOG_MS) }
  }

  #take(now: Instant, event: StreamEvent): void {
    const phase = this.#phase
    if (phase.state !== 'polling') return
    if (event.type === 'failed') return this.#again(now, 'CONTROL_UNREACHABLE', `the connection to the control server failed: ${event.message}`)
    if (event.type === 'end') {
      if (phase.status === 200 && phase.frames > 0) return this.#again(now, 'CONTROL_UNREACHABLE', 'the control server ended the map stream')
      return this.#again(now, 'CONTROL_MAP_REFUSED', 'the control server ended the map stream before its first frame')
    }
    if (event.type === 'head') {
      phase.status = event.status
      if (event.status === 200) return
      this.#around.requests.cancel(phase.id)
      if (event.status === 404 && this.#around.unknown(now)) return
      if (event.status === 404) return this.#again(now, 'CONTROL_NODE_UNKNOWN', 'the control server does not know this node (any more): log in again if it was deleted')
      return this.#again(now, 'CONTROL_MAP_REFUSED', `the control server answered the map poll with status ${event.status}`)
    }
    phase.reader.push(event.bytes)
    for (let bytes = phase.reader.next(); bytes !== undefined; bytes = phase.reader.next()) {
      if (!this.#frame(now, phase, bytes)) return
      if (this.#phase !== phase) return // the frame itself has stopped or restarted the poll
    }
    if (phase.reader.failure !== undefined) this.#drop(now, `a frame of the map stream cannot be unpacked (${phase.reader.failure})`)
  }

  #frame(now: Instant, phase: MapPhase & { state: 'polling' }, bytes: Uint8Array): boolean {
    phase.due = after(now, WATCHDOG_MS)
    phase.bytes += bytes.length
    phase.items += countJsonItems(bytes)
    if (phase.frames > 0 && (phase.bytes > MAX_STREAM_BYTES || phase.items > MAX_STREAM_ITEMS)) {
      this.#drop(now, 'the control server has sent more in one stream than a map can hold: polling anew')
      return false
    }
    const decoded = decodeDocument(decodeMapResponse, bytes)
    if (!decoded.ok) {
      this.#drop(now, `a frame of the map stream cannot be read: ${decoded.path} ${decoded.problem}`)
      return false
    }
    const response = decoded.value
    const usable = this.#around.frame(now, response, phase.frames === 0)
    if (this.#phase !== phase) return true
    if (!usable) {
      this.#drop(now, 'the first frame of the map stream does not say who this node is')
      return false
    }
    if (response.KeepAlive !== true) {
      phase.frames += 1
      this.#setUp(true)
    }
    const askedMs = Math.min((response.Debug?.SleepSeconds ?? 0) * 1000, MAX_SLEEP_MS)
    if (askedMs > 0) {
      const sleepMs = Math.max(askedMs, this.#pauseMs(now)) // who asks for a millisecond behind each frame is not asked a thousand times a second
      this.#problem('CONTROL_MAP_SILENT', `the control server has asked this node to be silent for ${sleepMs / 1000} s`, sleepMs)
      this.#around.requests.cancel(phase.id)
      this.#setUp(false)
      this.#phase = { state: 'waiting', due: after(now, sleepMs), asked: true }
    }
    return true
  }

  #drop(now: Instant, message: string): void {
    if (this.#phase.state === 'polling') this.#around.requests.cancel(this.#phase.id)
    this.#again(now, 'CONTROL_MAP_UNREADABLE', message)
  }

  #again(now: Instant, code: ControlProblemCode, message: string): void {
    const waitMs = this.#pauseMs(now)
    this.#setUp(false)
    this.#problem(code, message, waitMs)
    this.#phase = { state: 'waiting', due: after(now, waitMs), asked: false }
  }

  /** How long to wait behind the stream that ends now. */
  #pauseMs(now: Instant): number {
    const phase = this.#phase
    if (phase.state === 'polling' && phase.frames > 0 && now - phase.begun >= STEADY_MS) this.#backoff.reset()
    return this.#backoff.nextMs()
  }

  #problem(code: ControlProblemCode, message: string, retryInMs: number): void {
    this.#around.outbox.push({ type: 'problem', code, message, retryInMs })
  }

  #setUp(up: boolean): void {
    if (this.#up === up) return
    this.#up = up
    this.#around.outbox.push({ type: 'polling', up })
  }
}
