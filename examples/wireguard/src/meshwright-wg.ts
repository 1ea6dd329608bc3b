import { parseArgs } from 'node:util'
import { parseIp, parsePrefix } from '@meshwright/ip'
import { isDataPlaneWorker, runDataPlaneWorker } from '@meshwright/runtime-node/dataplane'
import { addressesOf } from './apply-config.ts'
import { audit } from './audit.ts'
import { check, readConfigFile } from './check.ts'
import { reportToParent, startDaemon } from './daemonize.ts'
import { checkName, type InterfaceOptions, runInterface } from './interface.ts'
import { genkey, genpsk, pubkey } from './keys.ts'
import { logLevelFrom } from './log.ts'
import { mesh, rotate } from './mesh.ts'
import { show } from './show.ts'
import { UsageError } from './usage-error.ts'
import { VERSION } from './version.ts'

const USAGE = `usage: meshwright-wg [-f|--foreground] [--metrics HOST:PORT] INTERFACE
                            make a WireGuard interface, to be configured by wg or wg-quick
       meshwright-wg [-f] [--config FILE] [--address ADDRESS] --socks5 HOST:PORT INTERFACE
                            the same without a TUN device: TCP through a SOCKS5 proxy; with FILE it needs no root and no wg
       meshwright-wg genkey | genpsk                    a new private or preshared key
       meshwright-wg pubkey < PRIVATE-KEY               its public key
       meshwright-wg show [all|interfaces|NAME [FIELD]] as wg show; FIELD: dump, public-key, private-key, listen-port, fwmark, peers,
                            preshared-keys, endpoints, allowed-ips, latest-handshakes, transfer, persistent-keepalive
       meshwright-wg check [--json] FILE                what is wrong with a wg or wg-quick file; status 1 on errors
       meshwright-wg audit [--json] FILE...             running interfaces against their files; status 1 on findings
       meshwright-wg mesh FILE [--out FOLDER]           every host's wg0.conf and nftables rules, from one description
       meshwright-wg rotate HOST FILE [--out FOLDER]    a new key for a host, in two steps

  --config FILE        configure by a file of wg or wg-quick at once; names of endpoints in it are resolved again when a peer does not
                       answer (default for that alone: /etc/wireguard/INTERFACE.conf)
  --metrics HOST:PORT  serve counters for Prometheus at /metrics
  --version            print the version

Without -f it goes to the background once the interface can be configured. Environment, as wireguard-go has it: LOG_LEVEL (verbose,
error, silent), WG_TUN_FD, WG_UAPI_FD, WG_PROCESS_FOREGROUND=1; and MESHWRIGHT_WG_METRICS=HOST:PORT, for wg-quick.
With wg-quick: WG_QUICK_USERSPACE_IMPLEMENTATION=meshwright-wg. Status: 0 all well, 1 it did not work or there are findings, 2 wrong usage.
`

const VERBS: readonly string[] = ['genkey', 'genpsk', 'pubkey', 'show', 'check', 'audit', 'mesh', 'rotate']

async function main(args: readonly string[]): Promise<number> {
  const [verb, ...rest] = args
  if (verb !== undefined && VERBS.includes(verb) && rest.some((word) => word === '-h' || word === '--help')) {
    process.stdout.write(USAGE)
    return 0
  }
  switch (verb) {
    case undefined:
      process.stderr.write(USAGE)
      return 2
    case '-h':
    case '--help':
    case 'help':
      process.stdout.write(USAGE)
      return 0
    case '--version':
      process.stdout.write(`meshwright-wg ${VERSION}\n`)
      return 0
    case 'genkey':
      return print(rest, genkey)
    case 'genpsk':
      return print(rest, genpsk)
    case 'pubkey':
      return print(rest, pubkey)
    case 'show':
      process.stdout.write(await show(rest))
      return 0
    case 'check': {
      const { text, status } = check(rest)
      process.stdout.write(text)
      return status
    }
    case 'mesh':
      process.stdout.write(mesh(rest))
      return 0
    case 'rotate':
      process.stdout.write(rotate(rest))
      return 0
    case 'audit': {
      const { text, status } = await audit(rest)
      process.stdout.write(text)
      return status
    }
    default:
      return serve(args)
  }
}

function print(rest: readonly string[], make: () => string): number {
  if (rest.length > 0) throw new UsageError(`this takes no arguments\n\n${USAGE}`)
  process.stdout.write(make())
  return 0
}

async function serve(args: readonly string[]): Promise<number> {
  let parsed: ReturnType<typeof parseServeArgs>
  try {
    parsed = parseServeArgs(args)
  } catch (error) {
    throw new UsageError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`)
  }
  const { values, positionals } = parsed
  const [name, ...rest] = positionals
  if (name === undefined || rest.length > 0) throw new UsageError(`one interface name is expected\n\n${USAGE}`)
  checkName(name)
  const userspace = values.socks5 === undefined && values.address === undefined ? undefined : userspaceFrom(values.address ?? [], values.socks5, values.config)
  const metrics = values.metrics ?? (process.env['MESHWRIGHT_WG_METRICS'] || undefined)
  const metricsAt = metrics === undefined ? undefined : hostPort(metrics)
  if (metrics !== undefined && metricsAt === undefined) throw new UsageError(`metrics are served at HOST:PORT, which ${JSON.stringify(metrics)} is not`)
  if (values.foreground !== true && process.env['WG_PROCESS_FOREGROUND'] !== '1') {
    await startDaemon(args)
    return 0
  }
  const tunFd = descriptor('WG_TUN_FD')
  const uapiFd = descriptor('WG_UAPI_FD')
  return runInterface({
    name,
    ...(tunFd !== undefined && { tunFd }),
    ...(uapiFd !== undefined && { uapiFd }),
    ...(userspace !== undefined && { userspace }),
    ...(metricsAt !== undefined && { metrics: metricsAt }),
    ...(values.config !== undefined && { configFile: values.config }),
    logLevel: logLevelFrom(process.env['LOG_LEVEL']),
    ready: () => reportToParent('ready'),
  })
}

function parseServeArgs(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { foreground: { type: 'boolean', short: 'f' }, address: { type: 'string', multiple: true }, socks5: { type: 'string' }, config: { type: 'string' }, metrics: { type: 'string' } },
  })
}

function userspaceFrom(given: readonly string[], socks5: string | undefined, config: string | undefined): NonNullable<InterfaceOptions['userspace']> {
  const ips = given.flatMap((each) => each.split(',')).map((text) => {
    const prefix = parsePrefix(text.trim())
    const ip = parseIp(text.trim().split('/')[0] ?? '')
    if (prefix === undefined || ip === undefined) throw new UsageError(`--address: not an address: ${text}`)
    return ip
  })
  const addresses = ips.length > 0 || config === undefined ? ips : addressesOf(readConfigFile(config))
  const at = hostPort(socks5 ?? '')
  if (addresses.length === 0 || at === undefined) {
    throw new UsageError('without a TUN device both are needed: --socks5 HOST:PORT, and --address ADDRESS (of this host in the tunnel) or --config FILE with one')
  }
  return { addresses, socks5: at }
}

function hostPort(text: string): { readonly host: string; readonly port: number } | undefined {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(text)
  const port = Number(match?.[3])
  return match === null || port > 65_535 ? undefined : { host: match[1] ?? match[2] ?? '', port }
}

function descriptor(variable: string): number | undefined {
  const text = process.env[variable]
  if (text === undefined || text === '') return undefined
  if (!/^[0-9]{1,9}$/.test(text)) throw new UsageError(`${variable} is to be the number of an open descriptor`)
  return Number(text)
}

function run(): void {
  // A reader that has seen enough (`| head -1`) is no failure; an interface in the foreground goes on.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
  main(process.argv.slice(2)).then(
    (status) => {
      process.exitCode = status
    },
    (error: unknown) => {
      const message = error instanceof UsageError ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error)
      if (!reportToParent(message)) process.stderr.write(`meshwright-wg: ${message}\n`)
      process.exitCode = error instanceof UsageError ? error.status : 1
    },
  )
}

// The worker of an interface is this very program.
if (isDataPlaneWorker()) runDataPlaneWorker()
else run()
