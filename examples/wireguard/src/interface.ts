import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import type http from 'node:http'
import path from 'node:path'
import { isMeshwrightError } from '@meshwright/core'
import type { Ip } from '@meshwright/ip'
import { fastCryptoProvider, openTun } from '@meshwright/runtime-node'
import { changesFor } from './apply-config.ts'
import { readConfigFile } from './check.ts'
import { EndpointNames } from './endpoint-names.ts'
import { createLog, type Log, type LogLevel } from './log.ts'
import { serveMetrics } from './metrics-server.ts'
import { loadSetMark } from './socket-mark.ts'
import { Tunnel } from './tunnel.ts'
import { claimUapiPath, uapiPath, UapiServer } from './uapi-server.ts'
import { UsageError } from './usage-error.ts'
import { UserspaceStack } from './userspace-stack.ts'

/** 1500 bytes of Ethernet less 80 for IPv6, UDP and WireGuard. */
const DEFAULT_MTU = 1420
const USERSPACE_HINT = 'meshwright-wg --address ADDRESS --socks5 127.0.0.1:1080 INTERFACE'
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
  let device: Doorway | undefined
  const setMark = await loadSetMark()
  const provider = fastCryptoProvider()
  log('verbose', `cryptography: ${provider.name}`)
  const tunnel = new Tunnel({
    name,
    provider,
    mtu: DEFAULT_MTU,
    deliver: (packet) => device?.write(packet),
    log,
    ...(setMark !== undefined && { setMark }),
    onUnanswered: (peer, tried) => void names.unanswered(peer, tried),
  })
  const names = new EndpointNames(options.configFile ?? path.join(CONFIG_FOLDER, `${name}.conf`), (publicKey, endpoint) => void tunnel.apply([
    { type: 'peer', publicKey, endpoint, remove: false, updateOnly: true, replaceAllowedIps: false, allowedIps: [] },
  ]), log)
  device = await openDoorway(options, tunnel, ended)
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
    await tunnel.close()
    await device.close()
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
  await tunnel.close()
  await device.close()
  return status
}

/** Where inner packets go: a TUN device or a stack in user space. */
interface Doorway {
  write(packet: Uint8Array): unknown
  close(): Promise<void>
}

/** Waits for the one reason to stop. */
class Ending {
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

async function openDoorway({ name, tunFd, userspace }: InterfaceOptions, tunnel: Tunnel, ended: Ending): Promise<Doorway> {
  if (userspace !== undefined) {
    const stack = new UserspaceStack({ ...userspace, mtu: DEFAULT_MTU, send: (packet) => tunnel.send(packet) })
    await stack.listen()
    return stack
  }
  try {
    return await openTun({
      name,
      ...(tunFd !== undefined && { fd: tunFd }),
      onPackets: (packets) => tunnel.sendAll(packets),
      // The usual reason is that somebody said `ip link delete`, which is how wg-quick ends an interface.
      onError: (error) => ended.end(error.message, 0),
    })
  } catch (error) {
    await tunnel.close()
    if (!isMeshwrightError(error)) throw error
    const remedy = error.code === 'TUN_KOFFI_MISSING' ? `install it (npm install koffi), or do without a TUN device: ${USERSPACE_HINT}` : error.remedy
    throw new UsageError(`${error.message}${remedy === undefined ? '' : `; ${remedy}`}`, 1)
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
function followMtu(name: string, tunnel: Tunnel): NodeJS.Timeout {
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
