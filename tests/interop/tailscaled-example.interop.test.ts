import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import { BIN } from './lab-flow.ts'
import { bundlePrograms, OurNode, type OurPrograms } from './lab-ours.ts'
import { Lab, type LabProcess, runOk } from './lab-process.ts'
import { Space, whyNoSpaces } from './lab-space.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { OPEN_POLICY } from './lab-fleet.ts'
import { TAILSCALE_OLDEST } from './programs.ts'
import { quiet, versionFlows } from './lab-world.ts'

// The control server with its example configuration, just as it is, on a computer of its own: plain HTTP, and a relay with a certificate of its own making.
const EXAMPLE = path.resolve(import.meta.dirname, '../../examples/control-server/config.example.yaml')
const URL_THERE = 'http://127.0.0.1:8080'
const REGION = '999'
const CERTIFICATE = ['data', 'relay-certificate.pem']

class Site {
  readonly lab: Lab
  readonly space: Space
  readonly programs: OurPrograms
  readonly clients: readonly [Tailscaled, Tailscaled]
  readonly ours: OurNode
  #server: LabProcess | undefined

  private constructor(lab: Lab, space: Space, programs: OurPrograms, version: string) {
    const client = (name: string): Tailscaled => new Tailscaled(lab, BIN, name, { version, netns: space.name, userspace: true, relayOnly: true })
    this.lab = lab
    this.space = space
    this.programs = programs
    this.clients = [client('one'), client('two')]
    this.ours = new OurNode(lab, programs, 'ours', ['--block-udp'], {}, space.name)
  }

  /** The commands of the README, in its order. */
  static async start(version: string): Promise<Site> {
    const lab = new Lab()
    labs.push(lab)
    const site = new Site(lab, await Space.make(lab, 'site'), await bundlePrograms(lab, ['control', 'daemon', 'cli']), version)
    mkdirSync(lab.at('server'))
    copyFileSync(EXAMPLE, lab.at('server', 'config.yaml'))
    writeFileSync(lab.at('server', 'policy.hujson'), JSON.stringify(OPEN_POLICY))
    await site.serve()
    await site.mc('users', 'create', 'alice')
    await site.mc('policy', 'set', '-f', 'policy.hujson')
    const key = (await site.mc('preauthkeys', 'create', '-u', '1', '--reusable', '-e', '24h')).trim()
    const nodes = [...site.clients, site.ours]
    await Promise.all(nodes.map((node) => node.start()))
    await Promise.all(nodes.map((node) => node.up(URL_THERE, key)))
    return site
  }

  async serve(): Promise<void> {
    const started = this.lab.start('our control server', 'ip', ['netns', 'exec', this.space.name, 'sh', '-c', `cd ${this.lab.at('server')} && exec "$0" "$@"`, process.execPath, this.programs.control, '-c', 'config.yaml', 'serve'])
    this.#server = started
    await this.lab.until('our control server is ready', () => {
      started.mustLive()
      return /\bready\b/.test(started.log)
    })
  }

  async stop(): Promise<void> {
    await this.#server?.stop('SIGTERM')
  }

  reload(): void {
    const pid = this.#server?.pid
    if (pid === undefined) throw new Error('the server does not run')
    process.kill(pid, 'SIGHUP')
  }

  /** What is pinned, as the server told it last. */
  get pin(): string | undefined {
    return this.#server?.log.match(/sha256-raw:[0-9a-f]{64}/g)?.at(-1)
  }

  mc(...words: readonly string[]): Promise<string> {
    return runOk('sh', ['-c', `cd ${this.lab.at('server')} && exec "$0" "$@"`, process.execPath, this.programs.control, '-c', 'config.yaml', ...words])
  }
}

const labs: Lab[] = []
const sites = new Map<string, Promise<Site>>()
const noSpaces = whyNoSpaces()

function siteOf(version: string): Promise<Site> {
  const made = sites.get(version) ?? Site.start(version)
  sites.set(version, made)
  return made
}

const flow = versionFlows(
  'relay in the control server',
  siteOf,
  async () => {
    for (const lab of labs) await lab.stop()
  },
  noSpaces === undefined ? [] : [noSpaces],
)

/** Each of the real ones reaches the other, and ours reaches both and is reached, by the relay. */
async function pingEachOther({ lab, clients, ours }: Site): Promise<void> {
  const [one, two] = clients
  for (const [from, to] of [[one, two], [two, one], [one, ours], [ours, two]] as const) {
    await lab.until(`${from.name} reaches ${to.name} by relay`, async () => / via DERP\(own\) in /.test((await from.run(['ping', '--c', '1', '--timeout', '5s', '--until-direct=false', await to.ip()], 20_000)).out), 60_000)
  }
}

flow('the example configuration as it is: clients join by plain HTTP, netcheck sees its relay, and pings go by that', async (site) => {
  const [one] = site.clients
  const { BackendState, Health } = await site.lab.until('it runs and has nothing to complain of', async () => {
    const status = await one.status()
    return quiet(status.Health).length === 0 ? status : undefined
  })
  expect([BackendState, quiet(Health)]).toEqual(['Running', []])
  const { out } = await one.inside(one.program, [`--socket=${one.socket}`, 'netcheck', '--format=json'])
  const report = JSON.parse(out) as { readonly UDP: boolean; readonly PreferredDERP: number; readonly RegionLatency: Readonly<Record<string, number>> }
  expect([report.UDP, String(report.PreferredDERP), Object.keys(report.RegionLatency)]).toEqual([true, REGION, [REGION]])
  await pingEachOther(site)
})

flow('the example configuration as it is: with another certificate of the relay everybody comes back', async (site) => {
  const [before, file] = [site.pin, site.lab.at('server', ...CERTIFICATE)]
  expect(before).toBeDefined()
  rmSync(file)
  site.reload()
  const pin = await site.lab.until('there is another certificate', () => (site.pin === before ? undefined : site.pin))
  const [one] = site.clients
  // Clients before 1.82 take a pin for a host name, and are told not to check instead.
  const told = one.program.endsWith(`@${TAILSCALE_OLDEST}`) ? '"InsecureForTests":true' : pin
  await site.lab.until('a client that is connected knows it', async () => JSON.stringify(await one.netmap()).includes(told))
  const kept = readFileSync(file)
  await site.stop()
  await site.serve()
  expect([site.pin, readFileSync(file).equals(kept)]).toEqual([pin, true])
  await pingEachOther(site)
})
