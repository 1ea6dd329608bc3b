import { expect } from 'vitest'
import { bundleExamples } from './lab-examples.ts'
import type { Fleet, FleetBase } from './lab-fleet.ts'
import { headscaleFlows, HeadscaleWorlds } from './lab-headscale-world.ts'
import { type LabProcess, runProgram } from './lab-process.ts'
import { webThroughSocks } from './lab-web.ts'
import { type VersionFlow, worldFlows, Worlds } from './lab-world.ts'

// The programs of examples/embed-http, just as they are, at both control servers: what they need is in their environment.
const FIRST_TRY_MS = 20_000

/** Flows of nodes in other programs; `listed` gives the names of the nodes that the control server knows. */
function embeddedFlows<W extends Fleet<FleetBase>>(flow: VersionFlow<W>, listed: (world: W) => Promise<readonly string[]>): void {
  const environment = async (world: W, hostname: string, ...flags: readonly string[]): Promise<Readonly<Record<string, string>>> => ({
    CONTROL_URL: world.url,
    AUTH_KEY: await world.key('alice', '--ephemeral', ...flags),
    HOSTNAME_ON_MESH: hostname,
    NODE_EXTRA_CA_CERTS: world.base.trust.NODE_EXTRA_CA_CERTS,
  })

  flow('an HTTP service in another program: a client that was there before reaches it at its first try, and is known to it', async (world) => {
    const real = await world.real('real')
    const { main } = await bundleExamples(world.lab, ['main'])
    for (const name of ['hello', 'hello-again']) {
      const service: LabProcess = world.lab.start(`the example ${name}`, process.execPath, [main], { env: await environment(world, name) })
      await world.lab.until(`${name} is on the mesh`, () => {
        service.mustLive()
        return service.log.includes('is on the mesh')
      })
      // Once, and no other try.
      const answer = await webThroughSocks(real.socksPort, name, 80, { timeoutMs: FIRST_TRY_MS })
      expect([answer.status, answer.body.toString()]).toEqual([200, expect.stringMatching(/^Hello, alice.* on real\.lab\.test!\n$/) as string])
      if (name === 'hello') continue
      await service.stop('SIGTERM')
      expect(service.log).toContain('ended with status 0')
      await world.lab.until(`the control server has forgotten ${name}, whose key was ephemeral`, async () => !(await listed(world)).includes(name))
    }
  })

  flow('a CI job in another program: asks a service of the mesh, and leaves no node behind', async (world) => {
    const { 'ci-job': job } = await bundleExamples(world.lab, ['ci-job'])
    const asked = await runProgram(process.execPath, [job], { env: { ...(await environment(world, 'job')), URL: 'http://hello/' } })
    expect(asked).toMatchObject({ status: 0, out: expect.stringMatching(/^200 Hello, alice.* on job\.lab\.test!$/m) as string })
    await world.lab.until('the control server has forgotten the job', async () => !(await listed(world)).includes('job'))
  })
}

const ours = new Worlds()
embeddedFlows(worldFlows('nodes in other programs', ours), async ({ control }) => (await control.nodes()).map((node) => node.givenName))
const headscale = new HeadscaleWorlds()
embeddedFlows(headscaleFlows('nodes in other programs', headscale), async (world) => (await world.headscale.nodes()).map((node) => node.given_name))
