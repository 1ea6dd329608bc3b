import { readFileSync } from 'node:fs'
import https from 'node:https'
import { expect } from 'vitest'
import { BIN } from './lab-flow.ts'
import { bundlePrograms, OurControl, OurNode } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, startWeb, webThroughSocks } from './lab-web.ts'
import { OPEN_POLICY } from './lab-fleet.ts'
import { quiet, versionFlows } from './lab-world.ts'

// One program for all: the control server with TLS of its own, and the relay and STUN that are embedded in it and let in none but its nodes.
const BYTES = 5_000_000

interface Mesh {
  readonly lab: Lab
  readonly control: OurControl
  readonly real: Tailscaled
  readonly ours: OurNode
  readonly web: number
}

const labs: Lab[] = []
const meshes = new Map<string, Promise<Mesh>>()

async function startMesh(version: string): Promise<Mesh> {
  const lab = new Lab()
  labs.push(lab)
  const programs = await bundlePrograms(lab)
  const control = new OurControl(lab, programs, { tlsAddress: interfaceAddress() ?? '' })
  await control.start()
  const alice = await control.createUser('alice')
  await control.setPolicy(OPEN_POLICY)
  const key = await control.authKey('-u', alice, '--reusable')
  const real = new Tailscaled(lab, BIN, 'real', { version, relayOnly: true, env: { SSL_CERT_FILE: control.certificateFile } })
  const ours = new OurNode(lab, programs, 'ours', ['--block-udp'], { NODE_EXTRA_CA_CERTS: control.certificateFile })
  await Promise.all([real.start(), ours.start()])
  await Promise.all([real.up(control.url, key), ours.up(control.url, key)])
  return { lab, control, real, ours, web: await startWeb(lab, 'hello') }
}

function meshOf(version: string): Promise<Mesh> {
  const made = meshes.get(version) ?? startMesh(version)
  meshes.set(version, made)
  return made
}

const flow = versionFlows('relay in the control server', meshOf, async () => {
  for (const lab of labs) await lab.stop()
})

flow('login over TLS', async (mesh) => {
  const status = await mesh.real.status()
  expect([status.BackendState, quiet(status.Health)]).toEqual(['Running', []])
  const certificate = readFileSync(mesh.control.certificateFile)
  const health = await new Promise<number | undefined>((resolve, reject) => {
    https.get(`${mesh.control.url}/health`, { ca: certificate, agent: false }, (response) => resolve(response.resume().statusCode)).on('error', reject)
  })
  expect(health).toBe(200)
})

flow('HTTP both ways by the relay in the control server', async (mesh) => {
  for (const [from, to] of [[mesh.real, await mesh.ours.ip()], [mesh.ours, await mesh.real.ip()]] as const) {
    await mesh.lab.until(`${from.name} reaches ${to}`, async () => (await webThroughSocks(from.socksPort, to, mesh.web)).status === 200)
    const { body } = await webThroughSocks(from.socksPort, to, mesh.web, { path: `/bytes/${BYTES}`, timeoutMs: 20_000 })
    expect([body.length, sha256(body)]).toEqual([BYTES, patternHash(BYTES)])
  }
  expect(await mesh.real.peer('ours')).toMatchObject({ CurAddr: '', Relay: 'embedded' })
  expect((await mesh.ours.status()).Meshwright.HomeRelay).toBe('embedded')
})

flow('control server and its relay killed and restarted', async (mesh) => {
  await mesh.control.stop('SIGKILL')
  await mesh.control.start()
  for (const [from, to] of [[mesh.real, await mesh.ours.ip()], [mesh.ours, await mesh.real.ip()]] as const) {
    await mesh.lab.until(`${from.name} reaches ${to} again`, async () => (await webThroughSocks(from.socksPort, to, mesh.web, { timeoutMs: 5_000 })).status === 200, 40_000)
  }
})
