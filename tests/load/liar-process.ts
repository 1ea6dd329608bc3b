import { fetchControlKey } from '@meshwright/runtime-node/control'
import { ask, BAD_HANDSHAKES, BAD_RECORDS, badBodies, replay, stranger } from '../hostile/control-liars.ts'
import { Crowd, talk, upgradeHead } from '../hostile/wire.ts'
import { pause } from './process.ts'

// Lies to a control server on loopback for a time: `liar-process URL HALF_OPEN MILLISECONDS`, begun by a message, and no longer than that.
const PAUSE_MS = 20
const [url = '', halfOpen = '0', ms = '0'] = process.argv.slice(2)
const port = Number(new URL(url).port)

process.on('disconnect', () => process.exit())
process.once('message', () => void attack())

async function attack(): Promise<void> {
  const crowd = new Crowd()
  await crowd.open(port, Number(halfOpen), upgradeHead(Buffer.alloc(101, 1)).slice(0, 120))
  const key = await fetchControlKey({ url })
  process.send?.('ready')
  const until = performance.now() + Number(ms)
  const repeat = async (lie: () => Promise<unknown>): Promise<void> => {
    while (performance.now() < until) {
      await lie().catch(() => undefined) // refused: as it should be
      await pause(PAUSE_MS)
    }
  }
  let turn = 0
  await Promise.all([
    repeat(() => talk(port, [BAD_HANDSHAKES[(turn += 1) % BAD_HANDSHAKES.length]?.[1] ?? ''], 200)),
    repeat(() => replay(port, [BAD_RECORDS[(turn += 1) % BAD_RECORDS.length]?.[1] ?? new Uint8Array(0)])),
    repeat(async () => {
      const connection = await stranger(url, key)
      for (const [, target, body] of badBodies(`nodekey:${'cd'.repeat(32)}`)) {
        if (performance.now() > until) break
        await ask(connection, target, body)
        await pause(PAUSE_MS)
      }
      connection.close()
    }),
    repeat(async () => {
      const connection = await stranger(url, key)
      await ask(connection, '/machine/map', Buffer.alloc(4 << 20, 0x20))
      connection.close()
    }),
  ])
  crowd.close()
}
