import { mkdtempSync, rmSync } from 'node:fs'
import https from 'node:https'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node/relay'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../interop/lab-process.ts'
import type { RelayAddress } from '../interop/lab-relay.ts'
import { Measured, pause, until } from '../load/process.ts'
import { bundleProgram } from '../load/servers.ts'
import { talkByRelay } from './talk-by-relay.ts'
import { tlsLies } from './tls-liars.ts'
import { Crowd, LIAR_ADDRESSES } from './wire.ts'

// The relay program with TLS of its own under liars that hold handshakes open: what it holds is bounded as in the control server, and clients are
// let in meanwhile.
const linux = process.platform === 'linux' // liars have addresses of their own on loopback
/** Half of what a real attack has, so that it is quick: MESHWRIGHT_HALF_OPEN=10000 for the whole of it. */
const HALF_OPEN = Number(process.env['MESHWRIGHT_HALF_OPEN'] ?? 5_000)
/** 512 handshakes of 0.2 MB each, 2,048 connections, and garbage. */
const GROWTH_BYTES = 224 * 1_048_576
const LETS_GO_WITHIN_MS = 30_000

const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-hostile-'))
let relay: Measured
let remove: () => void = () => undefined
let address: RelayAddress
let rss = 0
const keys = [NodePrivateKey.generate(systemRandom), NodePrivateKey.generate(systemRandom)]

beforeAll(async () => {
  if (!linux) return
  const bundled = await bundleProgram('examples/relay/src/main.ts', 'hostile-tls-relay')
  remove = bundled.remove
  const port = await freePort()
  relay = new Measured('our relay', process.execPath, [bundled.file, '--key-file', path.join(folder, 'relay.json'), '--self-signed', '--addr', `127.0.0.1:${port}`, '--stun-port', '-1'])
  if ((await until(() => relay.log.includes('for the DERP map'), 20_000)) === undefined) throw new Error(relay.log)
  address = { port, pin: /"CertName":"([^"]+)"/.exec(relay.log)?.[1] ?? '' }
  await talkByRelay(address, keys)
  rss = relay.rssBytes
})

afterAll(async () => {
  await relay?.stop()
  remove()
  rmSync(folder, { recursive: true, force: true })
})

/** What it holds of those that have proved nothing; one connection is the one that asks. */
async function held(): Promise<Record<'newcomers' | 'handshakes', number>> {
  const metrics = await new Promise<string>((resolve, reject) => {
    https.get({ port: address.port, host: '127.0.0.1', path: '/metrics', rejectUnauthorized: false, agent: false }, (answer) => void text(answer).then(resolve, reject)).on('error', reject)
  })
  const figure = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(metrics)?.[1])
  return { newcomers: figure('meshwright_newcomers'), handshakes: figure('meshwright_tls_handshakes') }
}

/** It lives, lets honest clients in and delivers between them, and holds no more than it states. */
async function unharmed(): Promise<void> {
  await talkByRelay(address, keys)
  expect(relay.alive, relay.log).toBe(true)
  const { newcomers, handshakes } = await held()
  expect(newcomers).toBeLessThanOrEqual(2_048)
  expect(handshakes).toBeLessThanOrEqual(512)
  expect(relay.rssBytes - rss).toBeLessThan(GROWTH_BYTES)
}

/** When liars have gone, or their time is over, nothing of them is held any more. */
async function expectLetGo(): Promise<void> {
  const deadline = performance.now() + LETS_GO_WITHIN_MS
  let now = await held()
  while (performance.now() < deadline && now.newcomers + now.handshakes > 0) {
    await pause(100)
    now = await held()
  }
  expect(now).toEqual({ newcomers: 0, handshakes: 0 })
}

describe.runIf(linux)('the relay with TLS among liars', () => {
  test(`${HALF_OPEN} TLS handshakes that stand still, drip, lie about their length or name, or are none, keep nobody out and end`, async () => {
    const lies = await tlsLies()
    const crowds = lies.map(() => new Crowd())
    await Promise.all(crowds.map((crowd, i) => crowd.open(address.port, Math.ceil(HALF_OPEN / lies.length), lies[i]?.[1] ?? '', 25, LIAR_ADDRESSES)))
    const drip = setInterval(() => {
      for (const [i, crowd] of crowds.entries()) if (lies[i]?.[0].startsWith('half') === true) crowd.say(Buffer.from([0]))
    }, 500)
    await unharmed()
    expect(await until(() => crowds.every((crowd) => crowd.closed === crowd.size), 120_000)).toBeDefined()
    clearInterval(drip)
    await unharmed()
    await expectLetGo()
  }, 240_000)

  // From one address, as one liar has it; it takes all places that an address may have.
  test.each(['one that says it has 128 KiB', 'one that is complete'] as const)('3,000 ClientHellos of one address: %s', async (kind) => {
    const lie = (await tlsLies()).find(([each]) => (kind === 'one that is complete' ? each.startsWith('a ClientHello, and') : each.startsWith('the same')))
    const crowd = new Crowd()
    await crowd.open(address.port, 3_000, lie?.[1] ?? '')
    await unharmed()
    crowd.close()
    await expectLetGo()
  })
})
