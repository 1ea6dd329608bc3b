import { isMeshwrightError } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { fastCryptoProvider, openTun, type TunStats } from '@meshwright/runtime-node'
import { type DataPlane, DATAPLANE_VARIABLE, type LaneMode, parseLaneMode, startDataPlane } from '@meshwright/runtime-node/dataplane'
import { type Controlled, controlledDataPlane, controlledTunnel } from './controlled.ts'
import type { Ending, InterfaceOptions } from './interface.ts'
import type { Log } from './log.ts'
import { loadSetMark } from './socket-mark.ts'
import { Tunnel } from './tunnel.ts'
import { UsageError } from './usage-error.ts'
import { UserspaceStack } from './userspace-stack.ts'

/** 1500 bytes of Ethernet less 80 for IPv6, UDP and WireGuard. */
export const DEFAULT_MTU = 1420
const USERSPACE_HINT = 'meshwright-wg --address ADDRESS --socks5 127.0.0.1:1080 INTERFACE'

/** A running interface. */
export interface Running {
  readonly tunnel: Controlled
  close(): Promise<void>
}

type OnUnanswered = (peer: NodePublicKey, tried: Endpoint | undefined) => void

/**
 * Starts the interface on the best lane there is: a worker with offloads where there are a TUN device and `koffi`, else the event loop.
 * `MESHWRIGHT_DATAPLANE` forces one.
 * @throws UsageError when the interface cannot be made
 */
export async function start(options: InterfaceOptions, log: Log, ended: Ending, onUnanswered: OnUnanswered): Promise<Running> {
  const mode = laneMode()
  if (options.userspace === undefined && mode.lane !== 'portable') {
    const plane = await startWorker(options, mode, log, ended, onUnanswered)
    if (plane !== undefined) {
      const { lane } = await plane.status()
      const offloads = Object.entries(lane.offloads).flatMap(([name, on]) => (on ? [name] : []))
      log('verbose', `packets: a worker of its own; offloads: ${offloads.join(', ') || 'none'}; cryptography: ${lane.provider}`)
      return { tunnel: controlledDataPlane(plane), close: () => plane.close() }
    }
  }
  return startPortable(options, log, ended, onUnanswered)
}

function laneMode(): LaneMode {
  try {
    return parseLaneMode(process.env[DATAPLANE_VARIABLE])
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

/** `undefined` where the worker does not run here and nobody insists on it. */
async function startWorker(options: InterfaceOptions, mode: LaneMode, log: Log, ended: Ending, onUnanswered: OnUnanswered): Promise<DataPlane | undefined> {
  try {
    return await startDataPlane({
      name: options.name,
      ...(options.tunFd !== undefined && { tunFd: options.tunFd }),
      mtu: DEFAULT_MTU,
      mode,
      // This program is its own worker: it may be bundled into one file.
      workerUrl: new URL(import.meta.url.endsWith('.ts') ? './meshwright-wg.ts' : import.meta.url, import.meta.url),
      log,
      onUnanswered,
      // The usual reason is that somebody said `ip link delete`, which is how wg-quick ends an interface.
      onGone: (reason) => ended.end(reason, 0),
    })
  } catch (error) {
    if (mode.lane === 'best' && isMeshwrightError(error) && error.code.startsWith('DATAPLANE_')) {
      log('verbose', `packets go through the event loop: ${error.message}`)
      return undefined
    }
    throw tunProblem(error)
  }
}

async function startPortable(options: InterfaceOptions, log: Log, ended: Ending, onUnanswered: OnUnanswered): Promise<Running> {
  const { name, tunFd, userspace } = options
  const setMark = await loadSetMark()
  const provider = fastCryptoProvider()
  log('verbose', `cryptography: ${provider.name}`)
  let device: { write(packet: Uint8Array): unknown; stats(): TunStats; close(): Promise<void> } | undefined
  const tunnel = new Tunnel({ name, provider, mtu: DEFAULT_MTU, deliver: (packet) => device?.write(packet), log, ...(setMark !== undefined && { setMark }), onUnanswered })
  if (userspace !== undefined) {
    const stack = new UserspaceStack({ ...userspace, mtu: DEFAULT_MTU, send: (packet) => tunnel.send(packet) })
    await stack.listen()
    device = stack
  } else {
    try {
      device = await openTun({
        name,
        ...(tunFd !== undefined && { fd: tunFd }),
        onPackets: (packets) => tunnel.sendAll(packets),
        onError: (error) => ended.end(error.message, 0),
      })
    } catch (error) {
      await tunnel.close()
      throw tunProblem(error)
    }
  }
  return {
    tunnel: controlledTunnel(tunnel, () => device?.stats() ?? { read: 0, written: 0, refused: 0, lost: 0 }),
    close: async () => {
      await tunnel.close()
      await device?.close()
    },
  }
}

function tunProblem(error: unknown): unknown {
  if (!isMeshwrightError(error)) return error
  const remedy = error.code === 'TUN_KOFFI_MISSING' || error.code === 'DATAPLANE_UNAVAILABLE' ? `install it (npm install koffi), or do without a TUN device: ${USERSPACE_HINT}` : error.remedy
  return new UsageError(`${error.message}${remedy === undefined ? '' : `; ${remedy}`}`, 1)
}
