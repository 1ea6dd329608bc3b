import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { Lab } from '../../tests/interop/lab-process.ts'
import { LightClient } from '../../tests/load/light-client.ts'
import { startTailnet } from '../tailnet.ts'

// What an idle node costs that is not the first in its process, with 100 peers and 1,000 filter rules: at most 25 MB.
const PEERS = 100
const RULES = 1_000
const NODES = 6
const MUST_MB = 25

/** Measures it, prints it as JSON, and gives the status to end with: 1 when the must is missed. @throws Error when nothing could be measured */
export async function measureMemory(): Promise<number> {
  const lab = new Lab()
  const clients: LightClient[] = []
  try {
    // Rules with different sources are not joined: each is one in the node's filter. One lets everybody see everybody.
    const hosts = Object.fromEntries(Array.from({ length: RULES }, (_, i) => [`h${i}`, `10.${i >> 8}.${i & 255}.0/24`]))
    const acls = [{ action: 'accept', src: ['*'], dst: ['*:22'] }, ...Object.keys(hosts).map((name, i) => ({ action: 'accept', src: [name], dst: [`*:${1000 + i}`] }))]
    const { control, authKey: key } = await startTailnet(lab, acls, { hosts })
    const serverKey = await fetchControlKey({ url: control.url })
    for (let i = 0; i < PEERS; i += 1) {
      const client = new LightClient(i, { frame: () => undefined, lost: () => undefined })
      await client.join(control.url, serverKey, key)
      await client.poll()
      clients.push(client)
    }
    const child = spawnSync(process.execPath, ['--conditions=@meshwright/source', '--import', 'tsx', '--expose-gc', path.join(import.meta.dirname, 'memory-child.ts'), control.url, key, String(NODES)], { encoding: 'utf8', timeout: 180_000 })
    if (child.status !== 0) throw new Error(`the nodes ended with ${String(child.status)}: ${child.stderr}`)
    const samples = JSON.parse(child.stdout) as readonly { readonly peers: number; readonly heapMegabytes: number; readonly rssMegabytes: number }[]
    const [first, last] = [samples[0], samples.at(-1)]
    if (first === undefined || last === undefined) throw new Error('no samples')
    const each = (what: 'heapMegabytes' | 'rssMegabytes'): number => (last[what] - first[what]) / (samples.length - 1)
    process.stdout.write(`${JSON.stringify({ name: 'idle-node-memory', peers: last.peers, rules: RULES, heapMegabytesEach: each('heapMegabytes'), rssMegabytesEach: each('rssMegabytes'), must: MUST_MB, samples }, null, 2)}\n`)
    return each('rssMegabytes') <= MUST_MB ? 0 : 1
  } finally {
    for (const client of clients) client.drop()
    await lab.stop()
  }
}
