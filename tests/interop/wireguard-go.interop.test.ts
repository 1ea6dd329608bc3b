import { formatHex } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { formatEndpoint } from '@meshwright/ip'
import { systemRandom } from '@meshwright/runtime-node'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TRANSFER_BYTES } from './wireguard-commands.ts'
import { buildPeer, closeAll, EXPECTED_SHA256, INNER, type LabOptions, OUR_PORT, OUTER, THEIR_PORT, WireGuardLab, wireguardGo } from './wireguard-lab.ts'

// Our engine against wireguard-go, each in a network namespace of its own with a line between them. Without the program, root or TUN
// the tests are skipped, or fail where REQUIRE_INTEROP=1.
const PEER = '[wireguard-go 2026-05]'
const { program, missing } = wireguardGo()
if (missing !== undefined) {
  if (process.env['REQUIRE_INTEROP'] === '1') {
    test(`wireguard-go can be run ${PEER}`, () => {
      throw new Error(missing)
    })
  } else process.stdout.write(`wireguard-go interop: skipped, ${missing}\n`)
}

beforeAll(() => {
  if (missing === undefined) buildPeer()
})
afterAll(closeAll)

// Concurrent, since two of them last longer than a session does: those come first.
function flow(title: string, options: LabOptions, run: (lab: WireGuardLab) => Promise<void>): void {
  test.skipIf(missing !== undefined).concurrent(`${title} ${PEER}`, async () => {
    if (program === undefined) throw new Error(missing)
    const lab = await WireGuardLab.start(program, options)
    try {
      await run(lab)
    } finally {
      await lab.close()
    }
  })
}

const BOTH_WAYS = [{ bytes: TRANSFER_BYTES, sha256: EXPECTED_SHA256, reason: 'finished' }, { bytes: TRANSFER_BYTES, sha256: EXPECTED_SHA256, reason: 'finished' }]

const REKEY_PINGS = 127
flow('we rekey after 120 s, 1 s pings without loss', { endpoints: 'ours', provider: 'noble' }, async (lab) => {
  await lab.pingUntil(INNER.theirs4, 20_000)
  const first = (await lab.ourView()).latestHandshake
  expect(await lab.pingEverySecond(INNER.theirs4, REKEY_PINGS)).toBe(0)
  const second = (await lab.ourView()).latestHandshake
  expect(((second ?? 0) - (first ?? 0)) / 1000).toBeGreaterThan(119)
})

flow('they rekey after 120 s, 1 s pings without loss, PSK', { endpoints: 'theirs', provider: 'node', psk: true }, async (lab) => {
  expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
  const first = (await lab.theirView()).latestHandshake
  expect(await lab.pingEverySecond(INNER.theirs6, REKEY_PINGS)).toBe(0)
  const second = (await lab.theirView()).latestHandshake
  expect(((second ?? 0) - (first ?? 0)) / 1000).toBeGreaterThan(119)
})

for (const provider of ['noble', 'node'] as const) {
  for (const psk of [false, true]) {
    const how = `${psk ? 'PSK' : 'no PSK'}, ${provider === 'node' ? 'node:crypto' : 'noble'}`
    flow(`we initiate, ${how}: ping, 1 MB of TCP each way, IPv4 and IPv6`, { endpoints: 'ours', provider, psk, outer: psk ? 6 : 4 }, async (lab) => {
      await lab.pingUntil(INNER.theirs4, 20_000)
      await lab.pingUntil(INNER.theirs6, 5_000)
      expect(await lab.weConnect(INNER.theirs4)).toEqual(BOTH_WAYS)
      expect(await lab.theyConnect(INNER.ours6)).toEqual(BOTH_WAYS)
    })
    flow(`they initiate, ${how}: ping, 1 MB of TCP each way, IPv4 and IPv6`, { endpoints: 'theirs', provider, psk, outer: psk ? 6 : 4 }, async (lab) => {
      expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
      expect(await lab.weConnect(INNER.theirs6)).toEqual(BOTH_WAYS)
      await lab.pingUntil(INNER.theirs4, 5_000)
    })
  }
}

flow('another PSK at each end: no session, and one as soon as they agree', { endpoints: 'ours', psk: true }, async (lab) => {
  await lab.setTheirs([lab.peerLine('ours'), `preshared_key=${formatHex(systemRandom(32))}`])
  expect(await lab.ask({ op: 'ping', to: INNER.theirs4, timeoutMs: 2000 })).toBeNull()
  expect((await lab.ourView()).latestHandshake).toBeUndefined()
  await lab.setTheirs([lab.peerLine('ours'), `preshared_key=${formatHex(lab.psk ?? new Uint8Array(32))}`])
  await lab.pingUntil(INNER.theirs4, 20_000)
})

flow('our port changes: they follow', { endpoints: 'ours' }, async (lab) => {
  await lab.pingUntil(INNER.theirs4, 20_000)
  await lab.setOurs([`listen_port=${OUR_PORT + 100}`])
  await lab.pingUntil(INNER.theirs4, 5_000)
  expect(endpointOf(await lab.theirView())).toBe(`${OUTER.ours4}:${OUR_PORT + 100}`)
  expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
})

flow('their address changes: we follow', { endpoints: 'both' }, async (lab) => {
  await lab.pingUntil(INNER.theirs4, 20_000)
  const line = `${lab.name}v`
  lab.theirIp('addr', 'add', `${OUTER.theirs4b}/24`, 'dev', line)
  lab.theirIp('addr', 'del', `${OUTER.theirs4}/24`, 'dev', line)
  lab.theirIp('addr', 'replace', `${OUTER.theirs4b}/24`, 'dev', line)
  expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
  expect(endpointOf(await lab.ourView())).toBe(`${OUTER.theirs4b}:${THEIR_PORT}`)
  await lab.pingUntil(INNER.theirs4, 5_000)
})

flow('they move from IPv4 to IPv6: we follow', { endpoints: 'both' }, async (lab) => {
  await lab.pingUntil(INNER.theirs4, 20_000)
  await lab.setTheirs([lab.peerLine('ours'), `endpoint=[${OUTER.ours6}]:${OUR_PORT}`])
  expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
  expect(endpointOf(await lab.ourView())).toBe(`[${OUTER.theirs6}]:${THEIR_PORT}`)
})

flow('both begin at the same moment', { endpoints: 'both' }, async (lab) => {
  const [theirs] = await Promise.all([lab.theyConnect(INNER.ours4), lab.pingUntil(INNER.theirs4, 20_000)])
  expect(theirs).toEqual(BOTH_WAYS)
  expect(await lab.weConnect(INNER.theirs6)).toEqual(BOTH_WAYS)
})

flow('we are under load: they come back with our cookie', { endpoints: 'theirs', underLoad: true }, async (lab) => {
  expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
  const status = await lab.ask<{ readonly cookieRepliesSent: number; readonly drops: Readonly<Record<string, number>> }>({ op: 'status' })
  expect(status.cookieRepliesSent).toBeGreaterThan(0)
  expect(status.drops['cookie-required']).toBeGreaterThan(0)
})

flow('a packet from an address that is not theirs is not delivered', { endpoints: 'both' }, async (lab) => {
  await lab.pingUntil(INNER.theirs4, 20_000)
  await lab.setOurs([lab.peerLine('theirs'), 'replace_allowed_ips=true', 'allowed_ip=10.99.0.0/16'])
  await lab.setOurs([lab.peerLine('theirs'), `allowed_ip=${INNER.theirs6}/128`])
  expect(await lab.ask({ op: 'ping', to: INNER.theirs4, timeoutMs: 1000 })).toBeNull()
  await lab.pingUntil(INNER.theirs6, 5_000)
})

flow('our key changes on the running device: the next packet begins a session under the new one', { endpoints: 'both' }, async (lab) => {
  await lab.pingUntil(INNER.theirs4, 20_000)
  const key = NodePrivateKey.generate(systemRandom)
  // In one request, since a prefix has one owner: the new key takes the prefixes, the old one goes.
  await lab.setTheirs([
    `public_key=${formatHex(key.publicKey().bytes)}`, `endpoint=${OUTER.ours4}:${OUR_PORT}`, `allowed_ip=${INNER.ours4}/32`, `allowed_ip=${INNER.ours6}/128`,
    lab.peerLine('ours'), 'remove=true',
  ])
  await lab.setOurs([`private_key=${formatHex(key.secretBytes)}`])
  await lab.pingUntil(INNER.theirs4, 5_000)
  expect((await lab.theirView()).publicKey.equals(key.publicKey())).toBe(true)
})

function endpointOf(peer: Awaited<ReturnType<WireGuardLab['ourView']>>): string {
  return peer.endpoint === undefined ? '' : formatEndpoint(peer.endpoint)
}
