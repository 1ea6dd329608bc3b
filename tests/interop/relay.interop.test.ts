import { mkdirSync, writeFileSync } from 'node:fs'
import { selfSignedCertificate, systemRandom } from '@meshwright/runtime-node'
import { afterAll, beforeAll, expect } from 'vitest'
import { measureBurst } from '../load/flood.ts'
import { BIN, flows, peerName, whyNot } from './lab-flow.ts'
import { bundlePrograms, OurControl, type OurPrograms } from './lab-ours.ts'
import { freePort, Lab } from './lab-process.ts'
import { readText, registerNode, type RelayAddress, RelayClient, startDerper, startOurs, writeMeshKey } from './lab-relay.ts'

// Relays among each other and with control servers: a real derper and our relay program, both asking our control server who may come in;
// WebSocket; fast start; one region of both, meshed.
const PROGRAMS_NEEDED = ['derper']
const PAIRS = 50
const flow = flows(peerName('derper'), PROGRAMS_NEEDED)

let lab: Lab | undefined
let programs: OurPrograms
let control: OurControl
/** Both ask our control server. */
let verifying: { readonly derper: RelayAddress; readonly ours: RelayAddress }
/** Both take everybody, and are one region. */
let region: { readonly derper: RelayAddress; readonly ours: RelayAddress }

beforeAll(async () => {
  if (whyNot(PROGRAMS_NEEDED) !== undefined) return
  lab = new Lab()
  programs = await bundlePrograms(lab)
  control = new OurControl(lab, programs)
  await control.start()
  const verify = `${control.url}/verify`
  const meshKey = writeMeshKey(lab)
  const [verifyingPort, meshedPort] = [await freePort(), await freePort()]
  // The real relay verifies the certificate of ours by the system's roots: it is told of another file of roots.
  mkdirSync(lab.at('roots'))
  const { cert, key } = selfSignedCertificate(['127.0.0.1'])
  writeFileSync(lab.at('meshed.crt.pem'), cert)
  writeFileSync(lab.at('meshed.key.pem'), key)
  const [verifyingDerper, verifyingOurs, meshedDerper] = await Promise.all([
    startDerper(lab, BIN, 'derper-verifying', ['-verify-client-url', verify, '-verify-client-url-fail-open=false']),
    startOurs(lab, programs.relay, 'ours-verifying', verifyingPort, ['--verify-client-url', verify, '--verify-fail-closed']),
    startDerper(lab, BIN, 'derper-meshed', ['-mesh-psk-file', meshKey, '-mesh-with', `127.0.0.1:${meshedPort}`], { SSL_CERT_FILE: lab.at('meshed.crt.pem') }),
  ])
  verifying = { derper: verifyingDerper, ours: verifyingOurs }
  await lab.until('the real relay has its certificate', () => readText(meshedDerper.certificateFile) !== '')
  const ours = await startOurs(lab, programs.relay, 'meshed', meshedPort, ['--mesh-psk-file', meshKey, '--mesh-with', `127.0.0.1:${meshedDerper.port}`, '--mesh-ca', meshedDerper.certificateFile])
  region = { derper: meshedDerper, ours }
})

afterAll(async () => {
  await lab?.stop()
})

function theLab(): Lab {
  if (lab === undefined) throw new Error('no lab')
  return lab
}

async function pair(a: RelayAddress, b: RelayAddress, options: Parameters<typeof RelayClient.dial>[2] = {}): Promise<[RelayClient, RelayClient]> {
  const clients = await Promise.all([RelayClient.dial(theLab(), a, options), RelayClient.dial(theLab(), b, options)])
  await Promise.all(clients.map((client) => client.until('connected')))
  return clients
}

async function exchange(from: RelayClient, to: RelayClient, sizes: readonly number[]): Promise<void> {
  for (const size of sizes) {
    const bytes = systemRandom(size)
    from.send(to, bytes)
    const { source, packet } = await to.until('packet')
    expect(source.equals(from.key.publicKey())).toBe(true)
    expect(Buffer.compare(packet, bytes)).toBe(0)
  }
}

for (const which of ['derper', 'ours'] as const) {
  flow(`relay verifies clients of our control server: ${which === 'ours' ? 'our relay' : 'a real one'}`, async () => {
    const relay = verifying[which]
    const user = await control.createUser(`user-${which}`)
    const key = await registerNode(control.url, await control.authKey('-u', user), `node-${which}`)
    const known = await RelayClient.dial(theLab(), relay, { key })
    await known.until('connected')
    const stranger = await RelayClient.dial(theLab(), relay)
    expect(await stranger.until('connected', 'failed')).toEqual({ type: 'failed', code: 'closed' })
    // Who is no longer in the mesh does not come in again.
    const { id } = (await control.node(`node-${which}`)) ?? expect.fail('not listed')
    await control.cli('nodes', 'delete', '-i', id, '--force')
    const deleted = await RelayClient.dial(theLab(), relay, { key })
    expect(await deleted.until('connected', 'failed')).toEqual({ type: 'failed', code: 'closed' })
  })

  flow(`relay by WebSocket: ${which === 'ours' ? 'our relay' : 'a real one'}`, async () => {
    const [a, b] = await pair(region[which], region[which], { webSocket: true })
    await exchange(a, b, [0, 1, 1_400, 65_536])
    await exchange(b, a, [1_400])
    // Somebody who came in the usual way is reached as well.
    const plain = await RelayClient.dial(theLab(), region[which])
    await plain.until('connected')
    await exchange(a, plain, [1_400])
    await exchange(plain, a, [65_536])
    b.close()
    expect(await a.until('peerGone')).toMatchObject({ reason: 0 })
  })

  flow(`relay with fast start: ${which === 'ours' ? 'our relay' : 'a real one'}`, async () => {
    const [fast, slow] = [await RelayClient.dial(theLab(), region[which]), await RelayClient.dial(theLab(), region[which], { fastStart: false })]
    await Promise.all([fast.until('connected'), slow.until('connected')])
    expect(fast.connection.tlsVersion).toBe('TLSv1.3')
    expect([fast.connection.serverKey !== undefined, slow.connection.serverKey]).toEqual([true, undefined])
    await exchange(fast, slow, [1_400])
  })
}

flow('relays of one region: a real one and ours hand packets to each other, both ways', async () => {
  const [there, here] = await pair(region.derper, region.ours)
  // Each learns of the other's clients within moments: until then packets are dropped.
  for (const [from, to] of [[there, here], [here, there]] as const) {
    const arrived = to.until('packet')
    const sending = setInterval(() => from.send(to, Buffer.from('across')), 100)
    const { source, packet } = await arrived.finally(() => clearInterval(sending))
    expect(source.equals(from.key.publicKey())).toBe(true)
    expect(Buffer.from(packet).toString()).toBe('across')
  }
  // Who has heard from a client of the other relay is told when it leaves the region.
  here.close()
  expect((await there.until('peerGone')).peer.equals(here.key.publicKey())).toBe(true)
})

flow('a flood by 50 pairs through our relay: more than half of it is delivered, its senders are slowed, its memory is bounded', async () => {
  // Nothing is timed: so much, and whatever of it arrives. How fast, and what a real relay does with it: `npm run load -- --flood`.
  const { deliveredShare, grownMegabytes, slowed } = await measureBurst('ours', PAIRS, 8_000_000) // more than the kernel's buffers hold
  expect(deliveredShare).toBeGreaterThan(0.5)
  expect(slowed).toBe(PAIRS)
  expect(grownMegabytes).toBeLessThan(256)
})
