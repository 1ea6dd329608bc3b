import { writeFileSync } from 'node:fs'
import { expect } from 'vitest'
import { BIN } from './lab-flow.ts'
import { bundlePrograms, OurControl, type OurPrograms } from './lab-ours.ts'
import { freePort, Lab } from './lab-process.ts'
import { readText, relayRegion, startDerper, startOurs, type StartedRelay, writeMeshKey } from './lab-relay.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, startWeb, webThroughSocks } from './lab-web.ts'
import { OPEN_POLICY } from './lab-fleet.ts'
import { pong } from './lab-ping.ts'
import { quiet, versionFlows } from './lab-world.ts'

// Real nodes that have nothing but relays, at relays of every kind: real ones and ours that ask our control server who may come in, one
// whose certificate the map pins, and one region of both.
const BYTES = 2_000_000
/** Real relays try links to others of their region, and real clients their relay, again after moments that grow. */
const AGAIN_MS = 40_000

interface Site {
  readonly lab: Lab
  readonly programs: OurPrograms
  readonly version: string
  readonly web: number
}

const sites = new Map<string, Promise<Site>>()

async function startSite(version: string): Promise<Site> {
  const lab = new Lab()
  return { lab, programs: await bundlePrograms(lab), version, web: await startWeb(lab, 'hello') }
}

function siteOf(version: string): Promise<Site> {
  const made = sites.get(version) ?? startSite(version)
  sites.set(version, made)
  return made
}

const flow = versionFlows('relay', siteOf, async () => {
  await Promise.all([...sites.values()].map((site) => site.then(({ lab }) => lab.stop())))
}, ['derper'])

/** A control server with a relay map, and what joins it. */
interface Mesh {
  readonly control: OurControl
  join(name: string, env?: Readonly<Record<string, string>>): Promise<Tailscaled>
}

/** @param relays the relays of a control server that is started already: they may have to know where it is */
async function startMesh(site: Site, label: string, relays: (control: OurControl) => Promise<Readonly<Record<string, unknown>>>): Promise<Mesh> {
  const own = new Lab()
  site.lab.onStop(() => own.stop())
  const control = new OurControl(own, site.programs)
  const map = own.at('relays.yaml')
  writeFileSync(map, '{"regions": {}}')
  await control.start(map)
  const region = await relays(control)
  writeFileSync(map, JSON.stringify({ regions: { [String(region['regionid'])]: region } })) // JSON is YAML
  await control.stop()
  await control.start(map)
  const user = await control.createUser('alice')
  await control.setPolicy(OPEN_POLICY)
  const key = await control.authKey('-u', user, '--reusable')
  const join = async (name: string, env: Readonly<Record<string, string>> = {}): Promise<Tailscaled> => {
    const node = new Tailscaled(site.lab, BIN, `${label}-${name}`, { version: site.version, relayOnly: true, env })
    await node.start()
    await node.up(control.url, key)
    return node
  }
  return { control, join }
}

/** Pings and pages both ways, by a region. */
async function talk(site: Site, a: Tailscaled, b: Tailscaled, code: string): Promise<void> {
  for (const [from, to] of [[a, b], [b, a]] as const) {
    const ip = await to.ip()
    await site.lab.until(`${from.name} reaches ${to.name}`, async () => (await webThroughSocks(from.socksPort, ip, site.web, { timeoutMs: 3_000 })).body.toString() === 'hello', AGAIN_MS)
    expect(await pong(from, '--timeout', '8s', '--until-direct=false', ip)).toContain(`via DERP(${code})`)
    const { body } = await webThroughSocks(from.socksPort, ip, site.web, { path: `/bytes/${BYTES}`, timeoutMs: 40_000 })
    expect([body.length, sha256(body)]).toEqual([BYTES, patternHash(BYTES)])
  }
}

async function noWarnings(site: Site, ...nodes: readonly Tailscaled[]): Promise<void> {
  for (const node of nodes) await site.lab.until(`${node.name} has nothing to complain of`, async () => quiet((await node.status()).Health).length === 0)
}

for (const [who, code] of [['a real derper', 'real'], ['our relay', 'ours']] as const) {
  flow(`real nodes talk by ${who} that asks our control server who may come in`, async (site) => {
    let relay: StartedRelay | undefined
    const mesh = await startMesh(site, code, async (control) => {
      const verify = ['--verify-client-url', `${control.url}/verify`]
      relay = code === 'real' ? await startDerper(site.lab, BIN, `derper-${code}`, [...verify, '-verify-client-url-fail-open=false']) : await startOurs(site.lab, site.programs.relay, `relay-${code}`, await freePort(), [...verify, '--verify-fail-closed'])
      return relayRegion(900, code, [relay], false)
    })
    const trust = { SSL_CERT_FILE: relay?.certificateFile ?? '' }
    const [a, b] = await Promise.all([mesh.join('a', trust), mesh.join('b', trust)])
    await talk(site, a, b, code)
    await noWarnings(site, a, b)
    await Promise.all([a.stop(), b.stop(), mesh.control.stop()])
  })
}

flow('real nodes talk by a relay whose certificate nobody trusts and the map pins', async (site) => {
  const mesh = await startMesh(site, 'pinned', async () => relayRegion(901, 'pinned', [await startOurs(site.lab, site.programs.relay, 'relay-pinned', await freePort(), [])], true))
  const [a, b] = await Promise.all([mesh.join('a'), mesh.join('b')])
  await talk(site, a, b, 'pinned')
  await noWarnings(site, a, b)
  await Promise.all([a.stop(), b.stop(), mesh.control.stop()])
})

flow('one region of our relay and a real one, meshed: real nodes move from one to the other, and talk across both', async (site) => {
  const meshKey = writeMeshKey(site.lab)
  const port = await freePort()
  // The real relay must trust ours before it is there: the certificate is made by a first start.
  const first = await startOurs(site.lab, site.programs.relay, 'relay-both', port, [])
  await first.process.stop()
  const derper = await startDerper(site.lab, BIN, 'derper-both', ['-mesh-psk-file', meshKey, '-mesh-with', `127.0.0.1:${port}`], { SSL_CERT_FILE: first.certificateFile })
  await site.lab.until('the real relay has its certificate', () => readText(derper.certificateFile) !== '')
  const start = (): Promise<StartedRelay> => startOurs(site.lab, site.programs.relay, 'relay-both', port, ['--mesh-psk-file', meshKey, '--mesh-with', `127.0.0.1:${derper.port}`, '--mesh-ca', derper.certificateFile])
  const ours = await start()
  const trust = { SSL_CERT_FILE: site.lab.at('both.pem') }
  writeFileSync(trust.SSL_CERT_FILE, `${readText(ours.certificateFile)}\n${readText(derper.certificateFile)}`)
  const mesh = await startMesh(site, 'both', () => Promise.resolve(relayRegion(902, 'both', [ours, derper], false)))
  const [a, b] = await Promise.all([mesh.join('a', trust), mesh.join('b', trust)])
  await talk(site, a, b, 'both')
  expect(a.log).not.toContain(`127.0.0.1:${derper.port}`)
  // Ours is the first that clients try: once it is gone, the real one has them all.
  await ours.process.stop('SIGKILL')
  await talk(site, a, b, 'both')
  // Who comes later is at ours, and the others stay where they are: what they say goes across.
  await start()
  const c = await mesh.join('c', trust)
  await talk(site, a, c, 'both')
  expect(c.log).not.toContain(`127.0.0.1:${derper.port}`)
  await noWarnings(site, a, b, c)
  await Promise.all([a.stop(), b.stop(), c.stop(), mesh.control.stop()])
})
