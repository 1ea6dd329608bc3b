import dgram from 'node:dgram'
import { encodeBindingRequest } from '@meshwright/nat-traversal'
import { systemRandom } from '@meshwright/runtime-node/relay'
import { BAD_FRAMES, BAD_HEADS, BAD_INTRODUCTIONS, badDatagrams, introduction, introductionOf, ODD_INTRODUCTIONS, pingsAndPackets, RECORDED_SESSIONS, unknownFrames, WEB_SOCKET_CLAIMS, WEB_SOCKET_HEAD } from '../hostile/relay-liars.ts'
import { DERP_HEAD, LIAR_ADDRESS, talk } from '../hostile/wire.ts'
import type { LiarResult } from './liar-rounds.ts'
import { isTlsLie, type RelayLieKind } from './lies.ts'
import { AT_ONCE, lieInTls, Lying } from './lying.ts'
import { pause } from './process.ts'

// Lies to a relay on loopback and to its STUN: `relay-liar-process HALF_OPEN`. Told `{kind, ms, port, stunPort, perSecond}` it does as `liar-process`.
const [halfOpen = '0'] = process.argv.slice(2)
const HALF = DERP_HEAD.slice(0, 30)
/** Datagrams of one conversation, behind which a question waits for its answer: what a socket cannot hold is lost whoever sent it. Frames of one. */
const DATAGRAMS = 5
const FRAMES = 1_000
const ENDLESS_BYTES = 1 << 20
const LISTEN_MS = 200

process.on('disconnect', () => process.exit())

/** What is to be done: see `LiarOrder`. */
export interface RelayLiarOrder {
  readonly kind: RelayLieKind
  readonly ms: number
  readonly port: number
  readonly stunPort: number
  readonly perSecond: number | undefined
}

const good = encodeBindingRequest(systemRandom(12))
/** Who waits for an answer, in the order in which they asked. */
const answers: ((value: unknown) => void)[] = []
const liar = dgram.createSocket('udp4').bind(0, LIAR_ADDRESS)
liar.on('message', () => answers.shift()?.(undefined))
const datagrams = badDatagrams()
const endless = unknownFrames(ENDLESS_BYTES)

process.on('message', (order: RelayLiarOrder) => void lie(order).then((result) => process.send?.(result)))

async function lie({ kind, ms, port, stunPort, perSecond }: RelayLiarOrder): Promise<LiarResult> {
  const lying = new Lying({ port, ms, perSecond, onBegun: () => process.send?.('begun') })
  const say = (...chunks: Parameters<typeof talk>[1]): Promise<unknown> => talk(port, chunks, LISTEN_MS, lying.from())
  const heads = (): Promise<unknown> => {
    const [head, claim] = lying.next([...BAD_HEADS.map(([, bytes]) => [bytes, undefined] as const), ...WEB_SOCKET_CLAIMS.map((bytes) => [WEB_SOCKET_HEAD, bytes] as const)]) ?? (['', undefined] as const)
    return claim === undefined ? say(head) : say(head, () => claim)
  }
  const introductions = (): Promise<unknown> => {
    const one = lying.next([...BAD_INTRODUCTIONS.map(([, bytes]) => () => bytes), ...ODD_INTRODUCTIONS.map(([, text]) => (received: Buffer) => introductionOf(received, text))])
    return say(DERP_HEAD, one ?? '')
  }
  const sessions = (): Promise<unknown> => say(DERP_HEAD, () => lying.next(RECORDED_SESSIONS)?.[1] ?? Buffer.alloc(0))
  const frames = (): Promise<unknown> => say(DERP_HEAD, (received) => introduction(received, lying.next(BAD_FRAMES)?.[1] ?? Buffer.alloc(0)))
  const withoutEnd = (): Promise<unknown> => say(DERP_HEAD, (received) => introduction(received, endless))
  const pings = (): Promise<unknown> => say(DERP_HEAD, (received) => introduction(received, pingsAndPackets(FRAMES)))
  const stun = async (): Promise<void> => {
    const answered = new Promise((resolve) => answers.push(resolve))
    for (let i = 0; i < DATAGRAMS; i += 1) liar.send(lying.next(datagrams) ?? '', stunPort, '127.0.0.1')
    liar.send(good, stunPort, '127.0.0.1')
    await Promise.race([answered, pause(LISTEN_MS)])
  }
  if (isTlsLie(kind)) await lieInTls(lying, kind, port, Number(halfOpen))
  else if (kind === 'half-open upgrades') await lying.hold(Number(halfOpen), HALF)
  else if (kind === 'silent connections') await lying.hold(Number(halfOpen), '')
  else if (kind === 'all at once') {
    const all = [heads, introductions, sessions, frames, withoutEnd, pings, stun]
    await lying.holdBeside(Number(halfOpen), HALF, perSecond === undefined ? AT_ONCE / 6 : AT_ONCE / all.length, all)
  } else {
    const one = { 'bad heads and WebSockets': heads, 'bad introductions': introductions, 'replayed sessions': sessions, 'bad frames': frames, 'frames without end': withoutEnd, 'pings and packets to nobody': pings, 'bad datagrams': stun }[kind]
    lying.begin()
    await lying.repeat(one)
  }
  return lying.result
}
