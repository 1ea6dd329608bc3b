import net from 'node:net'
import { MachinePrivateKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, replay, stranger } from '../hostile/control-liars.ts'
import { FLOODS, rawHttp2 } from '../hostile/http2-liars.ts'
import { outsideFrom } from '../hostile/outside-from.ts'
import { tlsLies } from '../hostile/tls-liars.ts'
import { Crowd, LIAR_ADDRESS, LIAR_ADDRESSES, talk, upgradeHead } from '../hostile/wire.ts'
import { LIES, type LieKind, TLS_LIES } from './lies.ts'
import { LightClient } from './light-client.ts'
import { pause } from './process.ts'

// Lies to a control server on loopback, from sixteen addresses: `liar-process HALF_OPEN`. Told `{kind, ms, url, authKey, perSecond}` it lies in
// that way for so long, and says `begun` when what it holds stands and `{conversations, offered}` when it has let go of everything.
/** Conversations that go on at any time, without a pause: there is always more to do for the server than it does. */
const AT_ONCE = 24
const REOPENED_EVERY_MS = 100
const REOPENED_AT_ONCE = 100
const GIVEN_UP_MS = 2_000
/** With a number of lies a second: begun whatever became of those before, as long as no more than so many are open. */
const MAX_OPEN = 4_000
const OFFERED_EVERY_MS = 5
const [halfOpen = '0'] = process.argv.slice(2)
const HALF = upgradeHead(Buffer.alloc(101, 1)).slice(0, 120)

process.on('disconnect', () => process.exit())
/** What is to be done. With `perSecond` lies are begun at that pace; without, each of a few liars begins the next when it is done with one. */
export interface LiarOrder {
  readonly kind: LieKind
  readonly ms: number
  readonly url: string
  readonly authKey: string
  readonly perSecond: number | undefined
  /** Whom to trust to speak for the server, where that has TLS of its own. */
  readonly ca?: string
}

/** What came of it: lies that were begun, and those that were over in time. */
export interface LiarResult {
  readonly conversations: number
  readonly offered: number
}

process.on('message', (order: LiarOrder) => {
  if ([...LIES, ...TLS_LIES].includes(order.kind)) void lie(order).then((result) => process.send?.(result))
})

async function lie({ kind, ms, url, authKey, perSecond, ca }: LiarOrder): Promise<LiarResult> {
  const port = Number(new URL(url).port)
  const key = await fetchControlKey({ url, ...(ca !== undefined && { ca }) })
  let until = 0
  let conversations = 0
  let offered = 0
  const begun = (): void => {
    process.send?.('begun')
    until = performance.now() + ms
  }
  const offer = async (one: () => Promise<unknown>, pace: number): Promise<void> => {
    const from = performance.now()
    let [begun, open] = [0, 0]
    while (performance.now() < until) {
      for (const due = ((performance.now() - from) / 1000) * pace; begun < due; begun += 1) {
        if (open >= MAX_OPEN) continue
        open += 1
        offered += 1
        const over = (): void => {
          open -= 1
          if (performance.now() < until) conversations += 1
        }
        one().then(over, over)
      }
      await pause(OFFERED_EVERY_MS)
    }
    for (const limit = performance.now() + GIVEN_UP_MS; open > 0 && performance.now() < limit; ) await pause(OFFERED_EVERY_MS)
  }
  const repeat = async (one: () => Promise<unknown>, atOnce: number = AT_ONCE): Promise<void> => {
    if (perSecond !== undefined) return offer(one, (perSecond * atOnce) / AT_ONCE)
    const again = async (): Promise<void> => {
      while (performance.now() < until) {
        offered += 1
        await Promise.race([one().catch(() => undefined), pause(Math.max(0, until - performance.now()) + GIVEN_UP_MS)]) // refused: as it should be
        conversations += 1
      }
    }
    await Promise.all(Array.from({ length: atOnce }, again))
  }
  /** Holds so many connections: those that are closed are opened again. */
  const hold = async (count: number, first: Uint8Array | string): Promise<void> => {
    const crowd = new Crowd()
    await crowd.open(port, count, first, 250, LIAR_ADDRESSES)
    begun()
    let seen = crowd.closed
    while (performance.now() < until) {
      await pause(REOPENED_EVERY_MS)
      const gone = perSecond === undefined ? Math.min(REOPENED_AT_ONCE, crowd.closed - seen) : Math.round((perSecond * REOPENED_EVERY_MS) / 1000)
      const done = Math.min(gone, crowd.closed - seen)
      seen += done
      conversations += done
      offered += gone
      await crowd.open(port, gone, first, 250, LIAR_ADDRESSES)
    }
    crowd.close()
  }
  let turn = 0
  const next = <T>(list: readonly T[]): T | undefined => list[(turn += 1) % list.length]
  const from = (): string => next(LIAR_ADDRESSES) ?? ''
  const handshakes = (): Promise<unknown> => talk(port, [next(BAD_HANDSHAKES)?.[1] ?? ''], 200, from())
  const records = (): Promise<unknown> => replay(port, [next(BAD_RECORDS)?.[1] ?? new Uint8Array(0)], 200, from())
  const bodies = async (): Promise<void> => {
    const connection = await stranger(url, key, from())
    for (const [, target, body] of badBodies(`nodekey:${'cd'.repeat(32)}`)) {
      if (performance.now() > until || !connection.usable) break
      await ask(connection, target, body)
    }
    connection.close()
  }
  const endless = async (): Promise<void> => {
    const connection = await stranger(url, key, from())
    await ask(connection, '/machine/map', Buffer.alloc(4 << 20, 0x20))
    connection.close()
  }
  const floods = async (): Promise<void> => {
    const raw = await rawHttp2(url, key, undefined, from())
    await Promise.race([next(FLOODS)?.[2](raw, 2_000), pause(500)])
    raw.close()
  }
  const logins = async (): Promise<void> => {
    const connection = await stranger(url, key, from())
    const wanted = (): Uint8Array => Buffer.from(JSON.stringify({ Version: 142, NodeKey: `nodekey:${Buffer.from(systemRandom(32)).toString('hex')}`, Auth: { AuthKey: 'hskey-auth-x' }, Hostinfo: { Hostname: 'x' } }))
    for (let i = 0; i < 5; i += 1) await Promise.all(Array.from({ length: 4 }, () => ask(connection, '/machine/register', wanted())))
    connection.close()
  }
  const strangers = async (): Promise<void> => {
    const raw = await rawHttp2(url, key, MachinePrivateKey.generate(systemRandom), from())
    setTimeout(() => raw.close(), 2_000).unref()
  }
  const inTls = TLS_LIES.some((each) => each === kind) ? await tlsLies() : []
  const [hello] = inTls.flatMap(([name, bytes]) => (name.startsWith('a ClientHello, and') ? [bytes] : []))
  const garbage = inTls.flatMap(([name, bytes]) => (bytes.length > 1 && !name.startsWith('half') && bytes !== hello ? [bytes] : []))
  const halfHello = hello?.subarray(0, hello.length >> 1) ?? ''
  const garbled = (): Promise<unknown> => talk(port, [next(garbage) ?? ''], 200, from())
  const brokenOff = (): Promise<void> => breakOff(port, hello ?? '', from())
  switch (kind) {
    case 'half-open handshakes':
      await hold(Number(halfOpen), HALF)
      break
    case 'silent connections':
      await hold(Number(halfOpen), '')
      break
    case 'polls without end': {
      const member = new LightClient(9_999, { frame: () => undefined, lost: () => undefined }, undefined, outsideFrom(LIAR_ADDRESS))
      await member.join(url, key, authKey)
      await member.poll()
      begun()
      await repeat(() => member.polls(20), perSecond === undefined ? 3 : AT_ONCE)
      member.drop()
      break
    }
    case 'all at once': {
      const held = hold(Number(halfOpen), HALF)
      while (until === 0) await pause(10)
      const all = [handshakes, records, bodies, endless, floods, logins, strangers]
      await Promise.all([held, ...all.map((one) => repeat(one, perSecond === undefined ? AT_ONCE / 6 : AT_ONCE / all.length))])
      break
    }
    case 'half-open TLS handshakes':
      await hold(Number(halfOpen), halfHello)
      break
    case 'all TLS lies at once': {
      const held = hold(Number(halfOpen), halfHello)
      while (until === 0) await pause(10)
      const all = [garbled, brokenOff]
      await Promise.all([held, ...all.map((one) => repeat(one, AT_ONCE / all.length))])
      break
    }
    default: {
      const one = { 'bad handshakes': handshakes, 'replayed records': records, 'bad bodies': bodies, 'endless bodies': endless, 'HTTP/2 floods': floods, 'false keys': logins, 'strangers that ask nothing': strangers, 'TLS handshakes broken off': brokenOff, 'garbage ClientHellos': garbled }[kind]
      begun()
      await repeat(one)
    }
  }
  return { conversations, offered }
}

/** Begins a TLS handshake, and goes when the server has done its part of it. */
function breakOff(port: number, hello: Uint8Array | string, localAddress: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1', localAddress }, () => socket.write(hello))
    socket.on('error', () => undefined) // ended by the server
    socket.once('data', () => socket.destroy())
    socket.once('close', () => resolve())
  })
}
