import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOutput } from '@meshwright/derp'
import { dialControl, dialDerp, type DerpConnection, type DerpDialOptions, drive, type Driver, suspendAwareClock, systemRandom } from '@meshwright/runtime-node'
import { encodeJson, ZERO_NODE_KEY } from '@meshwright/control-protocol'
import { MachinePrivateKey } from '@meshwright/crypto'
import { freePort, type Lab, type LabProcess } from './lab-process.ts'

const clock = suspendAwareClock()
const ANSWER_MS = 10_000

/** How a relay is dialled. */
export interface RelayAddress {
  readonly port: number
  /** `sha256-raw:` pin of its certificate. */
  readonly pin: string
}

/** A relay that was started. */
export interface StartedRelay extends RelayAddress {
  /** Of what it listens to for STUN; -1: nothing. */
  readonly stunPort: number
  readonly certificateFile: string
  readonly process: LabProcess
}

/** A region of relays on loopback, in the form of a relay map file. @param pinned the map tells their certificates, else all sides must trust them */
export function relayRegion(id: number, code: string, relays: readonly StartedRelay[], pinned: boolean): Readonly<Record<string, unknown>> {
  const nodes = relays.map(({ port, stunPort, pin }, i) => ({
    name: `${id}${String.fromCharCode(97 + i)}`, regionid: id, hostname: '127.0.0.1', ipv4: '127.0.0.1', ipv6: 'none', stunport: stunPort, derpport: port, ...(pinned && { certname: pin }),
  }))
  return { regionid: id, regioncode: code, regionname: `Region ${code}`, nodes }
}

/** A real derper on loopback, with flags of its own. */
export async function startDerper(lab: Lab, bin: string, name: string, flags: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<StartedRelay> {
  const [port, stunPort] = [await freePort(), await freePort()]
  const [config, certificates] = [lab.at(`${name}.json`), lab.at(`${name}-certificates`)]
  writeFileSync(config, JSON.stringify({ PrivateKey: NodePrivateKey.generate(systemRandom).formatSecret() }), { mode: 0o600 })
  mkdirSync(certificates)
  const args = ['-c', config, '-a', `127.0.0.1:${port}`, '-certmode', 'manual', '-certdir', certificates, '-hostname', '127.0.0.1', '-http-port', '-1', '-stun-port', String(stunPort), ...flags]
  const started = lab.start(name, `${bin}/derper`, args, { env })
  const pin = await lab.until(`${name} tells its certificate`, () => {
    started.mustLive()
    return /sha256-raw:[0-9a-f]{64}/.exec(started.log)?.[0]
  })
  return { port, stunPort, pin, certificateFile: `${certificates}/127.0.0.1.crt`, process: started }
}

/** Our relay program on loopback, at a port that is known before. With the name of an earlier one it has its key and certificate. */
export async function startOurs(lab: Lab, program: string, name: string, port: number, flags: readonly string[]): Promise<StartedRelay> {
  const [certificateFile, stunPort] = [lab.at(`${name}.crt.pem`), await freePort()]
  const args = [program, '--key-file', lab.at(`${name}.json`), '--addr', `127.0.0.1:${port}`, '--stun-port', String(stunPort), '--self-signed', '--cert', certificateFile, '--key', lab.at(`${name}.key.pem`), ...flags]
  const started = lab.start(name, process.execPath, args)
  const text = await lab.until(`${name} is ready`, () => {
    started.mustLive()
    return /^for the DERP map: (.*)$/m.exec(started.log)?.[1]
  })
  const { CertName } = JSON.parse(text) as { readonly CertName: string } // the relay's own words
  return { port, stunPort, pin: CertName, certificateFile, process: started }
}

/** A file with the secret of a region. */
export function writeMeshKey(lab: Lab): string {
  const file = lab.at('mesh.key')
  writeFileSync(file, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 })
  return file
}

/** Text of a file that a program writes when it starts. */
export function readText(file: string): string {
  return readFileSync(file, 'utf8')
}

/** Registers a node by auth key, as a client without a data plane; gives its node key. @throws Error with what the server said */
export async function registerNode(url: string, authKey: string, hostname: string): Promise<NodePrivateKey> {
  const key = NodePrivateKey.generate(systemRandom)
  const connection = await dialControl({ url, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom })
  try {
    const body = encodeJson({ Version: 142, NodeKey: key.publicKey().text, OldNodeKey: ZERO_NODE_KEY, Auth: { AuthKey: authKey }, Hostinfo: { Hostname: hostname, OS: 'linux', BackendLogID: '0' } })
    const text = await new Promise<string>((resolve, reject) => {
      const parts: Uint8Array[] = []
      connection.request({ method: 'POST', path: '/machine/register', headers: {}, body }, { response: () => undefined, chunk: (bytes) => void parts.push(bytes), end: () => resolve(Buffer.concat(parts).toString()), failed: (message) => reject(new Error(message)) })
    })
    if (!text.includes('"MachineAuthorized":true')) throw new Error(`not registered: ${text}`)
    return key
  } finally {
    connection.close()
  }
}

/** A client of ours at any relay. */
export class RelayClient {
  readonly key: NodePrivateKey
  readonly connection: DerpConnection
  readonly #driver: Driver<DerpClientInput>
  readonly #machine: DerpClient
  readonly #seen: DerpClientOutput[] = []
  readonly #waiting: ((output: DerpClientOutput) => boolean)[] = []

  private constructor(key: NodePrivateKey, connection: DerpConnection) {
    this.key = key
    this.connection = connection
    this.#machine = new DerpClient({ privateKey: key, random: systemRandom, preferred: true })
    this.#driver = drive<DerpClientInput, DerpClientOutput>(this.#machine, clock, (output) => {
      if (output.type === 'write') return connection.write(output.bytes)
      if (output.type === 'close') return connection.close()
      const kept = output.type === 'packet' ? { ...output, packet: output.packet.slice() } : output
      const at = this.#waiting.findIndex((take) => take(kept))
      if (at >= 0) this.#waiting.splice(at, 1)
      else this.#seen.push(kept)
    })
    this.#driver.feed({ type: 'opened', ...(connection.serverKey && { serverKey: connection.serverKey }) })
    connection.start({ bytes: (bytes) => this.#driver.feed({ type: 'bytes', bytes }), writable: () => this.#driver.feed({ type: 'writable' }), closed: () => this.#driver.feed({ type: 'closed' }) })
  }

  /** Connects; whether it is let in, is what `connected` or `failed` tells. */
  static async dial(lab: Lab, relay: RelayAddress, options: Partial<DerpDialOptions> & { readonly key?: NodePrivateKey } = {}): Promise<RelayClient> {
    const { key = NodePrivateKey.generate(systemRandom), ...how } = options
    const connection = await dialDerp({ node: { name: 'lab', regionId: 900, hostName: '127.0.0.1', certName: relay.pin, derpPort: relay.port }, ...how })
    const client = new RelayClient(key, connection)
    lab.onStop(() => client.close())
    return client
  }

  send(to: RelayClient, bytes: Uint8Array): void {
    this.#driver.act((now) => this.#machine.send(now, to.key.publicKey(), bytes))
  }

  /** The next output of a type, or of one of two. */
  until<T extends DerpClientOutput['type']>(...types: readonly T[]): Promise<Extract<DerpClientOutput, { type: T }>> {
    type Wanted = Extract<DerpClientOutput, { type: T }>
    const fits = (output: DerpClientOutput): output is Wanted => types.some((type) => type === output.type)
    const at = this.#seen.findIndex(fits)
    const found = at < 0 ? undefined : this.#seen.splice(at, 1)[0]
    if (found !== undefined && fits(found)) return Promise.resolve(found)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no ${types.join(' or ')} within ${ANSWER_MS / 1000} s`)), ANSWER_MS)
      this.#waiting.push((output) => {
        if (!fits(output)) return false
        clearTimeout(timer)
        resolve(output)
        return true
      })
    })
  }

  close(): void {
    this.connection.close()
    this.#driver.stop()
  }
}
