import { MachinePrivateKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, replay, stranger } from '../hostile/control-liars.ts'
import { FLOODS, rawHttp2 } from '../hostile/http2-liars.ts'
import { Crowd, talk, upgradeHead } from '../hostile/wire.ts'
import { LIES, type LieKind } from './lies.ts'
import { LightClient } from './light-client.ts'
import { pause } from './process.ts'

// Lies to a control server on loopback: `liar-process URL AUTH_KEY HALF_OPEN`. Told `{kind, ms}` it lies in that way for so long, and says
// `begun` when what it holds stands and `done` when it has let go of everything.
const PAUSE_MS = 20
const REOPENED_EVERY_MS = 100
const REOPENED_AT_ONCE = 100
const [url = '', authKey = '', halfOpen = '0'] = process.argv.slice(2)
const port = Number(new URL(url).port)
const HALF = upgradeHead(Buffer.alloc(101, 1)).slice(0, 120)

process.on('disconnect', () => process.exit())
process.on('message', (order: { readonly kind: string; readonly ms: number }) => {
  const kind = LIES.find((each) => each === order.kind)
  if (kind !== undefined) void lie(kind, order.ms).then(() => process.send?.('done'))
})

async function lie(kind: LieKind, ms: number): Promise<void> {
  const key = await fetchControlKey({ url })
  let until = 0
  const begun = (): void => {
    process.send?.('begun')
    until = performance.now() + ms
  }
  const repeat = async (one: () => Promise<unknown>): Promise<void> => {
    while (performance.now() < until) {
      await one().catch(() => undefined) // refused: as it should be
      await pause(PAUSE_MS)
    }
  }
  /** Holds so many connections: those that are closed are opened again. */
  const hold = async (count: number, first: string): Promise<void> => {
    const crowd = new Crowd()
    await crowd.open(port, count, first)
    begun()
    let seen = crowd.closed
    while (performance.now() < until) {
      await pause(REOPENED_EVERY_MS)
      const gone = Math.min(REOPENED_AT_ONCE, crowd.closed - seen)
      seen += gone
      await crowd.open(port, gone, first)
    }
    crowd.close()
  }
  let turn = 0
  const next = <T>(list: readonly T[]): T | undefined => list[(turn += 1) % list.length]
  const handshakes = (): Promise<unknown> => talk(port, [next(BAD_HANDSHAKES)?.[1] ?? ''], 200)
  const records = (): Promise<unknown> => replay(port, [next(BAD_RECORDS)?.[1] ?? new Uint8Array(0)], 200)
  const bodies = async (): Promise<void> => {
    const connection = await stranger(url, key)
    for (const [, target, body] of badBodies(`nodekey:${'cd'.repeat(32)}`)) {
      if (performance.now() > until) break
      await ask(connection, target, body)
      await pause(PAUSE_MS)
    }
    connection.close()
  }
  const endless = async (): Promise<void> => {
    const connection = await stranger(url, key)
    await ask(connection, '/machine/map', Buffer.alloc(4 << 20, 0x20))
    connection.close()
  }
  const floods = async (): Promise<void> => {
    const raw = await rawHttp2(url, key)
    await Promise.race([next(FLOODS)?.[2](raw, 2_000), pause(500)])
    raw.close()
  }
  const logins = async (): Promise<void> => {
    const connection = await stranger(url, key)
    const wanted = (): Uint8Array => Buffer.from(JSON.stringify({ Version: 142, NodeKey: `nodekey:${Buffer.from(systemRandom(32)).toString('hex')}`, Auth: { AuthKey: 'hskey-auth-x' }, Hostinfo: { Hostname: 'x' } }))
    for (let i = 0; i < 5; i += 1) await Promise.all(Array.from({ length: 4 }, () => ask(connection, '/machine/register', wanted())))
    connection.close()
  }
  const strangers = async (): Promise<void> => {
    const raw = await rawHttp2(url, key, MachinePrivateKey.generate(systemRandom))
    setTimeout(() => raw.close(), 2_000).unref()
  }
  switch (kind) {
    case 'half-open handshakes':
      return hold(Number(halfOpen), HALF)
    case 'silent connections':
      return hold(Number(halfOpen), '')
    case 'polls without end': {
      const member = new LightClient(9_999, { frame: () => undefined, lost: () => undefined })
      await member.join(url, key, authKey)
      await member.poll()
      begun()
      await repeat(() => member.polls(20))
      return member.drop()
    }
    case 'all at once': {
      const held = hold(Number(halfOpen), HALF)
      while (until === 0) await pause(10)
      await Promise.all([held, repeat(handshakes), repeat(records), repeat(bodies), repeat(endless)])
      return
    }
    default: {
      const one = { 'bad handshakes': handshakes, 'replayed records': records, 'bad bodies': bodies, 'endless bodies': endless, 'HTTP/2 floods': floods, 'false keys': logins, 'strangers that ask nothing': strangers }[kind]
      begun()
      await Promise.all([repeat(one), repeat(one), repeat(one)])
    }
  }
}
