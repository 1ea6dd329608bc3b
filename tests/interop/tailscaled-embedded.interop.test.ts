import { readFileSync } from 'node:fs'
import https from 'node:https'
import { afterAll, beforeAll, expect } from 'vitest'
import { BIN, flows, peerName, whyNot } from './lab-flow.ts'
import { bundlePrograms, OurControl, OurNode } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, startWeb, webThroughSocks } from './lab-web.ts'

// One program for all: the control server with TLS of its own, and the relay and STUN that are embedded in it and let in none but its nodes.
const PROGRAMS_NEEDED = ['tailscaled', 'tailscale']
const BYTES = 5_000_000
const flow = flows(peerName('tailscaled'), PROGRAMS_NEEDED)

interface Mesh {
  readonly lab: Lab
  readonly control: OurControl
  readonly real: Tailscaled
  readonly ours: OurNode
  readonly web: number
}

let lab: Lab | undefined
let mesh: Mesh

beforeAll(async () => {
  if (whyNot(PROGRAMS_NEEDED) !== undefined) return
  lab = new Lab()
  const programs = await bundlePrograms(lab)
  const control = new OurControl(lab, programs, { tlsAddress: interfaceAddress() ?? '' })
  await control.start()
  const alice = await control.createUser('alice')
  await control.setPolicy({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] })
  const key = await control.authKey('-u', alice, '--reusable')
  const real = new Tailscaled(lab, BIN, 'real', { relayOnly: true, env: { SSL_CERT_FILE: control.certificateFile } })
  const ours = new OurNode(lab, programs, 'ours', ['--block-udp'], { NODE_EXTRA_CA_CERTS: control.certificateFile })
  await Promise.all([real.start(), ours.start()])
  await Promise.all([real.up(control.url, key), ours.up(control.url, key)])
  mesh = { lab, control, real, ours, web: await startWeb(lab, 'hello') }
})

afterAll(async () => {
  await lab?.stop()
})

flow('login over TLS', async () => {
  const status = await mesh.real.status()
  expect([status.BackendState, status.Health ?? []]).toEqual(['Running', []])
  const certificate = readFileSync(mesh.control.certificateFile)
  const health = await new Promise<number | undefined>((resolve, reject) => {
    https.get(`${mesh.control.url}/health`, { ca: certificate, agent: false }, (response) => resolve(response.resume().statusCode)).on('error', reject)
  })
  expect(health).toBe(200)
})

flow('HTTP both ways by the relay in the control server', async () => {
  for (const [from, to] of [[mesh.real, await mesh.ours.ip()], [mesh.ours, await mesh.real.ip()]] as const) {
    await mesh.lab.until(`${from.name} reaches ${to}`, async () => (await webThroughSocks(from.socksPort, to, mesh.web)).status === 200)
    const { body } = await webThroughSocks(from.socksPort, to, mesh.web, { path: `/bytes/${BYTES}`, timeoutMs: 20_000 })
    expect([body.length, sha256(body)]).toEqual([BYTES, patternHash(BYTES)])
  }
  expect(await mesh.real.peer('ours')).toMatchObject({ CurAddr: '', Relay: 'embedded' })
  expect((await mesh.ours.status()).Meshwright.HomeRelay).toBe('embedded')
})

flow('control server and its relay killed and restarted', async () => {
  await mesh.control.stop('SIGKILL')
  await mesh.control.start()
  for (const [from, to] of [[mesh.real, await mesh.ours.ip()], [mesh.ours, await mesh.real.ip()]] as const) {
    await mesh.lab.until(`${from.name} reaches ${to} again`, async () => (await webThroughSocks(from.socksPort, to, mesh.web, { timeoutMs: 5_000 })).status === 200, 40_000)
  }
})
