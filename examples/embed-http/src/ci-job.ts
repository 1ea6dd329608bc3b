// A job that joins the mesh, asks a service inside it, and with an ephemeral auth key leaves no node behind: URL=http://db/health. Its exit
// status is that of the answer.
import { nodeFromEnvironment, usage } from './node.ts'

const { URL: url } = process.env
if (url === undefined) usage('set URL: what to ask inside the mesh')
const node = await nodeFromEnvironment('ci-job')
try {
  const response = await node.fetch(url, { signal: AbortSignal.timeout(20_000) })
  console.log(`${response.status} ${(await response.text()).trim()}`)
  process.exitCode = response.ok ? 0 : 1
} finally {
  await node.close() // it logs out: the control server forgets an ephemeral node at once
}
