import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { ControlProcess } from './control-process.ts'
import { freePort } from './free-port.ts'
import type { Lab } from './lab.ts'
import { NodeProcess } from './node-process.ts'
import { RelayProcess } from './relay-process.ts'
import { type Service, startService } from './service.ts'

/** The domain of the demo's names. */
export const DOMAIN = 'demo.mesh'

/** A control server, a relay, four nodes, and what two of these serve. */
export interface DemoMesh {
  readonly control: ControlProcess
  readonly relay: RelayProcess
  /** Alice's laptop. */
  readonly alice: NodeProcess
  /** Bob's laptop: it stands in a network without UDP. */
  readonly bob: NodeProcess
  /** The application, `tag:app`. */
  readonly app: NodeProcess
  /** The database, `tag:db`. */
  readonly db: NodeProcess
  readonly nodes: readonly NodeProcess[]
  readonly application: Service
  readonly database: Service
  /** The policy of examples/demo/policy.hujson, with the ports of this run. */
  readonly policy: string
  /** The same with a maintenance window. */
  readonly maintenance: string
}

/** Prepares the mesh; starts nothing but the two services. */
export async function prepareMesh(lab: Lab): Promise<DemoMesh> {
  const application = lab.keep(await startService('application'))
  const database = lab.keep(await startService('database'))
  const policy = (name: string): string =>
    readFileSync(fileURLToPath(new URL(`../${name}`, import.meta.url)), 'utf8')
      .replaceAll('tag:app:8080', `tag:app:${application.port}`)
      .replaceAll('tag:db:5432', `tag:db:${database.port}`)
  const alice = new NodeProcess(lab, 'alice-laptop', await freePort())
  const bob = new NodeProcess(lab, 'bob-laptop', await freePort(), ['--block-udp'])
  const app = new NodeProcess(lab, 'app', await freePort())
  const db = new NodeProcess(lab, 'db', await freePort())
  return {
    control: new ControlProcess(lab, await freePort(), DOMAIN),
    relay: new RelayProcess(lab),
    alice,
    bob,
    app,
    db,
    nodes: [alice, bob, app, db],
    application,
    database,
    policy: policy('policy.hujson'),
    maintenance: policy('policy-maintenance.hujson'),
  }
}
