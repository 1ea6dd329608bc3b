import { MachinePrivateKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, replay, stranger } from '../hostile/control-liars.ts'
import { FLOODS, rawHttp2 } from '../hostile/http2-liars.ts'
import { outsideFrom } from '../hostile/outside-from.ts'
import { Crowd, LIAR_ADDRESS, LIAR_ADDRESSES, talk, upgradeHead } from '../hostile/wire.ts'
import { LIES, type LieKind } from './lies.ts'
import { LightClient } from './light-client.ts'
import { pause } from './process.ts'

// Lies to a control server on loopback, from sixteen addresses: `liar-process URL AUTH_KEY HALF_OPEN`. Told `{kind, ms}` it lies in that way
// for so long, and says `begun` when what it holds stands and `{conversations}` when it has let go of everything.
/** Conversations that go on at any time, without a pause: there is always more to do for the server than it does. */
const AT_ONCE = 24
const REOPENED_EVERY_MS = 100
const REOPENED_AT_ONCE = 100
const GIVEN_UP_MS = 2_000
const [url = '', authKey = '', halfOpen = '0'] = process.argv.slice(2)
const port = Number(new URL(url).port)
const HALF = upgradeHead(Buffer.alloc(101, 1)).slice(0, 120)

process.on('disconnect', () => process.exit())
process.on('message', (order: { readonly kind: string; readonly ms: number }) => {
  const kind = LIES.find((each) => each === order.kind)
  if (kind !== undefined) void lie(kind, order.ms).then((conversations) => process.send?.({ conversations }))
})

async function lie(kind: LieKind, ms: number): Promise<number> {
  const key = await fetchControlKey({ url })
  let until = 0
  let conversations = 0
  const begun = (): void => {
    process.send?.('begun')
    until = performance.now() + ms
  }
  const repeat = async (one: () => Promise<unknown>, atOnce: number = AT_ONCE): Promise<void> => {
    const again = async (): Promise<void> => {
      while (performance.now() < until) {
        await Promise.race([one().catch(() => undefined), pause(Math.max(0, until - performance.now()) + GIVEN_UP_MS)]) // refused: as it should be
        conversations += 1
      }
    }
    await Promise.all(Array.from({ length: atOnce }, again))
  }
  /** Holds so many connections: those that are closed are opened again. */
  const hold = async (count: number, first: string): Promise<void> => {
    const crowd = new Crowd()
    await crowd.open(port, count, first, 250, LIAR_ADDRESSES)
    begun()
    let seen = crowd.closed
    while (performance.now() < until) {
      await pause(REOPENED_EVERY_MS)
      const gone = Math.min(REOPENED_AT_ONCE, crowd.closed - seen)
      seen += gone
      conversations += gone
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
      await repeat(() => member.polls(20), 3)
      member.drop()
      break
    }
    case 'all at once': {
      const held = hold(Number(halfOpen), HALF)
      while (until === 0) await pause(10)
      await Promise.all([held, ...[handshakes, records, bodies, endless, floods, logins, strangers].map((one) => repeat(one, AT_ONCE / 6))])
      break
    }
    default: {
      const one = { 'bad handshakes': handshakes, 'replayed records': records, 'bad bodies': bodies, 'endless bodies': endless, 'HTTP/2 floods': floods, 'false keys': logins, 'strangers that ask nothing': strangers }[kind]
      begun()
      await repeat(one)
    }
  }
  return conversations
}
