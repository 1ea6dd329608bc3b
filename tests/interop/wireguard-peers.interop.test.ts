import { NodePrivateKey } from '@meshwright/crypto'
import { formatEndpoint } from '@meshwright/ip'
import { systemRandom } from '@meshwright/runtime-node'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { OuterDatagram } from './wireguard-capture.ts'
import { type ProviderName, TRANSFER_BYTES } from './wireguard-commands.ts'
import { buildPeer, closeAll, endpointOf, EXPECTED_SHA256, INNER, type LabOptions, OUR_PORT, OUTER, THEIR_PORT, until, WireGuardLab } from './wireguard-lab.ts'
import { WIREGUARD_GO, WIREGUARD_PROGRAMS, type WireGuardProgram } from './wireguard-programs.ts'

// Our engine against other programs, each in a network namespace of its own with a line between them. All that is on the line is
// captured, and searched at the end of every flow. Without a program, root or TUN its flows are skipped, or fail where REQUIRE_INTEROP=1.
const REQUIRED = process.env['REQUIRE_INTEROP'] === '1'

beforeAll(() => {
  if (WIREGUARD_PROGRAMS.some(({ missing }) => missing === undefined)) buildPeer()
})
afterAll(closeAll)

type Flow = (title: string, options: LabOptions, run: (lab: WireGuardLab) => Promise<void>) => void

function flowsWith(program: WireGuardProgram): Flow {
  return (title, options, run) => {
    test.concurrent(`${title} [${program.label}]`, async (context) => {
      if (program.missing !== undefined && !REQUIRED) return context.skip(program.missing)
      if (program.missing !== undefined) throw new Error(program.missing)
      const lab = await WireGuardLab.start(program, options)
      try {
        await run(lab)
        await lab.finish()
      } finally {
        await lab.close()
      }
    })
  }
}

const END = { bytes: TRANSFER_BYTES, sha256: EXPECTED_SHA256, reason: 'finished' }
const BOTH_WAYS = [END, END]
const REKEY_PINGS = 127
const COME_BACK_MS = 20_000
/** Initiations and cookie replies by their length; where the second mac of an initiation stands. */
const [INITIATION, COOKIE_REPLY, MAC2_AT] = [148, 64, 132]

// Concurrent, and these last longer than a session does: so they come first.
for (const program of WIREGUARD_PROGRAMS) {
  flowsWith(program)('who began the session begins another after 120 s, in both roles: 1 s pings without loss', { endpoints: 'ours', provider: 'noble' }, async (ours) => {
    const theirs = await WireGuardLab.start(program, { endpoints: 'theirs', provider: 'node', psk: true })
    try {
      await ours.pingUntil(INNER.theirs4, COME_BACK_MS)
      expect(await theirs.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
      const times = async (): Promise<readonly number[]> => (await Promise.all([ours.ourView(), theirs.theirView()])).map(({ latestHandshake }) => latestHandshake ?? 0)
      const first = await times()
      expect(await Promise.all([ours.pingEverySecond(INNER.theirs4, REKEY_PINGS), theirs.pingEverySecond(INNER.theirs6, REKEY_PINGS)])).toEqual([0, 0])
      const second = await times()
      for (const [index, at] of second.entries()) expect((at - (first[index] ?? 0)) / 1000).toBeGreaterThan(118.5)
      await theirs.finish()
    } finally {
      await theirs.close()
    }
  })
}

for (const program of WIREGUARD_PROGRAMS) {
  const flow = flowsWith(program)
  const ways: readonly (readonly [ProviderName, boolean])[] = program === WIREGUARD_GO ? [['noble', false], ['node', true], ['fast', false], ['fast', true]] : [['fast', false], ['fast', true]]

  for (const [provider, psk] of ways) {
    const how = `${psk ? 'PSK' : 'no PSK'}, ${provider === 'node' ? 'node:crypto' : provider}`
    flow(`we initiate, ${how}: ping, 1 MB of TCP each way, IPv4 and IPv6`, { endpoints: 'ours', provider, psk, outer: psk ? 6 : 4 }, async (lab) => {
      await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
      await lab.pingUntil(INNER.theirs6, COME_BACK_MS)
      expect(await lab.weConnect(INNER.theirs4)).toEqual(BOTH_WAYS)
      expect(await lab.theyConnect(INNER.ours6)).toEqual(BOTH_WAYS)
    })
    flow(`they initiate, ${how}: ping, 1 MB of TCP each way, IPv4 and IPv6`, { endpoints: 'theirs', provider, psk, outer: psk ? 6 : 4 }, async (lab) => {
      expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
      expect(await lab.weConnect(INNER.theirs6)).toEqual(BOTH_WAYS)
      await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    })
  }

  flow('another PSK at each end: no session, and one as soon as they agree', { endpoints: 'ours', psk: true }, async (lab) => {
    await lab.tellThem({ psk: systemRandom(32) })
    expect(await lab.ask({ op: 'ping', to: INNER.theirs4, timeoutMs: 2000 })).toBeNull()
    expect((await lab.ourView()).latestHandshake).toBeUndefined()
    await lab.tellThem({ psk: lab.psk ?? new Uint8Array(32) })
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
  })

  flow('the PSK changes while a session runs: it goes on, and the next one has the new PSK', { endpoints: 'both', psk: true }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    const psk = systemRandom(32)
    await lab.tellUs({ psk })
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    await lab.tellThem({ psk })
    const before = (await lab.ourView()).latestHandshake ?? 0
    await lab.tellUs({ anew: true })
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    await lab.tellThem({ anew: true })
    expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
    expect((await lab.ourView()).latestHandshake ?? 0).toBeGreaterThan(before)
  })

  flow('our key changes on the running device: the next packet begins a session under the new one', { endpoints: 'both' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    const key = NodePrivateKey.generate(systemRandom)
    await lab.changeKey('ours', key)
    await lab.tellThem()
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    expect((await lab.theirView()).publicKey.equals(key.publicKey())).toBe(true)
  })

  flow('their key changes on the running device: we take the new one in one request', { endpoints: 'both' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    const key = NodePrivateKey.generate(systemRandom)
    await lab.changeKey('theirs', key)
    if (!program.changesPeers) await lab.tellThem()
    await lab.tellUs()
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    expect(await lab.theyConnect(INNER.ours6)).toEqual(BOTH_WAYS)
    expect((await lab.ourView()).publicKey.equals(key.publicKey())).toBe(true)
  })

  flow('our port changes: they follow', { endpoints: 'ours' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    await lab.setOurs([`listen_port=${OUR_PORT + 100}`])
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    expect(placeOf(await lab.theirView())).toBe(`${OUTER.ours4}:${OUR_PORT + 100}`)
    expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
  })

  flow('their address changes: we follow', { endpoints: 'both' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    const line = `${lab.name}v`
    lab.theirIp('addr', 'add', `${OUTER.theirs4b}/24`, 'dev', line)
    lab.theirIp('addr', 'del', `${OUTER.theirs4}/24`, 'dev', line)
    lab.theirIp('addr', 'replace', `${OUTER.theirs4b}/24`, 'dev', line)
    // A socket that is connected to us from the old address has to be made anew.
    if (!program.changesPeers) await lab.tellThem()
    expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
    expect(placeOf(await lab.ourView())).toBe(`${OUTER.theirs4b}:${THEIR_PORT}`)
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
  })

  flow('they move from IPv4 to IPv6 and back: we follow', { endpoints: 'both' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    await lab.tellThem({ endpoint: endpointOf('ours', 6) })
    expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
    expect(placeOf(await lab.ourView())).toBe(endpointOf('theirs', 6))
    await lab.tellThem({ endpoint: endpointOf('ours', 4) })
    expect(await lab.theyConnect(INNER.ours6)).toEqual(BOTH_WAYS)
    expect(placeOf(await lab.ourView())).toBe(endpointOf('theirs', 4))
  })

  flow('we move from IPv4 to IPv6 and back: they follow', { endpoints: 'ours' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    for (const outer of [6, 4] as const) {
      await lab.tellUs({ endpoint: endpointOf('theirs', outer) })
      await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
      expect(placeOf(await lab.theirView())).toBe(endpointOf('ours', outer))
      expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
    }
  })

  flow('both begin at the same moment', { endpoints: 'both' }, async (lab) => {
    const [theirs] = await Promise.all([lab.theyConnect(INNER.ours4), lab.pingUntil(INNER.theirs4, COME_BACK_MS)])
    expect(theirs).toEqual(BOTH_WAYS)
    expect(await lab.weConnect(INNER.theirs6)).toEqual(BOTH_WAYS)
  })

  // One after the other: whoever hears a keepalive puts his own off.
  flow('persistent keepalives of 1 s of each end, and nothing else to say', { endpoints: 'both' }, async (lab) => {
    const keepalives = (to: string): number => lab.captured().filter((each) => each.to === to && each.payload.length === 32).length
    await lab.tellUs({ keepaliveSeconds: 1 })
    await until(() => keepalives(endpointOf('theirs', 4)) >= 3, COME_BACK_MS, 'no keepalives of ours')
    expect((await lab.ourView()).latestHandshake).toBeDefined()
    await lab.tellUs({ keepaliveSeconds: 0 })
    const before = keepalives(endpointOf('ours', 4))
    await lab.tellThem({ keepaliveSeconds: 1 })
    await until(() => keepalives(endpointOf('ours', 4)) >= before + 3, COME_BACK_MS, 'no keepalives of theirs')
  })

  flow('we are under load: they come back with our cookie', { endpoints: 'theirs', underLoad: true }, async (lab) => {
    expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
    const status = await lab.ask<{ readonly cookieRepliesSent: number; readonly drops: Readonly<Record<string, number>> }>({ op: 'status' })
    expect(status.cookieRepliesSent).toBeGreaterThan(0)
    expect(status.drops['cookie-required']).toBeGreaterThan(0)
    await lab.sees(({ to, payload }) => to === endpointOf('theirs', 4) && payload.length === COOKIE_REPLY && payload[0] === 3, 'no cookie of ours')
    await lab.sees(withCookie(endpointOf('ours', 4)), 'they never came with a cookie')
  })

  flow('they are under a flood: we come back with their cookie', { endpoints: 'ours' }, async (lab) => {
    const stop = await lab.flood(2 * COME_BACK_MS)
    const ping = lab.pingUntil(INNER.theirs4, 60_000)
    // Who counts messages by the second is not under load at the beginning of each: then another handshake is begun.
    await until(async () => {
      if (lab.captured().some(withCookie(endpointOf('theirs', 4)))) return true
      if ((await lab.ourView()).latestHandshake !== undefined) await lab.tellUs({ anew: true })
      void lab.ask({ op: 'ping', to: INNER.theirs4, timeoutMs: 1000 })
      return false
    }, 2 * COME_BACK_MS, 'we never came with a cookie')
    stop()
    await ping
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    await lab.sees(({ to, payload }) => to === endpointOf('ours', 4) && payload.length === COOKIE_REPLY && payload[0] === 3, 'no cookie of theirs')
    expect(await lab.theyConnect(INNER.ours4)).toEqual(BOTH_WAYS)
  })

  // What is ours alone is asked once.
  if (program !== WIREGUARD_GO) continue
  flow('a packet from an address that is not theirs is not delivered', { endpoints: 'both' }, async (lab) => {
    await lab.pingUntil(INNER.theirs4, COME_BACK_MS)
    await lab.setOurs([lab.peerLine('theirs'), 'replace_allowed_ips=true', 'allowed_ip=10.99.0.0/16'])
    await lab.setOurs([lab.peerLine('theirs'), `allowed_ip=${INNER.theirs6}/128`])
    expect(await lab.ask({ op: 'ping', to: INNER.theirs4, timeoutMs: 1000 })).toBeNull()
    await lab.pingUntil(INNER.theirs6, COME_BACK_MS)
  })
}

/** Initiations to that place that carry a cookie. */
function withCookie(to: string): (datagram: OuterDatagram) => boolean {
  return (each) => each.to === to && each.payload.length === INITIATION && each.payload[0] === 1 && each.payload.subarray(MAC2_AT).some((byte) => byte !== 0)
}

function placeOf(peer: Awaited<ReturnType<WireGuardLab['ourView']>>): string {
  return peer.endpoint === undefined ? '' : formatEndpoint(peer.endpoint)
}
