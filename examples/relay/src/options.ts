import { isIP } from 'node:net'
import { parseArgs } from 'node:util'
import type { MeshTarget } from './mesh-links.ts'

export const USAGE = `usage: meshwright-relay --key-file FILE [options]

A relay (DERP) and STUN server for mesh nodes.

  -c, --key-file FILE, --config FILE
                        private key as {"PrivateKey":"privkey:..."}; made with mode 0600 when it is missing
  -a, --addr ADDR       listen on HOST:PORT or :PORT (default :443, with --http :3340)
      --stun-port PORT  STUN over UDP on the same host (default 3478, 0 any free port, -1 none)
      --cert FILE       certificate chain, PEM
      --key FILE        its private key, PEM
      --self-signed     make a certificate for --hostname; kept in --cert and --key when these are given
      --hostname NAME   name or address that clients dial (default: the host of --addr, or 127.0.0.1)
      --http            plain HTTP, for development
      --verify-client-url URL
                        ask URL whether a node may use the relay (POST {"NodePublic","Source"}, answer {"Allow"})
      --verify-fail-closed
                        refuse clients while URL cannot be reached (default: let them in)
      --mesh-psk-file FILE
                        64 hex digits: who holds them may watch, forward and close
      --mesh-with LIST  other relays of the region, HOST[:PORT] with commas between (http://HOST:PORT without TLS):
                        packets for clients of theirs are handed on; needs --mesh-psk-file, and they must dial back
      --mesh-ca FILE    certificates, PEM, to trust of those relays instead of the system's
      --rate-bytes N    most bytes a second from one client; it is slowed, nothing is dropped
  -v, --verbose         a line for every connection
      --version         print the version
  -h, --help            this text

GET /metrics answers Prometheus text to clients on this machine.
Exit status: 0 after SIGINT or SIGTERM, 1 on failure, 2 when options or files are wrong.
`

/** A wrong option or file: told in one line, status 2. */
export class UsageError extends Error {}

export interface RelayOptions {
  readonly keyFile: string
  /** Absent: all addresses. */
  readonly host: string | undefined
  readonly port: number
  /** Undefined: no STUN. */
  readonly stunPort: number | undefined
  readonly cert: string | undefined
  readonly key: string | undefined
  readonly selfSigned: boolean
  readonly hostName: string
  readonly plainHttp: boolean
  readonly verifyUrl: string | undefined
  readonly failOpen: boolean
  readonly meshKeyFile: string | undefined
  readonly meshWith: readonly MeshTarget[]
  readonly meshCaFile: string | undefined
  readonly rateBytes: number | undefined
  readonly verbose: boolean
}

/** Reads the command line; `undefined` when help was asked for. */
export function parseOptions(argv: readonly string[]): RelayOptions | undefined {
  const values = parse(argv)
  if (values.help === true) return undefined
  const plainHttp = values.http ?? false
  const selfSigned = values['self-signed'] ?? false
  const keyFile = values['key-file'] ?? values.config
  if (keyFile === undefined) throw new UsageError('--key-file is missing: name the file of the private key (it is made when it is not there)')
  if (plainHttp && (selfSigned || values.cert !== undefined || values.key !== undefined)) throw new UsageError('--http and certificates exclude each other')
  if ((values.cert === undefined) !== (values.key === undefined)) throw new UsageError('--cert and --key belong together')
  if (!plainHttp && !selfSigned && values.cert === undefined) throw new UsageError('a certificate is missing: give --cert and --key, or --self-signed, or --http for development')
  if (values['verify-client-url'] !== undefined && !URL.canParse(values['verify-client-url'])) throw new UsageError('--verify-client-url is not a URL')
  const meshWith = (values['mesh-with'] ?? '').split(',').flatMap((text) => (text.trim() === '' ? [] : [meshTarget(text.trim())]))
  if (meshWith.length > 0 && values['mesh-psk-file'] === undefined) throw new UsageError('--mesh-with needs --mesh-psk-file: relays of a region know each other by their key')
  const { host, port } = parseAddress(values.addr ?? (plainHttp ? ':3340' : ':443'))
  const stunPort = integer('--stun-port', values['stun-port'] ?? '3478', -1, 65_535)
  return {
    keyFile,
    host,
    port,
    stunPort: stunPort < 0 ? undefined : stunPort,
    cert: values.cert,
    key: values.key,
    selfSigned,
    hostName: values.hostname ?? host ?? '127.0.0.1',
    plainHttp,
    verifyUrl: values['verify-client-url'],
    failOpen: values['verify-fail-closed'] !== true,
    meshKeyFile: values['mesh-psk-file'],
    meshWith,
    meshCaFile: values['mesh-ca'],
    rateBytes: values['rate-bytes'] === undefined ? undefined : integer('--rate-bytes', values['rate-bytes'], 1, 2 ** 40),
    verbose: values.verbose ?? false,
  }
}

interface Values {
  readonly 'key-file'?: string
  readonly config?: string
  readonly addr?: string
  readonly 'stun-port'?: string
  readonly cert?: string
  readonly key?: string
  readonly 'self-signed'?: boolean
  readonly hostname?: string
  readonly http?: boolean
  readonly 'verify-client-url'?: string
  readonly 'verify-fail-closed'?: boolean
  readonly 'mesh-psk-file'?: string
  readonly 'mesh-with'?: string
  readonly 'mesh-ca'?: string
  readonly 'rate-bytes'?: string
  readonly verbose?: boolean
  readonly help?: boolean
}

function parse(argv: readonly string[]): Values {
  const text = { type: 'string' } as const
  const flag = { type: 'boolean' } as const
  try {
    return parseArgs({
      args: joinNegative(argv),
      options: {
        'key-file': { ...text, short: 'c' }, config: text, addr: { ...text, short: 'a' }, 'stun-port': text, cert: text, key: text, 'self-signed': flag,
        hostname: text, http: flag, 'verify-client-url': text, 'verify-fail-closed': flag, 'mesh-psk-file': text, 'mesh-with': text, 'mesh-ca': text, 'rate-bytes': text,
        verbose: { ...flag, short: 'v' }, help: { ...flag, short: 'h' },
      },
    }).values
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

/** `--stun-port -1`, as derper takes it; `parseArgs` would see two options. */
function joinNegative(argv: readonly string[]): string[] {
  const args: string[] = []
  for (const arg of argv) {
    if (arg === '-1' && args.at(-1) === '--stun-port') args.push(`${args.pop()}=-1`)
    else args.push(arg)
  }
  return args
}

function parseAddress(text: string): { host: string | undefined; port: number } {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]*)):([0-9]{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2] ?? ''
  if (match === null || (host !== '' && isIP(host) === 0)) throw new UsageError(`--addr ${text} is not of the form ADDRESS:PORT, [ADDRESS]:PORT or :PORT`)
  return { host: host === '' ? undefined : host, port: integer('--addr', match[3] ?? '', 0, 65_535) }
}

function meshTarget(text: string): MeshTarget {
  const plainHttp = text.startsWith('http://')
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]/]+))(?::([0-9]{1,5}))?$/.exec(plainHttp ? text.slice('http://'.length) : text)
  const host = match?.[1] ?? match?.[2]
  if (host === undefined) throw new UsageError(`--mesh-with ${text} is not of the form HOST or HOST:PORT`)
  return { host, port: integer('--mesh-with', match?.[3] ?? (plainHttp ? '3340' : '443'), 1, 65_535), plainHttp }
}

function integer(name: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (!/^-?[0-9]+$/.test(text) || value < least || value > most) throw new UsageError(`${name} must be a number from ${least} to ${most}, not ${text}`)
  return value
}
