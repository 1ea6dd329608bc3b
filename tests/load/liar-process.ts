import { MachinePrivateKey } from '@meshwright/crypto'
import { fetchControlKey, systemRandom } from '@meshwright/runtime-node/control'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, replay, stranger } from '../hostile/control-liars.ts'
import { FLOODS, rawHttp2 } from '../hostile/http2-liars.ts'
import { outsideFrom } from '../hostile/outside-from.ts'
import { LIAR_ADDRESS, talk, upgradeHead } from '../hostile/wire.ts'
import type { LiarResult } from './liar-rounds.ts'
import { isTlsLie, type LieKind } from './lies.ts'
import { LightClient } from './light-client.ts'
import { AT_ONCE, lieInTls, Lying } from './lying.ts'
import { pause } from './process.ts'

// Lies to a control server on loopback, from sixteen addresses: `liar-process HALF_OPEN`. Told `{kind, ms, url, authKey, perSecond}` it lies in
// that way for so long, and says `begun` when what it holds stands and `{conversations, offered}` when it has let go of everything.
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

process.on('message', (order: LiarOrder) => void lie(order).then((result) => process.send?.(result)))

async function lie({ kind, ms, url, authKey, perSecond, ca }: LiarOrder): Promise<LiarResult> {
  const port = Number(new URL(url).port)
  const key = await fetchControlKey({ url, ...(ca !== undefined && { ca }) })
  const lying = new Lying({ port, ms, perSecond, onBegun: () => process.send?.('begun') })
  const handshakes = (): Promise<unknown> => talk(port, [lying.next(BAD_HANDSHAKES)?.[1] ?? ''], 200, lying.from())
  const records = (): Promise<unknown> => replay(port, [lying.next(BAD_RECORDS)?.[1] ?? new Uint8Array(0)], 200, lying.from())
  const bodies = async (): Promise<void> => {
    const connection = await stranger(url, key, lying.from())
    for (const [, target, body] of badBodies(`nodekey:${'cd'.repeat(32)}`)) {
      if (lying.over || !connection.usable) break
      await ask(connection, target, body)
    }
    connection.close()
  }
  const endless = async (): Promise<void> => {
    const connection = await stranger(url, key, lying.from())
    await ask(connection, '/machine/map', Buffer.alloc(4 << 20, 0x20))
    connection.close()
  }
  const floods = async (): Promise<void> => {
    const raw = await rawHttp2(url, key, undefined, lying.from())
    await Promise.race([lying.next(FLOODS)?.[2](raw, 2_000), pause(500)])
    raw.close()
  }
  const logins = async (): Promise<void> => {
    const connection = await stranger(url, key, lying.from())
    const wanted = (): Uint8Array => Buffer.from(JSON.stringify({ Version: 142, NodeKey: `nodekey:${Buffer.from(systemRandom(32)).toString('hex')}`, Auth: { AuthKey: 'hskey-auth-x' }, Hostinfo: { Hostname: 'x' } }))
    for (let i = 0; i < 5; i += 1) await Promise.all(Array.from({ length: 4 }, () => ask(connection, '/machine/register', wanted())))
    connection.close()
  }
  const strangers = async (): Promise<void> => {
    const raw = await rawHttp2(url, key, MachinePrivateKey.generate(systemRandom), lying.from())
    setTimeout(() => raw.close(), 2_000).unref()
  }
  if (isTlsLie(kind)) await lieInTls(lying, kind, port, Number(halfOpen))
  else if (kind === 'half-open handshakes') await lying.hold(Number(halfOpen), HALF)
  else if (kind === 'silent connections') await lying.hold(Number(halfOpen), '')
  else if (kind === 'polls without end') {
    const member = new LightClient(9_999, { frame: () => undefined, lost: () => undefined }, undefined, outsideFrom(LIAR_ADDRESS))
    await member.join(url, key, authKey)
    await member.poll()
    lying.begin()
    await lying.repeat(() => member.polls(20), perSecond === undefined ? 3 : AT_ONCE)
    member.drop()
  } else if (kind === 'all at once') {
    const all = [handshakes, records, bodies, endless, floods, logins, strangers]
    await lying.holdBeside(Number(halfOpen), HALF, perSecond === undefined ? AT_ONCE / 6 : AT_ONCE / all.length, all)
  } else {
    const one = { 'bad handshakes': handshakes, 'replayed records': records, 'bad bodies': bodies, 'endless bodies': endless, 'HTTP/2 floods': floods, 'false keys': logins, 'strangers that ask nothing': strangers }[kind]
    lying.begin()
    await lying.repeat(one)
  }
  return lying.result
}
