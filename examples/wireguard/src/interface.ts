import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import type http from 'node:http'
import path from 'node:path'
import type { Ip } from '@meshwright/ip'
import { changesFor } from './apply-config.ts'
import { readConfigFile } from './check.ts'
import type { Controlled } from './controlled.ts'
import { EndpointNames } from './endpoint-names.ts'
import { DEFAULT_MTU, start } from './lanes.ts'
import { createLog, type Log, type LogLevel } from './log.ts'
import { serveMetrics } from './metrics-server.ts'
import { claimUapiPath, uapiPath, UapiServer } from './uapi-server.ts'
import { UsageError } from './usage-error.ts'

/** Where wg-quick has its files. */
const CONFIG_FOLDER = '/etc/wireguard'
const MTU_POLL_MS = 2_000

/** How an interface is run. */
export interface InterfaceOptions {
  readonly name: string
  /** An open TUN descriptor that was handed down (WG_TUN_FD). */
  readonly tunFd?: number
  /** A listening UAPI socket that was handed down (WG_UAPI_FD). */
  readonly uapiFd?: number
  /** A stack in user space behind a SOCKS5 proxy in the place of a TUN device. */
  readonly userspace?: { readonly addresses: readonly Ip[]; readonly socks5: { readonly host: string; readonly port: number } }
  /** A file of wg or wg-quick that the interface is configured by at the start. */
  readonly configFile?: string
  /** Where the counters are served for Prometheus. */
  readonly metrics?: { readonly host: string; readonly port: number }
  readonly logLevel: LogLevel
  /** Called once `wg` can configure the interface. */
  readonly ready: () => void
}

/** @throws UsageError when no interface can have this name */
export function checkName(name: string): void {
  if (!/^[a-zA-Z0-9_=+.-]{1,15}$/.test(name)) throw new UsageError(`not an interface name: ${JSON.stringify(name)}; it has 1 to 15 of the characters a-z A-Z 0-9 _ = + . -`)
}

/**
 * Makes a TUN interface and serves it until it is deleted, its socket is deleted, or a signal comes; resolves with the exit status.
 * @throws UsageError when the interface cannot be made
 */
export async function runInterface(options: InterfaceOptions): Promise<number> {
  const { name } = options
  const log = createLog(options.logLevel, name)
  const socketFile = uapiPath(name)
  const config = options.configFile === undefined ? undefined : readConfigFile(options.configFile)
  // Who configures by a file and needs no device needs no socket either, which only root can make.
  const needsSocket = config === undefined || options.userspace === undefined
  const hasSocket = options.uapiFd !== undefined || (await claimUapiPath(socketFile).then(() => true, (error: unknown) => needsSocket ? Promise.reject(error) : false))
  const ended = new Ending()
  const names = new EndpointNames(options.configFile ?? path.join(CONFIG_FOLDER, `${name}.conf`), (publicKey, endpoint) => void running.tunnel.apply([
    { type: 'peer', publicKey, endpoint, remove: false, updateOnly: true, replaceAllowedIps: false, allowedIps: [] },
  ]), log)
  const running = await start(options, log, ended, (peer, tried) => void names.unanswered(peer, tried))
  const { tunnel } = running
  const isTun = options.userspace === undefined
  if (isTun && options.tunFd === undefined) setLinkMtu(name, log)
  const server = hasSocket ? new UapiServer(tunnel, socketFile) : undefined
  let metrics: http.Server | undefined
  try {
    await server?.listen(options.uapiFd)
    if (options.metrics !== undefined) metrics = await serveMetrics(tunnel, name, options.metrics)
    const errno = config === undefined ? 0 : await tunnel.apply(await changesFor(config))
    if (errno !== 0) throw new UsageError(`${options.configFile} cannot be put to use (errno ${-errno})`, 1)
  } catch (error) {
    server?.close()
    metrics?.close()
    await running.close()
    throw error
  }
  server?.whenDeleted(() => ended.end('the socket was deleted', 0))
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ended.end(signal, 0))
  const mtuTimer = isTun ? followMtu(name, tunnel) : undefined
  log('verbose', 'the interface is up and can be configured')
  options.ready()
  const status = await ended.wait(log)
  clearInterval(mtuTimer)
  server?.close()
  metrics?.close()
  metrics?.closeAllConnections()
  await running.close()
  return status
}

/** Waits for the one reason to stop. */
export class Ending {
  #resolve: (how: { readonly why: string; readonly status: number }) => void = () => undefined
  readonly #ended: Promise<{ readonly why: string; readonly status: number }> = new Promise((resolve) => {
    this.#resolve = resolve
  })

  end(why: string, status: number): void {
    this.#resolve({ why, status })
  }

  async wait(log: Log): Promise<number> {
    const { why, status } = await this.#ended
    log('verbose', `ending: ${why}`)
    return status
  }
}

function setLinkMtu(name: string, log: Log): void {
  try {
    execFileSync('ip', ['link', 'set', 'dev', name, 'mtu', String(DEFAULT_MTU)], { stdio: 'ignore' })
  } catch {
    log('error', `the MTU of ${name} could not be set to ${DEFAULT_MTU}; "ip" of iproute2 is needed for that`)
  }
}

/** The kernel tells of changes only those who read netlink, which Node cannot: so look now and then. */
function followMtu(name: string, tunnel: Controlled): NodeJS.Timeout {
  let known = DEFAULT_MTU
  const look = (): void => {
    let mtu: number
    try {
      mtu = Number(readFileSync(`/sys/class/net/${name}/mtu`, 'utf8'))
    } catch {
      return // deleted, which the TUN device tells; or no /sys
    }
    if (mtu === known || !Number.isInteger(mtu)) return
    known = mtu
    tunnel.setMtu(mtu)
  }
  const timer = setInterval(look, MTU_POLL_MS)
  timer.unref()
  return timer
}
