import { readFileSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import path from 'node:path'
import type { Lab } from './lab.ts'
import { Disappointment } from './waiting.ts'

const START_LIMIT_MS = 60_000
const REGION = 900

/** What went through the relay so far, in bytes of packets. */
export interface RelayCounters {
  readonly received: number
  readonly sent: number
}

/** The relay as a process: TLS with a certificate that it makes itself and that the relay map pins. */
export class RelayProcess {
  readonly #lab: Lab
  port = 0

  constructor(lab: Lab) {
    this.#lab = lab
  }

  /** Starts it, and writes the relay map for the control server. */
  async start(): Promise<void> {
    const at = (name: string): string => path.join(this.#lab.folder, name)
    const program = this.#lab.start('relay', this.#lab.programs.relay, ['--key-file', at('relay.key'), '--addr', '127.0.0.1:0', '--stun-port', '0', '--self-signed', '--cert', at('relay.crt.pem'), '--key', at('relay.key.pem')])
    const [, text = '{}'] = await program.line(/^for the DERP map: (.*)$/, START_LIMIT_MS)
    const node = JSON.parse(text) as Readonly<Record<string, string | number>>
    this.port = Number(node['DERPPort'])
    const lowerCase = Object.fromEntries(Object.entries(node).map(([name, value]) => [name.toLowerCase(), value]))
    const map = { regions: { [REGION]: { regionid: REGION, regioncode: 'demo', regionname: 'Relay of the demo', nodes: [{ ...lowerCase, regionid: REGION }] } } }
    writeFileSync(at('relays.yaml'), `${JSON.stringify(map, null, 2)}\n`) // JSON is YAML
  }

  /** Reads the byte counters from `/metrics`. */
  async counters(): Promise<RelayCounters> {
    const text = await this.#metrics()
    const value = (name: string): number => {
      const match = new RegExp(`^\\w*${name}(?:\\{[^}]*\\})? (\\d+)$`, 'm').exec(text)
      if (match === null) throw new Disappointment(`the relay's metrics do not tell ${name}`)
      return Number(match[1])
    }
    return { received: value('bytes_received'), sent: value('bytes_sent') }
  }

  #metrics(): Promise<string> {
    const ca = readFileSync(path.join(this.#lab.folder, 'relay.crt.pem'))
    return new Promise((resolve, reject) => {
      const request = https.get({ host: '127.0.0.1', port: this.port, path: '/metrics', ca, agent: false, timeout: 20_000 }, (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (more: string) => (text += more))
        response.on('end', () => resolve(text))
      })
      request.on('timeout', () => request.destroy(new Error('the relay does not answer')))
      request.on('error', reject)
    })
  }
}
