import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { type Bench, controlConfig, type Ended, freePort, PROGRAMS, run } from './programs.ts'

/** A control server and a relay, ready for nodes. */
export interface SmallMesh {
  readonly url: string
  /** A reusable key of the only user. */
  readonly authKey: string
  /** Runs the control server's command line. */
  admin(...args: readonly string[]): Promise<Ended>
}

/** Starts both in a folder; `policy` is the whole policy text. */
export async function startSmallMesh(bench: Bench, folder: string, policy: string = '{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}'): Promise<SmallMesh> {
  const [port, relayPort, stunPort] = [await freePort(), await freePort(), await freePort()]
  const config = controlConfig(folder, port)
  const relay = bench.start(PROGRAMS.relay, ['--key-file', path.join(folder, 'relay.key'), '--addr', `127.0.0.1:${relayPort}`, '--stun-port', String(stunPort), '--self-signed', '--cert', path.join(folder, 'relay.crt'), '--key', path.join(folder, 'relay.pem')])
  const [, described = ''] = await relay.said(/^for the DERP map: (.*)$/m)
  const node = Object.fromEntries(Object.entries(JSON.parse(described) as Record<string, unknown>).map(([name, value]) => [name.toLowerCase(), value])) // the relay's own words
  writeFileSync(path.join(folder, 'relays.yaml'), JSON.stringify({ regions: { 900: { regionid: 900, regioncode: 'ours', regionname: 'Ours', nodes: [{ ...node, regionid: 900 }] } } }))
  const control = bench.start(PROGRAMS.control, ['serve', '-c', config])
  await control.said(/\bready\b/)
  const admin = (...args: readonly string[]): Promise<Ended> => run(PROGRAMS.control, ['-c', config, ...args])
  await admin('users', 'create', 'alice')
  writeFileSync(path.join(folder, 'policy.hujson'), policy)
  await admin('policy', 'set', '-f', path.join(folder, 'policy.hujson'))
  const { key } = JSON.parse((await admin('preauthkeys', 'create', '-u', '1', '--reusable', '-o', 'json')).out) as { readonly key: string } // headscale's form
  return { url: `http://127.0.0.1:${port}`, authKey: key, admin }
}
