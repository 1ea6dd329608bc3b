import { bundlePrograms, OurControl, OurRelay, type OurPrograms } from '../tests/interop/lab-ours.ts'
import { interfaceAddress, type Lab } from '../tests/interop/lab-process.ts'

/** A control server of ours with one user and one relay. */
export interface Tailnet {
  readonly programs: OurPrograms
  readonly control: OurControl
  /** Lets any number of nodes in, as that user's. */
  readonly authKey: string
}

/** Starts one for a benchmark; it ends with its lab. @param acls who may talk to whom, @param more other members of the policy */
export async function startTailnet(lab: Lab, acls: readonly object[], more: object = {}): Promise<Tailnet> {
  const programs = await bundlePrograms(lab)
  const relay = new OurRelay(lab, programs)
  await relay.start(interfaceAddress() ?? '127.0.0.1')
  const control = new OurControl(lab, programs)
  await control.start(relay.mapFile)
  const authKey = await control.authKey('-u', await control.createUser('alice'), '--reusable')
  await control.setPolicy({ ...more, acls })
  return { programs, control, authKey }
}
