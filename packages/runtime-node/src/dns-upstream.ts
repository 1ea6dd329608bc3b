import type dgram from 'node:dgram'
import type net from 'node:net'
import type { DnsTransport } from '@meshwright/magicdns'
import { formatIp, parseEndpoint, parseIp } from '@meshwright/ip'
import { type Outside, systemOutside } from './outside.ts'

const DNS_PORT = 53
/** A query is given up after this time (tailscale/tailscale:net/dns/resolver/forwarder.go); the resolver itself may give up before. */
const QUESTION_MS = 10_000
const MAX_QUESTIONS = 256
const LENGTH_BYTES = 2
/** So many datagrams of one server are told for one question. */
const MAX_UDP_ANSWERS = 16

/** What a server has said; without bytes it cannot be asked. */
export interface DnsUpstreamAnswer {
  readonly token: number
  readonly upstream: string
  readonly transport: DnsTransport
  readonly bytes: Uint8Array | undefined
}

/** Asks DNS servers by UDP and TCP, for the resolver of a node. Whoever answers is checked by address; what is answered is the resolver's to check. */
export class DnsUpstreams {
  readonly #onAnswer: (answer: DnsUpstreamAnswer) => void
  readonly #outside: Outside
  readonly #questions: Map<number, Set<() => void>> = new Map()

  constructor(onAnswer: (answer: DnsUpstreamAnswer) => void, outside: Outside = systemOutside) {
    this.#onAnswer = onAnswer
    this.#outside = outside
  }

  /** Asks each of the servers: addresses, with or without a port. */
  ask(token: number, bytes: Uint8Array, upstreams: readonly string[], transport: DnsTransport): void {
    for (const upstream of upstreams) {
      const ip = parseIp(upstream)
      const to = ip === undefined ? parseEndpoint(upstream) : { ip, port: DNS_PORT }
      const tell = (answer: Uint8Array | undefined): void => this.#onAnswer({ token, upstream, transport, bytes: answer })
      // Names and URLs of servers are not asked; a full table says no rather than growing.
      if (to === undefined || this.#size() >= MAX_QUESTIONS) queueMicrotask(() => tell(undefined))
      else this.#track(token, transport === 'udp' ? askUdp(this.#outside, to.ip.family, formatIp(to.ip), to.port, bytes, tell) : askTcp(this.#outside, formatIp(to.ip), to.port, bytes, tell))
    }
  }

  /** Nobody waits for the answers of this token any more. */
  cancel(token: number): void {
    for (const stop of this.#questions.get(token) ?? []) stop()
    this.#questions.delete(token)
  }

  /** Gives up all questions. */
  close(): void {
    for (const token of [...this.#questions.keys()]) this.cancel(token)
  }

  #track(token: number, question: Question): void {
    const stops = this.#questions.get(token) ?? new Set()
    stops.add(question.stop)
    this.#questions.set(token, stops)
    void question.over.then(() => {
      stops.delete(question.stop)
      if (stops.size === 0 && this.#questions.get(token) === stops) this.#questions.delete(token)
    })
  }

  #size(): number {
    let size = 0
    for (const stops of this.#questions.values()) size += stops.size
    return size
  }
}

interface Question {
  readonly stop: () => void
  readonly over: Promise<void>
}

function question(close: () => void, tell: (bytes: Uint8Array | undefined) => void): Question & { readonly end: (bytes: Uint8Array | undefined) => void } {
  let finished: () => void = () => undefined
  const over = new Promise<void>((resolve) => {
    finished = resolve
  })
  let isOver = false
  const stop = (): void => {
    if (isOver) return
    isOver = true
    clearTimeout(timer)
    close()
    finished()
  }
  const end = (bytes: Uint8Array | undefined): void => {
    if (isOver) return
    stop()
    tell(bytes)
  }
  const timer = setTimeout(() => end(undefined), QUESTION_MS)
  return { stop, over, end }
}

function askUdp(outside: Outside, family: 4 | 6, address: string, port: number, bytes: Uint8Array, tell: (bytes: Uint8Array | undefined) => void): Question {
  let socket: dgram.Socket | undefined
  const asked = question(() => socket?.close(), tell)
  let isOver = false
  void asked.over.then(() => (isOver = true))
  outside
    .bindUdp(family === 4 ? 'udp4' : 'udp6', 0, undefined)
    .then((opened) => {
      if (isOver) return void opened.close()
      socket = opened
      opened.on('error', () => asked.end(undefined))
      // Connected: the kernel hands over nothing of anybody else, and tells of a closed port.
      // What does not fit the question is passed over by the resolver, and the honest answer may come behind it: it cancels what it has an answer to.
      let heard = 0
      opened.on('message', (answer: Uint8Array) => {
        heard += 1
        if (heard >= MAX_UDP_ANSWERS) asked.end(answer)
        else tell(answer)
      })
      opened.connect(port, address, (error?: Error | null) => {
        if (error) asked.end(undefined) // no way there, such as while a computer has no network
        else if (!isOver) opened.send(bytes)
      })
    })
    .catch(() => asked.end(undefined)) // no socket, or a port that is none
  return asked
}

function askTcp(outside: Outside, address: string, port: number, bytes: Uint8Array, tell: (bytes: Uint8Array | undefined) => void): Question {
  let socket: net.Socket | undefined
  const asked = question(() => socket?.destroy(), tell)
  let isOver = false
  void asked.over.then(() => (isOver = true))
  const prefix = Buffer.alloc(LENGTH_BYTES)
  prefix.writeUInt16BE(bytes.length)
  let received: Buffer = Buffer.alloc(0)
  outside.connect(address, port).then(
    (opened) => {
      opened.on('error', () => asked.end(undefined))
      if (isOver) return void opened.destroy()
      socket = opened
      opened.on('connect', () => opened.write(Buffer.concat([prefix, bytes])))
      opened.on('close', () => asked.end(undefined))
      opened.on('data', (more: Buffer) => {
        received = Buffer.concat([received, more])
        const length = received.length < LENGTH_BYTES ? undefined : received.readUInt16BE(0)
        if (length !== undefined && received.length >= LENGTH_BYTES + length) asked.end(received.subarray(LENGTH_BYTES, LENGTH_BYTES + length))
      })
    },
    () => asked.end(undefined),
  )
  return asked
}
